"""One journal as the pages see it."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from exporter import Run
from exporter.catalog import Namer
from exporter.exposition import Budget
from exporter.journal import START, Position
from exporter.records import Step
from exporter.server import history as module
from exporter.server.history import RunHistory
from tests.support.journals import CATALOG, Journal
from tests.support.servers import REPOSITORY

FOREVER = 10**15
ALL = 10**9
HERE = socket.gethostname()
OTHER_NAMESPACE = "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"


def history_of(journal: Journal | Path, budget: Budget | None = None, *, alive: bool = True) -> RunHistory:
    """A history that has not read anything yet."""
    path = journal.path if isinstance(journal, Journal) else journal
    return RunHistory(path, CATALOG, Namer(CATALOG), budget or Budget(), lambda pid, since: alive)


def steps_from(
    history: RunHistory, start: Position = START, repeat_ms: int = 0, limit: int = ALL, until: int = FOREVER
) -> tuple[list[int], Position]:
    """Numbers of the steps from a position on, and the position behind them."""
    numbers, end = [], start
    for chunk in history.read(start, repeat_ms, limit, until):
        numbers += [item.record.step for item in chunk.records if isinstance(item.record, Step)]
        end = max(end, chunk.end)
    return numbers, end


def long_journal(folder: Path, steps: int = 400) -> Journal:
    """A journal whose lines are about 1 kB long, ten steps a second."""
    journal = Journal(folder).start()
    for number in range(steps):
        journal.log(number, {f"{number % 7:03}" * 300: 1.0})
    return journal


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of about two lines, checkpoints about every four."""
    monkeypatch.setattr(module, "PIECE_BYTES", 2000)
    monkeypatch.setattr(module, "_CHECKPOINT_BYTES", 4000)


# ------------------------------------------------------------------ following


def test_a_history_follows_a_journal_that_grows(tmp_path: Path) -> None:
    """Each call reads what is new, once, and a torn line waits for its end."""
    journal = Journal(tmp_path).start().step(0, a=1)
    history = history_of(journal)
    assert history.follow(ALL) == journal.path.stat().st_size
    assert (history.follow(ALL), history.state.steps) == (0, 1)
    size = journal.path.stat().st_size
    journal.raw(b'{"_type":"step","time":1,"st')
    assert (history.follow(ALL), history.state.steps, history.position.offset) == (0, 1, size)
    journal.raw(b'ep":5,"metrics":{}}\n')
    history.follow(ALL)
    assert (history.state.steps, history.state.bad_lines) == (2, 0)


@pytest.mark.usefixtures("small_pieces")
def test_a_long_journal_is_read_in_several_calls(tmp_path: Path) -> None:
    """A call ends soon after its limit, and calls add up to the whole."""
    journal = long_journal(tmp_path, 50)
    history = history_of(journal)
    read = []
    while size := history.follow(5000):
        read.append(size)
    assert sum(read) == journal.path.stat().st_size
    assert max(read) < 5000 + 2000
    assert history.state.steps == 50


def test_nothing_is_read_without_a_limit_left(tmp_path: Path) -> None:
    """A journal whose turn did not come stays unread."""
    history = history_of(Journal(tmp_path).start().step(0, a=1))
    assert (history.follow(0), history.follow(-5), history.state.steps) == (0, 0, 0)


def test_a_replaced_journal_starts_over(tmp_path: Path) -> None:
    """Another file at the path is another content: nothing of the old one is left, and its series are free."""
    budget = Budget()
    journal = Journal(tmp_path).start().step(0, a=1, b=1).step(1, a=1)
    history = history_of(journal, budget)
    history.follow(ALL)
    assert budget.used == 2
    other = Journal(tmp_path, "other").start().step(7, c=1).step(8, c=1).step(9, c=1)
    other.path.replace(journal.path)
    history.follow(ALL)
    assert (history.state.steps, budget.used, list(history.state.latest)) == (3, 1, ["c"])


