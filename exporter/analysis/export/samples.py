"""All samples of one journal, in the order of time: every step, and what a server would have scraped beside it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from exporter.analysis.export.summary import RunSummary
from exporter.catalog import Catalog, Namer, default_catalog
from exporter.collectors import process_is_alive
from exporter.errors import ConfigError
from exporter.exposition import Budget, RunSeries, run_labels
from exporter.journal import START, Chunk, Stamped, read_chunk
from exporter.records import RunStart, Sample, Step
from exporter.server.history import RunHistory

__all__ = ["EvenTimes", "Piece", "RunSamples", "read_runs"]

_PIECE_SAMPLES = 40_000
"""About as many samples are handed on at once: a request of some 500 kB; gateways often refuse more than 1 MB."""

_PIECE_BYTES = 96 * 1024
"""Read at once; less than a request, so that requests are about equal."""


class EvenTimes(NamedTuple):
    """Times for a log that has none, or wrong ones: its steps, in its order, one after another."""

    start_ms: int
    step_seconds: float

    def at(self, index: int) -> int:
        """The time of a step, in milliseconds since 1970; ``index`` counts from 0."""
        return self.start_ms + round(index * self.step_seconds * 1000)


class Piece(NamedTuple):
    """Consecutive steps of a journal, and the samples that are due meanwhile beside those of the steps."""

    steps: list[Stamped]
    summary: list[Sample]
    end: int
    """How many bytes of the journal have been read."""


class RunSamples:
    """One plain journal as it is now; what is appended later is left out."""

    def __init__(self, path: Path, catalog: Catalog, namer: Namer, times: EvenTimes | None = None) -> None:
        """Look at both ends of ``path``; its steps get these times instead of their own.

        Raises:
            OSError: the journal cannot be read.
        """
        self.path = path
        self.catalog = catalog
        self._times = times
        self._namer = namer
        self._history = self._new_history()
        self.size = path.stat().st_size
        """Bytes of the journal."""
        head = read_chunk(path, START, _PIECE_BYTES).records
        start = next((item.record for item in head if isinstance(item.record, RunStart)), None)
        self.labels = tuple(sorted(run_labels(start).items())) if start else self.series.labels
        """Labels of every series of the run."""
        self.first_ms = min((item.ms for item in head), default=0)
        self.last_ms = _last_ms(path, self.size) if head else 0
        """Times of the first and the last record."""
        if times:
            steps = sum(isinstance(item.record, Step) for chunk in self._chunks() for item in chunk.records)
            self.first_ms, self.last_ms = times.start_ms, times.at(max(steps - 1, 0))

    @property
    def series(self) -> RunSeries:
        """The series that have been claimed so far."""
        return self._history.series

    @property
    def name(self) -> str:
        """The run's id, and its rank where that is not 0."""
        labels = dict(self.labels)
        return labels["run_id"] + (f".rank{labels['rank']}" if "rank" in labels else "")

    def left_out(self) -> Iterator[str]:
        """What of the journal was not among the pieces, and why."""
        for refusal in self.series.refusals:
            why = f"{refusal.owner!r} has the same series" if refusal.reason == "collision" else "too many series"
            yield f"{self.path}: key {refusal.key!r} is left out: {why}"
        if self._history.state.bad_lines:
            yield f"{self.path}: {self._history.state.bad_lines} bad line(s) are left out"

    def pieces(self) -> Iterator[Piece]:
        """Everything from the start; the labels of a piece are those of ``series`` while it is the last one.

        Raises:
            OSError: the journal cannot be read.
        """
        self._history = self._new_history()
        summary = RunSummary(self._history.state, self.catalog)
        piece, size = Piece([], [], 0), 0
        for chunk in self._chunks():
            if size + len(piece.summary) >= _PIECE_SAMPLES or (piece.steps and _starts(chunk)):
                yield piece
                piece, size = Piece([], [], 0), 0
            piece.steps.extend(item for item in chunk.records if isinstance(item.record, Step))
            piece.summary.extend(summary.add(chunk))
            piece = piece._replace(end=chunk.end.offset)
            size += sum(len(item.record.metrics) for item in chunk.records if isinstance(item.record, Step))
        piece.summary.extend(summary.end(self._history.statuses(time.time())))
        yield piece._replace(end=self.size)

    def _new_history(self) -> RunHistory:
        return RunHistory(self.path, self.catalog, self._namer, Budget(), process_is_alive)

    def _chunks(self) -> Iterator[Chunk]:
        """The journal in chunks, of which none has a start of the run but at its beginning."""
        chunks = self._read()
        return (part for chunk in (_evenly(chunks, self._times) if self._times else chunks) for part in _split(chunk))

    def _read(self) -> Iterator[Chunk]:
        position = START
        while position.offset < self.size:
            chunk = read_chunk(self.path, position, min(_PIECE_BYTES, self.size - position.offset))
            if chunk.end == position:
                return
            yield chunk
            position = chunk.end


def _starts(chunk: Chunk) -> bool:
    return bool(chunk.records) and isinstance(chunk.records[0].record, RunStart)


def _split(chunk: Chunk) -> Iterator[Chunk]:
    """A start may change the run's labels, so what comes after it is not of a piece with what was before."""
    starts = [index for index, item in enumerate(chunk.records) if index and isinstance(item.record, RunStart)]
    if not starts:
        yield chunk
        return
    bad_lines = chunk.bad_lines
    for begin, end in pairwise([0, *starts, len(chunk.records)]):
        yield Chunk(chunk.records[begin:end], bad_lines, chunk.end)
        bad_lines = []


def _last_ms(path: Path, size: int) -> int:
    """Time of the last record, found without reading what is before it."""
    reach = _PIECE_BYTES
    while True:
        begin = max(size - reach, 0)
        with path.open("rb") as file:
            file.seek(begin)
            begin += len(file.readline()) if begin else 0
        records = read_chunk(path, START._replace(offset=begin), reach).records
        if records or not begin:
            return max((item.ms for item in records), default=0)
        reach *= 16


def read_runs(journals: Iterable[Path], times: EvenTimes | None = None) -> list[RunSamples]:
    """Journals by the time of their first record; empty ones are left out.

    Raises:
        ConfigError: two of them are of one run and rank.
        OSError: a journal cannot be read.
    """
    catalog = default_catalog()
    namer = Namer(catalog)
    runs: dict[str, RunSamples] = {}
    for journal in journals:
        run = RunSamples(journal, catalog, namer, times)
        other = runs.get(run.name)
        if other:
            raise ConfigError(f"{other.path} and {journal} are both of run {run.name}; give only one of them")
        if run.size:
            runs[run.name] = run
    return sorted(runs.values(), key=lambda run: run.first_ms)


def _evenly(chunks: Iterator[Chunk], times: EvenTimes) -> Iterator[Chunk]:
    """The same records at other times: a step at its own, anything else at that of the step before it."""
    steps = 0
    for chunk in chunks:
        records = []
        for stamped in chunk.records:
            is_step = isinstance(stamped.record, Step)
            ms = times.at(steps if is_step else max(steps - 1, 0))
            steps += is_step
            records.append(stamped._replace(ms=ms, record=stamped.record._replace(time=ms / 1000)))
        yield chunk._replace(records=records)
