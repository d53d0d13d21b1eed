"""Alerts whose bounds are for a metric's own values: they can be judged update by update, without a server.

A rule in Prometheus looks at the median of a window of time. Here the window is the smallest that a rule ever looks at,
three updates, however long they take: so a log without times is judged like any other, and a training loop can
afford it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from exporter.catalog.model import Alert, Catalog, Condition

__all__ = ["WINDOW", "Ladder", "alerts_of_run", "counts_nonfinite", "lasting", "selects", "thresholds"]

WINDOW = 3
"""How many updates are looked at together."""

_NONFINITE = "training_nonfinite"
"""The counter of values that are no finite numbers."""


class Ladder(NamedTuple):
    """One rule: its severities, the mildest first."""

    alerts: tuple[Alert, ...]

    def level(self, value: float) -> int:
        """How bad a value is: 0 within all bounds, 1 for the mildest severity, and so on; NaN is within."""
        for level, alert in enumerate(self.alerts, 1):
            if alert.condition.holds(abs(value) if alert.condition.absolute else value):
                return level
        return 0


def lasting(levels: Sequence[int]) -> int:
    """The level that stays: the middle one of the last three; where there are fewer, the last one decides."""
    return sorted(levels[-WINDOW:])[1] if len(levels) >= WINDOW else levels[-1]


def alerts_of_run(catalog: Catalog, labels: Mapping[str, str]) -> list[Alert]:
    """The alerts about the values of a run with these labels."""
    return [
        alert
        for alert in catalog.alerts
        if alert.condition.metric
        and alert.about in ("run", "any run")
        and _match(alert.runs, labels)
        and not any(_match(runs, labels) for runs in alert.excluded)
    ]


def thresholds(alerts: Iterable[Alert], metric: str, labels: Mapping[str, str]) -> list[Ladder]:
    """The rules with bounds for the values of a series; what compares with the time before is none of them."""
    rules: dict[str, list[Alert]] = {}
    for alert in alerts:
        condition = alert.condition
        is_threshold = condition.value == "median" and not condition.against and not condition.per
        if is_threshold and condition.metric == metric and selects(condition, labels):
            rules.setdefault(alert.name, []).append(alert)
    return [Ladder(tuple(rule)) for rule in rules.values()]


def counts_nonfinite(alert: Alert, metric: str) -> bool:
    """Whether an alert is about values of a metric that are NaN or infinite."""
    return alert.condition.metric == _NONFINITE and selects(alert.condition, {"metric": metric})


def selects(condition: Condition, labels: Mapping[str, str]) -> bool:
    """Whether a condition is about the series of its metric that has these labels."""
    return _match(condition.where, labels)


def _match(patterns: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(re.fullmatch(pattern, labels.get(label, "")) for label, pattern in patterns.items())