def test_a_cut_journal_starts_over(tmp_path: Path) -> None:
    """A file that became shorter is read again, and one that became empty holds nothing."""
    budget = Budget()
    journal = Journal(tmp_path).start().step(0, a=1).step(1, a=1)
    history = history_of(journal, budget)
    history.follow(ALL)
    os.truncate(journal.path, 0)
    history.follow(ALL)
    assert (history.state.steps, history.position, budget.used) == (0, START, 0)
    journal.step(5, b=1)
    history.follow(ALL)
    assert (history.state.steps, list(history.state.latest)) == (1, ["b"])


def test_a_missing_journal_is_an_error_of_the_system(tmp_path: Path) -> None:
    """What cannot be read says so to the caller, who counts it."""
    with pytest.raises(FileNotFoundError):
        history_of(tmp_path / "r1" / "metrics.jsonl").follow(ALL)


def test_a_compressed_journal_is_followed(tmp_path: Path) -> None:
    """The .gz of a finished run reads like the run."""
    journal = Journal(tmp_path).start().step(0, a=1).step(1, a=1).end(1)
    path = journal.path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(journal.path.read_bytes()))
    history = history_of(path)
    assert history.follow(ALL) == journal.path.stat().st_size
    assert history.follow(ALL) == 0
    assert steps_from(history)[0] == [0, 1]


@pytest.mark.usefixtures("small_pieces")
def test_a_compressed_journal_is_unpacked_a_few_times_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of a .gz is reached by unpacking all before it, so a journal of many pieces is read in one."""
    journal = long_journal(tmp_path, 50)
    path = journal.path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(journal.path.read_bytes()))
    reads: list[int] = []
    read = module.read_chunk
    monkeypatch.setattr(module, "read_chunk", lambda *place: (reads.append(1), read(*place))[1])
    history = history_of(path)
    history.follow(ALL)
    assert steps_from(history)[0] == list(range(50))
    assert len(reads) <= 3


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("metrics.jsonl", (("run_id", "folder"), ("user_id", ""))),
        ("metrics.rank3.jsonl", (("rank", "3"), ("run_id", "folder"), ("user_id", ""))),
        ("metrics.rank3.jsonl.gz", (("rank", "3"), ("run_id", "folder"), ("user_id", ""))),
        ("other.jsonl", (("run_id", "folder"), ("user_id", ""))),
    ],
)
def test_a_journal_without_a_start_is_named_by_its_place(tmp_path: Path, name: str, labels: tuple[object, ...]) -> None:
    """Folder and file name say run and rank until a run_start does."""
    journal = Journal(tmp_path, "folder", name)
    assert history_of(journal).series.labels == labels


def test_closing_frees_the_series(tmp_path: Path) -> None:
    """A journal that is no longer shown takes nothing from the page's budget."""
    budget = Budget()
    history = history_of(Journal(tmp_path).start().step(0, a=1), budget)
    history.follow(ALL)
    history.close()
    assert budget.used == 0


# ------------------------------------------------------------------ reading


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("limit", [1, 1500, 3500, 10_000, ALL])
def test_positions_lead_through_the_whole_journal(tmp_path: Path, limit: int) -> None:
    """Reading from each end on gives every step once, in order, and beyond the limit at most the line it ends in."""
    line = 1100
    history = history_of(long_journal(tmp_path, 30))
    history.follow(ALL)
    numbers, position = [], START
    while position != history.position:
        more, end = steps_from(history, position, limit=limit)
        assert position.offset < end.offset <= position.offset + limit + line
        numbers += more
        position = end
    assert numbers == list(range(30))
    assert steps_from(history, position) == ([], position)


def test_what_is_not_followed_yet_is_not_read(tmp_path: Path) -> None:
    """Pages show what state includes: lines appended since the last follow wait."""
    journal = Journal(tmp_path).start().step(0, a=1)
    history = history_of(journal)
    history.follow(ALL)
    journal.step(1, a=1)
    assert steps_from(history)[0] == [0]
    history.follow(ALL)
    assert steps_from(history)[0] == [0, 1]


