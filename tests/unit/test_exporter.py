"""The pages of a set of runs, as scrapers get them one after the other."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.exposition import Budget, Format
from exporter.journal import find_journals
from exporter.records import Family, Sample
from exporter.server import Exporter
from exporter.server import exporter as module
from exporter.server import history as history_module
from tests.support.journals import CATALOG, Journal, Scrape, judge, line, same
from tests.support.servers import require

TEXT, OPENMETRICS = Format.TEXT, Format.OPENMETRICS
DAY = 86400.0
HERE = socket.gethostname()


class Scraper:
    """One Prometheus server: keeps every sample it gets, and refuses what contradicts what it has."""

    def __init__(self, exporter: Exporter, name: str = "p", form: Format = OPENMETRICS) -> None:
        self.exporter = exporter
        self.name = name
        self.form = form
        self.stored: dict[Any, dict[int, float]] = {}
        self.last = Scrape({}, {}, {})

    def scrape(self, overlap: float = 0.0, *, is_delivered: bool = True) -> list[int]:
        """Get a page; returns the step numbers on it."""
        served = self.exporter.scraper_page(self.form, self.name, overlap)
        self.last = judge(served.body, self.form)
        if is_delivered:
            served.delivered()
            for series, points in self.last.series.items():
                for time_ms, value in points:
                    if time_ms is not None:
                        known = self.stored.setdefault(series, {}).setdefault(time_ms, value)
                        assert same(known, value), f"{series} at {time_ms}: {known}, then {value}"
        pages = [points for (name, _), points in self.last.series.items() if name == "training_step"]
        return [int(step) for points in pages for _, step in points]

    def steps(self, **labels: str) -> list[tuple[int, float]]:
        """Every step stored so far, in order of time."""
        wanted = set(labels.items())
        found = [points for (name, own), points in self.stored.items() if name == "training_step" and wanted <= own]
        return sorted(point for points in found for point in points.items())


def positions(journal: Journal) -> list[tuple[int, float]]:
    """The steps that a scraper of a journal must have in the end."""
    return [(ms, float(record["step"])) for ms, record in journal.expected_steps()]


def exporter_of(folder: Path, **more: Any) -> Exporter:
    """The exporter of a runs folder."""
    return Exporter(partial(find_journals, folder), folder / ".telemetry" / "cursors.json", CATALOG, **more)


def latest(exporter: Exporter, form: Format = OPENMETRICS) -> Scrape:
    """The plain page."""
    return judge(exporter.latest_page(form), form)


def with_steps(journal: Journal, count: int, begin: int = 0) -> Journal:
    """Append steps, ten a second."""
    for number in range(begin, begin + count):
        journal.log(number, {"train/loss": 1.0 / (number + 1)})
    return journal


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of about ten lines, pieces of about three."""
    monkeypatch.setattr(module, "PAGE_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_PAGE_BYTES", 2000)
    monkeypatch.setattr(module, "LEAST_SHARE_BYTES", 300)
    monkeypatch.setattr(history_module, "PIECE_BYTES", 300)
    monkeypatch.setattr(history_module, "_CHECKPOINT_BYTES", 500)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The exporter's clock, set by hand."""
    fake = SimpleNamespace(now=time.time(), perf_counter=time.perf_counter)
    fake.time = lambda: fake.now
    monkeypatch.setattr(module, "time", fake)
    return fake


# ------------------------------------------------------------------ every step, once


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS])
def test_a_scraper_gets_every_step_once_while_a_journal_grows(tmp_path: Path, form: Format) -> None:
    """Over many scrapes of a growing journal, torn lines included, each step comes exactly once and in order."""
    rng = random.Random(1)
    source = with_steps(Journal(tmp_path / "source").start(), 300).path.read_bytes()
    journal = Journal(tmp_path / "runs")
    scraper = Scraper(exporter_of(tmp_path / "runs"), form=form)
    seen: list[int] = []
    while source:
        size = rng.randrange(1, 2500)
        journal.raw(source[:size])
        source = source[size:]
        seen += scraper.scrape()
    assert seen == list(range(300))
    assert scraper.steps() == positions(journal)
    assert scraper.scrape() == []


def test_scrapers_have_cursors_of_their_own(tmp_path: Path) -> None:
    """Each scraper gets every step, however often another one asks."""
    journal = with_steps(Journal(tmp_path).start(), 5)
    exporter = exporter_of(tmp_path)
    one, other = Scraper(exporter, "one"), Scraper(exporter, "other")
    assert one.scrape() == [0, 1, 2, 3, 4]
    with_steps(journal, 2, begin=5)
    assert one.scrape() == [5, 6]
    assert other.scrape() == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(exporter.scrapers) == ["one", "other"]


