"""Samples beside the runs, rendered by prometheus_client."""

from __future__ import annotations

import math

import pytest

from exporter.exposition import Format
from exporter.records import Family, Sample
from exporter.server.client_bridge import render_samples
from tests.support.journals import judge

GAUGE = Family("a_ratio", "gauge", 'Some "help" with \\ and\nlines.')
COUNTER = Family("b_bytes", "counter", "Bytes.")


@pytest.mark.parametrize("form", Format)
def test_nothing_renders_to_nothing(form: Format) -> None:
    """Without samples there is no text, not even a page's end."""
    assert render_samples([], form) == b""


@pytest.mark.parametrize("form", Format)
def test_samples_are_grouped_by_family(form: Format) -> None:
    """Samples come back with their names, labels and values, and counters with their suffix, however they are mixed."""
    samples = [
        Sample(GAUGE, (("path", 'x"y\\z\n'),), 0.1),
        Sample(COUNTER, (), 3),
        Sample(GAUGE, (("path", "2"),), math.inf),
        Sample(COUNTER, (("cpu", "1"),), 4.5),
    ]
    body = render_samples(samples, form)
    assert b"# EOF" not in body
    scrape = judge(body + form.end, form)
    assert scrape.value("a_ratio", path='x"y\\z\n') == 0.1
    assert scrape.value("a_ratio", path="2") == math.inf
    assert sorted(value for (name, _), [(_, value)] in scrape.series.items() if name == "b_bytes_total") == [3, 4.5]
    assert scrape.types["a_ratio"] == "gauge"
    assert scrape.helps["a_ratio"] == GAUGE.help


def test_a_sample_may_name_its_suffix() -> None:
    """A sample that is a part of its family says so itself."""
    family = Family("c_seconds", "summary", "Help.")
    body = render_samples([Sample(family, (), 2, "_count"), Sample(family, (), 1.5, "_sum")], Format.TEXT)
    scrape = judge(body, Format.TEXT)
    assert (scrape.value("c_seconds_count"), scrape.value("c_seconds_sum")) == (2, 1.5)
