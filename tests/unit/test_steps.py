"""Every step of a journal as samples with their own timestamps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import start_run
from exporter.catalog import Namer
from exporter.exposition import Format, Page, add_steps
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal, Scrape, Series, judge, same_points

FORMATS = list(Format)
ALIASES = ["train/loss", "loss", "train/approx_kl", "actor/ppo_kl", "rl/entropy", "train/entropy_loss", "val.loss"]

KEYS = (
    st.sampled_from(ALIASES)
    | st.text(min_size=1)
    | st.text('abAB12/._ -é\U0001f600"\\\n{}', min_size=1, max_size=6)
    | st.integers(150, 400).map("x".__mul__)
    | st.sampled_from(["performance/gpu_utilization", "performance/optim_step_duration_ms", "run_info", "le", "a_sum"])
)
VALUES = (
    st.floats()
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.sampled_from([0.0, -0.0, 5e-324, 2.2e-308, 1e308, 1.7976931348623157e308, 2**53 + 1])
)
RECORDS = st.lists(st.dictionaries(KEYS, VALUES, max_size=5), min_size=1, max_size=8)
RESERVED = ("run_id", "user_id", "rank", "kind", "metric", "status", "key", "value", "reason", "le", "quantile", "job",
            "instance", "recipe", "base_model", "framework", "host", "world_size", "version")  # fmt: skip
TAGS = st.dictionaries(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,5}", fullmatch=True).filter(lambda name: name not in RESERVED),
    st.text(max_size=20),
    max_size=3,
)


def page_of(journal: Journal, form: Format = Format.OPENMETRICS, piece: int | None = None) -> tuple[Scrape, int]:
    """The steps of a journal on a page, taken in pieces of some records, and their number of samples."""
    state, chunk = journal.state(), journal.chunk()
    page, samples = Page(form), 0
    size = piece or len(chunk.records)
    for begin in range(0, len(chunk.records), size):
        samples += add_steps(page, chunk.records[begin : begin + size], state.series, CATALOG)
    return judge(page.render(), form), samples


def expected(journal: Journal, labels: Mapping[str, str]) -> dict[Series, list[tuple[int, float]]]:
    """The series that a journal of one attempt must give: what the first key of each meaning has logged."""
    namer, owners = Namer(CATALOG), {}
    common = {name: value for name, value in labels.items() if value}
    result: dict[Series, list[tuple[int, float]]] = {}
    for ms, record in journal.expected_steps():
        result.setdefault(("training_step", frozenset(common.items())), []).append((ms, float(record["step"])))
        for key, value in record["metrics"].items():
            name = namer.resolve(key)
            series = (name.family.name, frozenset({**common, **dict(name.labels)}.items()))
            if owners.setdefault(series, key) == key and name.family.type == "gauge":
                result.setdefault(series, []).append((ms, float(value) * name.scale))
    return result


def assert_same_series(scrape: Scrape, wanted: Mapping[Series, list[tuple[int, float]]]) -> None:
    """Every wanted series is there with its numbers at their times, and no other series of a step."""
    for series, points in wanted.items():
        assert same_points(scrape.series.get(series, []), points), series
    plain = {("run_", "telemetry_"), ("training_steps_total",), ("training_nonfinite_total",)}
    others = {series for series in scrape.series if not any(series[0].startswith(prefix) for prefix in plain)}
    histograms = {series for series in others if series[0].endswith(("_bucket", "_sum", "_count"))}
    assert others - histograms == set(wanted)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for the many examples of a law."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(records=RECORDS, tags=TAGS, user=st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_whatever_is_logged_is_served(
    folder: Path, records: list[dict[str, Any]], tags: dict[str, str], user: str
) -> None:
    """Any keys, tags and numbers that a run logs: pages parse in both formats, each step is there once and equal."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as runs,
        start_run(run_id="r1", user_id=user, tags=tags, directory=runs) as run,
    ):
        for number, metrics in enumerate(records):
            run.log(metrics, step=number)
        wanted = expected(Journal(Path(runs)), {**tags, "run_id": "r1", "user_id": user})
        exporter = Exporter(partial(find_journals, Path(runs)), Path(runs) / "state.json", CATALOG)
        for form in FORMATS:
            assert_same_series(judge(exporter.scraper_page(form, form.name).body, form), wanted)
            latest = judge(exporter.latest_page(form), form)
            for series, points in wanted.items():
                assert same_points(latest.series[series], [(None, points[-1][1])]), series


