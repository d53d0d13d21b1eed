"""Which native key owns which series, and how many series there may be."""

from __future__ import annotations

import pytest

from exporter.catalog import Namer
from exporter.exposition import MAX_SERIES_PER_RUN, Budget, Refusal, RunSeries
from exporter.exposition import series as module
from tests.support.journals import CATALOG

LABELS = (("run_id", "r1"),)


def series_of_a_run(budget: Budget | None = None) -> RunSeries:
    """A run without any series yet."""
    return RunSeries(Namer(CATALOG), budget or Budget(), LABELS)


def test_a_series_begins_with_its_name_and_its_sorted_labels() -> None:
    """The bytes before a value are the canonical name, the run's labels and the alias' own, sorted."""
    series = series_of_a_run().get(1, "train/approx_kl")
    assert series is not None
    assert series.prefix == b'rl_kl_divergence{kind="update",run_id="r1"} '


def test_the_first_key_of_a_meaning_owns_its_series() -> None:
    """A second key that means the same series is refused, counted and named beside its owner, each once."""
    series = series_of_a_run()
    assert series.get(1, "train/loss") is not None
    assert [series.get(1, key) for key in ("loss", "loss", "train.loss")] == [None, None, None]
    assert series.refused == {"collision": 2}
    assert series.refusals == [
        Refusal("loss", "collision", "train/loss"),
        Refusal("train.loss", "collision", "train/loss"),
    ]


def test_other_labels_are_another_series() -> None:
    """Keys of one family whose aliases differ in a label do not collide."""
    series = series_of_a_run()
    kinds = [series.get(1, key) for key in ("train/approx_kl", "rl/kl", "mismatch_kl/all/mean")]
    assert len({kind.prefix for kind in kinds if kind}) == 3
    assert not series.refused


def test_a_new_attempt_frees_the_series() -> None:
    """After a restart another key may own a series, while the steps before it keep their owner."""
    series = series_of_a_run()
    first, second = series.get(1, "train/loss"), series.get(2, "loss")
    assert first == second
    assert series.get(1, "loss") is None
    assert series.get(2, "train/loss") is None
    assert series.get(1, "train/loss") == first


def test_an_attempt_with_the_same_keys_takes_no_more_of_the_budget() -> None:
    """A series counts once however often the run is started."""
    budget = Budget()
    series = series_of_a_run(budget)
    for attempt in (1, 2, 3):
        series.get(attempt, "train/loss")
    assert budget.used == 1


def test_a_run_may_have_two_thousand_series() -> None:
    """Of 10 000 keys the first 2000 get a series; each of the others is counted, and no more than 1000 are named."""
    budget = Budget()
    series = series_of_a_run(budget)
    owned = [key for key in map("key_{}".format, range(10_000)) if series.get(1, key)]
    assert owned == [f"key_{number}" for number in range(2000)]
    assert MAX_SERIES_PER_RUN == budget.used == 2000
    assert series.refused == {"run_budget": 8000}
    assert series.refusals == [Refusal(f"key_{n}", "run_budget", f"key_{n}") for n in range(2000, 3000)]


def test_keys_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond ten times the budget an attempt's new keys are not even remembered, and known keys stay known."""
    monkeypatch.setattr(module, "MAX_SERIES_PER_RUN", 3)
    monkeypatch.setattr(module, "_MAX_KEYS", 30)
    series = series_of_a_run()
    owned = [number for number in range(100) if series.get(1, f"key_{number}")]
    assert owned == [0, 1, 2]
    assert series.refused == {"run_budget": 27}
    assert series.get(1, "key_0") is not None


def test_a_run_that_is_resumed_for_ever_keeps_its_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on remembered keys is one per attempt: the hundredth restart still shows every metric."""
    monkeypatch.setattr(module, "_MAX_KEYS", 10)
    series = series_of_a_run()
    for attempt in range(1, 101):
        assert all(series.get(attempt, f"key_{number}") for number in range(5))


def test_the_page_has_a_budget_over_all_runs() -> None:
    """What one run has taken is not there for the next, which says so with another reason."""
    budget = Budget(3)
    one, other = series_of_a_run(budget), series_of_a_run(budget)
    assert all([one.get(1, "a"), one.get(1, "b"), other.get(1, "a")])
    assert other.get(1, "b") is None
    assert other.refusals == [Refusal("b", "page_budget", "b")]
    assert (budget.used, one.refused) == (3, {})


def test_a_run_that_goes_gives_its_series_back() -> None:
    """Released series are free for other runs, and releasing twice gives nothing twice."""
    budget = Budget(2)
    one, other = series_of_a_run(budget), series_of_a_run(budget)
    one.get(1, "a")
    other.get(1, "a")
    one.release()
    one.release()
    assert budget.used == 1
    assert other.get(1, "b") is not None


def test_labels_that_come_late_are_those_of_every_series() -> None:
    """A run that says its labels after its first step has them on the series it already owns, refused keys included."""
    series = series_of_a_run()
    series.get(1, "train/loss")
    series.get(1, "loss")
    series.relabel({"run_id": "r1", "team": "a"})
    named = series.get(1, "train/loss")
    assert named is not None
    assert named.prefix == b'training_loss{run_id="r1",team="a"} '
    assert series.get(1, "loss") is None
    assert series.labels == (("run_id", "r1"), ("team", "a"))


def test_the_same_labels_again_change_nothing() -> None:
    """A second attempt with the same labels keeps the series as they are."""
    series = series_of_a_run()
    before = series.get(1, "train/loss")
    series.relabel(dict(LABELS))
    assert series.get(1, "train/loss") is before


def test_the_exporter_has_series_of_its_own() -> None:
    """A series that the exporter makes takes nothing from the budget and has the run's labels."""
    budget = Budget(0)
    own = series_of_a_run(budget).own(CATALOG.metrics["training_step"])
    assert own.prefix == b'training_step{run_id="r1"} '
    assert own.name.scale == 1