def test_a_page_that_did_not_arrive_comes_again(tmp_path: Path) -> None:
    """A cursor moves when the page was delivered, not when it was made."""
    with_steps(Journal(tmp_path).start(), 3)
    scraper = Scraper(exporter_of(tmp_path))
    assert scraper.scrape(is_delivered=False) == [0, 1, 2]
    assert scraper.scrape() == [0, 1, 2]
    assert scraper.scrape() == []


def test_the_plain_page_moves_no_cursor(tmp_path: Path) -> None:
    """Looking at the plain page takes nothing from a scraper, and writes nothing."""
    with_steps(Journal(tmp_path).start(), 3)
    exporter = exporter_of(tmp_path)
    latest(exporter)
    assert exporter.scrapers == []
    assert not (tmp_path / ".telemetry").exists()
    assert Scraper(exporter).scrape() == [0, 1, 2]


@pytest.mark.parametrize("overlap", [0.25, 1.0, 3.0, 3600.0])
def test_an_overlap_repeats_at_least_its_seconds(tmp_path: Path, overlap: float) -> None:
    """Each page repeats every step of the last seconds before its news, and misses none."""
    journal = Journal(tmp_path).start()
    scraper = Scraper(exporter_of(tmp_path))
    rng = random.Random(int(overlap * 4))
    count = 0
    for _ in range(15):
        before = positions(journal)
        new = rng.randrange(0, 20)
        with_steps(journal, new, begin=count)
        count += new
        seen = set(scraper.scrape(overlap))
        newest = max((ms for ms, _ in before), default=0)
        must = {step for ms, step in before if ms > newest - overlap * 1000} | set(range(count - new, count))
        assert must <= seen
    assert scraper.steps() == positions(journal)


def test_a_restarted_exporter_goes_on_where_it_was(tmp_path: Path) -> None:
    """Cursors are on disk: another process gives what is new and nothing else."""
    journal = with_steps(Journal(tmp_path).start(), 4)
    assert Scraper(exporter_of(tmp_path)).scrape() == [0, 1, 2, 3]
    with_steps(journal, 2, begin=4)
    scraper = Scraper(exporter_of(tmp_path))
    assert scraper.scrape() == [4, 5]
    assert scraper.scrape() == []


@pytest.mark.parametrize("content", ["{", '{"p": {"x": [1, [2]]}}', "[]"])
def test_a_spoilt_state_file_repeats_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """Without usable cursors every step is served again, and saved anew."""
    with_steps(Journal(tmp_path).start(), 3)
    Scraper(exporter_of(tmp_path)).scrape()
    (tmp_path / ".telemetry" / "cursors.json").write_text(content)
    scraper = Scraper(exporter_of(tmp_path))
    assert "unusable" in capsys.readouterr().err
    assert scraper.scrape() == [0, 1, 2]
    assert Scraper(exporter_of(tmp_path)).scrape() == []


