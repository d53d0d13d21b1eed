"""A cumulative histogram of durations with fixed buckets, so that processes and runs can be added up."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from exporter.records import Family, Labels, Sample

__all__ = ["BUCKETS", "Histogram"]

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds in seconds: from a small optimizer step to a long generation phase."""


class Histogram:
    """Counts of durations."""

    def __init__(self, family: Family, labels: Labels = ()) -> None:
        self.family = family
        self.labels = labels
        self._counts = [0] * (len(BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; NaN, infinities and negative ones have no place in a growing sum and are left out."""
        if not 0 <= seconds < math.inf:
            return
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def samples(self, labels: Labels, time_ms: int | None) -> Iterator[Sample]:
        """The bucket, count and sum series; ``labels`` are the run's."""
        labels = (*labels, *self.labels)
        totals = list(accumulate(self._counts))
        for bound, total in zip((*map(repr, BUCKETS), "+Inf"), totals, strict=True):
            yield Sample(self.family, (*labels, ("le", bound)), total, "_bucket", time_ms)
        yield Sample(self.family, labels, totals[-1], "_count", time_ms)
        yield Sample(self.family, labels, self._sum, "_sum", time_ms)
