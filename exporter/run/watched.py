"""A run that tells its script when what it logs crosses a threshold of the catalog, which only such a run loads."""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exporter.catalog import Alert, Catalog, Condition, Namer, SeriesName, default_catalog
from exporter.catalog.thresholds import WINDOW, Ladder, alerts_of_run, counts_nonfinite, lasting, thresholds
from exporter.records import Labels
from exporter.run.alerts import OnAlert, RunAlert
from exporter.run.run import Run
from exporter.run.scalars import sort_values

__all__ = ["WatchedRun"]


class WatchedRun(Run):
    """A run whose values are judged by the thresholds of the shipped catalog after they are stored.

    An alert begins when two of a metric's last three updates are beyond its bound, or one of the first two, and for a
    value that is NaN or infinite at once. It ends with three updates within all bounds; then it can begin again. Where
    it becomes worse in between, the worse severity is told as well. Rules that need more than that are not judged, and
    the warm-up of a rule counts the steps that this object logs.
    """

    def __init__(self, *arguments: Any, on_alert: OnAlert) -> None:
        """Like any run, with a callback."""
        super().__init__(*arguments)
        self._on_alert = on_alert
        self._watcher = _Watcher(default_catalog())

    def log(self, metrics: Mapping[str, Any], step: int | None = None, epoch: float | None = None) -> None:
        """Log the values of one step, and call back where an alert begins with it.

        An exception of the callback is said once on stderr; only what is no ``Exception``, such as the SystemExit of
        ``sys.exit()``, comes through.
        """
        super().log(metrics, step, epoch)
        if not self._is_open:
            return
        try:
            begun = self._watcher.add(metrics, self._next_step - 1)
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            self._say(f"on_alert cannot judge what was logged: {error!r:.200}", "on_alert cannot judge")
            return
        for alert in begun:
            try:
                self._on_alert(alert)
            except Exception as error:  # noqa: BLE001 - telemetry never breaks training
                self._say(f"on_alert raised {error!r:.200}; training goes on", "on_alert raised")

    __call__ = log


class _Watcher:
    """Knows which native keys have thresholds."""

    def __init__(self, catalog: Catalog) -> None:
        self._namer = Namer(catalog)
        self._alerts = [alert for alert in alerts_of_run(catalog, {}) if _is_judged(alert)]
        self._excuses = {alert.name: [_Excuse(other) for other in alert.unless] for alert in self._alerts}
        self._known: set[str] = set()
        self._owned: set[tuple[str, Labels]] = set()
        self._watches: list[_Watch] = []
        self._logged = 0

    def add(self, metrics: Mapping[str, Any], step: int) -> list[RunAlert]:
        """Judge one step; gives the alerts that begin with it."""
        self._logged += 1
        if not metrics.keys() <= self._known:
            self._learn(metrics)
        begun: list[RunAlert] = []
        for watch in self._watches:
            value = metrics.get(watch.key)
            # The common case costs no call.
            if type(value) is float and watch.low <= watch.scale * value <= watch.high:
                continue
            number = None if value is None else _number(value)
            if number is not None:
                begun += watch.add(watch.scale * number, step, self._logged)
        return begun

    def _learn(self, metrics: Mapping[str, Any]) -> None:
        """Claim the series of new keys; as on the pages, the first key that means a series has it."""
        for key in metrics:
            place = self._namer.resolve(str(key))  # as it is stored
            if key in self._known or (place.family.name, place.labels) in self._owned:
                continue
            self._owned.add((place.family.name, place.labels))
            watch = _Watch(key, place, self._alerts, self._excuses)
            if watch.is_needed:
                self._watches.append(watch)
        self._known.update(metrics)