def test_an_unwritable_state_folder_costs_no_scrape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where cursors cannot be saved they are kept in memory, which is said once."""
    journal = with_steps(Journal(tmp_path).start(), 3)
    (tmp_path / ".telemetry").write_text("a file where the folder should be")
    scraper = Scraper(exporter_of(tmp_path))
    capsys.readouterr()
    assert scraper.scrape() == [0, 1, 2]
    with_steps(journal, 1, begin=3)
    assert scraper.scrape() == [3]
    assert capsys.readouterr().err.count("cannot save cursors") == 1


# ------------------------------------------------------------------ journals come, change and go


def test_a_replaced_journal_is_served_from_its_start(tmp_path: Path) -> None:
    """Another file at the place of a journal is new from its first line on."""
    journal = with_steps(Journal(tmp_path).start(), 5)
    scraper = Scraper(exporter_of(tmp_path))
    scraper.scrape()
    with_steps(Journal(tmp_path / ".other").start(), 3, begin=100).path.replace(journal.path)
    assert scraper.scrape() == [100, 101, 102]
    assert scraper.scrape() == []


def test_a_cut_journal_is_served_from_its_start_once(tmp_path: Path) -> None:
    """After truncation the new content comes once, and what is appended later comes once."""
    journal = with_steps(Journal(tmp_path).start(), 9)
    scraper = Scraper(exporter_of(tmp_path))
    scraper.scrape()
    journal.path.write_bytes(b"")
    with_steps(journal, 2, begin=100)
    assert scraper.scrape() == [100, 101]
    assert scraper.scrape() == []
    seen = []
    for begin in range(102, 120):
        with_steps(journal, 1, begin=begin)
        seen += scraper.scrape()
    assert seen == list(range(102, 120))


def test_a_journal_that_was_cut_while_nobody_looked_is_served_from_its_start(tmp_path: Path) -> None:
    """A cursor that lies behind the end of the file means that the file is another one."""
    journal = with_steps(Journal(tmp_path).start(), 9)
    Scraper(exporter_of(tmp_path)).scrape()
    journal.path.write_bytes(b"")
    with_steps(journal, 2, begin=100)
    scraper = Scraper(exporter_of(tmp_path))
    assert scraper.scrape() == [100, 101]
    assert scraper.scrape() == []


def test_a_deleted_run_leaves_the_page(tmp_path: Path) -> None:
    """Without its folder a run has no series, no cursor and no share of the budget."""
    journal = with_steps(Journal(tmp_path).start(), 3)
    exporter = exporter_of(tmp_path)
    scraper = Scraper(exporter)
    scraper.scrape()
    journal.path.unlink()
    journal.path.parent.rmdir()
    assert scraper.scrape() == []
    assert latest(exporter).label_sets("run_status") == []
    assert str(journal.path) not in (tmp_path / ".telemetry" / "cursors.json").read_text()
    assert exporter._budget.used == 0


def test_a_run_that_comes_later_is_found(tmp_path: Path) -> None:
    """New folders are seen at the next scrape, also where the runs folder itself came later."""
    runs = tmp_path / "later"
    scraper = Scraper(exporter_of(runs))
    assert scraper.scrape() == []
    with_steps(Journal(runs).start(), 2)
    assert scraper.scrape() == [0, 1]
    with_steps(Journal(runs, "r2").start(), 2)
    assert scraper.scrape() == [0, 1]
    assert {labels["run_id"] for labels in scraper.last.label_sets("run_info")} == {"r1", "r2"}


def test_ranks_are_apart(tmp_path: Path) -> None:
    """The journal of each rank above 0 is a run with a label of its rank."""
    for rank in range(3):
        name = f"metrics.rank{rank}.jsonl" if rank else "metrics.jsonl"
        with_steps(Journal(tmp_path, "r1", name).start(rank=rank, world_size=3), 1, begin=rank)
    scraper = Scraper(exporter_of(tmp_path))
    assert sorted(scraper.scrape()) == [0, 1, 2]
    labels = scraper.last.label_sets("training_step")
    assert sorted(its.get("rank", "") for its in labels) == ["", "1", "2"]


def test_a_compressed_run_is_served_like_any(tmp_path: Path) -> None:
    """The .gz of a finished run gives its steps once, and a plain file beside it hides it."""
    journal = with_steps(Journal(tmp_path).start(), 4).end(1)
    packed = journal.path.with_name("metrics.jsonl.gz")
    packed.write_bytes(gzip.compress(journal.path.read_bytes()))
    scraper = Scraper(exporter_of(tmp_path))
    assert scraper.scrape() == [0, 1, 2, 3]
    journal.path.unlink()
    assert scraper.scrape() == [0, 1, 2, 3]
    assert scraper.scrape() == []
    assert scraper.last.value("run_status", status="finished") == 1


@pytest.mark.parametrize("damage", ["cut", "spoilt", "no gzip"])
def test_a_damaged_journal_harms_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """A .gz that cannot be unpacked is counted and said once; the other runs are served."""
    with_steps(Journal(tmp_path, "good").start(), 3)
    bad = with_steps(Journal(tmp_path, "bad").start(), 50)
    data = bytearray(gzip.compress(bad.path.read_bytes()))
    bad.path.unlink()
    middle = len(data) // 2
    if damage == "spoilt":
        data[20:middle] = bytes(255 - byte for byte in data[20:middle])
    damaged = {"cut": data[:middle], "spoilt": data, "no gzip": b"plain text"}[damage]
    bad.path.with_name("metrics.jsonl.gz").write_bytes(damaged)
    exporter = exporter_of(tmp_path)
    scraper = Scraper(exporter)
    assert scraper.scrape() == [0, 1, 2]
    assert scraper.scrape() == []
    assert latest(exporter).value("telemetry_read_errors_total") == 3
    assert capsys.readouterr().err.count("cannot read") == 1


def test_a_journal_that_cannot_be_read_again_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that fails between following and reading costs its steps on this page only."""
    with_steps(Journal(tmp_path).start(), 3)
    scraper = Scraper(exporter_of(tmp_path))
    read = history_module.read_chunk

    def fail(path: Path, start: Any, limit: int, *until: int) -> Any:
        if until:
            raise OSError(5, "Input/output error")
        return read(path, start, limit)

    monkeypatch.setattr(history_module, "read_chunk", fail)
    assert scraper.scrape() == []
    assert scraper.last.value("telemetry_read_errors_total") == 1
    monkeypatch.undo()
    assert scraper.scrape() == [0, 1, 2]


