"""One journal as the pages see it: followed to its end, readable again from any scraper's position."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Catalog, Namer
from exporter.exposition import Budget, RunSeries, RunState, Totals, default_labels
from exporter.journal import START, Chunk, Position, Stamped, identity, journal_rank, read_chunk
from exporter.pid_namespace import shares_pids
from exporter.records import Sample

__all__ = ["PIECE_BYTES", "Piece", "RunHistory"]

PIECE_BYTES = 96 * 1024
"""Journals are read in pieces: between two of them the training's threads get their turn."""

_PACKED_PIECE_BYTES = 16 * 1024 * 1024
"""A packed journal is unpacked from its start for every piece, so its pieces are few."""

_CHECKPOINT_BYTES = 64 * 1024
_SILENT_SECONDS = 3600.0
_SILENT_STEPS = 20.0


class Piece(NamedTuple):
    """Consecutive records, the position behind them, and the run's totals behind each of their steps."""

    records: list[Stamped]
    end: Position
    totals: list[Sample]


class RunHistory:
    """Follows one journal; starts over when the file was replaced or cut."""

    def __init__(
        self,
        path: Path,
        catalog: Catalog,
        namer: Namer,
        budget: Budget,
        process_is_alive: Callable[[int, float], bool],
    ) -> None:
        self.path = path
        self._piece = _PACKED_PIECE_BYTES if path.suffix == ".gz" else PIECE_BYTES
        self._catalog = catalog
        self._budget = budget
        self._process_is_alive = process_is_alive
        self._namer = namer
        self.inode = 0
        self._size = 0
        self.position = START
        self._restart()

    def follow(self, limit: int) -> int:
        """Read what was appended, at most ``limit`` bytes; returns the bytes read.

        Raises:
            OSError: the journal cannot be read now.
        """
        inode, size = identity(self.path)
        if inode != self.inode or size < self._size:
            self.series.release()
            self._restart()
            self.inode = inode
        if size == self._size:
            return 0
        begin = self.position.offset
        while self.position.offset - begin < limit:
            chunk = read_chunk(self.path, self.position, self._piece)
            if chunk.end == self.position:
                self._size = size
                break
            self._take(chunk)
            time.sleep(0)
        return self.position.offset - begin

    def resume(self, position: Position) -> Position:
        """Where a scraper goes on: the journal's start if it was cut below the scraper's position.

        A journal that was not yet followed to its end, as after a restart, was not cut.
        """
        return START if self._size and position.offset > self.position.offset else position

    def read(self, start: Position, repeat_ms: int, limit: int, until_ms: int) -> Iterator[Piece]:
        """Pieces from a position on, at most ``limit`` bytes behind it; they begin ``repeat_ms`` earlier."""
        cutoff = start.step_ms - repeat_ms
        here = self._checkpoint_before(start, cutoff) if repeat_ms else start
        stop = min(start.offset + limit, self.position.offset)
        totals = self._totals_before(here) if self.state.totals else None
        while here.offset < stop:
            chunk = read_chunk(self.path, here, min(self._piece, stop - here.offset), until_ms)
            if chunk.end == here:
                return
            here = chunk.end
            counted = self._count(chunk, totals) if totals is not None else []
            if repeat_ms:
                chunk = chunk._replace(records=[item for item in chunk.records if item.ms > cutoff])
                counted = [sample for sample in counted if (sample.time_ms or 0) > cutoff]
            yield Piece(chunk.records, here, counted)
            time.sleep(0)

    def statuses(self, now: float, world_sizes: Mapping[str, int] = {}) -> set[str]:
        """The run's status: one of running, finished, failed, crashed; stalled may stand beside running.

        ``world_sizes`` are the ranks of each run in its newest attempt: a rank that is not among them has finished.
        """
        if self.state.end is not None:
            return {self.state.end.status}
        is_over = self._is_left_out(world_sizes)
        if self._is_dead(now) or (is_over and not self.is_of_this_host):
            return {"crashed" if self._has_process and not is_over else "finished"}
        return {"running", "stalled"} if self.state.is_stalled(now) else {"running"}

    @property
    def is_of_this_host(self) -> bool:
        """Whether the journal says that a process writes it which has this pid here, too."""
        start = self.state.start
        return start is not None and start.pid != 0 and shares_pids(start.host, start.pid_namespace)

    def close(self) -> None:
        """Give the series of a journal that is no longer shown back to the page's budget."""
        self.series.release()

    def _restart(self) -> None:
        self._size = 0
        labels = default_labels(self.path.resolve().parent.name, journal_rank(self.path) or 0)
        self.series = RunSeries(self._namer, self._budget, labels)
        self.state = RunState(self._catalog, self._namer, self.series)
        self.position = START
        self._checkpoints = [START]
        self._totals = [self.state.totals.copy()]
        """The totals at each checkpoint: those of a step follow from all steps before it."""

    def _take(self, chunk: Chunk) -> None:
        self.state.add(chunk)
        self.position = chunk.end
        if chunk.end.offset - self._checkpoints[-1].offset >= _CHECKPOINT_BYTES:
            self._checkpoints.append(chunk.end)
            self._totals.append(self.state.totals.copy())

    def _checkpoint_before(self, start: Position, step_ms: int) -> Position:
        index = bisect_left(self._checkpoints, step_ms, key=lambda position: position.step_ms)
        checkpoint = self._checkpoints[max(index - 1, 0)]
        return min(checkpoint, start)

    def _totals_before(self, position: Position) -> Totals:
        """The totals at a position, from those at the checkpoint before it and the records between."""
        index = bisect_right(self._checkpoints, position.offset, key=lambda checkpoint: checkpoint.offset) - 1
        here, totals = self._checkpoints[index], self._totals[index].copy()
        while here.offset < position.offset:
            chunk = read_chunk(self.path, here, position.offset - here.offset)
            if chunk.end == here:
                break
            self._count(chunk, totals)
            here = chunk.end
        return totals

    def _count(self, chunk: Chunk, totals: Totals) -> list[Sample]:
        return [sample for stamped in chunk.records for sample in self.state.count(stamped, totals)]

    @property
    def _has_process(self) -> bool:
        """Whether the journal says which process writes it; a log that another trainer left just ends one day."""
        return self.state.start is None or self.state.start.pid != 0

    def _is_left_out(self, world_sizes: Mapping[str, int]) -> bool:
        start = self.state.start
        return start is not None and start.world_size > start.rank >= world_sizes.get(start.run_id, start.world_size)

    def _is_dead(self, now: float) -> bool:
        start = self.state.start
        if start is not None and self.is_of_this_host:
            return not self._process_is_alive(start.pid, start.time)
        silent = now - self.state.latest_ms / 1000
        return silent > max(_SILENT_SECONDS, _SILENT_STEPS * self.state.median_step_seconds)
