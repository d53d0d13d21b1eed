"""Append to a journal: one write per line, no buffer, no thread; failures are counted, never raised.

The kernel has a line when ``append`` returns, so a SIGKILL right after it loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections import Counter
from pathlib import Path

from exporter.encoding import encode_line
from exporter.errors import RunError
from exporter.forks import tell_in_child

try:
    import fcntl
except ImportError:  # not on Windows: there two writers of one journal are not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["JournalWriter"]

_CHECK_SECONDS = 1.0
_RETRY_SECONDS = 0.25
_DETACHED = -1
_NEWLINE = 1
"""A line that lacks this much is not lost: the next recovery ends it."""

_REASONS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ENOENT: "folder_removed",
    errno.ENOTDIR: "folder_removed",
}


class JournalWriter:
    """The one writer of one journal file.

    ``lost`` counts the lines that could not be stored, by reason. After a failure the file is opened
    anew at most every 0.25 s; the first line after a recovery is a ``lost`` record with the count.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        """Prepare to write; ``header`` is the run_start line, repeated where the file had to be made anew."""
        self.path = path
        self.header = header
        """The run_start line; what amends it is appended by its owner."""
        self.lost: Counter[str] = Counter()
        self._header_due = True
        self._closed = False
        self._owner = os.getpid()
        self._fd = _DETACHED
        self._checked_at = self._check_at = 0.0
        self._reason = "closed"
        self._appended = 0
        self._unreported: Counter[str] = Counter()
        tell_in_child(self)

    def open(self) -> None:
        """Open the journal and write the header.

        Raises:
            RunError: the folder or file cannot be written, or another live process writes this journal.
        """
        try:
            self._attach(time.time())
        except BlockingIOError:
            raise RunError(
                f"{self.path} is being written by another process: a run has one writer per rank; "
                "use another run_id, or end the other process first"
            ) from None
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}; choose a writable directory=") from error

    def append(self, line: bytes, now: float) -> None:
        """Store one line, or count it as lost."""
        if not self._checked_at <= now < self._check_at:  # a clock that was set back is looked after, too
            self._check(now)
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            self._detach(error, now)
            self._lose(1)
            return
        self._appended += 1
        if written != len(line):
            self._detach(OSError(errno.ENOSPC, "no space left"), now)
            if written < len(line) - _NEWLINE:
                self._lose(1)

    def close(self) -> None:
        """Close the file; lines appended later are counted as lost."""
        self._release()
        self._closed = True
        self._reason = "closed"

    def after_fork_in_child(self) -> None:
        """Open the journal anew: the inherited descriptor would keep its lock for as long as the child lives."""
        if self._fd == _DETACHED:
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                if os.path.sameopenfile(fd, self._fd):
                    os.dup2(fd, self._fd, inheritable=False)
                    return
            finally:
                os.close(fd)
        except OSError:
            pass
        self._release()

    def _check(self, now: float) -> None:
        """Once a second, and after a failure: is the file at our path still the one we write?

        A forked child writes to the file of its parent, for as long as that works.
        """
        self._checked_at, self._check_at = now, now + _CHECK_SECONDS
        if self._closed or os.getpid() != self._owner:
            return
        try:
            if self._fd == _DETACHED:
                self._attach(now)
            elif not self._is_current():
                self._detach(OSError(errno.ENOENT, "the journal was removed"), now)
                self._lose(self._appended)
                self._attach(now)
        except OSError as error:
            self._detach(error, now)
        self._appended = 0

    def _is_current(self) -> bool:
        try:
            there, here = os.stat(self.path), os.fstat(self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # out of sight, but the open file may still take lines; if not, the write says why
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def _attach(self, now: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(fd)
            self._begin(fd, now)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._checked_at, self._check_at = now, now + _CHECK_SECONDS

    def _begin(self, fd: int, now: float) -> None:
        """Write what must stand before the next line: an end for a torn line, the header of a new file, our losses."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
        self._header_due = self._header_due or not size
        lines = {"": self.header} if self._header_due else {}
        for reason, count in self._unreported.items():
            lines[reason] = encode_line({"_type": "lost", "time": now, "reason": reason, "count": count})
        for reason, line in lines.items():
            missing = len(line) - os.write(fd, line)
            if missing <= _NEWLINE:
                self._header_due = self._header_due and bool(reason)
                self._unreported.pop(reason, None)
            if missing:
                raise OSError(errno.ENOSPC, "no space left")

    def _detach(self, error: OSError, now: float) -> None:
        if self._fd != _DETACHED or error.errno != errno.EBADF:
            self._reason = _REASONS.get(error.errno or 0, "write_error")
        self._release()
        self._check_at = min(self._check_at, now + _RETRY_SECONDS)

    def _release(self) -> None:
        """Close the file; unlock it first, because a child that was forked past Python may hold it open for longer."""
        fd, self._fd = self._fd, _DETACHED
        if fd == _DETACHED:
            return
        with contextlib.suppress(OSError):
            if fcntl is not None and os.getpid() == self._owner:
                fcntl.flock(fd, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):
            os.close(fd)

    def _lose(self, count: int) -> None:
        if not count:
            return
        if self._reason not in self.lost:
            with contextlib.suppress(Exception):  # stderr may lie on the same full disk, or be closed
                print(
                    f"telemetry: {self.path}: records are being lost ({self._reason}); training goes on, "
                    "logging resumes by itself",
                    file=sys.stderr,
                )
        self.lost[self._reason] += count
        self._unreported[self._reason] += count


def _lock(fd: int) -> None:
    """Take the writer's lock; file systems without locks (some NFS) go without.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
