"""Appending to a journal: a line is in the file at once, a failure is counted and said once, nothing is raised."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import time
import weakref

import pytest

from exporter.errors import RunError
from exporter.journal import JournalWriter
from exporter.journal import writer as writer_module

HEADER = b'{"_type":"run_start","time":1.0,"run_id":"r"}\n'
LINE = b'{"_type":"step","time":2.0,"step":1,"metrics":{"loss":0.5}}\n'


@pytest.fixture
def path(tmp_path):
    """Where the journal lies; its folders do not exist yet."""
    return tmp_path / "runs" / "r" / "metrics.jsonl"


@pytest.fixture
def writer(path):
    """A writer that has written its header."""
    writer = JournalWriter(path, HEADER)
    writer.open()
    yield writer
    writer.close()


@pytest.fixture
def now():
    """A moment after every writer was opened; tests add seconds to it instead of waiting."""
    return time.time() + 0.01


def lost_line(now, reason, count):
    """What a writer reports about its losses."""
    return b'{"_type":"lost","time":%s,"reason":"%s","count":%d}\n' % (repr(now).encode(), reason.encode(), count)


@contextlib.contextmanager
def files_end_at(size):
    """The kernel really refuses to let a file of this process grow beyond ``size``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_line_is_in_the_file_at_once(writer, path, now):
    """When append returns the line is in the file, behind the header, with no line between."""
    assert path.read_bytes() == HEADER
    for count in range(1, 4):
        writer.append(LINE, now)
        assert path.read_bytes() == HEADER + count * LINE
    assert not writer.lost


def test_open_continues_an_existing_file(path, now):
    """A journal is appended to: another attempt writes its header behind what is there."""
    for _ in range(2):
        writer = JournalWriter(path, HEADER)
        writer.open()
        writer.append(LINE, now)
        writer.close()
    assert path.read_bytes() == 2 * (HEADER + LINE)


def test_open_ends_a_torn_line(path):
    """A last line that a killed writer left without its newline is ended, so it cannot spoil the next one."""
    path.parent.mkdir(parents=True)
    path.write_bytes(HEADER + LINE[:9])
    writer = JournalWriter(path, HEADER)
    writer.open()
    writer.close()
    assert path.read_bytes() == HEADER + LINE[:9] + b"\n" + HEADER


def test_a_second_writer_is_refused(writer, path, now):
    """A journal has one writer; a second one is told so before it has written anything."""
    with pytest.raises(RunError, match="is being written by another process"):
        JournalWriter(path, HEADER).open()
    assert path.read_bytes() == HEADER
    writer.close()
    second = JournalWriter(path, HEADER)
    second.open()
    second.close()


def test_a_folder_that_cannot_be_is_an_error_at_the_start(tmp_path):
    """Where no journal can be made, opening says which path and why."""
    (tmp_path / "runs").write_text("a file")
    path = tmp_path / "runs" / "r" / "metrics.jsonl"
    with pytest.raises(RunError, match=f"cannot write {path}: Not a directory; choose a writable directory="):
        JournalWriter(path, HEADER).open()


def test_a_header_that_does_not_fit_is_an_error_at_the_start(path):
    """A full disk at the start is an error, not a journal without a header."""
    with files_end_at(len(HEADER) - 1), pytest.raises(RunError, match="no space left"):
        JournalWriter(path, HEADER).open()


def test_lines_after_close_are_lost_and_counted(writer, path, now):
    """A closed writer never touches its file again, however late; what comes is counted as closed."""
    writer.close()
    for seconds in (0, 0.3, 2, 60):
        writer.append(LINE, now + seconds)
    assert path.read_bytes() == HEADER
    assert writer.lost == {"closed": 4}
    writer.close()


def test_a_recovery_reports_what_was_lost(writer, path, now, capsys):
    """Lines that do not fit are counted by reason; the first thing after a recovery is the count."""
    full = path.stat().st_size
    with files_end_at(full):
        for _ in range(3):
            writer.append(LINE, now)
    assert path.read_bytes() == HEADER
    assert writer.lost == {"write_error": 3}
    writer.append(LINE, now + 0.3)
    writer.append(LINE, now + 0.3)
    assert path.read_bytes() == HEADER + lost_line(now + 0.3, "write_error", 3) + 2 * LINE
    assert writer.lost == {"write_error": 3}
    assert capsys.readouterr().err == (
        f"telemetry: {path}: records are being lost (write_error); training goes on, logging resumes by itself\n"
    )