def test_of_two_journals_of_one_run_the_first_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files cannot both be right about a run: the second is left out, which is said once."""
    with_steps(Journal(tmp_path, "a").start(run_id="same"), 2)
    with_steps(Journal(tmp_path, "b").start(run_id="same"), 2, begin=50)
    exporter = exporter_of(tmp_path)
    scraper = Scraper(exporter)
    assert scraper.scrape() == [0, 1]
    assert scraper.scrape() == []
    assert latest(exporter).value("training_step") == 1
    said = capsys.readouterr().err
    assert said.count("not shown") == 1
    assert str(tmp_path / "b") in said


# ------------------------------------------------------------------ bounded pages


@pytest.mark.usefixtures("small_pages")
def test_a_backlog_drains_over_several_pages(tmp_path: Path) -> None:
    """A page holds a bounded stretch of each journal; pages add up to all steps, and the backlog is a number."""
    journals = [with_steps(Journal(tmp_path, name).start(), 60) for name in ("r1", "r2")]
    scraper = Scraper(exporter_of(tmp_path))
    seen, backlogs = [], []
    while steps := scraper.scrape():
        assert len(steps) <= 2 * (1000 // 2 // 60)
        seen += steps
        backlogs.append(scraper.last.value("telemetry_backlog_bytes", scraper="p"))
    assert sorted(seen) == sorted([*range(60), *range(60)])
    assert len(backlogs) > 5
    assert backlogs == sorted(backlogs, reverse=True)
    assert backlogs[-1] == 0
    for journal in journals:
        assert scraper.steps(run_id=journal.run_id) == positions(journal)


@pytest.mark.usefixtures("small_pages")
def test_the_backlog_of_many_runs_fits_the_page(tmp_path: Path) -> None:
    """However many runs are behind, a page has its size; what is new in a live run comes at once all the same."""
    for number in range(40):
        with_steps(Journal(tmp_path, f"old {number}").start(), 20).end(3)
    live = Journal(tmp_path, "zz live").start()
    scraper = Scraper(exporter_of(tmp_path))
    for number in range(100):
        live.step(number, a=1)
        steps = scraper.scrape()
        assert number in [step for _, step in scraper.last.points("training_step", run_id="zz live")]
        assert len(steps) <= (2000 + 300) // 60
        if len(steps) == 1:
            break
    runs = {labels["run_id"] for labels in scraper.last.label_sets("run_info")}
    assert len(runs) == 41
    assert all(len(scraper.steps(run_id=run)) == 20 for run in runs - {"zz live"})


@pytest.mark.usefixtures("small_pages")
def test_a_backlog_drains_with_an_overlap_too(tmp_path: Path) -> None:
    """Repeating does not keep a scraper from getting on."""
    journal = with_steps(Journal(tmp_path).start(), 60)
    scraper = Scraper(exporter_of(tmp_path))
    for _ in range(30):
        scraper.scrape(overlap=1.0)
    assert scraper.steps() == positions(journal)


def test_many_busy_ranks_do_not_fall_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many journals grow, each page takes a least share of each one, beyond what a page takes of one alone."""
    monkeypatch.setattr(module, "PAGE_BYTES", 1000)
    monkeypatch.setattr(module, "PIECE_BYTES", 300)
    monkeypatch.setattr(module, "LEAST_SHARE_BYTES", 3000)
    journals = [with_steps(Journal(tmp_path, f"r{number}").start(), 20) for number in range(8)]
    assert all(1000 < journal.path.stat().st_size < 3000 for journal in journals)
    scraper = Scraper(exporter_of(tmp_path))
    scraper.scrape()
    assert all(scraper.steps(run_id=journal.run_id) == positions(journal) for journal in journals)


@pytest.mark.usefixtures("small_pages")
def test_a_lagging_page_is_no_counter_reset(tmp_path: Path) -> None:
    """Counters of a page that shows old steps are those of the whole journal at its own time."""
    with_steps(Journal(tmp_path).start(), 60)
    scraper = Scraper(exporter_of(tmp_path))
    totals = []
    while scraper.scrape():
        totals += scraper.last.values("training_steps_total")
    assert set(totals) == {60}


