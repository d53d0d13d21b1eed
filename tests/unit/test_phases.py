"""Phases of the training step: how long each takes on each rank, and in which one a run is."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from exporter import start_run
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal, Scrape, judge


def scrape(folder: Path) -> Scrape:
    """The page of the latest values."""
    exporter = Exporter(partial(find_journals, folder), folder / ".cursors.json", CATALOG)
    return judge(exporter.latest_page(Format.TEXT), Format.TEXT)


def test_a_phase_is_recorded_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    """A phase leaves a line before its block and its duration behind it, also when the block raises."""
    run = start_run(run_id="r", directory=tmp_path)
    assert run.path is not None

    def load() -> None:
        with run.phase("data"):
            assert json.loads(run.path.read_text().splitlines()[-1])["name"] == "data"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load()
    run.finish()
    lines = [json.loads(line) for line in run.path.read_text().splitlines()]
    assert [(line["_type"], line.get("name")) for line in lines[1:3]] == [("phase", "data"), ("timing", "phase/data")]
    assert lines[2]["seconds"] >= 0


def test_each_phase_has_a_histogram_of_its_own(tmp_path: Path) -> None:
    """Durations are counted per phase, in one family."""
    journal = Journal(tmp_path).start()
    for seconds in (0.2, 0.3):
        journal.other("timing", name="phase/data", seconds=seconds)
    journal.other("timing", name="phase/backward", seconds=1.5)
    page = scrape(tmp_path)
    name = "performance_phase_duration_seconds"
    assert page.value(f"{name}_count", phase="data") == 2
    assert page.value(f"{name}_sum", phase="data") == 0.5
    assert page.value(f"{name}_bucket", phase="backward", le="1.0") == 0
    assert page.value(f"{name}_bucket", phase="backward", le="2.5") == 1


def test_ranks_are_told_apart_in_what_each_measures(tmp_path: Path) -> None:
    """Where there are several ranks each one's timings name it, rank 0 included; other series of rank 0 do not."""
    for rank in range(2):
        name = f"metrics.rank{rank}.jsonl" if rank else "metrics.jsonl"
        journal = Journal(tmp_path, name=name).start(rank=rank, world_size=2)
        journal.other("timing", name="phase/data", seconds=1 + rank).step(0, a=1)
    page = scrape(tmp_path)
    sums = {rank: page.value("performance_phase_duration_seconds_sum", rank=rank) for rank in ("0", "1")}
    assert sums == {"0": 1, "1": 2}
    assert {labels.get("rank") for labels in page.label_sets("custom_a")} == {None, "1"}


def test_a_lone_rank_has_no_rank(tmp_path: Path) -> None:
    """A run of one process has no label for it."""
    Journal(tmp_path).start().other("timing", name="phase/data", seconds=1)
    assert "rank" not in scrape(tmp_path).label_sets("performance_phase_duration_seconds_sum")[0]


def test_the_phase_that_began_last_is_shown(tmp_path: Path) -> None:
    """A run that hangs shows the phase it is in, and since when."""
    journal = Journal(tmp_path).start(world_size=2)
    journal.other("phase", 1, name="data").other("timing", 2, name="phase/data", seconds=1)
    journal.other("phase", 2, name="backward")
    page = scrape(tmp_path)
    assert page.label_sets("run_phase_start_timestamp_seconds") == [{"run_id": "r1", "phase": "backward", "rank": "0"}]
    assert page.value("run_phase_start_timestamp_seconds") == pytest.approx(journal.begin + 2)
