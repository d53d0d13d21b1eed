"""What a run has worked off so far, made of the numbers that trainers log: tokens, samples, environment steps."""

from __future__ import annotations

import math

from exporter.records import Family, Labels, Sample

__all__ = ["Total"]


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
