"""One foreign log, followed while it is written: each of its values is taken once, whatever becomes of the file.

A log is appended to, cut, rotated away, replaced, or rewritten in place with a longer header. Whether what
is there now is the history that was being read is told by the bytes at its ends; where they differ, by its rows.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from exporter.encoding import encode
from exporter.sources import Bad, Ended, Item, Meta, Row, Source, read_all

__all__ = ["FollowedLog", "Mark", "Taken"]

_HEAD_BYTES = 512
_TAIL_BYTES = 64
_QUIET_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
_POINT_BITS = 5
_OVER = object()


class _FileState(NamedTuple):
    inode: int
    size: int
    modified_ns: int


_ABSENT = _FileState(0, 0, 0)


class Taken(NamedTuple):
    """The rows up to a place in a log."""

    rows: int = 0
    values: int = 0
    """Metric values; a reader may split the rows of a TensorBoard file in another way the next time."""
    digest: int = 0
    """CRC-32 of the rows, whatever the order of their columns: a table may be rewritten with others."""

    def after(self, row: Row) -> Taken:
        """The place behind one more row."""
        content = (row.step, row.time, sorted(row.metrics.items()))
        try:
            data = encode(content)
        except TypeError:  # a name that is no proper text
            data = ascii(content).encode()
        return Taken(self.rows + 1, self.values + len(row.metrics), crc32(data, self.digest))


class Mark(NamedTuple):
    """How far a log has been taken; kept on disk, so that a restart takes nothing twice."""

    inode: int = 0
    size: int = 0
    modified_ns: int = 0
    """Of the file when all of it had been taken; 0 as long as not all has been."""
    ends: int = 0
    """CRC-32 of the first and last bytes of that size."""
    taken: Taken = Taken()
    points: tuple[Taken, ...] = ()
    """Places on the way there, to find where a rewritten log begins to differ."""
    run: str = ""
    """Name of the run that the last row belongs to, where a log holds several."""
    bad: int = 0
    """Bad lines met."""

    @classmethod
    def parse(cls, fields: Sequence[Any]) -> Mark:
        """A mark as JSON keeps it.

        Raises:
            TypeError, ValueError: it is none.
        """
        *state, ends, taken, points, run, bad = fields
        inode, size, modified_ns = map(int, state)
        places = tuple(Taken(*map(int, point)) for point in points)
        return cls(inode, size, modified_ns, int(ends), Taken(*map(int, taken)), places, str(run), int(bad))

    def cut(self, taken: Taken) -> Mark:
        """The mark at an earlier place."""
        return self._replace(taken=taken, points=tuple(point for point in self.points if point.rows <= taken.rows))


class FollowedLog:
    """The items of one log, each once; ``mark`` says how far they were taken."""

    def __init__(self, path: Path, source: Source, mark: Mark | None = None) -> None:
        self.path = path
        self.source = source
        self.mark = mark or Mark()
        self._name = str(path)
        self._state = _FileState(*self.mark[:3])
        self._ends = self.mark.ends
        self._items: Iterator[Item | None] | None = None
        self._next: Item | None = None
        self.is_drained = True
        """Whether there is nothing to take before the next look."""
        self._successor = 0
        """While a file that was rotated away is read: the inode of the one that took its place."""
        self._unsettled: tuple[_FileState, float, float] | None = None

    @property
    def modified(self) -> float:
        """When the log was last written, in seconds since 1970, as of the last look."""
        return self._state.modified_ns / 1e9

    def look(self) -> bool:
        """See what has become of the file; returns whether it has changed since all of it was taken.

        Raises:
            OSError: it cannot be read now.
        """
        if not self.is_drained:  # what is left to read is as old as the last look
            return True
        state = _file_state(self._name)
        if state in (_ABSENT, self._state):
            return False
        is_same, rotated = self._is_continued(state), None
        if not is_same and self._state.inode not in (0, state.inode):
            if not state.size:  # its writer may be writing still into the file that was renamed
                return True
            rotated = self._renamed()
        if rotated:
            self._items = None
            self._go_on(rotated, _file_state(str(rotated)), is_same=True)
            self._successor = state.inode
        elif is_same or self._has_settled(state):
            self._go_on(self.path, state, is_same=is_same)
        return True

    def peek(self) -> Item | None:
        """The next item, or None where there is none for now.

        Raises:
            OSError: the log cannot be read now.
        """
        while self._next is None and not self.is_drained:
            self._next = self._read()
            if self._next is None:
                self._drain()
        return self._next

    def pop(self) -> None:
        """Take the item that ``peek`` showed."""
        item, self._next, mark = self._next, None, self.mark
        if isinstance(item, Row) and item.metrics:
            taken = mark.taken.after(item)
            points = (*mark.points, taken) if _is_point(taken.rows) else mark.points
            self.mark = mark._replace(taken=taken, points=points)
        elif isinstance(item, Bad):
            self.mark = mark._replace(bad=mark.bad + 1)
        elif isinstance(item, Meta) and item.run:
            self.mark = mark._replace(run=item.run)

    def rows(self) -> Iterator[Row]:
        """All rows that can be read from the file now, taken or not."""
        with contextlib.suppress(Exception):  # what is wrong with it, the items say
            yield from (item for item in read_all(self.source, self.path) if isinstance(item, Row))

    def _read(self) -> Item | None:
        """The next item of the file; None where that was all for now."""
        try:
            item = next(self._items, _OVER) if self._items else _OVER
        except OSError:
            self._items, self._successor, self.is_drained = None, 0, True
            self._state = self._state._replace(modified_ns=self._state.modified_ns - 1)  # to be looked at again
            raise
        except Exception as error:  # noqa: BLE001 - one log that its reader cannot stand must not end the others
            self._items = None
            return Bad(0, f"{self.source.name} reader: {error!r}")
        if item is _OVER:
            self._items = None
        return item if isinstance(item, (Row, Meta, Bad, Ended)) else None

    def _drain(self) -> None:
        """All is read for now: go on with the file that took the place of a rotated one, or rest."""
        if not self._successor:
            self.is_drained = True
            self.mark = self.mark._replace(**self._state._asdict(), ends=self._ends)
            return
        self.mark = Mark(self._successor)
        self._items, self._successor = None, 0
        self._state, self._ends = _FileState(*self.mark[:3]), 0
        self.is_drained = True
        self.look()

    def _is_continued(self, state: _FileState) -> bool:
        """Whether the bytes that were there at the last look are there still; in a copy, where it took its place."""
        before = self._state
        if state.size < before.size or (before.inode != state.inode and not self.mark.taken.values):
            return False
        return _ends(self.path, before.size) == self._ends

    def _renamed(self) -> Path | None:
        """Where in its folder the file is now that was there at the last look; its inode may have a new owner."""
        with contextlib.suppress(OSError), os.scandir(self.path.parent) as entries:
            for entry in entries:
                if entry.inode() == self._state.inode and entry.stat().st_size >= self._state.size:
                    path = Path(entry.path)
                    return path if _ends(path, self._state.size) == self._ends else None
        return None

    def _has_settled(self, state: _FileState) -> bool:
        """A file that is being rewritten is not read before it has been quiet for a moment, or for too long."""
        now = time.monotonic()
        seen, since, begun = self._unsettled or (_ABSENT, now, now)
        since = since if seen == state else now
        settled = now - since >= _QUIET_SECONDS or now - begun >= _PATIENCE_SECONDS
        self._unsettled = None if settled or not self.mark.taken.values else (state, since, begun)
        return self._unsettled is None

    def _go_on(self, path: Path, state: _FileState, *, is_same: bool) -> None:
        """Read what is new in the file; where it is another history, all of it is."""
        ends = _ends(path, state.size)
        if not is_same or state.inode != self._state.inode:
            self._items = None
        if not is_same and self.mark.taken.values:
            self.mark, self._items = self._shared(), None
        self.mark = self.mark._replace(inode=state.inode, size=state.size, modified_ns=0, ends=ends)
        if self._items is None:
            self._open(path)
        self._state, self._ends, self.is_drained = state, ends, False

    def _open(self, path: Path) -> None:
        """Read a file from behind what has been taken of it."""
        self._items, self._next = self.source.read(path), None
        bad, left = 0, self.mark.taken.values
        while left > 0 and (item := self._read()) is not None:
            bad += isinstance(item, Bad)
            if isinstance(item, Row):
                left -= len(item.metrics)
                if left < 0:
                    self._next = item._replace(metrics=dict(list(item.metrics.items())[left:]))
        self.mark = self.mark._replace(bad=bad)

    def _shared(self) -> Mark:
        """The mark at the last place up to which the file holds what has been taken."""
        points = {point.rows: point for point in (*self.mark.points, self.mark.taken)}
        here = shared = Taken()
        self._items = self.source.read(self.path)
        while here.rows < self.mark.taken.rows and (item := self._read()) is not None:
            if not isinstance(item, Row) or not item.metrics:
                continue
            here = here.after(item)
            if points.get(here.rows, here) != here:
                return self.mark.cut(shared)
            shared = here if here.rows in points else shared
        # What is left of a log that was cut is known; a whole document may just be an older one, with less in it.
        return self.mark.cut(here) if self._items else self.mark


def _is_point(rows: int) -> bool:
    """Each of the first rows, then ever fewer: some for each doubling."""
    return not rows & ((1 << max(rows.bit_length() - _POINT_BITS, 0)) - 1)


def _file_state(path: str) -> _FileState:
    """What tells a change; a database's new rows lie in the write-ahead log beside it."""
    try:
        status = os.stat(path)
    except OSError:
        return _ABSENT
    size, modified = status.st_size, status.st_mtime_ns
    if path.endswith(".db"):
        with contextlib.suppress(OSError):
            wal = os.stat(f"{path}-wal")
            size, modified = size + wal.st_size, max(modified, wal.st_mtime_ns)
    return _FileState(status.st_ino, size, modified)


def _ends(path: Path, size: int) -> int:
    """CRC-32 of the first bytes and of those before ``size``."""
    with path.open("rb") as file:
        head = file.read(min(_HEAD_BYTES, size))
        file.seek(max(size - _TAIL_BYTES, 0))
        return crc32(file.read(min(_TAIL_BYTES, size)), crc32(head))
