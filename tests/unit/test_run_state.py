"""What the lines of a journal add up to, against adding them up by hand."""

from __future__ import annotations

import math
import statistics
import tempfile
from bisect import bisect_right
from collections import Counter
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.catalog import Namer
from exporter.exposition import RunSeries, RunState, default_labels
from exporter.exposition import run_state as module
from exporter.exposition.histogram import BUCKETS
from exporter.exposition.run_state import run_labels
from exporter.exposition.series import Budget
from exporter.journal import START, read_chunk
from exporter.records import RunStart, Sample
from tests.support.journals import CATALOG, Journal, same

NAN = float("nan")


def cumulative(samples: list[Sample]) -> list[float]:
    """The bucket counts of a histogram's samples."""
    return [sample.value for sample in samples if sample.suffix == "_bucket"]


# ------------------------------------------------------------------ steps


def test_nothing_adds_up_to_nothing(tmp_path: Path) -> None:
    """Before the first line there is no step, no start, no end, and nothing is stalled."""
    state = Journal(tmp_path).state()
    assert (state.steps, state.attempts, state.last_step, state.start, state.end, state.latest_ms) == (
        0, 0, None, None, None, 0
    )  # fmt: skip
    assert state.median_step_seconds == 0
    assert not state.is_stalled(1e9)


def test_latest_values_are_the_last_of_each_key(tmp_path: Path) -> None:
    """A key keeps its last value through records that lack it."""
    state = Journal(tmp_path).start().step(0, a=1, b=1).step(1, a=2).step(2, c=NAN).state()
    assert {series.name.family.name: value for series, value in state.current()} == {
        "custom_a": 2, "custom_b": 1, "custom_c": "NaN"
    }  # fmt: skip
    assert (state.steps, state.last_step and state.last_step.step) == (3, 2)


def test_latest_values_leave_out_histograms_and_refused_keys(tmp_path: Path) -> None:
    """A key that has no series of steps has no latest value either."""
    metrics = {"train/loss": 1, "loss": 2, "performance/optim_step_duration_ms": 3}
    state = Journal(tmp_path).start().log(0, metrics).state()
    assert [(series.name.family.name, value) for series, value in state.current()] == [("training_loss", 1)]


def test_a_new_attempt_starts_without_latest_values(tmp_path: Path) -> None:
    """After a restart a key that is not logged any more is gone, and steps go on counting."""
    state = Journal(tmp_path).start().step(0, a=1, b=1).end(1).start(2).step(1, 3.0, a=5).state()
    assert [(series.name.family.name, value) for series, value in state.current()] == [("custom_a", 5)]
    assert (state.steps, state.attempts, state.end) == (2, 2, None)


def test_a_start_with_the_present_number_amends(tmp_path: Path) -> None:
    """A run_start of the present attempt adds what has become known; one without a number is the next attempt."""
    state = Journal(tmp_path).start(attempt=1).step(0, a=1).start(1, attempt=1, framework="sb3").step(1, b=2).state()
    assert [series.name.family.name for series, _ in state.current()] == ["custom_a", "custom_b"]
    assert (state.attempts, state.start and state.start.framework) == (1, "sb3")
    assert Journal(tmp_path, "r2").start().step(0, a=1).start(1).state().attempts == 2


def test_an_end_stands_until_the_next_start(tmp_path: Path) -> None:
    """The last run_end says how the run ended; another run_start takes it back."""
    journal = Journal(tmp_path).start().end(1, "failed")
    end = journal.state().end
    assert end is not None
    assert end.status == "failed"
    assert journal.start(2).state().end is None


def test_the_first_time_is_that_of_the_first_record(tmp_path: Path) -> None:
    """A run begins with its first start, or with its first step where it never said that it starts."""
    journal = Journal(tmp_path).step(0, 5.0, a=1).start(6)
    assert journal.state().first_time == journal.begin + 5
    journal = Journal(tmp_path, "r2").start(1).step(0, 5.0, a=1).start(6)
    assert journal.state().first_time == journal.begin + 1