def test_a_recovery_ends_a_torn_line(writer, path, now):
    """Of a line that fits in part the part is ended at the recovery, and the line counts as lost once."""
    with files_end_at(len(HEADER) + 7):
        writer.append(LINE, now)
    assert path.read_bytes() == HEADER + LINE[:7]
    writer.append(LINE, now + 0.3)
    assert path.read_bytes() == HEADER + LINE[:7] + b"\n" + lost_line(now + 0.3, "disk_full", 1) + LINE
    assert writer.lost == {"disk_full": 1}


def test_a_line_that_lacks_its_newline_is_not_lost(writer, path, now):
    """A line of which only the newline did not fit is readable after the recovery, so it counts as stored."""
    with files_end_at(len(HEADER + LINE) - 1):
        writer.append(LINE, now)
    assert not writer.lost
    writer.append(LINE, now + 0.3)
    assert path.read_bytes() == HEADER + 2 * LINE


def test_losses_are_reported_once(writer, path, now):
    """A recovery that ends between or inside its own lines goes on there: no loss is reported twice."""
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
    with files_end_at(len(HEADER) + 7):
        writer.append(LINE, now + 0.3)
    first = lost_line(now + 0.6, "write_error", 1)
    with files_end_at(len(HEADER) + 7 + 1 + len(first) + 5):
        writer.append(LINE, now + 0.6)
    assert path.read_bytes()[len(HEADER) + 8 :].startswith(first)
    with files_end_at(path.stat().st_size + 1 + len(lost_line(now + 0.9, "disk_full", 2)) - 1):
        writer.append(LINE, now + 0.9)
    writer.append(LINE, now + 1.2)
    content = path.read_bytes()
    assert content.count(b'"reason":"write_error","count":1}\n') == 1
    assert content.count(b'"reason":"disk_full","count":2}\n') == 1
    assert content.endswith(lost_line(now + 1.2, "disk_full", 1) + LINE)
    assert writer.lost == {"write_error": 1, "disk_full": 3}


def test_a_header_that_lacks_its_newline_is_not_repeated(writer, path, now):
    """A new file whose header lacks only the newline has its header once."""
    path.unlink()
    with files_end_at(len(HEADER) - 1):
        writer.append(LINE, now + 1.1)
    writer.append(LINE, now + 1.4)
    assert path.read_bytes() == HEADER + lost_line(now + 1.4, "disk_full", 1) + LINE


def test_a_recovery_that_fails_is_tried_again(writer, path, now):
    """A count that itself does not fit is written at the next recovery, complete."""
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
    with files_end_at(len(HEADER) + 5):
        writer.append(LINE, now + 0.3)
    writer.append(LINE, now + 0.6)
    assert sum(writer.lost.values()) == 2
    lost = lost_line(now + 0.6, "write_error", 1) + lost_line(now + 0.6, "disk_full", 1)
    assert path.read_bytes() == HEADER + lost_line(now + 0.3, "write_error", 1)[:5] + b"\n" + lost + LINE


def test_retries_are_a_quarter_second_apart(writer, path, now):
    """While lines are being lost the file is opened anew at most every 0.25 s."""
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
    writer.append(LINE, now + 0.2)
    assert path.read_bytes() == HEADER
    writer.append(LINE, now + 0.26)
    assert path.read_bytes().endswith(LINE)
    assert writer.lost == {"write_error": 2}


def test_a_clock_set_back_delays_no_retry(writer, path, now):
    """A wall clock that jumps back an hour does not stop logging for an hour."""
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
    writer.append(LINE, now - 3600)
    writer.append(LINE, now - 3600 + 0.3)
    assert path.read_bytes().endswith(LINE)


def test_one_line_on_stderr_per_reason(writer, path, now, capsys):
    """However often it happens, a reason is said once; another reason is said once too."""
    for round_ in range(3):
        with files_end_at(path.stat().st_size):
            writer.append(LINE, now + round_)
        writer.append(LINE, now + round_ + 0.3)
        with files_end_at(path.stat().st_size + 1):
            writer.append(LINE, now + round_ + 0.6)
        writer.append(LINE, now + round_ + 0.9)
    said = capsys.readouterr().err.splitlines()
    assert [line.split("(")[1].split(")")[0] for line in said] == ["write_error", "disk_full"]
    assert writer.lost == {"write_error": 3, "disk_full": 3}


