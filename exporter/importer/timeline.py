"""When the rows of a foreign log were, and which attempt of the run they belong to.

A row's time is its own where the log has one; else the log's clock of elapsed seconds, set by the time at
which the file was last written; else that time itself. What is read late, all at once, gets the last of these
times with a millisecond between two rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from exporter.encoding import clean, encode_line, is_finite_sum, number_token
from exporter.records import Record, RunEnd, RunStart, Step
from exporter.sources import Item, Row

__all__ = ["ELAPSED_KEYS", "LogClock", "Timeline"]

ELAPSED_KEYS = ("time/time_elapsed", "misc/time_elapsed", "time_elapsed", "TimeElapsed", "time_total_s", "_runtime")
"""Seconds since the start: Stable-Baselines3, OpenAI baselines, RLlib, W&B."""

_MILLISECOND = 0.001


class LogClock:
    """Tells the times of rows that have none."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._elapsed = 0.0
        self._rows_behind = 0

    def set(self, items: Iterable[Item], taken: int, modified: float) -> None:
        """Set the clock by everything that a log holds; with its first row so many values are taken."""
        elapsed, rows = None, 0
        for item in items:
            if isinstance(item, Row):
                taken -= len(item.metrics)
                rows += taken < 0
                elapsed = _elapsed(item)
        self._rows_behind = rows
        if elapsed is not None:
            self._started = modified - elapsed

    def time_of(self, row: Row, modified: float) -> float:
        """Seconds since 1970, as exactly as the log lets know."""
        elapsed = _elapsed(row)
        if elapsed is None:
            time = modified - self._rows_behind * _MILLISECOND
            self._rows_behind = max(self._rows_behind - 1, 0)
            return time
        if self._started is None or elapsed < self._elapsed:  # a resumed trainer counts from 0 again
            self._started = modified - elapsed
        self._elapsed = elapsed
        return min(self._started + elapsed, modified)


class Timeline:
    """What the journal of one run and rank has been told, and the lines for what comes next."""

    def __init__(self, start: RunStart) -> None:
        """``start`` says what is known about the run from outside of its logs."""
        self._start = start
        self._steps: dict[str, int] = {}
        self._epoch: float | None = None
        self._top = -1
        self._has_ended = False
        self.attempt = 0
        self.epoch_offset = 0
        """Steps of the epochs before the present one, where a trainer counts those of each epoch from the start."""

    @property
    def framework(self) -> str:
        """The library that trains, as far as is known."""
        return self._start.framework

    def replay(self, record: Record, attempt: int) -> None:
        """Take in what an earlier process wrote."""
        self.attempt = attempt
        if isinstance(record, RunStart):
            self._start = record
            self._has_ended = False
        elif isinstance(record, RunEnd):
            self._has_ended = True
        elif isinstance(record, Step):
            self._note(record.step, record.metrics, record.epoch)

    def amend(self, time: float, config: Mapping[str, Any], framework: str) -> bytes:
        """A line where more has become known about the run, else nothing; the first row begins the run."""
        known = self._start
        merged = {**known.config, **config}
        if merged == known.config and framework in ("", known.framework):
            return b""
        self._start = known._replace(config=merged, framework=framework or known.framework)
        return self._start_line(time) if self.attempt else b""

    def row(self, row: Row, time: float) -> bytes:
        """The lines for a row: a start before it where it is the first one or goes back."""
        lines = b""
        if self._is_new_epoch(row):
            self.epoch_offset = self._top + 1
        step = row.step + self.epoch_offset
        if not self.attempt or self._has_ended or self._goes_back(step, row.metrics):
            lines, step = self._begin(time), row.step
        self._note(step, row.metrics, row.epoch)
        return lines + _step_line(time, step, row)

    def end(self, status: str, time: float) -> bytes:
        """The line that ends the run, once."""
        if self._has_ended or not self.attempt:
            return b""
        self._has_ended = True
        return encode_line({"_type": "run_end", "time": time, "status": status})

    def _begin(self, time: float) -> bytes:
        self.attempt += 1
        self._has_ended = False
        self._steps.clear()
        self._epoch, self.epoch_offset, self._top = None, 0, -1
        return self._start_line(time)

    def _start_line(self, time: float) -> bytes:
        fields = self._start._asdict()
        return encode_line({"_type": "run_start", **clean(fields), "time": time, "attempt": self.attempt})

    def _note(self, step: int, metrics: Mapping[str, Any], epoch: float | None) -> None:
        self._steps.update(dict.fromkeys(metrics, step))
        self._top = max(self._top, step)
        self._epoch = epoch if epoch is not None else self._epoch

    def _goes_back(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Whether every series of the row has been further: keys may count different things."""
        steps = self._steps
        return bool(metrics) and all(step < steps.get(key, step) for key in metrics)

    def _is_new_epoch(self, row: Row) -> bool:
        """Whether the step went back because the next epoch began."""
        if row.epoch is None or self._epoch is None or row.epoch <= self._epoch:
            return False
        return self._goes_back(row.step + self.epoch_offset, row.metrics)


def _elapsed(row: Row) -> float | None:
    for key in ELAPSED_KEYS:
        if key in row.metrics:
            return row.metrics[key]
    return None


def _step_line(time: float, step: int, row: Row) -> bytes:
    metrics: Mapping[str, Any] = row.metrics
    if not is_finite_sum(sum(metrics.values())):
        metrics = {key: number_token(float(value)) for key, value in metrics.items()}
    fields = {"_type": "step", "time": time, "step": step, "metrics": metrics}
    return encode_line(fields if row.epoch is None else {**fields, "epoch": row.epoch}, float)
