"""A journal as the updates of the series that the catalog knows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exporter.analysis.export.journals import Warn
from exporter.catalog import Catalog, Metric, Namer
from exporter.catalog.model import Condition
from exporter.catalog.thresholds import selects
from exporter.exposition import Budget, RunSeries, default_labels, run_labels, step_table
from exporter.journal import Chunk, Stamped, journal_rank, read_chunks
from exporter.records import Labels, RunStart, Step

__all__ = ["LoggedRun", "Updates", "read_run"]

_PIECE_BYTES = 4 * 1024 * 1024
_MADE_UP_MS = 1
"""What the importer puts between two rows that have no time."""


@dataclass
class Updates:
    """The numbers of one series, in the order of time, in columns of the same length."""

    metric: Metric
    labels: Labels = ()
    rows: list[int] = field(default_factory=list)
    """Which logged step of the run it was, from 1."""
    times: list[int] = field(default_factory=list)
    """Milliseconds since 1970."""
    attempts: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    nonfinite: list[tuple[int, float]] = field(default_factory=list)
    """Step and value where it was NaN or infinite: they are in none of the columns."""

    @property
    def logged(self) -> int:
        """How often the series was logged, as whatever number."""
        return len(self.values) + len(self.nonfinite)

    def add(self, row: int, stamped: Stamped, step: int, value: float) -> None:
        """Take in one more value, in canonical units."""
        if not math.isfinite(value):
            self.nonfinite.append((step, value))
            return
        self.rows.append(row)
        self.times.append(stamped.ms)
        self.attempts.append(stamped.attempt)
        self.steps.append(step)
        self.values.append(value)


@dataclass
class LoggedRun:
    """What one journal holds for the rules."""

    labels: dict[str, str]
    """Labels of every series of the run."""
    updates: list[Updates]
    """One for each series of a metric of the catalog; one more for the logged steps themselves."""
    logged: int
    """How many steps there are."""

    def of(self, condition: Condition) -> Iterator[Updates]:
        """The series that a condition is about."""
        return (
            updates
            for updates in self.updates
            if updates.metric.name == condition.metric and selects(condition, dict(updates.labels))
        )

    def has(self, metrics: Iterable[str]) -> bool:
        """Whether any of these metrics was logged."""
        return any(updates.metric.name in metrics for updates in self.updates)

    @property
    def has_times(self) -> bool:
        """Whether its steps have times of their own; a log that has none is given a row each millisecond."""
        times = next(updates.times for updates in self.updates)
        return len(times) < 2 or times[-1] - times[0] > _MADE_UP_MS * (len(times) - 1)


def read_run(journal: Path, catalog: Catalog, warn: Warn) -> LoggedRun:
    """Read a plain journal.

    Raises:
        OSError: it cannot be read.
    """
    reader = _Reader(journal, catalog)
    for chunk in read_chunks(journal, _PIECE_BYTES):
        for bad in chunk.bad_lines:
            warn(f"{journal}: line {bad.line} is left out: {bad.reason}")
        reader.add(chunk)
    return LoggedRun(reader.labels, [reader.steps, *reader.updates.values()], len(reader.steps.rows))


class _Reader:
    def __init__(self, journal: Path, catalog: Catalog) -> None:
        labels = default_labels(journal.resolve().parent.name, journal_rank(journal) or 0)
        self.labels = dict(labels)
        self.steps = Updates(catalog.metrics["training_steps"])
        self.updates: dict[tuple[str, Labels], Updates] = {}
        self._catalog = catalog
        self._series = RunSeries(Namer(catalog), Budget(), labels)

    def add(self, chunk: Chunk) -> None:
        """Take in the next records; those of one step share its row."""
        logged = [(item, item.record.step) for item in chunk.records if isinstance(item.record, Step)]
        first_row = len(self.steps.rows) + 1
        for row, (stamped, step) in enumerate(logged, first_row):
            self.steps.add(row, stamped, step, 1.0)
        table = step_table([stamped for stamped, _ in logged], self._series, self._catalog)
        columns: dict[tuple[str, Labels], dict[int, float]] = defaultdict(dict)
        for series, (indices, values) in table.columns:
            name = series.name
            if name.metric is None or name.metric.derived:
                continue
            place = name.metric.name, name.labels
            self.updates.setdefault(place, Updates(name.metric, name.labels))
            columns[place].update(zip(indices, (name.scale * float(value) for value in values), strict=True))
        for place, column in columns.items():  # each attempt has a column of its own
            for index in sorted(column):
                self.updates[place].add(first_row + index, *logged[index], column[index])
        for item in chunk.records:
            if isinstance(item.record, RunStart):
                self.labels = run_labels(item.record)