class _Broken:
    def write(self, text):
        raise OSError(errno.ENOSPC, "no space left")

    def flush(self):
        raise OSError(errno.ENOSPC, "no space left")


def test_a_broken_stderr_costs_nothing(writer, path, now, monkeypatch):
    """Where stderr lies on the same full disk or is closed, losing lines still raises nothing and is counted."""
    monkeypatch.setattr(sys, "stderr", _Broken())
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
        writer.append(LINE, now)
    assert writer.lost == {"write_error": 2}


def test_a_removed_folder_is_made_anew_with_its_header(writer, path, now, capsys):
    """A journal that was removed is made anew within a second: header, count, and the lines from then on."""
    writer.append(LINE, now)
    shutil.rmtree(path.parent.parent)
    writer.append(LINE, now + 0.5)
    assert not path.exists()
    writer.append(LINE, now + 1.1)
    assert path.read_bytes() == HEADER + lost_line(now + 1.1, "folder_removed", 2) + LINE
    assert writer.lost == {"folder_removed": 2}
    assert capsys.readouterr().err.count("\n") == 1


def test_a_replaced_journal_is_left(writer, path, now):
    """Where another file took the journal's place, lines go to the new one, without a second header."""
    other = path.with_name("other")
    other.write_bytes(HEADER)
    other.replace(path)
    writer.append(LINE, now + 1.1)
    assert path.read_bytes() == HEADER + LINE
    assert not writer.lost


def test_only_lines_since_the_last_look_count_as_removed(writer, path, now):
    """Lines that were still there a second ago were stored: who removes them later did not lose them."""
    writer.append(LINE, now)
    writer.append(LINE, now + 1.5)
    path.unlink()
    writer.append(LINE, now + 3)
    assert writer.lost == {"folder_removed": 1}


def test_a_folder_that_became_a_file_is_a_removed_folder(writer, path, now):
    """While a file stands where the folder was, lines are lost as folder_removed; then logging resumes."""
    runs = path.parent.parent
    shutil.rmtree(runs)
    runs.write_text("in the way")
    writer.append(LINE, now + 1.1)
    assert writer.lost == {"folder_removed": 1}
    runs.unlink()
    writer.append(LINE, now + 1.4)
    assert path.read_bytes() == HEADER + lost_line(now + 1.4, "folder_removed", 1) + LINE


def test_a_new_file_whose_header_did_not_fit_gets_it_later(writer, path, now):
    """The header of a file made anew is repeated until it is complete."""
    path.unlink()
    with files_end_at(9):
        writer.append(LINE, now + 1.1)
    assert path.read_bytes() == HEADER[:9]
    writer.append(LINE, now + 1.4)
    assert path.read_bytes() == HEADER[:9] + b"\n" + HEADER + lost_line(now + 1.4, "disk_full", 1) + LINE


def test_a_path_out_of_sight_is_no_loss(writer, path, now, monkeypatch):
    """Where the path cannot be looked at but the open file takes lines, nothing is lost."""

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(writer_module.os, "stat", refuse)
    for seconds in (0, 1.1, 2.2):
        writer.append(LINE, now + seconds)
    assert path.read_bytes() == HEADER + 3 * LINE
    assert not writer.lost


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "read_only"),
        (errno.EACCES, "permission_denied"),
        (errno.EPERM, "permission_denied"),
        (errno.ENOENT, "folder_removed"),
        (errno.ENOTDIR, "folder_removed"),
        (errno.EIO, "write_error"),
        (None, "write_error"),
    ],
)
def test_reasons(writer, now, monkeypatch, number, reason):
    """Every error of the system has one of a few reasons."""

    def refuse(*args):
        raise OSError(number, "refused") if number else OSError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module.os, "write", refuse)
        writer.append(LINE, now)
    assert writer.lost == {reason: 1}


def test_a_journal_that_another_process_took_is_no_crash(writer, path, now):
    """When another writer took the place of a removed journal, lines are lost until it ends."""
    path.unlink()
    other = JournalWriter(path, HEADER)
    other.open()
    writer.append(LINE, now + 1.1)
    assert writer.lost == {"write_error": 1}
    other.close()
    writer.append(LINE, now + 1.4)
    assert path.read_bytes() == HEADER + lost_line(now + 1.4, "write_error", 1) + LINE


def test_an_error_at_close_costs_nothing(path):
    """A file system that refuses to close raises nothing."""
    writer = JournalWriter(path, HEADER)
    writer.open()
    os.close(writer._fd)
    writer.close()


