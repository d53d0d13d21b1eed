"""Counters of what was worked off: tokens, samples and environment steps, against counting by hand."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition import Format
from exporter.exposition.totals import Total
from exporter.journal import find_journals
from exporter.records import Family
from exporter.server import Exporter
from exporter.server import history as module
from tests.support.journals import CATALOG, Journal, Scrape, judge

FAMILY = Family("training_tokens", "counter", "Tokens.")
NAN, INFINITY = float("nan"), float("inf")


def scrape(folder: Path, scraper: str = "") -> Scrape:
    """A page: of the latest values, or of every step."""
    exporter = Exporter(partial(find_journals, folder), folder / ".cursors.json", CATALOG)
    page = exporter.scraper_page(Format.TEXT, scraper).body if scraper else exporter.latest_page(Format.TEXT)
    return judge(page, Format.TEXT)


def counted(numbers: list[float], *, per_step: bool) -> list[float]:
    """The counter after each number."""
    total, values = Total(FAMILY, (), per_step=per_step), []
    for number in numbers:
        total.add(number)
        values.append(total.sample((), None).value)
    return values


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([100, 200, 350], [100, 200, 350]),
        ([100, 100, 200], [100, 100, 200]),
        ([100, 200, 0, 100], [100, 200, 200, 300]),
        ([100, 200, 300, 200, 300, 400], [100, 200, 300, 300, 400, 500]),
        ([100, NAN, INFINITY, 200], [100, 100, 100, 200]),
    ],
    ids=["it grows", "a number comes again", "it begins again at 0", "it goes on at a checkpoint", "no numbers"],
)
def test_what_a_trainer_counts_itself_is_added_by_its_growth(numbers: list[float], expected: list[float]) -> None:
    """The counter grows as the trainer's does, and stands where that falls back."""
    assert counted(numbers, per_step=False) == expected


def test_what_belongs_to_a_step_is_added_up() -> None:
    """Numbers of single steps are summed; what is no number, or below 0, counts nothing."""
    assert counted([8, 8, NAN, -5, 0, 4], per_step=True) == [8, 16, 16, 16, 16, 20]


@given(st.lists(st.floats()), st.booleans())
def test_a_counter_never_falls(numbers: list[float], per_step: bool) -> None:
    """Whatever is logged, each value is at least the one before, and none is below 0."""
    values = counted(numbers, per_step=per_step)
    assert all(earlier <= later for earlier, later in pairwise([0.0, *values]))


@pytest.mark.parametrize(
    ("key", "family", "per_step"),
    [
        ("num_tokens", "training_tokens_total", False),
        ("num_input_tokens_seen", "training_tokens_total", False),
        ("train/step_tokens", "training_tokens_total", True),
        ("perf/total_num_tokens", "training_tokens_total", True),
        ("train/step_samples", "training_samples_total", True),
        ("time/total_timesteps", "training_env_steps_total", False),
    ],
)
def test_a_page_counts_what_was_logged(tmp_path: Path, key: str, family: str, per_step: bool) -> None:
    """Whether a trainer logs the sum or each step, a counter has the sum behind every step, at the step's time."""
    journal, sums = Journal(tmp_path).start(), [*accumulate([512, 512, 256])]
    for step, number in enumerate([512, 512, 256] if per_step else sums):
        journal.log(step, {key: number})
    assert scrape(tmp_path).values(family) == [1280]
    times = [ms for ms, _ in journal.expected_steps()]
    assert scrape(tmp_path, "server").points(family) == list(zip(times, [512, 1024, 1280], strict=True))


@pytest.mark.parametrize("overlap", [0.0, 1.5])
def test_a_counter_is_the_same_wherever_a_page_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlap: float
) -> None:
    """Pages of any part of a journal, by an exporter that is new each time, show the totals of all steps before."""
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 500)
    monkeypatch.setattr(module, "PIECE_BYTES", 300)
    journal, expected, numbers, told = Journal(tmp_path).start(), 0, {}, {}
    for step in range(60):
        expected += step
        journal.log(step, {"train/step_tokens": step, **({"num_env_steps_sampled_lifetime": step} if step % 3 else {})})
        numbers[journal.expected_steps()[-1][0]] = float(expected)
        if step % 7 == 0:
            exporter = Exporter(partial(find_journals, tmp_path), tmp_path / ".cursors.json", CATALOG)
            page = exporter.scraper_page(Format.OPENMETRICS, "server", overlap)
            page.delivered()
            points = judge(page.body, Format.OPENMETRICS).points("training_tokens_total")
            assert len(points) == min(step + 1, 7 + int(10 * overlap))
            assert all(told.get(ms, value) == value for ms, value in points)
            told.update(points)
    assert told == {ms: value for ms, value in numbers.items() if ms in told}
    assert len(told) == 57


def test_a_resumed_attempt_goes_on_counting(tmp_path: Path) -> None:
    """An attempt that goes back to a checkpoint counts what it works off again, and not what was counted before."""
    journal = Journal(tmp_path).start().log(0, {"num_tokens": 100}).log(1, {"num_tokens": 200})
    journal.start(1).log(1, {"num_tokens": 150}, 2.0).log(2, {"num_tokens": 250}, 3.0)
    assert scrape(tmp_path).value("training_tokens_total") == 300


def test_each_rank_has_a_counter_of_its_own(tmp_path: Path) -> None:
    """Where there are several ranks each one's counter names it, rank 0 included."""
    for rank in range(2):
        name = f"metrics.rank{rank}.jsonl" if rank else "metrics.jsonl"
        Journal(tmp_path, name=name).start(rank=rank, world_size=2).log(0, {"train/step_tokens": 10 + rank})
    page = scrape(tmp_path)
    assert [page.value("training_tokens_total", rank=str(rank)) for rank in range(2)] == [10, 11]


def test_two_keys_of_one_counter_are_not_added(tmp_path: Path) -> None:
    """The first key that means a counter owns it; another one is refused and counted."""
    Journal(tmp_path).start().log(0, {"num_tokens": 100, "train/step_tokens": 7})
    page = scrape(tmp_path)
    assert page.value("training_tokens_total") == 100
    assert page.value("telemetry_key_collisions_total") == 1
