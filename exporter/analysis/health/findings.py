"""From the updates of a run to findings; pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exporter.analysis.health.changes import Moment, also_holds, changed
from exporter.analysis.health.log import LoggedRun, Updates
from exporter.catalog import Alert, Catalog, Condition, Range
from exporter.catalog.rules import SEVERITIES
from exporter.catalog.thresholds import WINDOW, Ladder, alerts_of_run, counts_nonfinite, lasting, selects, thresholds

__all__ = ["OUTSIDE_HEALTHY", "Finding", "find", "judged_metrics"]

OUTSIDE_HEALTHY = "OutsideHealthyRange"
"""What updates are called that are no alert's, and yet not healthy."""


@dataclass(frozen=True)
class Finding:
    """Updates of one series that one severity of one rule is about."""

    rule: str
    severity: str
    metric: str
    """Name of the series."""
    labels: dict[str, str]
    """The run's and the series' own; empty ones are left out."""
    first_step: int
    last_step: int
    count: int
    of: int
    """How many updates the series has."""
    worst: float
    """The value furthest beyond the bound, or the first that is not finite; the change, where a rule compares."""
    early: int = 0
    """How many of ``count`` were logged before the end of the rule's warm-up."""
    alert: Alert | None = None
    """The rule; None for the healthy range."""

    def fields(self) -> dict[str, Any]:
        """What others get of it."""
        names = ("rule", "severity", "metric", "labels", "first_step", "last_step", "count", "of", "worst")
        return {name: getattr(self, name) for name in names}


_Told = tuple[Alert, Mapping[int, float]]
"""An alert, and the numbers that are beyond its bound by the index of their update."""


def find(catalog: Catalog, run: LoggedRun) -> list[Finding]:
    """Everything there is to say about a run, the worst first."""
    alerts = _alerts(catalog, run)
    found = [finding for updates in run.updates for finding in _judged(alerts, run, updates, catalog)]
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))


def judged_metrics(catalog: Catalog, run: LoggedRun) -> list[str]:
    """The metrics of a run that could be judged: of the others nothing is known."""
    alerts = [alert for alert in _alerts(catalog, run) if run.has_times or not _needs_times(alert.condition)]
    watched = {alert.condition.metric for alert in alerts}
    metrics = {updates.metric.name: updates.metric for updates in run.updates[1:] if updates.logged}
    return [
        name
        for name in sorted(metrics)
        if name in watched or metrics[name].healthy or any(counts_nonfinite(alert, name) for alert in alerts)
    ]


def _alerts(catalog: Catalog, run: LoggedRun) -> list[Alert]:
    return [alert for alert in alerts_of_run(catalog, run.labels) if not run.has(alert.without)]


def _judged(alerts: Iterable[Alert], run: LoggedRun, updates: Updates, catalog: Catalog) -> Iterator[Finding]:
    """What there is to say about one series."""
    name, labels = updates.metric.name, dict(updates.labels)
    own = [alert for alert in alerts if alert.condition.metric == name and selects(alert.condition, labels)]
    ladders = thresholds(own, name, labels)
    told = [one for ladder in ladders for one in _lasting(ladder, run, updates, catalog)]
    told += _spikes(own, updates, [alert.condition for alert, _ in told])
    unhealthy = _unhealthy(updates, ladders, told)
    told += [(alert, changed(alert, run, updates, catalog)) for alert in own if _needs_times(alert.condition)]
    for alert, numbers in told:
        if numbers:
            worst = _worst(numbers.values(), alert.condition)
            early = sum(updates.rows[index] < alert.warm_up for index in numbers)
            yield _finding(run, updates, _steps(updates, numbers), worst, alert, early)
    if unhealthy:
        worst = max(unhealthy.values(), key=lambda value: _distance(value, updates.metric.healthy))
        yield _finding(run, updates, _steps(updates, unhealthy), worst)
    for alert in alerts:
        if counts_nonfinite(alert, name) and alert.condition.holds(len(updates.nonfinite)):
            steps = [step for step, _ in updates.nonfinite]
            finding = _finding(run, updates, steps, updates.nonfinite[0][1], alert)
            yield dataclasses.replace(finding, of=updates.logged)


