"""One foreign log, followed while it is written: each of its values is taken once, whatever becomes of the file.

A log is appended to, cut, rotated away, replaced, or rewritten in place with a longer header. Whether what
is there now is the history that was being read is told by the bytes at its ends, then by its first row.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from exporter.sources import Bad, Ended, Item, Meta, Row, Source

__all__ = ["FollowedLog", "Mark"]

_HEAD_BYTES = 512
_TAIL_BYTES = 64
_QUIET_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
_OVER = object()


class _FileState(NamedTuple):
    inode: int
    size: int
    modified_ns: int


_ABSENT = _FileState(0, 0, 0)


class Mark(NamedTuple):
    """How far a log has been taken; kept on disk, so that a restart takes nothing twice."""

    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    ends: int = 0
    """CRC-32 of the first and last bytes of that size."""
    values: int = 0
    """Metric values taken."""
    first_row: int = 0
    """Digest of the first row."""
    last_step: int = 0
    run: str = ""
    """Name of the run that the last row belongs to, where a log holds several."""
    bad: int = 0
    """Bad lines met."""


class FollowedLog:
    """The items of one log, each once; ``mark`` says how far they were taken."""

    def __init__(self, path: Path, source: Source, mark: Mark | None = None) -> None:
        self.path = path
        self.source = source
        self.mark = mark or Mark()
        self._state = _FileState(*self.mark[:3])
        self._ends = self.mark.ends
        self._items: Iterator[Item | None] | None = None
        self._next: Item | None = None
        self._is_drained = True
        self._rotated: Path | None = None
        self._unsettled: tuple[_FileState, float, float] | None = None

    @property
    def modified(self) -> float:
        """When the log was last written, in seconds since 1970, as of the last look."""
        return self._state.modified_ns / 1e9

    def look(self) -> None:
        """See what has become of the file since the last look.

        Raises:
            OSError: it cannot be read now.
        """
        state = _file_state(self.path)
        if state in (_ABSENT, self._state):
            return
        if state.inode != self._state.inode and self._state.inode:
            self._rotated = _renamed(self.path, self._state.inode)
        is_same = not self._rotated and self._is_continued(state)
        if not is_same and not self._rotated and not self._has_settled(state):
            return
        if self._items is None or not is_same:
            self._open(self._rotated or self.path, is_same=is_same or self._rotated is not None)
        self._state, self._ends = state, _ends(self.path, state.size)
        self._is_drained = False

    def peek(self) -> Item | None:
        """The next item, or None where there is none for now.

        Raises:
            OSError: the log cannot be read now.
        """
        while self._next is None and not self._is_drained:
            item = next(self._items, _OVER) if self._items else _OVER
            if item is _OVER:
                self._items = None
            if isinstance(item, (Row, Meta, Bad, Ended)):
                self._next = item
            else:
                self._drain()
        return self._next

    def pop(self) -> None:
        """Take the item that ``peek`` showed."""
        item, self._next, mark = self._next, None, self.mark
        if isinstance(item, Row) and item.metrics:
            first = mark.first_row if mark.values else _digest(item)
            values = mark.values + len(item.metrics)
            self.mark = mark._replace(values=values, first_row=first, last_step=item.step)
        elif isinstance(item, Bad):
            self.mark = mark._replace(bad=mark.bad + 1)
        elif isinstance(item, Meta) and item.run:
            self.mark = mark._replace(run=item.run)

    def _drain(self) -> None:
        """All is read for now: go on with the file that took the place of a rotated one, or rest."""
        if self._rotated:
            self._rotated = None
            self._start_over()
            return
        self._is_drained = True
        self.mark = self.mark._replace(**self._state._asdict(), ends=self._ends)

    def _is_continued(self, state: _FileState) -> bool:
        """Whether the bytes that were there at the last look are there still."""
        before = self._state
        if before.inode != state.inode or state.size < before.size:
            return False
        return _ends(self.path, before.size) == self._ends

    def _has_settled(self, state: _FileState) -> bool:
        """A file that is being rewritten is not read before it has been quiet for a moment, or for too long."""
        now = time.monotonic()
        seen, since, begun = self._unsettled or (_ABSENT, now, now)
        since = since if seen == state else now
        settled = now - since >= _QUIET_SECONDS or now - begun >= _PATIENCE_SECONDS
        self._unsettled = None if settled or not self.mark.values else (state, since, begun)
        return self._unsettled is None

    def _open(self, path: Path, *, is_same: bool) -> None:
        """Read from the top, past what has been taken; where it is another history, all of it is new."""
        self._next = None
        if not self.mark.values:
            self._items = self.source.read(path)
        elif not self._skip(path, is_same=is_same):
            self._start_over()

    def _start_over(self) -> None:
        self._items, self._next = self.source.read(self.path), None
        self.mark = self.mark._replace(values=0)

    def _skip(self, path: Path, *, is_same: bool) -> bool:
        """Pass what has been taken; False where it is not there."""
        self._items = self.source.read(path)
        left, is_first = self.mark.values, True
        for item in self._items:
            if item is None:
                break
            if not isinstance(item, Row) or not item.metrics:
                continue
            if is_first and not is_same and _digest(item) != self.mark.first_row:
                return False
            is_first = False
            left -= len(item.metrics)
            if left <= 0:
                rest = list(item.metrics.items())[len(item.metrics) + left :]
                self._next = item._replace(metrics=dict(rest)) if rest else None
                return is_same or item.step == self.mark.last_step
        # The log was cut: what is left of it is known already.
        self.mark = self.mark._replace(values=self.mark.values - left)
        return True


def _file_state(path: Path) -> _FileState:
    """What tells a change; a database's new rows lie in the write-ahead log beside it."""
    try:
        status = path.stat()
    except OSError:
        return _ABSENT
    size, modified = status.st_size, status.st_mtime_ns
    if path.suffix == ".db":
        try:
            wal = path.with_name(path.name + "-wal").stat()
            size, modified = size + wal.st_size, max(modified, wal.st_mtime_ns)
        except OSError:
            pass
    return _FileState(status.st_ino, size, modified)


def _ends(path: Path, size: int) -> int:
    """CRC-32 of the first bytes and of those before ``size``."""
    with path.open("rb") as file:
        head = file.read(min(_HEAD_BYTES, size))
        file.seek(max(size - _TAIL_BYTES, 0))
        return zlib.crc32(file.read(min(_TAIL_BYTES, size)), zlib.crc32(head))


def _renamed(path: Path, inode: int) -> Path | None:
    """Where in its folder a file that was at ``path`` is now."""
    try:
        with os.scandir(path.parent) as entries:
            return next((Path(entry.path) for entry in entries if entry.inode() == inode), None)
    except OSError:
        return None


def _digest(row: Row) -> int:
    """The same for a row whose columns come in another order, as they do after Stable-Baselines3 rewrote its table."""
    return zlib.crc32(repr((row.step, sorted(row.metrics.items()))).encode())
