"""Windows of time as Prometheus writes them: which ones a rule looks at."""

from __future__ import annotations

from typing import NamedTuple

from exporter.catalog.model import Catalog, Condition

__all__ = ["RARE", "Baseline", "baselines", "fraction", "known", "seconds", "total", "windows"]

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


RARE = 5
"""Where updates are rarer than the last window is long, four of these hold at most so many."""


def known(condition: Condition, catalog: Catalog) -> str:
    """How long the last update counts where updates are rarer than the last window is long."""
    return _times(4, windows(condition, catalog)[-1])


class Baseline(NamedTuple):
    """The time that a window is compared with."""

    span: str
    """The window's length."""
    length: str
    lag: str
    """How long ago it ends."""
    least_updates: int
    """How many updates it must hold."""


def baselines(condition: Condition, catalog: Catalog) -> list[Baseline]:
    """The first window, the last, and the one for rare updates, each with the baseline before it."""
    first, *longer = windows(condition, catalog)
    lag, least = condition.lag or first, condition.least_updates
    spans = [(span, least) for span in longer[-1:]]
    if condition.rare_window:
        spans.append((condition.rare_window, condition.rare_updates))
    return [
        Baseline(first, condition.baseline or _times(10, first), lag, least),
        *(Baseline(span, _times(10, span), max(span, lag, key=seconds), updates) for span, updates in spans),
    ]


def fraction(span: str, parts: int) -> str:
    """A part of a span, at least a second."""
    return _duration(max(seconds(span) // parts, 1))


def total(*spans: str) -> str:
    """Spans one after the other."""
    return _duration(sum(map(seconds, spans)))


def seconds(text: str) -> int:
    """The length of a span in seconds."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def _times(factor: int, span: str) -> str:
    return _duration(factor * seconds(span))


def _duration(length: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if length % _SECONDS[unit] == 0)
    return f"{length // _SECONDS[unit]}{unit}"