def test_following_has_a_limit_per_scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long journal is taken in over several scrapes; each gives what is known, and in the end all."""
    monkeypatch.setattr(module, "FOLLOW_BYTES", 1000)
    monkeypatch.setattr(history_module, "PIECE_BYTES", 300)
    journals = [with_steps(Journal(tmp_path, name).start(), 60) for name in ("r1", "r2")]
    exporter = exporter_of(tmp_path)
    assert 1000 <= exporter.refresh() < 1300
    scraper = Scraper(exporter)
    while scraper.scrape():
        pass
    for journal in journals:
        assert scraper.steps(run_id=journal.run_id) == positions(journal)
    assert exporter.refresh() == 0


def test_a_restart_in_the_middle_of_a_long_journal_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a restarted exporter still reads what a scraper already has, the scraper waits for what is new."""
    journal = with_steps(Journal(tmp_path).start(), 100)
    Scraper(exporter_of(tmp_path)).scrape()
    with_steps(journal, 3, begin=100)
    monkeypatch.setattr(module, "FOLLOW_BYTES", 1000)
    monkeypatch.setattr(history_module, "PIECE_BYTES", 300)
    scraper = Scraper(exporter_of(tmp_path))
    seen = [scraper.scrape() for _ in range(15)]
    assert seen[0] == []
    assert [step for page in seen for step in page] == [100, 101, 102]


# ------------------------------------------------------------------ counters


def counters_of(exporter: Exporter, name: str) -> dict[Any, list[tuple[int | None, float]]]:
    """Counters and histograms of the runs on a new scraper's page."""
    page = judge(exporter.scraper_page(OPENMETRICS, name).body, OPENMETRICS)
    kinds = ("_total", "_bucket", "_sum", "_count")
    return {series: points for series, points in page.series.items()
            if series[0].endswith(kinds) and "run_id" in dict(series[1])}  # fmt: skip


def test_two_exporters_say_the_same_at_the_same_time(tmp_path: Path) -> None:
    """Counters and histograms are functions of the journal: in-process page and sidecar agree to the millisecond."""
    journal = Journal(tmp_path / "runs").start()
    early = Exporter(partial(find_journals, tmp_path / "runs" / "r1"), tmp_path / "a.json", CATALOG)
    for number in range(20):
        journal.log(number, {"train/loss": float("nan") if number % 5 == 3 else 1.0, "loss": 2.0})
        journal.other("timing", number / 10, name="optim_step", seconds=number / 100).raw(b"torn\n")
        early.refresh()
    journal.step(20, a=1)
    late = Exporter(partial(find_journals, tmp_path / "runs"), tmp_path / "b.json", CATALOG)
    found = counters_of(late, "new")
    assert found == counters_of(early, "new")
    assert len(found) > 20
    assert {points[-1][0] for points in found.values()} == {positions(journal)[-1][0]}


def test_a_restart_is_no_counter_reset(tmp_path: Path) -> None:
    """After each restart counters go on growing, and none contradicts what it said before."""
    journal = Journal(tmp_path).start()
    totals: list[float] = []
    stored: dict[Any, dict[int, float]] = {}
    for number in range(6):
        journal.log(number, {"train/loss": float("nan")})
        scraper = Scraper(exporter_of(tmp_path))
        scraper.stored = stored
        scraper.scrape()
        totals += scraper.last.values("training_steps_total")
    assert totals == [1, 2, 3, 4, 5, 6]
    (nonfinite,) = [points for (name, _), points in stored.items() if name == "training_nonfinite_total"]
    first = positions(journal)[0][0]
    assert [nonfinite[ms] for ms in sorted(nonfinite)] == [0, 1, 2, 3, 4, 5, 6]
    assert min(nonfinite) == first - 1


def test_counters_go_on_over_attempts(tmp_path: Path) -> None:
    """A new attempt of a run resets none of its counters."""
    journal = with_steps(Journal(tmp_path).start(), 3)
    scraper = Scraper(exporter_of(tmp_path))
    scraper.scrape()
    with_steps(journal.start(1), 2, begin=20)
    scraper.scrape()
    assert scraper.last.value("training_steps_total") == 5
    assert scraper.last.value("run_attempts") == 2


def test_counters_linger_for_a_minute(tmp_path: Path, clock: SimpleNamespace) -> None:
    """Counters without news stay on the page until the last record is a minute old, and come back with the next."""
    journal = with_steps(Journal(tmp_path).start(), 1)
    scraper = Scraper(exporter_of(tmp_path))
    for after, values in [(1.0, [1]), (59.9, [1]), (60.1, []), (3600.0, [])]:
        clock.now = journal.begin + after
        scraper.scrape()
        assert scraper.last.values("training_steps_total") == values, after
    journal.step(1, 3600.0, a=1)
    scraper.scrape()
    assert scraper.last.values("training_steps_total") == [2]


def test_steps_from_the_future_wait_for_their_time(tmp_path: Path, clock: SimpleNamespace) -> None:
    """A record of a clock that runs ahead is served when its time has come; 5 s are no trouble."""
    journal = Journal(tmp_path).start().step(0, 0.0, a=1).step(1, 4.0, a=1).step(2, 60.0, a=1)
    scraper = Scraper(exporter_of(tmp_path))
    clock.now = journal.begin + 0.5
    assert scraper.scrape() == [0, 1]
    assert scraper.last.values("training_steps_total") == []
    clock.now = journal.begin + 54.9
    assert scraper.scrape() == []
    clock.now = journal.begin + 55.1
    assert scraper.scrape() == [2]
    assert scraper.last.values("training_steps_total") == [3]


