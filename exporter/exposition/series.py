"""Which native key of a run owns which series, within a budget: nothing is merged or dropped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from exporter.catalog import Metric, Namer, SeriesName
from exporter.exposition.formats import series_prefix
from exporter.records import Labels

__all__ = ["MAX_SERIES_PER_RUN", "Budget", "Refusal", "RunSeries", "Series"]

MAX_SERIES_PER_RUN = 2000
_REMEMBERED_REFUSALS = 1000
_MAX_KEYS = 10 * MAX_SERIES_PER_RUN


class Budget:
    """How many series a page may have over all runs."""

    def __init__(self, limit: int = 200_000) -> None:
        self.limit = limit
        self.used = 0

    def take(self) -> bool:
        """Use one series, if one is left."""
        if self.used >= self.limit:
            return False
        self.used += 1
        return True


class Series(NamedTuple):
    """A claimed series: its name, and the bytes that stand before each of its values."""

    name: SeriesName
    prefix: bytes


class Refusal(NamedTuple):
    """A native key that has no series: reason is collision, run_budget or page_budget."""

    key: str
    reason: str
    owner: str
    """The native key that has the series: another one in a collision."""


class RunSeries:
    """The series of one journal.

    The first native key that means a series owns it until the run is started anew; a second key with
    the same meaning is refused and counted, because two values at one time cannot both be right.
    """

    def __init__(self, namer: Namer, budget: Budget, labels: Labels = ()) -> None:
        self._namer = namer
        self._budget = budget
        self._labels = labels
        self._by_key: dict[tuple[int, str], Series | None] = {}
        self._keys: Counter[int] = Counter()
        self._owners: dict[tuple[int, bytes], str] = {}
        self._taken: set[bytes] = set()
        self.refused: Counter[str] = Counter()
        self.refusals: list[Refusal] = []

    @property
    def labels(self) -> Labels:
        """Labels of every series of the run."""
        return self._labels

    def relabel(self, labels: Mapping[str, str]) -> None:
        """Set the run's labels; a journal's first line normally does, before any series is claimed."""
        fresh = tuple(sorted(labels.items()))
        if fresh == self._labels:
            return
        self._labels = fresh
        for place, series in self._by_key.items():
            if series:
                self._by_key[place] = Series(series.name, self.prefix(series.name))

    def prefix(self, name: SeriesName) -> bytes:
        """The bytes before the values of a series of this run."""
        return series_prefix(name.family.name, tuple(sorted(self._labels + name.labels)))

    def own(self, metric: Metric) -> Series:
        """A series that the exporter makes itself, beside those of native keys."""
        name = SeriesName(metric.family, (), 1.0, metric)
        return Series(name, self.prefix(name))

    def get(self, attempt: int, key: str) -> Series | None:
        """The series a key owns in an attempt, claimed at the first call; None where it was refused."""
        place = (attempt, key)
        if place not in self._by_key:
            if self._keys[attempt] >= _MAX_KEYS:
                return None
            self._keys[attempt] += 1
            self._by_key[place] = self._claim(attempt, key)
        return self._by_key[place]

    def release(self) -> None:
        """Give the series back to the page's budget."""
        self._budget.used -= len(self._taken)
        self._taken.clear()

    def _claim(self, attempt: int, key: str) -> Series | None:
        name = self._namer.resolve(key)
        identity = series_prefix(name.family.name, name.labels)
        owner = self._owners.setdefault((attempt, identity), key)
        reason = "collision" if owner != key else self._take(identity)
        if reason:
            self._refuse(Refusal(key, reason, owner))
            return None
        return Series(name, self.prefix(name))

    def _take(self, identity: bytes) -> str:
        """Use the budgets for one more series; returns the reason if that cannot be."""
        if identity in self._taken:
            return ""
        if len(self._taken) >= MAX_SERIES_PER_RUN:
            return "run_budget"
        if not self._budget.take():
            return "page_budget"
        self._taken.add(identity)
        return ""

    def _refuse(self, refusal: Refusal) -> None:
        self.refused[refusal.reason] += 1
        if len(self.refusals) < _REMEMBERED_REFUSALS:
            self.refusals.append(refusal)
