"""When the rows of a log were, which attempt they belong to, and what is said about the run."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import Namer
from exporter.exposition import Budget, RunSeries, RunState
from exporter.importer.timeline import LogClock, Timeline
from exporter.journal import START, read_chunk
from exporter.records import RunStart
from exporter.sources import Row
from tests.support.event_files import VERSION, event, simple
from tests.support.imports import Import, json_rows, table
from tests.support.journals import CATALOG

THEN = float(int(time.time()) - 3600)
"""When the logs of these tests were last written."""

Importing = Callable[..., Import]


@pytest.fixture
def importing(tmp_path: Path) -> Iterator[Importing]:
    """An import of the folder ``logs``, which ends with its test."""
    (tmp_path / "logs").mkdir()
    started: list[Import] = []

    def begin(**options: Any) -> Import:
        started.append(Import(tmp_path / "logs", folder=tmp_path / "journals", **options))
        return started[-1]

    yield begin
    for imported in started:
        imported.close()


def write(path: Path, content: str | bytes, modified: float = THEN) -> Path:
    """Write a log as it was at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (modified, modified))
    return path


def append(path: Path, content: str | bytes, modified: float) -> None:
    """Append to a log at a time."""
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.utime(path, (modified, modified))


def losses(*steps: int, **more: Sequence[float]) -> list[dict[str, Any]]:
    """Rows at these steps, with further columns."""
    columns = zip(*more.values(), strict=True) if more else [()] * len(steps)
    return [
        {"step": step, "train/loss": step / 4, **dict(zip(more, cells, strict=True))}
        for step, cells in zip(steps, columns, strict=True)
    ]


def times(imported: Import) -> list[float]:
    """When the steps of the run ``ppo`` were, in milliseconds before the log was last written."""
    return [round((line["time"] - THEN) * 1000, 3) for line in imported.steps("ppo")]


def shown_times(imported: Import, run_id: str) -> list[int]:
    """The milliseconds that Prometheus gets."""
    chunk = read_chunk(imported.folder / run_id / "metrics.jsonl", START, 1 << 20)
    return [stamped.ms for stamped in chunk.records if hasattr(stamped.record, "step")]


# ------------------------------------------------------------------ times


def test_own_times_are_kept(tmp_path: Path, importing: Importing) -> None:
    """A row that says when it was is at that time, to the last digit."""
    write(tmp_path / "logs/ppo.jsonl", json_rows(losses(1, 2, time=[1.7e9 + 0.123456, 1.7e9 + 5.5])))
    imported = importing()
    imported.poll()
    assert [line["time"] for line in imported.steps("ppo")] == [1.7e9 + 0.123456, 1.7e9 + 5.5]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -5.0, 1e12, 1e300])
def test_a_time_that_no_clock_shows_is_none(tmp_path: Path, importing: Importing, wrong: float) -> None:
    """An event file with a spoilt clock is read as one without times."""
    content = VERSION + event(simple("train/loss", 0.5), step=1, time=wrong)
    write(tmp_path / "logs/ppo/events.out.tfevents.1", content)
    imported = importing()
    imported.poll()
    assert times(imported) == [0]


@pytest.mark.parametrize("key", ["time/time_elapsed", "misc/time_elapsed", "TimeElapsed", "time_total_s"])
def test_elapsed_seconds_are_set_by_the_last_write(tmp_path: Path, importing: Importing, key: str) -> None:
    """Where a log counts seconds, its last row was when it was last written, and the others as long before."""
    write(tmp_path / "logs/ppo.csv", table(losses(1, 2, 3, **{key: [10, 12.5, 100]})))
    imported = importing()
    imported.poll()
    assert times(imported) == [-90_000, -87_500, 0]


def test_elapsed_seconds_go_on_as_they_count(tmp_path: Path, importing: Importing) -> None:
    """Later rows keep the clock, so that they are as far apart as they say; none is later than the log was written."""
    path = write(tmp_path / "logs/ppo.csv", table(losses(1, 2, time_elapsed=[10, 20])))
    imported = importing()
    imported.poll()
    append(path, "3,0.75,31\n4,1.0,45\n", THEN + 24)
    imported.poll()
    assert times(imported) == [-10_000, 0, 11_000, 24_000]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_resumed_trainer_counts_from_the_start_again(tmp_path: Path, importing: Importing, at_once: bool) -> None:
    """Its rows follow those before: live at the time of writing, in a backlog as if there had been no pause."""
    path = write(tmp_path / "logs/ppo.csv", table(losses(1, 2, time_elapsed=[10, 20])))
    imported = importing()
    if not at_once:
        imported.poll()
    append(path, "1,0.25,5\n2,0.5,8\n", THEN + 60)
    imported.poll()
    end = 52_000 if at_once else 0
    assert times(imported) == [end - 10_000, end, *([57_000, 60_000] if at_once else [60_000, 60_000])]


