"""What is sampled of a run beside its steps, as a server would have that scraped it while it went on."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from exporter.catalog import Catalog
from exporter.exposition import RunState, counter_samples, gauge_samples, is_mark, mark_samples
from exporter.journal import Chunk, Stamped
from exporter.records import Labels, Sample

__all__ = ["RunSummary"]

_COUNTERS_EVERY_MS = 15_000
"""Counters and histograms have a sample this often, so that a rate over a minute is one."""

_GAUGES_EVERY_MS = 240_000
"""So have status and configuration: within the five minutes for which a server looks back."""


class RunSummary:
    """Counters, histograms and gauges of a run at certain times while it went on, and its events and checkpoints.

    Each is a function of the records before it, so that a second look at a longer journal says the same.
    """

    def __init__(self, state: RunState, catalog: Catalog) -> None:
        """Begin with a state that has not seen anything yet."""
        self._state = state
        self._catalog = catalog
        self._told_ms = 0
        self._counters_due_ms = self._gauges_due_ms = 0
        self._marked_ms: dict[tuple[str, Labels], int] = {}

    def add(self, chunk: Chunk) -> Iterator[Sample]:
        """The samples that are due by the end of the next records."""
        begin = 0
        for end, stamped in enumerate(chunk.records, start=1):
            if stamped.ms >= self._counters_due_ms:
                self._state.add(chunk._replace(records=chunk.records[begin:end], bad_lines=[]))
                begin = end
                yield from self._tell({"running"})
        self._state.add(chunk._replace(records=chunk.records[begin:]))
        yield from self._mark(item for item in chunk.records if is_mark(item, self._state, sys.maxsize))

    def end(self, statuses: set[str]) -> Iterator[Sample]:
        """The last ones; ``statuses`` are those of the run now."""
        self._gauges_due_ms = 0
        if self._state.latest_ms:
            yield from self._tell(statuses)

    def _tell(self, statuses: set[str]) -> Iterator[Sample]:
        ms = max(self._state.latest_ms, self._told_ms + 1)
        yield from counter_samples(self._state, self._catalog, ms, self._told_ms)
        yield from self._state.totals.samples(self._state.rank_labels, ms)
        if ms >= self._gauges_due_ms:
            for sample in gauge_samples(self._state, self._catalog, statuses):
                yield sample._replace(time_ms=ms)
            self._gauges_due_ms = ms + _GAUGES_EVERY_MS
        self._told_ms = ms
        self._counters_due_ms = ms + _COUNTERS_EVERY_MS

    def _mark(self, marks: Iterable[Stamped]) -> Iterator[Sample]:
        for sample in mark_samples(marks, self._state, self._catalog):
            series = (sample.name, sample.labels)
            ms = max(sample.time_ms or 0, self._marked_ms.get(series, 0) + 1)
            self._marked_ms[series] = ms
            yield sample._replace(time_ms=ms)