def test_steps_from_the_future_wait(tmp_path: Path) -> None:
    """Reading stops before the first step that lies later than the given time."""
    journal = Journal(tmp_path).start().step(0, a=1).step(1, a=1).step(50, a=1).step(2, a=1)
    history = history_of(journal)
    history.follow(ALL)
    times = [ms for ms, _ in journal.expected_steps()]
    first, position = steps_from(history, until=times[1])
    assert first == [0, 1]
    assert steps_from(history, position, until=times[1]) == ([], position)
    assert steps_from(history, position)[0] == [50, 2]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("repeat_ms", [1, 99, 100, 101, 1000, 2550, 3_600_000])
@pytest.mark.parametrize("seen", [0, 1, 17, 30, 40])
def test_overlap_repeats_the_steps_of_that_time(tmp_path: Path, repeat_ms: int, seen: int) -> None:
    """With an overlap come again exactly the steps later than the last one seen less the overlap, then all new ones."""
    journal = long_journal(tmp_path, 40)
    history = history_of(journal)
    history.follow(ALL)
    position = START
    while position.step_ms < ([0] + [ms for ms, _ in journal.expected_steps()])[seen]:
        position = steps_from(history, position, limit=1)[1]
    wanted = [record["step"] for ms, record in journal.expected_steps() if ms > position.step_ms - repeat_ms]
    assert steps_from(history, position, repeat_ms)[0] == wanted


@pytest.mark.usefixtures("small_pieces")
def test_overlap_reads_no_more_than_it_must(tmp_path: Path) -> None:
    """To repeat a second, reading begins at a checkpoint shortly before it, not at the journal's start."""
    journal = long_journal(tmp_path, 400)
    history = history_of(journal)
    history.follow(ALL)
    read = sum(len(chunk.records) for chunk in history.read(history.position, 1000, ALL, FOREVER))
    assert read == 10
    begins = [chunk.end.line for chunk in history.read(history.position, 1000, ALL, FOREVER)]
    assert begins[0] > 400 - 10 - 10


@pytest.mark.usefixtures("small_pieces")
def test_checkpoints_are_positions_of_the_journal(tmp_path: Path) -> None:
    """Checkpoints lie in order and apart, so that their number is bounded by the journal's size."""
    history = history_of(long_journal(tmp_path, 100))
    history.follow(ALL)
    offsets = [position.offset for position in history._checkpoints]
    assert offsets[0] == 0
    assert all(later - earlier >= 4000 for earlier, later in pairwise(offsets))
    assert len(offsets) > 10


def test_a_scraper_goes_on_where_it_was(tmp_path: Path) -> None:
    """A position inside the journal stays, one behind the end of a journal that was cut means its start."""
    journal = Journal(tmp_path).start()
    for number in range(10):
        journal.step(number, a=1)
    history = history_of(journal)
    history.follow(ALL)
    end = history.position
    assert (history.resume(START), history.resume(end)) == (START, end)
    journal.path.write_bytes(b"")
    journal.start().step(77, a=1)
    history.follow(ALL)
    assert history.resume(end) == START


@pytest.mark.usefixtures("small_pieces")
def test_a_journal_that_is_still_being_read_was_not_cut(tmp_path: Path) -> None:
    """After a restart a long journal takes several calls: meanwhile positions behind them stay, and give nothing."""
    journal = long_journal(tmp_path, 50)
    history = history_of(journal)
    history.follow(ALL)
    end = history.position
    history = history_of(journal)
    history.follow(5000)
    assert history.resume(end) == end
    assert steps_from(history, end) == ([], end)
    while history.follow(5000):
        pass
    assert history.resume(end) == end


# ------------------------------------------------------------------ status


