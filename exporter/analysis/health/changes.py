"""Conditions that compare a metric with the time before, in the windows of time that the rules have.

This is what ``exporter.generate.alerts.numbers`` says in PromQL, for one moment of a log.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from exporter.analysis.health.log import LoggedRun, Updates
from exporter.catalog import Alert, Catalog, Condition
from exporter.catalog.thresholds import WINDOW
from exporter.catalog.windows import RARE, Baseline, baselines, fraction, known, seconds, total, windows

__all__ = ["Moment", "also_holds", "changed"]

_INTERVAL = "5s"
"""How often the shipped configuration evaluates a rule that does not say so itself."""


class Moment(NamedTuple):
    """When a rule is evaluated, and in which attempt of the run: what another one logged is not compared with."""

    ms: int
    attempt: int
    catalog: Catalog

    def values(self, updates: Updates, span: str, lag: str = "") -> list[float]:
        """The updates within a span of time that ends now, or some time ago."""
        end = self.ms - (1000 * seconds(lag) if lag else 0)
        begin = bisect_right(updates.times, end - 1000 * seconds(span))
        begin = max(begin, bisect_left(updates.attempts, self.attempt))
        return updates.values[begin : bisect_right(updates.times, end)]


def changed(alert: Alert, run: LoggedRun, updates: Updates, catalog: Catalog) -> dict[int, float]:
    """Which updates of a series a rule that compares is about, with the number that is beyond its bound."""
    found: dict[int, float] = {}
    for begin, end in _stretches(updates.times, seconds(alert.interval or _INTERVAL)):
        if updates.rows[end] < alert.warm_up:
            continue
        moment = Moment(updates.times[end], updates.attempts[end], catalog)
        beyond = _beyond(alert.condition, updates, range(begin, end + 1), moment)
        if beyond and also_holds(alert, run, moment):
            found |= beyond
    return found


def also_holds(alert: Alert, run: LoggedRun, moment: Moment) -> bool:
    """Whether the further conditions of an alert are true of the run, and those that excuse it are not all true."""

    def holds(other: Condition) -> bool:
        return any(_number_beyond(other, updates, moment) is not None for updates in run.of(other))

    is_excused = bool(alert.unless) and all(map(holds, alert.unless))
    return all(map(holds, alert.also)) and not is_excused


def _stretches(times: Sequence[int], interval: int) -> Iterator[tuple[int, int]]:
    """First and last index of the updates between two evaluations; each evaluation is at an update."""
    begin, evaluated = 0, -math.inf
    for index, ms in enumerate(times):
        if ms - evaluated >= 1000 * interval or index == len(times) - 1:
            yield begin, index
            begin, evaluated = index + 1, ms


def _beyond(condition: Condition, updates: Updates, stretch: range, moment: Moment) -> dict[int, float]:
    """The updates of a stretch, where the number is beyond the bound; of a spike only those that make it."""
    if (condition.value, condition.against) != ("worst", "spread"):
        number = _number_beyond(condition, updates, moment)
        return {} if number is None else dict.fromkeys(stretch, number)
    usual = _usual(condition, updates, moment)
    if usual is None or usual.is_beyond(usual.median):
        return {}
    values = updates.values
    return {index: values[index] for index in stretch if usual.is_beyond(values[index])}


def _number_beyond(condition: Condition, updates: Updates, moment: Moment) -> float | None:
    """The number that a condition makes of the updates, if it is beyond the bound; none where a log cannot tell it."""
    if condition.against == "spread":
        usual = _usual(condition, updates, moment)
        return usual.median if usual and usual.is_beyond(usual.median) else None
    if condition.value == "rate" and condition.against:
        number = _pace(condition, updates, moment)
    elif condition.value not in _STATISTICS or condition.per:
        number = None
    elif condition.against:
        number = _change(condition, updates, moment)
    else:
        number = _recent(condition, updates, moment)
    if number is not None and condition.absolute:
        number = abs(number)
    return number if number is not None and condition.holds(number) else None


# ------------------------------------------------------------------ the numbers


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "lowest": min,
    "highest": max,
    "mean": _mean,
}


def _recent(condition: Condition, updates: Updates, moment: Moment) -> float | None:
    """The statistic of the shortest window that holds enough updates; where none does, the last one is the median."""
    spans = windows(condition, moment.catalog)
    for span in spans:
        values = moment.values(updates, span)
        if len(values) >= condition.least_updates:
            return _STATISTICS[condition.value](values)
    rare = moment.values(updates, known(condition, moment.catalog))
    last = moment.values(updates, spans[-1]) or (rare if len(rare) <= RARE else [])
    return last[-1] if last and condition.value == "median" else None


def _change(condition: Condition, updates: Updates, moment: Moment) -> float | None:
    """How much the value has changed from the baseline, relative to it."""
    for baseline in baselines(condition, moment.catalog):
        now = moment.values(updates, baseline.span)
        past = moment.values(updates, baseline.length, baseline.lag)
        enough = len(now) >= condition.least_updates and len(past) >= baseline.least_updates
        if enough and _is_full(condition, updates, moment, baseline):
            return _relative(condition, _STATISTICS[condition.value](now), past)
    return None


def _relative(condition: Condition, now: float, past: Sequence[float]) -> float | None:
    base = _base(condition, past)
    scale = abs(base)
    if condition.least_scale:
        scale = max(scale, 1.0 if min(past) < 0 else condition.least_scale)
    return (now - base) / scale if scale else None


def _base(condition: Condition, past: Sequence[float]) -> float:
    if condition.against == "highest":
        return max(past)
    return min(past) if condition.value == "lowest" else _mean(past)


class _Usual(NamedTuple):
    """What is usual for a metric by its baseline."""

    limit: float
    is_above: bool
    """Whether bad lies above the limit."""
    median: float
    """Of the window that is judged; NaN where that holds too few updates."""

    def is_beyond(self, value: float) -> bool:
        """Whether a value is out of the usual; NaN never is."""
        return value > self.limit if self.is_above else value < self.limit


def _usual(condition: Condition, updates: Updates, moment: Moment) -> _Usual | None:
    """So many standard deviations from the mean of the shortest baseline that holds enough."""
    for baseline in baselines(condition, moment.catalog):
        past = moment.values(updates, baseline.length, baseline.lag)
        now = moment.values(updates, baseline.span)
        if len(past) < baseline.least_updates or (condition.value == "median" and len(now) < WINDOW):
            continue
        if not _is_full(condition, updates, moment, baseline):
            return None
        mean = _mean(past)
        deviation = math.sqrt(_mean([(value - mean) ** 2 for value in past]))
        limit = mean + condition.bound * max(deviation, condition.least_scale * abs(mean))
        median = statistics.median(now) if len(now) >= WINDOW else math.nan
        return _Usual(limit, condition.above is not None, median)
    return None


def _pace(condition: Condition, updates: Updates, moment: Moment) -> float | None:
    """How much the number of updates per second has changed."""
    baseline = baselines(condition, moment.catalog)[0]
    now = len(moment.values(updates, baseline.span)) / seconds(baseline.span)
    past = moment.values(updates, baseline.length, baseline.lag)
    if len(past) < condition.least_updates:
        return None
    return now / (len(past) / seconds(baseline.length)) - 1


def _is_full(condition: Condition, updates: Updates, moment: Moment, baseline: Baseline) -> bool:
    """Whether the older half of a baseline holds updates, where that is asked for."""
    half = fraction(baseline.length, 2)
    return not condition.half_full or bool(moment.values(updates, half, total(baseline.lag, half)))