class _Watch:
    """Watches one series."""

    def __init__(
        self, key: str, name: SeriesName, alerts: list[Alert], excuses: Mapping[str, Sequence[_Excuse]]
    ) -> None:
        self.key = key
        self.scale = name.scale
        self.low, self.high = _NOTHING
        """While all is calm, values between these bounds, in canonical units, change nothing."""
        self._metric = name.family.name
        self._labels = dict(name.labels)
        ladders = thresholds(alerts, self._metric, self._labels)
        self._rules = [_Rule(ladder, excuses[ladder.alerts[0].name]) for ladder in ladders]
        self._followers = [other for others in excuses.values() for other in others if other.metric == self._metric]
        self._nonfinite = next((alert for alert in alerts if counts_nonfinite(alert, self._metric)), None)
        self._calm = _within([alert.condition for rule in self._rules for alert in rule.ladder.alerts])
        self._finite = WINDOW

    @property
    def is_needed(self) -> bool:
        """Whether any rule is about the series."""
        return bool(self._rules or self._nonfinite or self._followers)

    def add(self, value: float, step: int, logged: int) -> list[RunAlert]:
        """Judge one more value; gives the alerts that begin with it."""
        for follower in self._followers:
            follower.add(value)
        if math.isfinite(value):
            self._finite += 1
            begun = [rule.add(value, logged) for rule in self._rules]
        else:
            begun = [self._nonfinite if self._finite >= WINDOW else None]
            self._finite = 0
        is_calm = not self._followers and self._finite >= WINDOW and all(rule.is_calm for rule in self._rules)
        self.low, self.high = self._calm if is_calm else _NOTHING
        return [self._alert(alert, value, step) for alert in begun if alert]

    def _alert(self, alert: Alert, value: float, step: int) -> RunAlert:
        return RunAlert(
            alert.name,
            alert.severity,
            self._metric,
            self._labels,
            value,
            alert.condition.bound,
            step,
            " ".join(alert.told(alert.meaning).split()),
            " ".join(alert.told(alert.action).split()),
        )


class _Rule:
    """One rule for one series, and how it stands."""

    def __init__(self, ladder: Ladder, unless: Sequence[_Excuse]) -> None:
        self.ladder = ladder
        self._unless = unless
        self._levels: deque[int] = deque(maxlen=WINDOW)
        self._told = 0

    @property
    def is_calm(self) -> bool:
        """Whether the last updates were all within the bounds."""
        return len(self._levels) == WINDOW and not any(self._levels)

    def add(self, value: float, logged: int) -> Alert | None:
        """The severity that begins with this value, if one does."""
        level = self.ladder.level(value)
        self._levels.append(level)
        if self.is_calm:
            self._told = 0
        if level <= self._told or logged - len(self._levels) < self.ladder.alerts[0].warm_up - 1:
            return None
        lasts = min(lasting(tuple(self._levels)), level)
        if lasts <= self._told or (self._unless and all(other.holds for other in self._unless)):
            return None
        self._told = lasts
        return self.ladder.alerts[lasts - 1]


class _Excuse:
    """Whether a metric's highest value, or how far it has fallen below that, excuses a rule (``Alert.unless``)."""

    def __init__(self, condition: Condition) -> None:
        self.metric = condition.metric
        self._condition = condition
        self._values: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, value: float) -> None:
        """Take in one more value."""
        if math.isfinite(value):
            self._values.append(value)

    @property
    def holds(self) -> bool:
        """Whether it does."""
        highest = max(self._values, default=0.0)
        if not self._condition.against:
            return self._condition.holds(highest)
        recent = list(self._values)[-WINDOW:]
        return highest > 0 and self._condition.holds(statistics.median(recent) / highest - 1)


def _is_judged(alert: Alert) -> bool:
    """Whether a script can judge an alert by itself: by its threshold, and by the highest values of its excuses."""
    can_excuse = all("highest" in (other.against, other.value) for other in alert.unless)
    return can_excuse and not (alert.also or alert.without)


_REMEMBERED = 2000
"""Of how many updates the highest is known: what was longer ago excuses nothing."""

_NOTHING = math.inf, -math.inf
"""Bounds between which no value is."""


def _within(conditions: Iterable[Condition]) -> tuple[float, float]:
    """The finite values that are beyond no bound."""
    low, high = -sys.float_info.max, sys.float_info.max
    for condition in conditions:
        if condition.above is not None:
            high = min(high, condition.above)
            low = max(low, -condition.above) if condition.absolute else low
        else:
            low = max(low, condition.bound)
    return low, high


def _number(value: Any) -> float | None:
    """A value as the journal has it; None where it is no number."""
    if type(value) is float:
        return value
    number = sort_values({"": value}).metrics.get("")
    return None if number is None else float(number)
