"""From a native key to a series: by the catalog's aliases, else by its prefix, always a legal name."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from exporter.catalog.model import Alias, Catalog, Metric
from exporter.records import PHASE_PREFIX, Family, Labels

__all__ = ["Namer", "SeriesName", "sanitize"]

_MAX_NAME = 200
_MAX_PHASE = 64
_RESERVED_SUFFIX = re.compile(r"_(total|sum|count|bucket|info|created)$")
_TIMING = re.compile(r"performance_.*_duration_seconds")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ILLEGAL = re.compile(r"[^a-z0-9]+")


class SeriesName(NamedTuple):
    """What a native key means: family, extra labels, and scale (canonical = scale * native)."""

    family: Family
    labels: Labels
    scale: float
    metric: Metric | None
    """The catalog's entry, or None for a key outside the catalog."""
    per_step: bool = False
    """Whether a counter's values are those of single steps."""


class Namer:
    """Resolves native keys with one catalog; the same key always gives the same answer."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        table = _alias_table(catalog)
        self._aliases = {key: name for key, name in table if "*" not in key}
        self._patterns = [(_pattern(key), name) for key, name in table if "*" in key]
        self._frameworks = [
            (_pattern(key.replace(".", "/")), alias.framework)
            for metric in catalog.metrics.values()
            for alias in metric.aliases
            for key in alias.keys
            if alias.framework
        ]
        self._prefixes = {prefix: name for name, group in catalog.groups.items() for prefix in group.prefixes}
        self._timings = {m.timing: m for m in catalog.metrics.values() if m.timing}
        self.resolve = lru_cache(maxsize=65536)(self._resolve)

    def framework(self, key: str) -> str:
        """The framework whose own key this is; empty where several use it, or none is known to."""
        path = key.replace(".", "/")
        return next((name for pattern, name in self._frameworks if pattern.fullmatch(path)), "")

    def timing(self, name: str) -> SeriesName:
        """The histogram of a timed operation."""
        phase = name.removeprefix(PHASE_PREFIX)
        metric = self._timings.get(name if phase == name else PHASE_PREFIX)
        if metric:
            labels = () if phase == name else (("phase", phase[:_MAX_PHASE]),)
            return SeriesName(metric.family, labels, 1.0, metric)
        family = _legal(f"performance_{sanitize(name)}_duration_seconds")
        return SeriesName(Family(family, "histogram", f"Duration of the operation {_quoted(name)}."), (), 1.0, None)

    def _match(self, path: str) -> SeriesName | None:
        return next((name for pattern, name in self._patterns if pattern.fullmatch(path)), None)

    def _resolve(self, key: str) -> SeriesName:
        path = key.replace(".", "/")
        alias = self._aliases.get(path) or self._match(path)
        if alias:
            return alias
        group, _, rest = path.partition("/")
        prefix = self._prefixes.get(group) if rest else None
        name = f"{prefix}_{sanitize(rest)}" if prefix else f"custom_{sanitize(path)}"
        known = self._catalog.metrics.get(name)
        if known and known.type == "gauge" and not known.derived and not known.labels:
            return SeriesName(known.family, (), 1.0, known)
        if known or _TIMING.fullmatch(name):
            name = f"custom_{sanitize(path)}"
        return SeriesName(Family(_legal(name), "gauge", f"Logged as {_quoted(key)}."), (), 1.0, None)


def _pattern(key: str) -> re.Pattern[str]:
    """A key in which * stands for one part of the path."""
    return re.compile("[^/]+".join(map(re.escape, key.split("*"))))


def sanitize(text: str) -> str:
    """Lower snake case in ASCII; what has no such letters becomes ``unnamed``."""
    return _ILLEGAL.sub("_", _CAMEL.sub("_", text).lower()).strip("_") or "unnamed"


def _legal(name: str) -> str:
    """Short enough, and not ending like the samples of another metric type."""
    if len(name) > _MAX_NAME:
        name = f"{name[:_MAX_NAME]}_{zlib.crc32(name.encode()):08x}"
    return f"{name}_value" if _RESERVED_SUFFIX.search(name) else name


def _quoted(key: str) -> str:
    return repr(key if len(key) <= _MAX_NAME else f"{key[:_MAX_NAME]}...")


def _series_name(metric: Metric, alias: Alias) -> SeriesName:
    return SeriesName(metric.family, tuple(sorted(alias.labels.items())), alias.scale, metric, alias.per_step)


def _alias_table(catalog: Catalog) -> list[tuple[str, SeriesName]]:
    return [
        (key.replace(".", "/"), _series_name(metric, alias))
        for metric in catalog.metrics.values()
        for alias in metric.aliases
        for key in alias.keys
    ] + [
        (metric.name, SeriesName(metric.family, (), 1.0, metric))
        for metric in catalog.metrics.values()
        if metric.type == "gauge" and not metric.derived and not metric.labels and metric.panel
    ]