def test_a_clock_that_is_set_back_moves_no_cursor_back(tmp_path: Path, clock: SimpleNamespace) -> None:
    """What a scraper has is not new again when the clock returns, whatever overlap it asked for meanwhile."""
    journal = with_steps(Journal(tmp_path).start(), 50)
    scraper = Scraper(exporter_of(tmp_path))
    scraper.scrape()
    clock.now = journal.begin - 60
    scraper.scrape(overlap=3600)
    clock.now = journal.begin + 60
    assert scraper.scrape() == []
    assert scraper.steps() == positions(journal)


# ------------------------------------------------------------------ what is shown


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS])
def test_the_plain_page_shows_the_latest_of_running_runs(tmp_path: Path, form: Format) -> None:
    """Without a scraper's name: latest values, counters and status, all without timestamps."""
    with_steps(Journal(tmp_path).start(), 4)
    page = latest(exporter_of(tmp_path), form)
    assert page.points("training_loss") == [(None, 0.25)]
    assert page.points("training_steps_total") == [(None, 4)]
    assert page.value("run_status", status="running") == 1
    assert {time_ms for points in page.series.values() for time_ms, _ in points} == {None}


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_run_that_ended_keeps_its_summary(tmp_path: Path, status: str) -> None:
    """After its end a run has no step series on the plain page, but status, info, last and best values."""
    with_steps(Journal(tmp_path).start(recipe="ppo"), 4).end(1, status)
    exporter = exporter_of(tmp_path)
    page = latest(exporter)
    assert page.label_sets("training_loss") == page.label_sets("training_step") == []
    assert (page.value("run_status", status=status), page.value("run_status", status="running")) == (1, 0)
    assert page.label_sets("run_info")[0]["recipe"] == "ppo"
    assert page.value("run_last_value", metric="training_loss") == 0.25
    assert page.value("run_best_step", metric="training_loss") == 3
    assert page.value("telemetry_runs", status=status) == 1
    assert Scraper(exporter).scrape() == [0, 1, 2, 3]


def test_a_journal_that_nobody_wrote_for_a_week_is_gone(tmp_path: Path, clock: SimpleNamespace) -> None:
    """A run that died without an end leaves the pages a week after its last line, and frees its series."""
    journal = with_steps(Journal(tmp_path).start(), 1)
    exporter = exporter_of(tmp_path)
    assert len(latest(exporter).label_sets("run_info")) == 1
    old = clock.now - 7 * DAY - 5
    os.utime(journal.path, (old, old))
    assert latest(exporter).label_sets("run_info") == []
    assert latest(exporter_of(tmp_path)).label_sets("run_info") == []
    assert exporter._budget.used == 0
    assert Scraper(exporter).scrape() == []
    with_steps(journal, 1, begin=1)
    assert Scraper(exporter).scrape() == [0, 1]


def test_a_run_whose_process_is_gone_has_crashed(tmp_path: Path) -> None:
    """SIGKILL leaves no run_end: the pid of the start is asked for, and latest values go when it is gone."""
    here = socket.gethostname()
    now = time.time()
    for run_id, pid in (("alive", os.getpid()), ("dead", 2**22 + 5)):
        journal = Journal(tmp_path, run_id)
        journal.begin = now
        with_steps(journal.start(host=here, pid=pid), 1)
    page = latest(exporter_of(tmp_path))
    assert page.value("run_status", run_id="alive", status="running") == 1
    assert page.value("run_status", run_id="dead", status="crashed") == 1
    assert [labels["run_id"] for labels in page.label_sets("training_loss")] == ["alive"]
    assert (page.value("telemetry_runs", status="running"), page.value("telemetry_runs", status="crashed")) == (1, 1)


