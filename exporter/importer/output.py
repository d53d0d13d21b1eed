"""The journal of one run and rank that is written from foreign logs."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from exporter.catalog import Namer
from exporter.importer.timeline import Timeline
from exporter.journal import read_chunks
from exporter.records import RunStart
from exporter.sources import Meta, Row

__all__ = ["JournalOutput"]

_PIECE_BYTES = 4 << 20


class JournalOutput:
    """Collects lines and appends them; nothing is known to be written before ``flush`` returns."""

    def __init__(self, path: Path, start: RunStart, namer: Namer, size: int) -> None:
        """Go on behind ``size`` bytes: what an earlier process wrote beyond them it did not get to note down.

        Raises:
            OSError: the journal cannot be written.
        """
        self.path = path
        self.size = size
        self.timeline = Timeline(start)
        self.latest = 0.0
        self._namer = namer
        self._framework_of: Counter[str] = Counter()
        self._keys: set[str] = set()
        self._lines: list[bytes] = []
        self._is_replayed = not size
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size != size:
            os.truncate(path, size)

    def add_row(self, row: Row, time: float) -> None:
        """Add a row that was logged at a time."""
        self._replay()
        if not self._keys.issuperset(row.metrics):
            self._learn_framework(row.metrics, time)
        self._lines.append(self.timeline.row(row, time))
        self.latest = time

    def add_meta(self, meta: Meta, time: float) -> None:
        """Add what a log says about the run."""
        self._replay()
        self._lines.append(self.timeline.amend(time, meta.config, ""))

    def end(self, status: str, time: float) -> None:
        """Say that the run is over."""
        self._replay()
        self._lines.append(self.timeline.end(status, self.latest or time))

    def flush(self) -> None:
        """Append what was collected, in one write.

        Raises:
            OSError: it could not be written; the journal has to be opened again with its last known size.
        """
        data = b"".join(self._lines)
        self._lines.clear()
        if not data:
            return
        with self.path.open("ab") as file:
            if file.tell() != self.size:
                raise OSError(errno.ESTALE, "somebody else has changed it", str(self.path))
            file.write(data)
        self.size += len(data)

    def _replay(self) -> None:
        """Learn from what is in the journal already, once there is anything to add to it."""
        if self._is_replayed:
            return
        self._is_replayed = True
        for chunk in read_chunks(self.path, _PIECE_BYTES):
            for stamped in chunk.records:
                self.timeline.replay(stamped.record, stamped.attempt)
            self.latest = chunk.end.step_ms / 1000

    def _learn_framework(self, keys: Iterable[str], time: float) -> None:
        """The framework that most of the keys so far speak for."""
        fresh = [key for key in keys if key not in self._keys]
        self._keys.update(fresh)
        self._framework_of.update(filter(None, map(self._namer.framework, fresh)))
        if self._framework_of and not self.timeline.framework:
            self._lines.append(self.timeline.amend(time, {}, self._framework_of.most_common(1)[0][0]))
