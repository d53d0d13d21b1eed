"""Smoothed curves from raw samples with numpy, by the definitions in exporter/generate/dashboards/smoothing.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Samples = Mapping[int, float]
"""Values by time in milliseconds."""

Points = dict[int, float]
"""Values by the end of a pixel in milliseconds."""


class View(NamedTuple):
    """A time range and its pixels (ms), and whether the server counts both ends of a window, as Prometheus 2 does."""

    begin: int
    end: int
    pixel: int
    range_seconds: float
    is_closed: bool

    def inside(self, points: Points) -> Points:
        """The points in the range."""
        return {time: value for time, value in points.items() if self.begin <= time <= self.end}


def pixels(samples: Samples, view: View) -> Points:
    """The mean of the steps in each pixel that has any, also beside the range: a window may reach there."""
    groups: dict[int, list[float]] = {}
    for time, value in samples.items():
        end = math.ceil(time / view.pixel) * view.pixel
        groups.setdefault(end, []).append(value)
        if view.is_closed and end == time:
            groups.setdefault(end + view.pixel, []).append(value)
    return {end: float(np.mean(values)) for end, values in sorted(groups.items())}


def smoothed(samples: Samples, view: View, method: str, width: float) -> Points:
    """A curve's points, where it was logged; the width is in seconds."""
    raw = pixels(samples, view)
    finite = {time: value for time, value in raw.items() if math.isfinite(value)}
    width *= 1000
    if method == "sma":
        smooth = _mean(finite, list(raw), width)
    elif method == "ema":
        smooth = _ema(finite, list(raw), width, 1000 * view.range_seconds)
    elif method == "gaussian" and width >= 4 * view.pixel:
        smooth = _gaussian(finite, view, width)
    else:
        smooth = raw
    return view.inside({time: smooth[time] for time in raw if time in smooth})


def _windows(points: Points, places: Sequence[int], width: float, delay: float) -> Iterator[tuple[int, slice]]:
    """For each place t the points in (t - delay - width, t - delay], where there are any."""
    times = np.array(list(points))
    ends = np.array(places) - delay
    first = np.searchsorted(times, ends - width, side="right")
    last = np.searchsorted(times, ends, side="right")
    yield from ((t, slice(a, b)) for t, a, b in zip(places, first, last, strict=True) if b > a)


def _mean(points: Points, places: Sequence[int], width: float, delay: float = 0.0) -> Points:
    values = np.array(list(points.values()))
    return {t: float(values[window].mean()) for t, window in _windows(points, places, width, delay)}


def _ema(points: Points, places: Sequence[int], width: float, span: float) -> Points:
    """Weights fall by e in half a width, or in 1/500 of the range where that is longer, and end after five widths."""
    tau = max(width / 2, span / 500)
    times, values = np.array(list(points)), np.array(list(points.values()))
    result = {}
    for t, window in _windows(points, places, 5 * width, 0.0):
        weights = np.exp((times[window] - t) / tau)
        result[t] = float((weights * values[window]).sum() / weights.sum())
    return result


def _gaussian(points: Points, view: View, width: float) -> Points:
    """Four means of half the width, together moved by the width less two pixels."""
    reach = math.ceil(2 * width / view.pixel) * view.pixel
    places = range(min(points) - reach, max(points) + reach + 1, view.pixel)
    for delay in (0.0, view.pixel, view.pixel, -width):
        points = _mean(points, places, width / 2, delay)
    return points