@pytest.mark.parametrize("status", ["finished", "failed", "crashed"])
def test_an_end_is_the_status(tmp_path: Path, status: str) -> None:
    """A run is what its run_end says, whatever became of its process."""
    history = history_of(Journal(tmp_path).start(host=socket.gethostname(), pid=5).end(1, status), alive=False)
    history.follow(ALL)
    assert history.statuses(FOREVER) == {status}


@pytest.mark.parametrize(("alive", "statuses"), [(True, {"running"}), (False, {"crashed"})])
def test_a_process_of_this_host_tells_whether_the_run_lives(tmp_path: Path, statuses: set[str], *, alive: bool) -> None:
    """Without an end the run's own process decides; asked is the process of the last start, at its time."""
    journal = Journal(tmp_path).start(host=socket.gethostname(), pid=5).start(2, host=socket.gethostname(), pid=6)
    asked: list[tuple[int, float]] = []
    history = RunHistory(
        journal.path, CATALOG, Namer(CATALOG), Budget(), lambda pid, since: (asked.append((pid, since)), alive)[1]
    )
    history.follow(ALL)
    assert history.statuses(journal.begin + 10) == statuses
    assert asked == [(6, journal.begin + 2)]


def test_a_live_process_that_logs_nothing_is_stalled(tmp_path: Path) -> None:
    """Stalled stands beside running: the process is there, its steps are not."""
    journal = Journal(tmp_path).start(host=socket.gethostname(), pid=5).step(0, 0.0, a=1)
    history = history_of(journal)
    history.follow(ALL)
    assert history.statuses(journal.begin + 119) == {"running"}
    assert history.statuses(journal.begin + 121) == {"running", "stalled"}


@pytest.mark.parametrize(
    ("start", "gap", "limit"),
    [
        ({"host": "elsewhere", "pid": 5}, 1, 3600),
        ({"host": "elsewhere", "pid": 5}, 1000, 20_000),
        ({"host": HERE, "pid": 5, "pid_namespace": "another-boot pid:[7]"}, 1, 3600),
        (None, 1, 3600),
    ],
)
def test_a_run_of_another_host_is_crashed_when_it_is_silent_for_long(
    tmp_path: Path, start: dict[str, object] | None, gap: float, limit: float
) -> None:
    """Where no process can be asked, silence of max(1 h, 20 median step times) means that the run is dead."""
    journal = Journal(tmp_path)
    if start is not None:
        journal.start(**start)
    for number in range(5):
        journal.step(number, number * gap, a=1)
    history = history_of(journal, alive=False)
    history.follow(ALL)
    last = journal.begin + 4 * gap
    assert "running" in history.statuses(last + limit - 1)
    assert history.statuses(last + limit + 1) == {"crashed"}


def test_a_reader_in_another_pid_namespace_does_not_ask_for_the_process(start: Callable[..., Run]) -> None:
    """A live run is running for a reader on the same host that cannot see its process, as in a container beside it."""
    if subprocess.run([*OTHER_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    run = start()
    run.log({"a": 1})
    script = (
        "import sys, time\n"
        "from exporter.collectors import process_is_alive\n"
        "from tests.unit.test_history import *\n"
        "history = RunHistory(Path(sys.argv[1]), CATALOG, Namer(CATALOG), Budget(), process_is_alive)\n"
        "history.follow(ALL)\n"
        "print(history.state.steps, *history.statuses(time.time()), history.is_of_this_host)\n"
    )
    answers = []
    for world in ((), OTHER_NAMESPACE):
        command = [*world, sys.executable, "-c", script, str(run.path)]
        answers.append(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    assert answers == ["1 running True\n", "1 running False\n"]


def test_a_silent_run_without_a_process_has_finished(tmp_path: Path) -> None:
    """A log that some trainer left just ends one day: an hour of silence after it is no crash."""
    history = history_of(Journal(tmp_path).start().step(0, a=1), alive=False)
    history.follow(ALL)
    begun = history.state.latest_ms / 1000
    assert "running" in history.statuses(begun + 3599)
    assert history.statuses(begun + 3601) == {"finished"}