def test_the_time_of_counters_is_the_latest_of_any_record(tmp_path: Path) -> None:
    """Counters carry the time of the latest record they include, also where a record's clock went back."""
    journal = Journal(tmp_path).start().step(0, 5.0, a=1).other("event", 7.0, title="x")
    journal.other("timing", 6.0, name="y", seconds=1)
    assert journal.state().latest_ms == math.floor((journal.begin + 7) * 1000 + 0.5)


@given(st.lists(st.integers(0, 9), max_size=12))
@settings(deadline=None, max_examples=30)
def test_the_same_lines_give_the_same_state_in_any_pieces(sizes: list[int]) -> None:
    """State is a function of the lines: read at once or piece by piece, it is equal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        for number in range(20):
            journal.log(number, {"train/loss": NAN if number % 7 == 3 else number, f"k{number % 3}": 1})
            journal.other("timing", number / 10, name="x", seconds=number / 10)
        whole = journal.state()
        namer = Namer(CATALOG)
        state, position = RunState(CATALOG, namer, RunSeries(namer, Budget())), START
        for size in [*sizes, 1000]:
            chunk = read_chunk(journal.path, position, 100 * size + 1)
            state.add(chunk)
            position = chunk.end
        assert (state.steps, state.latest_ms, state.nonfinite, state.first_seen_ms, state.latest) == (
            whole.steps, whole.latest_ms, whole.nonfinite, whole.first_seen_ms, whole.latest
        )  # fmt: skip
        assert list(state.histograms["performance_x_duration_seconds", ()].samples((), None)) == list(
            whole.histograms["performance_x_duration_seconds", ()].samples((), None)
        )


# ------------------------------------------------------------------ non-finite values


@given(st.lists(st.lists(st.sampled_from([0.5, NAN, math.inf, -math.inf]), min_size=2, max_size=2), max_size=12))
@settings(deadline=None, max_examples=40)
def test_non_finite_values_are_counted_by_metric(rows: list[list[float]]) -> None:
    """Every NaN or infinity counts once for its metric; a metric of the catalog is known from its first value on."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        for number, (loss, other) in enumerate(rows):
            journal.log(number, {"train/loss": loss, "other": other})
        state, steps = journal.state(), journal.expected_steps()
        bad = {name: [ms for (ms, _), row in zip(steps, rows, strict=True) if not math.isfinite(row[column])]
               for column, name in enumerate(["training_loss", "custom_other"])}  # fmt: skip
        assert state.nonfinite == Counter({name: len(times) for name, times in bad.items() if times})
        first = {"training_loss": steps[0][0]} if steps else {}
        assert state.first_seen_ms == first | ({"custom_other": bad["custom_other"][0]} if bad["custom_other"] else {})


def test_kinds_of_a_metric_count_together(tmp_path: Path) -> None:
    """The label of the count is the metric's name, whatever labels its series have."""
    state = Journal(tmp_path).start().log(0, {"train/approx_kl": NAN, "rl/kl": NAN, "rl/entropy": 1}).state()
    assert state.nonfinite == {"rl_kl_divergence": 2}


def test_a_refused_key_counts_no_non_finite_value(tmp_path: Path) -> None:
    """What is not exported is not watched either: the refusal itself is what is counted."""
    state = Journal(tmp_path).start().log(0, {"train/loss": 1.0, "loss": NAN}).state()
    assert (state.nonfinite, state.series.refused) == ({}, {"collision": 1})


# ------------------------------------------------------------------ best and last