def test_rows_without_the_clock_lie_between_those_with_it(tmp_path: Path, importing: Importing) -> None:
    """An evaluation that says no elapsed seconds is at the time before it and does not push the later rows away."""
    rows = [
        {"step": 1, "train/loss": 1, "time_elapsed": 10},
        {"step": 1, "eval/mean_reward": 7},
        {"step": 2, "train/loss": 2, "time_elapsed": 900},
    ]
    write(tmp_path / "logs/ppo.csv", table(rows, ["step", "train/loss", "eval/mean_reward", "time_elapsed"]))
    imported = importing()
    imported.poll()
    assert times(imported) == [-890_000, -890_000, 0]
    assert shown_times(imported, "ppo") == [round(THEN * 1000) + ms for ms in (-890_000, -889_999, 0)]


def test_rows_without_a_time_lie_between_those_with_one(tmp_path: Path, importing: Importing) -> None:
    """In a backlog a row that says no time is at the last one known, the first rows at the first one known."""
    rows = losses(1, 2, 3, 4)
    rows[1]["time"], rows[3]["time"] = THEN - 500, THEN - 20
    write(tmp_path / "logs/ppo.jsonl", json_rows(rows))
    imported = importing()
    imported.poll()
    assert times(imported) == [-500_000, -500_000, -500_000, -20_000]


def test_without_any_clock_a_backlog_ends_when_it_was_written(tmp_path: Path, importing: Importing) -> None:
    """Rows read at once are a millisecond apart and end at the time of the last write; later ones are at theirs."""
    path = write(tmp_path / "logs/ppo.csv", table(losses(1, 2, 3)))
    imported = importing()
    imported.poll()
    append(path, "4,1\n", THEN + 7)
    imported.poll()
    imported.restart()
    append(path, "5,1.25\n6,1.5\n", THEN + 9)
    imported.poll()
    assert times(imported) == [-2, -1, 0, 7_000, 8_999, 9_000]


def test_times_stay_when_the_log_is_read_again(tmp_path: Path, importing: Importing) -> None:
    """A log that is touched, rewritten or read by another process does not move what was taken."""
    path = write(tmp_path / "logs/ppo.csv", table(losses(1, 2)))
    imported = importing()
    imported.poll()
    before = imported.lines("ppo")
    os.utime(path, (THEN + 50, THEN + 50))
    imported.poll()
    imported.restart()
    imported.poll()
    write(path, path.read_text(), THEN + 90)
    imported.restart()
    imported.poll()
    assert imported.lines("ppo") == before


def test_a_log_from_the_future_is_of_now(tmp_path: Path, importing: Importing) -> None:
    """A file server whose clock is ahead does not put off what is in the log."""
    write(tmp_path / "logs/ppo.csv", table(losses(1)), time.time() + 3600)
    imported = importing()
    imported.poll()
    assert imported.steps("ppo")[0]["time"] <= time.time()


MAYBE = st.none() | st.floats(0, 1e6)


@given(st.lists(st.tuples(st.sampled_from(["elapsed", "own", "none"]), st.floats(0, 1e6)), min_size=1), st.data())
def test_a_backlog_is_never_later_than_the_log(cells: list[tuple[str, float]], data: st.DataObject) -> None:
    """Whatever a log says, times that are made up lie between 1970 and the last write."""
    rows = [
        Row(
            step,
            {"loss": 1.0, **({"time_elapsed": value} if kind == "elapsed" else {})},
            THEN - value if kind == "own" else None,
        )
        for step, (kind, value) in enumerate(cells)
    ]
    first = data.draw(st.integers(0, len(rows) - 1))
    clock = LogClock(rows, sum(len(row.metrics) for row in rows[: first + 1]), THEN)
    for row in rows[first:]:
        moment = clock.time_of(row, THEN)
        assert 0 <= moment <= THEN
        assert row.time in (None, moment)


# ------------------------------------------------------------------ attempts


def steps_and_attempts(imported: Import, run_id: str = "ppo") -> list[tuple[int, int]]:
    """Step and attempt of each row."""
    steps = [line["step"] for line in imported.steps(run_id)]
    return list(zip(steps, imported.attempts(run_id), strict=True))