@given(
    times=st.lists(st.floats(0, 2_000_000) | st.sampled_from([1.0, 1.0004, 1.0005, 1.001]), min_size=1, max_size=12),
    tags=st.dictionaries(st.text(max_size=8) | st.sampled_from([*RESERVED, "a-b", "__name__"]), st.text(), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_whatever_another_tool_wrote_is_served(folder: Path, times: list[float], tags: dict[str, str]) -> None:
    """Times that stand still or go back give strictly increasing timestamps, and no tag spoils a page."""
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        journal = Journal(Path(runs))
        journal.begin = 0.0
        journal.start(tags=tags, host="h")
        for number, at in enumerate(times):
            journal.log(number, {"train/loss": number / 7, "train/approx_kl": -number}, at)
        exporter = Exporter(partial(find_journals, Path(runs)), Path(runs) / "state.json", CATALOG)
        for form in FORMATS:
            scrape = judge(exporter.scraper_page(form, form.name).body, form)
            times_ms = [ms for ms, _ in journal.expected_steps()]
            assert scrape.points("training_loss") == [(ms, n / 7) for n, ms in enumerate(times_ms)]
            assert scrape.points("rl_kl_divergence", kind="update") == [(ms, -n) for n, ms in enumerate(times_ms)]
            judge(exporter.latest_page(form), form)


def test_a_record_without_steps_adds_nothing(tmp_path: Path) -> None:
    """Records that are no steps give no samples."""
    scrape, samples = page_of(Journal(tmp_path).start().other("timing", name="x", seconds=1.0))
    assert (scrape.series, samples) == ({}, 0)


def test_each_number_and_each_position_is_a_sample(tmp_path: Path) -> None:
    """A step gives one sample for its position, one for its epoch if it has one, and one for each number."""
    journal = Journal(tmp_path).start().step(7, a=1.0, b=2.0).step(9, epoch=0.5, a=3.0)
    scrape, samples = page_of(journal)
    assert samples == 3 + 3
    assert scrape.values("training_step") == [7, 9]
    assert scrape.values("training_epoch") == [0.5]
    assert scrape.points("training_epoch")[0][0] == scrape.points("training_step")[1][0]


def test_a_step_without_metrics_is_a_position(tmp_path: Path) -> None:
    """An empty log call still moves the step axis."""
    scrape, samples = page_of(Journal(tmp_path).start().step(1).step(2))
    assert (scrape.values("training_step"), samples) == ([1, 2], 2)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("piece", [None, 1, 2, 3, 7])
def test_alternating_keys_keep_the_order_of_time(tmp_path: Path, form: Format, piece: int | None) -> None:
    """Records with other keys, other orders of keys and gaps, in pieces of any size, give each series in order."""
    journal = Journal(tmp_path).start()
    for number in range(0, 30, 3):
        journal.step(number, a=number, b=-number).step(number + 1, b=-number - 1, a=number + 1).step(number + 2, a=1e9)
    scrape, samples = page_of(journal, form, piece)
    steps = journal.expected_steps()
    for key in ("a", "b"):
        wanted = [(ms, record["metrics"][key]) for ms, record in steps if key in record["metrics"]]
        assert scrape.points(f"custom_{key}") == wanted
    assert samples == 30 + 30 + 20


@pytest.mark.parametrize("piece", [None, 1, 4])
def test_aliases_of_one_family_are_series_of_their_own(tmp_path: Path, piece: int | None) -> None:
    """Keys with different kinds stay apart, each in order."""
    journal = Journal(tmp_path).start()
    for number in range(6):
        journal.log(number, {"train/approx_kl": number, **({"rl/kl": -number} if number % 2 else {})})
    scrape, _ = page_of(journal, piece=piece)
    assert scrape.values("rl_kl_divergence", kind="update") == [0, 1, 2, 3, 4, 5]
    assert scrape.values("rl_kl_divergence", kind="reference") == [-1, -3, -5]


@pytest.mark.parametrize("piece", [None, 1, 3])
def test_a_series_may_change_hands_between_attempts(tmp_path: Path, piece: int | None) -> None:
    """Each attempt's values are scaled as the key that owned the series then demands."""
    journal = Journal(tmp_path)
    wanted = []
    for attempt, (key, scale) in enumerate([("train/entropy_loss", -1), ("rl/entropy", 1), ("train/entropy_loss", -1)]):
        journal.start(after=attempt)
        for number in range(2):
            journal.log(2 * attempt + number, {key: scale * (attempt + number / 10)}, attempt + number / 10 + 0.1)
            wanted.append(attempt + number / 10)
    scrape, _ = page_of(journal, piece=piece)
    assert scrape.values("rl_entropy") == wanted


def test_a_refused_key_is_not_there(tmp_path: Path) -> None:
    """The second key of a meaning gives no samples, also where it is alone in its record."""
    journal = Journal(tmp_path).start()
    journal.log(0, {"train/loss": 1.0, "loss": 2.0}).log(1, {"loss": 3.0}).log(2, {"train/loss": 4.0})
    scrape, samples = page_of(journal)
    assert scrape.values("training_loss") == [1, 4]
    assert samples == 3 + 2


@pytest.mark.parametrize(
    ("key", "native", "name", "value"),
    [
        ("train/entropy_loss", [-1.5, 2.0], "rl_entropy", [1.5, -2.0]),
        ("train/entropy_loss", [float("inf"), float("-inf")], "rl_entropy", [float("-inf"), float("inf")]),
        ("performance/gpu_utilization", [50, 100.0], "gpu_utilization_ratio", [0.5, 1.0]),
        ("performance/gpu_memory_used_gb", [2, True], "gpu_memory_used_bytes", [2e9, 1e9]),
        ("flag", [True, False], "custom_flag", [1, 0]),
        ("mixed", [True, 0.5], "custom_mixed", [1, 0.5]),
        ("whole", [1, 2**63, -(2**63), 2**64 - 1], "custom_whole", [1, 2**63, -(2**63), 2**64]),
        ("large", [1e308, 5e-324, float("inf"), float("-inf")], "custom_large",
         [1e308, 5e-324, float("inf"), float("-inf")]),
        ("beyond", [2**70, 10**400, -(10**400)], "custom_beyond", [2.0**70, float("inf"), float("-inf")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMATS)
def test_a_value_is_the_native_one_in_canonical_units(
    tmp_path: Path, form: Format, key: str, native: list[Any], name: str, value: list[float]
) -> None:
    """Scale and sign of an alias are applied, booleans are 0 and 1, and no number is too large."""
    journal = Journal(tmp_path).start()
    for number, item in enumerate(native):
        journal.log(number, {key: item})
    assert page_of(journal, form)[0].values(name) == value


def test_a_whole_number_beyond_64_bits_beside_nan_is_served(tmp_path: Path) -> None:
    """One enormous integer in a record with a bare NaN, as other tools write it, spoils nothing."""
    journal = Journal(tmp_path).start()
    journal.raw(b'{"_type":"step","time":%f,"step":1,"metrics":{"a":%d,"b":NaN,"c":1}}\n' % (journal.begin, 2**70))
    scrape, _ = page_of(journal)
    assert (scrape.values("custom_a"), scrape.values("custom_c")) == ([2.0**70], [1])


@pytest.mark.parametrize("step", [1e30, 2**64 - 1])
def test_an_enormous_step_is_a_position_like_any(tmp_path: Path, step: float) -> None:
    """A step number that another tool wrote as it liked does not cost the page."""
    journal = Journal(tmp_path).start().raw(b'{"time":%f,"step":%a,"a":1}\n' % (time_of(tmp_path), step))
    assert page_of(journal)[0].values("training_step") == [float(step)]


def time_of(folder: Path) -> float:
    """Any time: when the folder was made."""
    return folder.stat().st_mtime


def test_a_duration_logged_as_a_metric_is_no_series_of_steps(tmp_path: Path) -> None:
    """A native key whose metric is a histogram is observed, not shown step by step."""
    journal = Journal(tmp_path).start().log(0, {"performance/optim_step_duration_ms": 5.0, "a": 1})
    scrape, samples = page_of(journal)
    assert {name for name, _ in scrape.series} == {"training_step", "custom_a"}
    assert samples == 2
