"""Windows of time as Prometheus writes them: which ones a rule looks at."""

from __future__ import annotations

from typing import NamedTuple

from exporter.catalog.model import Catalog, Condition

__all__ = ["Baseline", "baselines", "fraction", "seconds", "total", "windows"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def windows(condition: Condition, catalog: Catalog) -> list[str]:
    """The window, a third of the sparse one, and the sparse one, as far as each is longer than the one before."""
    metric = catalog.metrics.get(condition.metric)
    window = condition.window or (metric.window if metric else "1m")
    sparse = condition.sparse_window or (metric.sparse_window if metric else "15m")
    if condition.value in ("increase", "rate", "mean"):
        return [window]
    spans = [seconds(window)]
    spans += [span for span in (seconds(sparse) // 3, seconds(sparse)) if span > spans[0]]
    return [_duration(span) for span in spans]


class Baseline(NamedTuple):
    """The time that a window is compared with."""

    span: str
    """The window's length."""
    length: str
    lag: str
    """How long ago it ends."""


def baselines(condition: Condition, catalog: Catalog) -> list[Baseline]:
    """The first window and the last, each with the baseline before it."""
    first, *longer = windows(condition, catalog)
    baseline = Baseline(first, condition.baseline or _times_ten(first), condition.lag or first)
    last = [Baseline(span, _times_ten(span), max(span, baseline.lag, key=seconds)) for span in longer[-1:]]
    return [baseline, *last]


def fraction(span: str, parts: int) -> str:
    """A part of a span, at least a second."""
    return _duration(max(seconds(span) // parts, 1))


def total(*spans: str) -> str:
    """Spans one after the other."""
    return _duration(sum(map(seconds, spans)))


def seconds(text: str) -> int:
    """The length of a span in seconds."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def _times_ten(span: str) -> str:
    return _duration(10 * seconds(span))


def _duration(length: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if length % _SECONDS[unit] == 0)
    return f"{length // _SECONDS[unit]}{unit}"