@pytest.mark.parametrize(
    ("host", "pid", "world_size", "status"),
    [
        (HERE, 2**22 + 5, 4, "finished"),
        ("elsewhere", 5, 4, "finished"),
        (HERE, os.getpid(), 4, "running"),
        (HERE, 2**22 + 5, 1, "crashed"),
    ],
    ids=["gone", "of another host", "still there", "of a tool that does not count ranks"],
)
def test_a_rank_that_the_newest_attempt_does_not_have_did_not_crash(
    tmp_path: Path, host: str, pid: int, world_size: int, status: str
) -> None:
    """A run that goes on with two ranks of four has lost nobody: the part of the others is over."""
    now = time.time()
    for rank in range(4):
        journal = Journal(tmp_path, "r1", f"metrics.rank{rank}.jsonl" if rank else "metrics.jsonl")
        journal.begin = now
        with_steps(journal.start(rank=rank, host=host, pid=pid, world_size=world_size, attempt=1), 1, begin=rank)
        if rank < 2:
            journal.start(1, rank=rank, host=HERE, pid=os.getpid(), world_size=2, attempt=2)
    page = latest(exporter_of(tmp_path))
    statuses = [(dict(labels), points) for (name, labels), points in page.series.items() if name == "run_status"]
    found = {(labels.get("rank"), labels["status"]) for labels, [(_, value)] in statuses if value}
    assert found == {(None, "running"), ("1", "running"), ("2", status), ("3", status)}


def test_a_journal_without_a_record_is_not_shown(tmp_path: Path) -> None:
    """An empty file, or one with nothing but bad lines, is no run yet."""
    Journal(tmp_path, "empty")
    Journal(tmp_path, "bad").raw(b"what is this?\n")
    assert latest(exporter_of(tmp_path)).label_sets("run_status") == []


def test_the_page_has_a_budget_of_series_over_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is refused and counted; a run that is deleted makes room for the next."""
    monkeypatch.setattr(module, "Budget", lambda: Budget(3))
    first = Journal(tmp_path, "a").start().log(0, {"a": 1, "b": 1})
    Journal(tmp_path, "b").start().log(0, {"a": 1, "b": 1})
    exporter = exporter_of(tmp_path)
    page = latest(exporter)
    assert len(page.label_sets("custom_a") + page.label_sets("custom_b")) == 3
    assert page.value("telemetry_series_refused_total", run_id="b", reason="page_budget") == 1
    first.path.unlink()
    Journal(tmp_path, "c").start().log(0, {"a": 1, "b": 1})
    assert len(latest(exporter).label_sets("custom_b")) == 1


# ------------------------------------------------------------------ beside the runs


class Broken:
    """A collector that fails after its first sample."""

    name = "broken"

    def collect(self) -> Iterator[Sample]:
        """One value, then trouble."""
        yield Sample(Family("before", "gauge", "Before."), (), 1)
        raise RuntimeError("no such device")


class Good:
    """A collector that works."""

    name = "good"

    def collect(self) -> Iterator[Sample]:
        """One value."""
        yield Sample(Family("fine", "gauge", "Fine."), (("a", "b"),), 2)


@pytest.mark.parametrize("form", [TEXT, OPENMETRICS])
def test_a_failing_collector_is_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: Format) -> None:
    """A collector's trouble shows as success 0 and one line; what others collect, and what it had, stays."""
    exporter = exporter_of(tmp_path, collectors=[Broken(), Good()])
    pages = [latest(exporter, form), judge(exporter.scraper_page(form, "p").body, form)]
    for page in pages:
        assert page.value("telemetry_collector_success", collector="broken") == 0
        assert page.value("telemetry_collector_success", collector="good") == 1
        assert page.value("telemetry_collector_duration_seconds", collector="good") >= 0
        assert (page.value("before"), page.value("fine", a="b")) == (1, 2)
    assert capsys.readouterr().err.count("no such device") == 1


def test_the_exporter_says_how_it_is(tmp_path: Path) -> None:
    """Version, pages given, samples on the last page and backlog are numbers on the page, by scraper."""
    with_steps(Journal(tmp_path).start(), 3)
    exporter = exporter_of(tmp_path)
    scraper = Scraper(exporter)
    scraper.scrape()
    assert scraper.last.value("telemetry_page_samples", scraper="p") == 3 * 2
    scraper.scrape()
    page = latest(exporter)
    assert page.value("telemetry_scrapes_total", scraper="p") == 2
    assert page.value("telemetry_page_samples", scraper="p") == 0
    assert page.value("telemetry_page_render_seconds", scraper="p") > 0
    assert page.value("telemetry_backlog_bytes", scraper="p") == 0
    assert page.value("telemetry_build_info") == 1
    assert page.value("telemetry_read_errors_total") == 0