def _needs_times(condition: Condition) -> bool:
    return bool(condition.against) or condition.value in ("lowest", "highest", "mean")


def _finding(
    run: LoggedRun, updates: Updates, steps: Sequence[int], worst: float, alert: Alert | None = None, early: int = 0
) -> Finding:
    return Finding(
        alert.name if alert else OUTSIDE_HEALTHY,
        alert.severity if alert else "info",
        updates.metric.sample_name,
        _labels(run, updates.labels),
        min(steps),
        max(steps),
        len(steps),
        len(updates.values),
        worst,
        early,
        alert,
    )


def _steps(updates: Updates, indices: Iterable[int]) -> list[int]:
    return [updates.steps[index] for index in indices]


def _labels(run: LoggedRun, own: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Labels as a server has them: an empty one is none."""
    return {name: value for name, value in sorted({**run.labels, **dict(own)}.items()) if value}


def _worst(numbers: Iterable[float], condition: Condition) -> float:
    key = abs if condition.absolute else float
    return max(numbers, key=key) if condition.above is not None else min(numbers, key=key)


def _lasting(ladder: Ladder, run: LoggedRun, updates: Updates, catalog: Catalog) -> Iterator[_Told]:
    """The severities of a rule that lasted, each with its own updates."""
    levels = [ladder.level(value) for value in updates.values]
    alert, peak = ladder.alerts[0], 0
    for begin, end, level in _levels_that_last(levels):
        if level > peak and updates.rows[begin] >= alert.warm_up:
            moment = Moment(updates.times[end], updates.attempts[end], catalog)
            peak = level if also_holds(alert, run, moment) else peak
    for place, severity in enumerate(ladder.alerts[:peak], 1):
        yield severity, {i: updates.values[i] for i, level in enumerate(levels) if min(level, peak) == place}


def _levels_that_last(levels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Each three successive updates, of fewer each one: the indices of the first and the last, and their level."""
    window = WINDOW if len(levels) >= WINDOW else 1
    for end in range(window - 1, len(levels)):
        begin = end + 1 - window
        yield begin, end, lasting(levels[begin : end + 1])


def _spikes(alerts: Iterable[Alert], updates: Updates, lasted: Sequence[Condition]) -> Iterator[_Told]:
    """Single updates beyond a bound, where neither that nor anything else on that side lasted."""
    for alert in alerts:
        condition = alert.condition
        if condition.value != "worst" or condition.against or any(_same_side(condition, other) for other in lasted):
            continue
        levels = [Ladder((alert,)).level(value) for value in updates.values]
        numbers = {index: updates.values[index] for index, level in enumerate(levels) if level}
        is_late = any(updates.rows[index] >= alert.warm_up for index in numbers)
        if is_late and not any(level for *_, level in _levels_that_last(levels)):
            yield alert, numbers


def _same_side(one: Condition, other: Condition) -> bool:
    return (one.above is None) == (other.above is None)


def _unhealthy(updates: Updates, ladders: Sequence[Ladder], told: Iterable[_Told]) -> dict[int, float]:
    """Updates outside the healthy range that no alert counts; what an info alert is for, it alone tells.

    A kind of the metric that no rule watches has another range, or none.
    """
    healthy = updates.metric.healthy
    if healthy is None or not ladders:
        return {}
    told_already = {index for _, numbers in told for index in numbers}
    infos = [ladder for ladder in ladders if ladder.alerts[0].severity == "info"]
    return {
        index: value
        for index, value in enumerate(updates.values)
        if _distance(value, healthy) > 0
        and index not in told_already
        and not any(ladder.level(value) for ladder in infos)
    }


def _distance(value: float, healthy: Range | None) -> float:
    """How far a value is outside the healthy range; at most 0 inside, the bounds included."""
    above = healthy.above if healthy and healthy.above is not None else value
    below = healthy.below if healthy and healthy.below is not None else value
    return max(above - value, value - below)
