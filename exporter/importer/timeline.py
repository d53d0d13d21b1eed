"""When the rows of a foreign log were, and which attempt of the run they belong to.

A row's time is its own where the log has one; else the log's clock of elapsed seconds, set by the time at
which the file was last written; else that time itself. Of what is read late, all at once, the last row gets that
time, with a millisecond between two rows; between rows whose times are known a row gets the time before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.encoding import clean, encode_line, is_finite_sum, number_token
from exporter.records import Record, RunEnd, RunStart, Step
from exporter.sources import Row

__all__ = ["ELAPSED_KEYS", "LogClock", "Timeline"]

ELAPSED_KEYS = ("time/time_elapsed", "misc/time_elapsed", "time_elapsed", "TimeElapsed", "time_total_s", "_runtime")
"""Seconds since the start: Stable-Baselines3, OpenAI baselines, RLlib, W&B."""

_MILLISECOND = 0.001


class LogClock:
    """Tells the times of rows that have none."""

    def __init__(self, rows: Iterable[Row], taken: int, modified: float) -> None:
        """Set the clock by everything that a log holds; with the first row asked for so many values are taken."""
        self._rows_behind = self._restarts_behind = 0
        self._own = self._elapsed = self._started = last = None
        later = 0.0
        for row in rows:
            taken -= len(row.metrics)
            is_behind = taken < 0
            self._rows_behind += is_behind
            if row.time is not None and (self._own is None or not is_behind):
                self._own = row.time
            elapsed = _elapsed(row)
            if elapsed is None:
                continue
            if is_behind and last is not None and elapsed < last:
                self._restarts_behind += 1
                later += last
            if self._elapsed is None or not is_behind:
                self._elapsed = elapsed
            last = elapsed
        if last is not None:
            self._started = modified - later - last

    def time_of(self, row: Row, modified: float) -> float:
        """Seconds since 1970, as exactly as the log lets know: for each of its rows from the first one on, in turn."""
        behind, self._rows_behind = self._rows_behind, max(self._rows_behind - 1, 0)
        if row.time is not None:
            self._own = row.time
            return row.time
        elapsed = _elapsed(row)
        if elapsed is not None:
            return _past(self._start_of(elapsed, modified) + elapsed, modified)
        if behind and self._started is not None and self._elapsed is not None:
            return _past(self._started + self._elapsed, modified)
        if behind and self._own is not None:
            return _past(self._own, modified)
        return modified - behind * _MILLISECOND

    def _start_of(self, elapsed: float, modified: float) -> float:
        """When a count of seconds began: a trainer that is resumed begins another one."""
        if self._started is None or self._elapsed is None:
            self._started = modified - elapsed
        elif elapsed < self._elapsed and self._restarts_behind:
            self._restarts_behind -= 1
            self._started += self._elapsed
        elif elapsed < self._elapsed:
            self._started = modified - elapsed
        self._elapsed = elapsed
        return self._started


class Timeline:
    """What the journal of one run and rank has been told, and the lines for what comes next."""

    def __init__(self, start: RunStart) -> None:
        """``start`` says what is known about the run from outside of its logs."""
        self._start = start
        self._steps: dict[str, int] = {}
        self._epoch: float | None = None
        self._top = -1
        self._end = b""
        self.attempt = 0
        self.epoch_offset = 0
        """Steps of the epochs before the present one, where a trainer counts those of each epoch from the start."""

    @property
    def framework(self) -> str:
        """The library that trains, as far as is known."""
        return self._start.framework

    def replay(self, record: Record, attempt: int) -> None:
        """Take in what an earlier process wrote."""
        if attempt != self.attempt:
            self._begin_attempt(attempt)
        if isinstance(record, RunStart):
            self._start = record
        elif isinstance(record, RunEnd):
            self._end = _end_line(record.status, record.time)
        elif isinstance(record, Step):
            self._note(record.step, record.metrics, record.epoch)

    def amend(self, time: float, config: Mapping[str, Any], framework: str) -> bytes:
        """A line where more has become known about the run, else nothing; the first row begins the run."""
        known = self._start
        merged = {**known.config, **config}
        if merged == known.config and framework in ("", known.framework):
            return b""
        self._start = known._replace(config=merged, framework=framework or known.framework)
        return self._start_line(time) + self._end if self.attempt else b""

    def row(self, row: Row, time: float) -> bytes:
        """The lines for a row: a start before it where it is the first one or goes back."""
        lines = b""
        if self._is_new_epoch(row):
            self.epoch_offset = self._top + 1
        step = row.step + self.epoch_offset
        if not self.attempt or self._end or self._goes_back(step, row.metrics):
            lines, step = self._begin(time), row.step
        self._note(step, row.metrics, row.epoch)
        return lines + _step_line(time, step, row)

    def end(self, status: str, time: float) -> bytes:
        """The line that ends the run, once."""
        if self._end or not self.attempt:
            return b""
        self._end = _end_line(status, time)
        return self._end

    def _begin(self, time: float) -> bytes:
        self._begin_attempt(self.attempt + 1)
        self.epoch_offset = 0
        return self._start_line(time)

    def _begin_attempt(self, attempt: int) -> None:
        self.attempt = attempt
        self._end = b""
        self._steps.clear()
        self._epoch, self._top = None, -1

    def _start_line(self, time: float) -> bytes:
        fields = self._start._asdict()
        return encode_line({"_type": "run_start", **clean(fields), "time": time, "attempt": self.attempt})

    def _note(self, step: int, metrics: Mapping[str, Any], epoch: float | None) -> None:
        self._steps.update(dict.fromkeys(metrics, step))
        self._top = max(self._top, step)
        self._epoch = epoch if epoch is not None else self._epoch

    def _goes_back(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Whether every known series of the row has been further: keys may count different things."""
        known = [self._steps[key] for key in metrics if key in self._steps]
        return bool(known) and step < min(known)

    def _is_new_epoch(self, row: Row) -> bool:
        """Whether the step went back because the next epoch began."""
        if row.epoch is None or self._epoch is None or row.epoch <= self._epoch:
            return False
        return self._goes_back(row.step + self.epoch_offset, row.metrics)


def _elapsed(row: Row) -> float | None:
    value = next((row.metrics[key] for key in ELAPSED_KEYS if key in row.metrics), None)
    return value if value is not None and math.isfinite(value) else None


def _past(time: float, modified: float) -> float:
    """A time that a journal can hold, and not after the log was written."""
    return max(min(time, modified), 0.0)


def _end_line(status: str, time: float) -> bytes:
    return encode_line({"_type": "run_end", "time": time, "status": status})


def _step_line(time: float, step: int, row: Row) -> bytes:
    metrics: Mapping[str, Any] = row.metrics
    if not is_finite_sum(sum(metrics.values())):
        metrics = {key: number_token(float(value)) for key, value in metrics.items()}
    fields = {"_type": "step", "time": time, "step": step, "metrics": metrics}
    if row.epoch is not None:
        fields["epoch"] = row.epoch
    try:
        return encode_line(fields, float)
    except TypeError:  # a name that is no proper text
        return encode_line(clean(fields))
