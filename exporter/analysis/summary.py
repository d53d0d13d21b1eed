"""What is in a log: steps, restarts, and each metric with its range and its canonical name."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from exporter.catalog import Namer
from exporter.sources import Bad, Item, Meta, Row, Source, read_all

__all__ = ["summarise"]

_MAX_BAD_LINES = 100


class _Metric:
    """Count, first, last and range of one native key."""

    def __init__(self) -> None:
        self.count = 0
        self.nonfinite = 0
        self.first = self.last = math.nan
        self.low, self.high = math.inf, -math.inf

    def add(self, value: float) -> None:
        if not self.count:
            self.first = value
        self.count += 1
        self.last = value
        if math.isfinite(value):
            self.low, self.high = min(self.low, value), max(self.high, value)
        else:
            self.nonfinite += 1

    def describe(self, canonical: str) -> dict[str, Any]:
        has_range = self.low <= self.high
        return {
            "canonical": canonical,
            "count": self.count,
            "first": self.first,
            "last": self.last,
            "min": self.low if has_range else None,
            "max": self.high if has_range else None,
            "nonfinite": self.nonfinite,
        }


class _Summary:
    def __init__(self) -> None:
        self.records = 0
        self.bad: list[Bad] = []
        self.steps: list[int] = []
        self.config: dict[str, Any] = {}
        self.metrics: dict[str, _Metric] = {}

    def add(self, item: Item) -> None:
        if isinstance(item, Row):
            self.records += 1
            self.steps.append(item.step)
            for key, value in item.metrics.items():
                self.metrics.setdefault(key, _Metric()).add(value)
        elif isinstance(item, Meta):
            self.config.update(item.config)
        elif isinstance(item, Bad):
            self.bad.append(item)

    def describe_steps(self) -> dict[str, Any]:
        steps = self.steps
        restarts = sum(later < earlier for earlier, later in pairwise(steps))
        first, last = (steps[0], steps[-1]) if steps else (None, None)
        return {"first": first, "last": last, "count": len(set(steps)), "restarts": restarts}


def summarise(path: Path, source: Source | None, namer: Namer) -> dict[str, Any]:
    """Read a whole log; ``source`` is None for an empty file, which has nothing in it.

    Raises:
        OSError: the file cannot be read.
    """
    summary = _Summary()
    for item in read_all(source, path) if source else ():
        summary.add(item)
    return {
        "path": str(path),
        "format": source.name if source else None,
        "framework": _framework(summary, namer),
        "records": summary.records,
        "bad_lines": [bad._asdict() for bad in summary.bad[:_MAX_BAD_LINES]],
        "steps": summary.describe_steps(),
        "metrics": {key: metric.describe(_series(namer, key)) for key, metric in summary.metrics.items()},
        "config_keys": len(summary.config),
    }


def _series(namer: Namer, key: str) -> str:
    name = namer.resolve(key)
    labels = ",".join(f'{label}="{value}"' for label, value in name.labels)
    return f"{name.family.name}{{{labels}}}" if labels else name.family.name


def _framework(summary: _Summary, namer: Namer) -> str | None:
    """The framework that most of the keys speak for; None where no key is particular to one."""
    votes = Counter(filter(None, map(namer.framework, summary.metrics)))
    return votes.most_common(1)[0][0] if votes else None