def best_of(values: list[float], *, highest: bool) -> tuple[float, int]:
    """The best value and its step, by definition: the first of the best; the first value where none is finite."""
    finite = [(value, step) for step, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return values[0], 0
    return min(finite, key=lambda item: (-item[0] if highest else item[0], item[1]))


@pytest.mark.parametrize(
    ("key", "name", "highest"), [("train/loss", "training_loss", False), ("reward", "rl_reward_mean", True)]
)
@given(values=st.lists(st.sampled_from([0.1, 0.2, 0.3, -1.0, NAN, math.inf, -math.inf]), min_size=1, max_size=10))
@settings(deadline=None, max_examples=40)
def test_a_headline_keeps_its_last_and_its_best(key: str, name: str, values: list[float], *, highest: bool) -> None:
    """Best is the lowest loss or the highest reward and the first step that reached it; only a number can be."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        for number, value in enumerate(values):
            journal.log(number, {key: value})
        best = journal.state().bests[name]
    value, step = best_of(values, highest=highest)
    assert same(best.last, values[-1])
    assert same(best.best, value)
    assert best.step == step


def test_other_metrics_have_no_best(tmp_path: Path) -> None:
    """Only headline metrics are summarised."""
    assert Journal(tmp_path).start().log(0, {"train/lr": 1, "x": 2}).state().bests == {}


# ------------------------------------------------------------------ histograms


@given(st.lists(st.floats(0, 400) | st.sampled_from([NAN, math.inf, -1.0]), max_size=20))
@settings(deadline=None, max_examples=30)
def test_durations_are_counted_from_metrics_and_timings(milliseconds: list[float]) -> None:
    """A duration counts in its bucket whether it came as a metric in milliseconds or as a timed operation."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        for number, value in enumerate(milliseconds):
            journal.log(number, {"performance/optim_step_duration_ms": value})
        journal.other("timing", 1, name="optim_step", seconds=0.02)
        samples = list(journal.state().histograms["performance_optim_step_duration_seconds", ()].samples((), None))
    seconds = sorted([0.02, *(ms * 0.001 for ms in milliseconds if 0 <= ms < math.inf)])
    counted = [bisect_right(seconds, bound) for bound in (*BUCKETS, math.inf)]
    assert cumulative(samples) == counted
    assert samples[-2].value == len(seconds)
    assert samples[-1].value == pytest.approx(math.fsum(seconds))


def test_an_operation_outside_the_catalog_has_its_own_histogram(tmp_path: Path) -> None:
    """Any timed operation is a histogram of seconds with its own name."""
    state = Journal(tmp_path).start().other("timing", 1, name="Generate rollouts", seconds=2.0).state()
    histogram = state.histograms["performance_generate_rollouts_duration_seconds", ()]
    assert cumulative(list(histogram.samples((), None))) == list(
        accumulate(float(low < 2.0 <= high) for low, high in pairwise((0.0, *BUCKETS, math.inf)))
    )


def test_operations_have_a_limit(tmp_path: Path) -> None:
    """The hundredth operation is the last that gets a histogram; those that have one go on counting."""
    journal = Journal(tmp_path).start()
    for number in range(120):
        journal.other("timing", 1, name=f"operation {number}", seconds=1)
    journal.other("timing", 1, name="operation 0", seconds=1)
    histograms = journal.state().histograms
    assert len(histograms) == 100
    assert list(histograms["performance_operation_0_duration_seconds", ()].samples((), None))[-2].value == 2


# ------------------------------------------------------------------ stalled


@pytest.mark.parametrize(
    ("gaps", "limit"),
    [
        ([], 120),
        ([1] * 5, 120),
        ([15] * 5, 120),
        ([20] * 5, 160),
        ([1, 1, 1, 1000, 1], 120),
        ([100] * 60 + [30] * 100, 240),
        ([100] * 60 + [20] * 40, 800),
        ([100, 30], 8 * 65),
    ],
)
def test_a_run_is_stalled_after_eight_usual_steps_but_not_before_two_minutes(
    tmp_path: Path, gaps: list[float], limit: float
) -> None:
    """Stalled means: the last step is older than max(120 s, 8 x the median time between the last hundred steps)."""
    journal = Journal(tmp_path).start()
    times = list(accumulate(gaps, initial=0.0))
    for number, at in enumerate(times):
        journal.step(number, at, a=1)
    state, last = journal.state(), journal.begin + times[-1]
    assert state.median_step_seconds == (statistics.median(gaps[-100:]) if gaps else 0)
    assert not state.is_stalled(last + limit - 0.01)
    assert state.is_stalled(last + limit + 0.01)


def test_a_run_without_a_step_is_stalled_two_minutes_after_its_start(tmp_path: Path) -> None:
    """Before the first step the start counts."""
    journal = Journal(tmp_path).start(5)
    assert not journal.state().is_stalled(journal.begin + 124)
    assert journal.state().is_stalled(journal.begin + 126)


def test_a_resumed_run_is_not_stalled_at_once(tmp_path: Path) -> None:
    """A run that was down for a day has two minutes to log its next step, and the night is no step time."""
    journal = Journal(tmp_path).start().step(0, 1.0, a=1).start(86400)
    assert not journal.state().is_stalled(journal.begin + 86400 + 119)
    assert journal.state().is_stalled(journal.begin + 86400 + 121)
    journal.step(1, 86410, a=1)
    assert journal.state().is_stalled(journal.begin + 86410 + 121)


# ------------------------------------------------------------------ other records


def test_losses_bad_lines_and_unknown_records_are_counted(tmp_path: Path) -> None:
    """Each kind of trouble has its own count, losses by reason, and none ever falls."""
    journal = Journal(tmp_path).start()
    journal.other("lost", reason="disk_full", count=3).other("lost", reason="disk_full", count=2)
    journal.other("lost", reason="not_a_number", count=1).other("lost", reason="disk_full", count=-9)
    journal.raw(b"{torn\n[1]\n").other("something_new").other("check", name="x", status="OK").step(1, a=1)
    state = journal.state()
    assert state.lost == {"disk_full": 5, "not_a_number": 1}
    assert (state.bad_lines, state.unknown, state.steps) == (2, 1, 1)


def test_ever_new_sets_of_keys_take_no_memory_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose every record has other keys is understood with a bounded table of key sets."""
    monkeypatch.setattr(module, "_MAX_SCHEMAS", 4)
    journal = Journal(tmp_path).start()
    for number in range(20):
        journal.log(number, {f"key {number}": 1, "train/loss": NAN, "reward": number})
    journal.log(20, {"train/loss": NAN}).log(21, {"key 0": 1, "train/loss": NAN, "reward": 99})
    state = journal.state()
    assert len(state._schemas) <= 4
    assert state.nonfinite == {"training_loss": 22}
    assert state.bests["rl_reward_mean"] == (99, 99, 21)


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({}, {"run_id": "r1", "user_id": ""}),
        ({"user_id": "u", "rank": 3}, {"run_id": "r1", "user_id": "u", "rank": "3"}),
        ({"tags": {"team": "a"}}, {"run_id": "r1", "user_id": "", "team": "a"}),
        # what a journal of another tool may hold
        ({"tags": {"run_id": "x"}}, {"run_id": "r1", "user_id": "", "tag_run_id": "x"}),
        ({"tags": {"kind": "x", "host": "y"}}, {"run_id": "r1", "user_id": "", "tag_kind": "x", "tag_host": "y"}),
        ({"tags": {"a-b": "x", "__name__": "y"}}, {"run_id": "r1", "user_id": "", "tag_a_b": "x", "tag_name": "y"}),
        ({"tags": {"": "x", "é": "y"}}, {"run_id": "r1", "user_id": "", "tag_unnamed": "y"}),
    ],
)
def test_labels_of_a_run_are_its_tags_and_who_it_is(fields: dict[str, Any], labels: dict[str, str]) -> None:
    """Tags, run, user and a rank above 0 are labels; a tag that cannot be one, or is one of ours, is renamed."""
    assert run_labels(RunStart(0.0, "r1", **fields)) == labels


def test_every_label_of_a_run_s_metrics_is_reserved() -> None:
    """No tag can stand beside a label of the same name that the exporter itself puts on a run's series."""
    ours = {label for metric in CATALOG.metrics.values() for label in metric.labels if metric.group not in ("host",)}
    ours -= {"collector", "scraper"}  # not on a run's series
    tags = dict.fromkeys([*ours, "le", "run_id", "user_id", "rank"], "x")
    assert set(run_labels(RunStart(0.0, "r1", rank=1, tags=tags))) == {f"tag_{name}" for name in tags} | {
        "run_id", "user_id", "rank"
    }  # fmt: skip


def test_a_journal_that_says_nothing_is_called_by_its_folder() -> None:
    """Default labels are the folder's name, an empty user, and the rank of the file."""
    assert default_labels("folder", 0) == (("run_id", "folder"), ("user_id", ""))
    assert default_labels("folder", 2) == (("rank", "2"), ("run_id", "folder"), ("user_id", ""))