@pytest.mark.parametrize("lock", [None, "broken"])
def test_file_systems_without_locks_go_without(path, now, monkeypatch, lock):
    """Where files cannot be locked, a journal is written all the same."""
    if lock is None:
        monkeypatch.setattr(writer_module, "fcntl", None)
    else:

        def refuse(fd, operation):
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(writer_module.fcntl, "flock", refuse)
    writer = JournalWriter(path, HEADER)
    writer.open()
    writer.append(LINE, now)
    writer.close()
    assert path.read_bytes() == HEADER + LINE


@contextlib.contextmanager
def forked_child(work=lambda: None):
    """A forked child that holds every open file of ours, does its work, and lives until the block ends."""
    done, ready = os.pipe()
    wait, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(end)
            work()
            os.write(ready, b"x")
            os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(wait)
        os.close(ready)
        assert os.read(done, 1) == b"x", "the child's work failed"
        yield
    finally:
        os.close(end)
        os.close(done)
        os.waitpid(child, 0)


fork_warning = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@fork_warning
def test_a_forked_child_appends_to_the_same_journal(writer, path, now):
    """A forked child, such as a data loader's worker, appends whole lines to the journal it inherited."""
    with forked_child(lambda: writer.append(LINE, now + 1.1)):
        writer.append(LINE, now + 1.1)
    assert path.read_bytes() == HEADER + 2 * LINE


@fork_warning
def test_a_forked_child_does_not_keep_the_journal_locked(writer, path, now):
    """While a forked child lives, its parent recovers from a failure, and another writer may follow the parent."""
    with forked_child():
        with files_end_at(len(HEADER)):
            writer.append(LINE, now)
        writer.append(LINE, now + 0.3)
        assert path.read_bytes().endswith(LINE)
        writer.close()
        second = JournalWriter(path, HEADER)
        second.open()
        second.close()


@fork_warning
def test_a_forked_child_does_not_outlive_a_killed_parent_s_lock(writer, path, now):
    """Where the parent ended without a word, as by SIGKILL, its journal is free although a child still lives."""
    with forked_child():
        os.close(writer._fd)
        second = JournalWriter(path, HEADER)
        second.open()
        second.close()


@fork_warning
def test_a_forked_child_leaves_a_journal_alone_that_is_another_by_now(writer, path, now):
    """A file that has taken the journal's place is not the child's to write, and nothing is raised."""
    path.unlink()
    path.write_bytes(b"")
    with forked_child(lambda: writer.append(LINE, now)):
        assert path.read_bytes() == b""


@fork_warning
def test_a_writer_that_is_gone_is_not_told_of_a_fork(path):
    """Writers are not kept alive for the children that may come."""
    writer = JournalWriter(path, HEADER)
    gone = weakref.ref(writer)
    del writer
    assert gone() is None
    with forked_child():
        assert not path.exists()


@fork_warning
def test_a_forked_child_never_takes_the_journal_from_its_parent(writer, path, now):
    """A forked child that fails stays silent: it neither unlocks the journal nor opens it again."""

    def fail_and_go_on():
        with files_end_at(len(HEADER)):
            writer.append(LINE, now)
        writer.append(LINE, now + 0.3)
        writer.append(LINE, now + 2)

    with forked_child(fail_and_go_on):
        assert path.read_bytes() == HEADER
        with pytest.raises(RunError, match="another process"):
            JournalWriter(path, HEADER).open()
        writer.append(LINE, now + 2)
    assert path.read_bytes() == HEADER + LINE


def test_a_system_without_fcntl_goes_without_locks(tmp_path):
    """Where the standard library has no file locks, as on Windows, a run is logged all the same."""
    script = (
        "import sys; sys.modules['fcntl'] = None\n"
        "from exporter import start_run\n"
        "with start_run('r') as run: run.log({'a': 1})"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=60, check=True)
    assert (tmp_path / "runs/r/metrics.jsonl").read_bytes().count(b"\n") == 3


def test_a_clock_that_is_set_back_does_not_delay_the_recovery(writer, path, now):
    """A lost line is followed by a stored one as soon as the cause is gone, although the clock went back an hour."""
    with files_end_at(len(HEADER)):
        writer.append(LINE, now)
    writer.append(LINE, now - 3600)
    assert sum(writer.lost.values()) == 1
    assert path.read_bytes().endswith(LINE)
