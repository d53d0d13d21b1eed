"""What the lines of a journal add up to: latest values, counters, histograms, bests; a function of the lines."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from exporter.catalog import Catalog, Namer, sanitize
from exporter.exposition.histogram import Histogram
from exporter.exposition.series import RunSeries, Series
from exporter.exposition.totals import Totals
from exporter.journal import Chunk, Stamped
from exporter.records import (
    Check,
    Checkpoint,
    Event,
    Labels,
    Lost,
    Phase,
    RunEnd,
    RunStart,
    Sample,
    Step,
    Timing,
    Unknown,
    is_free_label,
)

__all__ = ["Best", "RunState", "default_labels", "run_labels"]

_MAX_HISTOGRAMS = 100
_MAX_SCHEMAS = 10_000
_MAX_CHECKS = 100
_MAX_TITLES = 100
_MAX_TITLE = 100
_OTHER_TITLE = "(other)"
_STALL_SECONDS = 120.0
_STALL_STEPS = 8.0


class Best(NamedTuple):
    """A headline metric so far, in canonical units."""

    last: float
    best: float
    step: int


class _Schema(NamedTuple):
    """What to do with the records that have one set of keys."""

    headlines: list[tuple[str, Series]]
    observations: list[tuple[str, Series]]
    counts: list[tuple[str, Series]]


class RunState:
    """Fed with every record of one journal in order."""

    def __init__(self, catalog: Catalog, namer: Namer, series: RunSeries) -> None:
        self.series = series
        self._catalog = catalog
        self._namer = namer
        self._schemas: dict[tuple[int, tuple[str, ...]], _Schema] = {}
        self._last_place: tuple[int, tuple[str, ...]] = (0, ())
        self._last_schema = _Schema([], [], [])
        self.start: RunStart | None = None
        self.first_time: float | None = None
        self.end: RunEnd | None = None
        self.attempts = 0
        self.steps = 0
        self.last_step: Step | None = None
        self.latest_ms = 0
        self.latest: dict[str, Any] = {}
        self.nonfinite: Counter[str] = Counter()
        self.first_seen_ms: dict[str, int] = {}
        self.histograms: dict[tuple[str, Labels], Histogram] = {}
        self.totals = Totals()
        """What was worked off so far."""
        self.bests: dict[str, Best] = {}
        self.phase: Phase | None = None
        """The phase of the training step that began last."""
        self.first_steps_ms: dict[int, int] = {}
        """When each attempt after the first logged its first step."""
        self.checkpoint_path = ""
        """Where the last checkpoint is, as the run says it."""
        self.checks: dict[str, str] = {}
        """Latest status of each check."""
        self.lost: Counter[str] = Counter()
        self.bad_lines = 0
        self.unknown = 0
        self._titles: set[str] = set()
        self._recent_steps_ms: deque[int] = deque(maxlen=101)

    def add(self, chunk: Chunk) -> None:
        """Take in the next records."""
        self.bad_lines += len(chunk.bad_lines)
        for stamped in chunk.records:
            self.latest_ms = max(self.latest_ms, stamped.ms)
            if isinstance(stamped.record, Step):
                self._add_step(stamped, stamped.record)
            else:
                self._add_other(stamped)

    @property
    def median_step_seconds(self) -> float:
        """Median time between the last hundred steps; 0 before the second one."""
        times = list(self._recent_steps_ms)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        return statistics.median(gaps) / 1000 if gaps else 0.0

    def is_stalled(self, now: float) -> bool:
        """Whether the last step, or the last start, is older than max(120 s, 8 median step times)."""
        since = max((record.time for record in (self.start, self.last_step) if record), default=now)
        return now - since > max(_STALL_SECONDS, _STALL_STEPS * self.median_step_seconds)

    @property
    def rank_labels(self) -> Labels:
        """Labels of what is measured on each rank by itself: where there are several, also rank 0 is named."""
        labels = self.series.labels
        if self.start is None or self.start.world_size <= 1 or self.start.rank:
            return labels
        return tuple(sorted((*labels, ("rank", "0"))))

    def title(self, event: Event) -> str:
        """An event's title as a label: short, and one of a bounded number per run."""
        title = event.title[:_MAX_TITLE]
        return title if title in self._titles else _OTHER_TITLE

    def current(self) -> Iterator[tuple[Series, Any]]:
        """The series of the present attempt with their latest native values."""
        for key, value in self.latest.items():
            series = self.series.get(self.attempts, key)
            if series is not None and series.name.family.type == "gauge":
                yield series, value

    def count(self, stamped: Stamped, totals: Totals) -> list[Sample]:
        """The counters behind a step that was taken in before, at its time, given those before it."""
        if not isinstance(stamped.record, Step):
            return []
        counted = totals.add(stamped.record, self._schema(stamped, tuple(stamped.record.metrics)).counts)
        return [total.sample(self.rank_labels, stamped.ms) for total in counted]

    def _add_step(self, stamped: Stamped, step: Step) -> None:
        self.steps += 1
        self.last_step = step
        self._recent_steps_ms.append(stamped.ms)
        if self.first_time is None:
            self.first_time = step.time
        if stamped.attempt > 1:
            self.first_steps_ms.setdefault(stamped.attempt, stamped.ms)
        metrics = step.metrics
        self.latest.update(metrics)
        schema = self._schema(stamped, tuple(metrics))
        for key, series in schema.headlines:
            self._update_best(series, metrics[key], step.step)
        for key, series in schema.observations:
            self._histogram(series).observe(float(metrics[key]) * series.name.scale)
        self.totals.add(step, schema.counts)
        try:
            sum(metrics.values())
        except TypeError:
            self._count_nonfinite(stamped, metrics)

    def _schema(self, stamped: Stamped, keys: tuple[str, ...]) -> _Schema:
        # Most records have the keys of the one before: comparing them is cheaper than hashing them.
        place = (stamped.attempt, keys)
        if place != self._last_place:
            if place not in self._schemas:
                self._learn(stamped.attempt, keys, stamped.ms)
            self._last_place = place
            self._last_schema = self._schemas[place]
        return self._last_schema

    def _learn(self, attempt: int, keys: tuple[str, ...], ms: int) -> None:
        """Claim the series of a new set of keys, in the order in which they first appear."""
        schema = _Schema([], [], [])
        for key in keys:
            series = self.series.get(attempt, key)
            if series is None:
                continue
            metric = series.name.metric
            if metric:
                self.first_seen_ms.setdefault(metric.name, ms)
            if metric and metric.headline:
                schema.headlines.append((key, series))
            if series.name.family.type == "histogram":
                schema.observations.append((key, series))
            if series.name.family.type == "counter":
                schema.counts.append((key, series))
        if len(self._schemas) >= _MAX_SCHEMAS:
            self._schemas.clear()
        self._schemas[attempt, keys] = schema

    def _update_best(self, series: Series, native: float | str, step: int) -> None:
        value = float(native) * series.name.scale
        name, metric = series.name.family.name, series.name.metric
        previous = self.bests.get(name, Best(value, value, step))
        better = value > previous.best if metric and metric.headline == "max" else value < previous.best
        # No number and no infinity is a best: a diverged step must not win for ever.
        replaces = math.isfinite(value) and (better or not math.isfinite(previous.best))
        self.bests[name] = Best(value, value, step) if replaces else previous._replace(last=value)

    def _count_nonfinite(self, stamped: Stamped, metrics: Mapping[str, Any]) -> None:
        for key, value in metrics.items():
            series = self.series.get(stamped.attempt, key) if isinstance(value, str) else None
            if series is not None:
                name = series.name.family.name
                self.first_seen_ms.setdefault(name, stamped.ms)
                self.nonfinite[name] += 1

    def _histogram(self, series: Series) -> Histogram:
        family, labels = series.name.family, series.name.labels
        return self.histograms.setdefault((family.name, labels), Histogram(family, labels))

    def _add_other(self, stamped: Stamped) -> None:
        record = stamped.record
        if isinstance(record, Timing):
            self._add_timing(record)
        elif isinstance(record, RunStart):
            self._add_start(record, stamped.attempt)
        elif isinstance(record, RunEnd):
            self.end = record
        elif isinstance(record, Phase):
            self.phase = record
        elif isinstance(record, Checkpoint):
            self.checkpoint_path = record.path
        elif isinstance(record, Event):
            if len(self._titles) < _MAX_TITLES:
                self._titles.add(record.title[:_MAX_TITLE])
        elif isinstance(record, Check):
            name = record.name[:_MAX_TITLE]
            if name in self.checks or len(self.checks) < _MAX_CHECKS:
                self.checks[name] = record.status
        elif isinstance(record, Lost):
            self.lost[record.reason] += max(record.records, 0)
        elif isinstance(record, Unknown):
            self.unknown += 1

    def _add_timing(self, record: Timing) -> None:
        name = self._namer.timing(record.name)
        place = (name.family.name, name.labels)
        if place in self.histograms or len(self.histograms) < _MAX_HISTOGRAMS:
            self.histograms.setdefault(place, Histogram(name.family, name.labels)).observe(record.seconds)

    def _add_start(self, record: RunStart, attempt: int) -> None:
        self.start = record
        self.end = None
        if attempt != self.attempts:
            self.attempts = attempt
            self.latest.clear()
            self._recent_steps_ms.clear()
        if self.first_time is None:
            self.first_time = record.time
        self.series.relabel(run_labels(record))


def run_labels(start: RunStart) -> dict[str, str]:
    """Labels of every series of a run: its tags, run_id, user_id, and the rank where it is not 0.

    A tag whose name is no label's, or is a label of ours, is shown as ``tag_NAME``: a journal may come
    from another tool, and one such label would make the page of all runs unreadable.
    """
    tags = {_tag_label(name): value for name, value in start.tags.items()}
    rank: dict[str, str] = {"rank": str(start.rank)} if start.rank else {}
    return {**tags, "run_id": start.run_id, "user_id": start.user_id, **rank}


def _tag_label(name: str) -> str:
    return name if is_free_label(name) else f"tag_{sanitize(name)}"


def default_labels(run_id: str, rank: int) -> Labels:
    """Labels of a journal that does not say which run it belongs to."""
    return tuple(sorted(run_labels(RunStart(0.0, run_id, rank=rank)).items()))