def test_trouble_without_end_is_not_said_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a thousand different messages the exporter is silent, so that a log does not fill the disk."""
    exporter = exporter_of(tmp_path)
    for number in range(1100):
        exporter._say(f"trouble {number}")
        exporter._say(f"trouble {number}")
    assert capsys.readouterr().err.count("\n") == 1000


# ------------------------------------------------------------------ anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(max_size=6)
NUMBERS = st.integers() | st.floats() | st.booleans()
FIELDS = {
    **dict.fromkeys(("run_id", "user_id", "recipe", "version", "name", "reason", "status", "title", "path"), TEXTS),
    **dict.fromkeys(("pid", "rank", "world_size", "attempt", "step", "epoch", "seconds", "count"), NUMBERS),
    "host": st.just(socket.gethostname()),
    "tags": st.dictionaries(TEXTS, TEXTS, max_size=3),
    "config": st.dictionaries(TEXTS, JSON, max_size=3),
    "metrics": st.dictionaries(TEXTS, NUMBERS, max_size=3),
}
KINDS = (
    "run_start",
    "step",
    "timing",
    "phase",
    "lost",
    "run_end",
    "table",
    "event",
    "check",
    "checkpoint",
    "epoch_end",
    "new",
)
RECORDS = st.builds(
    lambda record, wild: {**record, **wild},
    st.fixed_dictionaries({"_type": st.sampled_from(KINDS), "time": st.floats(0, 2e9), **FIELDS}),
    st.dictionaries(st.sampled_from(["_type", "time", *FIELDS]), JSON, max_size=2),
)


@given(records=st.lists(RECORDS, max_size=8), text=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_journal_can_break_a_page(records: list[dict[str, Any]], text: bool) -> None:
    """Whatever JSON stands in a journal, both pages are made, parse, and show the run beside it."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name)
        Journal(runs, "wild").raw(b"".join(json.dumps(record).encode() + b"\n" for record in records))
        with_steps(Journal(runs, "zz good").start(), 2)
        exporter, form = exporter_of(runs), TEXT if text else OPENMETRICS
        assert latest(exporter, form).values("training_loss", run_id="zz good") == [0.5]
        scrape = judge(exporter.scraper_page(form, "p").body, form)
        assert scrape.values("training_step", run_id="zz good") == [0, 1]


# ------------------------------------------------------------------ the real judge


def check_metrics(page: bytes) -> tuple[int, str]:
    """What promtool says about a page."""
    import subprocess

    answer = subprocess.run([require("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    return answer.returncode, (answer.stdout + answer.stderr).decode()


def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    """Both pages of ordinary runs are valid and follow the conventions of names."""
    journal = Journal(tmp_path).start(recipe="ppo", config={"lr": 1}, tags={"team": "a"}, user_id="u")
    for number in range(5):
        journal.log(number, {"train/loss": 1.0, "train/approx_kl": 0.1, "performance/gpu_utilization": 50}, epoch=0.1)
    journal.step(6, **{"train/loss": float("nan")}).other("timing", 1, name="optim_step", seconds=0.1)
    with_steps(Journal(tmp_path, "r2").start(), 2).end(1)
    exporter = exporter_of(tmp_path)
    assert check_metrics(exporter.scraper_page(TEXT, "p").body) == (0, "")
    assert check_metrics(exporter.latest_page(TEXT)) == (0, "")


def test_promtool_reads_any_text(tmp_path: Path) -> None:
    """Wild keys, tags and configuration give pages that promtool parses; names may be unconventional (exit 3)."""
    text = 'a"b\\n\n{x="1"} 5 # \U0001f600 \x00\r\t'
    journal = Journal(tmp_path).start(user_id=text, recipe=text, config={text: text}, tags={text: text, "le": text})
    journal.log(0, {text: 1.0, "x_total": 2, "y.count": float("inf"), "z_bucket": 5e-324, "Aé": True})
    journal.raw(line("timing", journal.begin, name=text, seconds=1.0))
    journal.raw(line("lost", journal.begin, reason=text, count=1))
    exporter = exporter_of(tmp_path)
    for page in (exporter.scraper_page(TEXT, "p").body, exporter.latest_page(TEXT)):
        code, said = check_metrics(page)
        assert code in (0, 3), said
        assert "error while linting" not in said


@pytest.mark.parametrize("broken", ["gauge_samples", "counter_samples", "add_steps"])
def test_whatever_breaks_in_one_run_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: str
) -> None:
    """An error that nobody thought of is a count and one line; the other runs are shown, and nothing is raised."""
    for name in ("bad", "good"):
        with_steps(Journal(tmp_path, name).start(), 3)
    original = getattr(module, broken)

    def fails_for_one(*arguments: Any) -> Any:
        if any("bad" in str(getattr(getattr(item, "series", item), "labels", "")) for item in arguments):
            raise LookupError("nobody thought of this")
        return original(*arguments)

    monkeypatch.setattr(module, broken, fails_for_one)
    exporter = exporter_of(tmp_path)
    page = exporter.scraper_page(TEXT, "s").body.decode()
    plain = exporter.latest_page(TEXT).decode()
    assert len(re.findall(r'training_step{.*run_id="good"', page)) == 3
    assert re.search(r'run_status{.*run_id="good"', plain)
    assert "nobody thought of this" in capsys.readouterr().err