@pytest.mark.parametrize("restarts", [False, True])
def test_steps_that_go_back_are_the_next_attempt(tmp_path: Path, importing: Importing, restarts: bool) -> None:
    """A trainer that is started again goes on in its log: a run_start, the next attempt, in any process."""
    path = write(tmp_path / "logs/ppo.csv", table(losses(1, 2, 3)))
    imported = importing()
    imported.poll()
    for content in ("2,0.5\n", "3,0.75\n", "4,1\n", "1,0.25\n"):
        if restarts:
            imported.restart()
        append(path, content, THEN + 1)
        imported.poll()
    assert steps_and_attempts(imported) == [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (1, 3)]


@pytest.mark.parametrize("restarts", [False, True])
def test_an_earlier_attempt_is_no_measure(tmp_path: Path, importing: Importing, restarts: bool) -> None:
    """What the first attempt reached, in any series, does not make a third one out of the second."""
    path = write(tmp_path / "logs/ppo.jsonl", json_rows([*losses(10), {"step": 10, "eval/loss": 1.0}, *losses(1)]))
    imported = importing()
    imported.poll()
    if restarts:
        imported.restart()
    append(path, json_rows([{"step": 2, "eval/loss": 1.0}]), THEN)
    imported.poll()
    assert steps_and_attempts(imported) == [(10, 1), (10, 1), (1, 2), (2, 2)]


def test_a_restart_with_one_more_metric_is_one(tmp_path: Path, importing: Importing) -> None:
    """A trainer that was changed before it was started again has keys that nobody knows yet: the others tell."""
    rows = [*losses(1, 2, 3), *losses(1, 2, entropy=[0.5, 0.5])]
    write(tmp_path / "logs/ppo.jsonl", json_rows(rows))
    imported = importing()
    imported.poll()
    assert steps_and_attempts(imported) == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)]


def test_keys_may_count_different_things(tmp_path: Path, importing: Importing) -> None:
    """Losses by global step and scores by epoch in one log are one attempt, though the numbers jump."""
    rows = [*losses(100, 200), {"step": 1, "val/acc": 0.5}, *losses(300), {"step": 2, "val/acc": 0.6}]
    write(tmp_path / "logs/ppo.jsonl", json_rows(rows))
    imported = importing()
    imported.poll()
    assert steps_and_attempts(imported) == [(100, 1), (200, 1), (1, 1), (300, 1), (2, 1)]


def test_steps_may_repeat(tmp_path: Path, importing: Importing) -> None:
    """Several rows of one step, as of evaluations on several data sets, are no restart."""
    rows = [*losses(1, 2), {"step": 2, "eval/a_loss": 1.0}, {"step": 2, "eval/b_loss": 2.0}, *losses(2, 3)]
    write(tmp_path / "logs/ppo.jsonl", json_rows(rows))
    imported = importing()
    imported.poll()
    assert {attempt for _, attempt in steps_and_attempts(imported)} == {1}


@pytest.mark.parametrize("restarts", [False, True])
def test_steps_counted_in_each_epoch_go_on(tmp_path: Path, importing: Importing, restarts: bool) -> None:
    """A trainer that counts the batches of each epoch from 0 has one step axis, until its epochs go back, too."""
    path = tmp_path / "logs/ppo.jsonl"
    write(path, "")
    imported = importing()
    for epoch in (0, 1, 2, 0):
        append(path, json_rows(losses(0, 1, 2, epoch=[epoch] * 3)), THEN)
        imported.poll()
        if restarts:
            imported.restart()
    expected = [*((step, 1) for step in range(9)), (0, 2), (1, 2), (2, 2)]
    assert steps_and_attempts(imported) == expected
    assert [line["epoch"] for line in imported.steps("ppo")] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]


# ------------------------------------------------------------------ what is said about the run


def state_of(imported: Import, run_id: str = "ppo") -> RunState:
    """What readers make of a run's journal."""
    namer = Namer(CATALOG)
    state = RunState(CATALOG, namer, RunSeries(namer, Budget()))
    state.add(read_chunk(imported.folder / run_id / "metrics.jsonl", START, 1 << 20))
    return state


