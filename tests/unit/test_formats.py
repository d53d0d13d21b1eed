"""The two text formats, down to bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.formats import Format, series_prefix, value_text
from exporter.records import Family
from tests.support.journals import judge, same

OPENMETRICS, TEXT = Format.OPENMETRICS, Format.TEXT
OF_PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
OF_PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.6,text/plain;q=0.5", OPENMETRICS),
        ("text/plain;q=0.9;version=0.0.4, application/openmetrics-text; q=0.3", TEXT),
        ("application/openmetrics-text;q=high", TEXT),
        ("application/openmetrics-text;q=0.2,application/openmetrics-text;q=0.8,text/plain;q=0.5", OPENMETRICS),
        (OF_PROMETHEUS_2, OPENMETRICS),
        (OF_PROMETHEUS_3, OPENMETRICS),
        # its protocols in the other order
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.4", TEXT),
    ],
)  # fmt: skip
def test_the_format_with_the_highest_quality_wins(accept: str, form: Format) -> None:
    """OpenMetrics is served to whoever prefers it, classic text to everybody else."""
    assert Format.negotiate(accept) is form


@pytest.mark.parametrize(
    ("form", "type", "text"),
    [
        (TEXT, "gauge", '# HELP a_b Quote ", line\\n, slash \\\\.\n# TYPE a_b gauge\n'),
        (OPENMETRICS, "gauge", '# HELP a_b Quote \\", line\\n, slash \\\\.\n# TYPE a_b gauge\n'),
        (TEXT, "counter", '# HELP a_b_total Quote ", line\\n, slash \\\\.\n# TYPE a_b_total counter\n'),
        (OPENMETRICS, "counter", '# HELP a_b Quote \\", line\\n, slash \\\\.\n# TYPE a_b counter\n'),
    ],
)
def test_a_header_escapes_help_and_names_counters_as_the_format_does(form: Format, type: str, text: str) -> None:  # noqa: A002
    """HELP escapes quotes in OpenMetrics only, and a classic counter is called by its sample's name."""
    assert form.header(Family("a_b", type, 'Quote ", line\n, slash \\.')).decode() == text


@pytest.mark.parametrize(("form", "end"), [(TEXT, b""), (OPENMETRICS, b"# EOF\n")])
def test_only_openmetrics_has_an_end(form: Format, end: bytes) -> None:
    """OpenMetrics demands a closing line, classic text knows none."""
    assert form.end == end


@pytest.mark.parametrize(
    ("ms", "text", "openmetrics"),
    [
        (0, b" 0\n", b" 0.000\n"),
        (7, b" 7\n", b" 0.007\n"),
        (1_700_000_000_120, b" 1700000000120\n", b" 1700000000.120\n"),
    ],
)
def test_a_timestamp_is_milliseconds_in_text_and_seconds_in_openmetrics(
    ms: int, text: bytes, openmetrics: bytes
) -> None:
    """Both spellings mean the same millisecond."""
    assert (TEXT.suffixes([ms]), OPENMETRICS.suffixes([ms])) == ([text], [openmetrics])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, b"1.0"),
        (True, b"1.0"),
        (0.1, b"0.1"),
        (-0.0, b"-0.0"),
        (math.nan, b"NaN"),
        (math.inf, b"+Inf"),
        (-math.inf, b"-Inf"),
        ("NaN", b"NaN"),
        ("Infinity", b"+Inf"),
        ("-Infinity", b"-Inf"),
    ],
)
def test_a_value_is_spelled_as_prometheus_does(value: float | str, text: bytes) -> None:
    """Finite values are Python's shortest text, non-finite ones have Prometheus' own words."""
    assert value_text(value) == text


@given(st.floats() | st.integers(-(2**64), 2**64))
def test_a_value_reads_back_as_the_same_float(value: float) -> None:
    """No digit of a value is lost in its text."""
    assert same(float(value_text(value)), float(value))


@given(st.dictionaries(st.from_regex(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", fullmatch=True), st.text(), max_size=4))
def test_labels_read_back_as_they_were(labels: dict[str, str]) -> None:
    """Whatever text a label's value is, the reference parsers read it back; an empty one is as good as none."""
    line = series_prefix("a", tuple(labels.items())) + b"1\n"
    for form in Format:
        page = form.header(Family("a", "gauge", "help")) + line + form.end
        wanted = {name: value for name, value in labels.items() if value}
        assert judge(page, form).label_sets("a") == [wanted]


def test_text_that_is_no_unicode_is_replaced() -> None:
    """A lone surrogate, which no page may hold, becomes a question mark."""
    assert series_prefix("a", (("b", "x\ud800y"),)) == b'a{b="x?y"} '
    assert b"x?y" in TEXT.header(Family("a", "gauge", "x\ud800y"))
