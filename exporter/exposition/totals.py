"""What a run has worked off so far, made of the numbers that trainers log: tokens, samples, environment steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator

from exporter.exposition.series import Series
from exporter.records import Family, Labels, Sample, Step

__all__ = ["Total", "Totals"]


class Total:
    """A counter that never falls.

    Fed with the number of each step, it adds them up. Fed with a number that a trainer counts itself, it adds what
    that grows by: where the trainer goes back, to a checkpoint or to 0, nothing is taken away, and what is worked off
    a second time counts again.
    """

    def __init__(self, family: Family, labels: Labels, *, per_step: bool) -> None:
        self.value = 0.0
        self._family = family
        self._labels = labels
        self._per_step = per_step
        self._last = 0.0

    def add(self, number: float) -> None:
        """Take in what was logged; NaN, infinities and negative numbers count nothing."""
        if not math.isfinite(number):
            return
        last, self._last = 0.0 if self._per_step else self._last, number
        self.value += max(number - last, 0.0)

    def sample(self, labels: Labels, time_ms: int | None) -> Sample:
        """Its series; ``labels`` are the run's."""
        return Sample(self._family, (*labels, *self._labels), self.value, time_ms=time_ms)


class Totals:
    """All such counters of a run, as they stand behind one of its steps."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[str, Labels], Total] = {}

    def add(self, step: Step, counts: Iterable[tuple[str, Series]]) -> list[Total]:
        """Take in a step, given which of its keys count what; returns the counters that it has."""
        counted = []
        for key, series in counts:
            total = self._of(series)
            total.add(float(step.metrics[key]) * series.name.scale)
            counted.append(total)
        return counted

    def samples(self, labels: Labels, time_ms: int | None) -> Iterator[Sample]:
        """Their series; ``labels`` are the run's."""
        for total in self._by_place.values():
            yield total.sample(labels, time_ms)

    def copy(self) -> Totals:
        """The same, to go on from here."""
        return copy.deepcopy(self)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_place)

    def _of(self, series: Series) -> Total:
        family, labels, _, _, per_step = series.name
        return self._by_place.setdefault((family.name, labels), Total(family, labels, per_step=per_step))