def test_a_run_begins_with_its_first_row(tmp_path: Path, importing: Importing) -> None:
    """Its start has the id, the user and the tags that were given, the time of the first row, and no process."""
    write(tmp_path / "logs/ppo.jsonl", json_rows(losses(1, time=[1.7e9])))
    imported = importing(user_id="alice", tags={"env": "prod"})
    imported.poll()
    start = state_of(imported).start
    assert start is not None
    assert (start.run_id, start.user_id, start.tags, start.time) == ("ppo", "alice", {"env": "prod"}, 1.7e9)
    assert (start.pid, start.host, start.attempt) == (0, "", 1)
    assert state_of(imported).end is None


def test_the_framework_is_told_by_its_keys(tmp_path: Path, importing: Importing) -> None:
    """Keys that only one library writes name it, also where they come later than the first row."""
    path = write(tmp_path / "logs/ppo.jsonl", json_rows(losses(1)))
    imported = importing()
    imported.poll()
    assert state_of(imported).start.framework == ""  # type: ignore[union-attr]
    append(path, json_rows([{"step": 2, "rollout/ep_rew_mean": 1.0, "train/clip_fraction": 0.1}]), THEN)
    imported.poll()
    state = state_of(imported)
    assert state.start is not None
    assert (state.start.framework, state.attempts) == ("sb3", 1)
    imported.restart()
    append(path, json_rows(losses(3)), THEN)
    imported.poll()
    assert [line["_type"] for line in imported.lines("ppo")].count("run_start") == 2


def test_settings_may_come_later(tmp_path: Path, importing: Importing) -> None:
    """What a log says about the configuration amends the run, whenever it comes, and is said once."""
    content = [*losses(1), {"config": {"lr": 0.1}}, {"config": {"lr": 0.1}}, {"config": {"gamma": 0.9}}, *losses(2)]
    write(tmp_path / "logs/ppo.jsonl", json_rows(content))
    imported = importing()
    imported.poll()
    imported.restart()
    imported.poll()
    state = state_of(imported)
    assert state.start is not None
    assert (state.start.config, state.attempts) == ({"lr": 0.1, "gamma": 0.9}, 1)
    assert [line["_type"] for line in imported.lines("ppo")].count("run_start") == 3


@pytest.mark.parametrize("restarts", [False, True])
def test_a_log_that_says_its_end_ends_the_run(tmp_path: Path, importing: Importing, restarts: bool) -> None:
    """The end is written once, at the time of the last row; settings after it do not revive the run."""
    rows: list[dict[str, Any]] = [
        {"training_iteration": 1, "timestamp": 1_700_000_000, "episode_reward_mean": 1.0, "done": True},
        {"config": {"lr": 0.1}},
    ]
    path = write(tmp_path / "logs/ppo/result.json", json_rows(rows[:1]))
    imported = importing()
    imported.poll()
    if restarts:
        imported.restart()
    append(path, json_rows(rows[1:]), THEN)
    imported.poll()
    state = state_of(imported)
    assert state.end is not None
    assert (state.end.status, state.end.time) == ("finished", 1_700_000_000)
    assert state.start is not None
    assert state.start.config == {"lr": 0.1}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_run_that_goes_on_after_its_end_is_another_attempt(
    tmp_path: Path, importing: Importing, restarts: bool
) -> None:
    """What a resumed run writes behind its end belongs to the next attempt, which is running."""
    rows = [{"training_iteration": 1, "episode_reward_mean": 1.0, "done": True}]
    path = write(tmp_path / "logs/ppo/result.json", json_rows(rows))
    imported = importing()
    imported.poll()
    if restarts:
        imported.restart()
    append(path, json_rows([{"training_iteration": 2, "episode_reward_mean": 1.0, "done": False}]), THEN)
    imported.poll()
    assert steps_and_attempts(imported) == [(1, 1), (2, 2)]
    assert state_of(imported).end is None


@given(
    st.dictionaries(st.text(st.characters(), min_size=1), st.floats() | st.integers(-(2**63), 2**63), min_size=1),
    st.integers(-(2**70), 2**70),
    st.none() | st.floats(),
)
def test_every_row_becomes_a_line_that_can_be_read(metrics: dict[str, float], step: int, epoch: float | None) -> None:
    """Names, numbers and steps of any kind make a record of every row, with as many metrics."""
    lines = Timeline(RunStart(0.0, "r")).row(Row(step, metrics, None, epoch), THEN)
    start, row = map(json.loads, lines.decode().strip().split("\n"))
    assert (start["_type"], row["_type"], int(row["step"])) == ("run_start", "step", step)
    if "?" not in "".join(row["metrics"]):
        assert row["metrics"].keys() == metrics.keys()
