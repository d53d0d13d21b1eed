"""The catalog's decoded form: one frozen object per metric, alias, alert and panel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from exporter.records import Family

__all__ = ["Alert", "Alias", "Catalog", "Group", "Metric", "Panel", "Range"]


@dataclass(frozen=True)
class Group:
    """A set of metrics that share a name prefix; ``prefixes`` are the native ones."""

    title: str
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alias:
    """Native keys of a metric and the transform: canonical value = scale * native value."""

    keys: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    framework: str = ""


@dataclass(frozen=True)
class Range:
    """Healthy values lie above and below these bounds."""

    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Alert:
    """A rule on the median of a metric's recent updates, or on an increase of a counter.

    ``above`` < value <= ``up_to``, or ``below`` > value >= ``down_to``; the second bounds are optional.
    ``warm_up`` is the number of logged steps before the rule applies.
    """

    name: str
    severity: str
    summary: str
    meaning: str
    action: str
    above: float | None = None
    up_to: float | None = None
    below: float | None = None
    down_to: float | None = None
    increased: bool = False
    warm_up: int = 0
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """How a dashboard shows the metric; ``unit`` is Grafana's unit id."""

    title: str
    unit: str = "short"


@dataclass(frozen=True)
class Metric:
    """One metric: counters and histograms are named without their type's suffix."""

    name: str
    type: str
    group: str
    help: str
    labels: tuple[str, ...] = ()
    aliases: tuple[Alias, ...] = ()
    derived: bool = False
    timing: str = ""
    headline: str = ""
    healthy: Range | None = None
    window: str = "1m"
    sparse_window: str = "15m"
    alerts: tuple[Alert, ...] = ()
    panel: Panel | None = None

    @cached_property
    def family(self) -> Family:
        """The exposition's view of the metric."""
        return Family(self.name, self.type, self.help)

    @property
    def sample_name(self) -> str:
        """Name of the metric's main series."""
        return self.family.sample_name


@dataclass(frozen=True)
class Catalog:
    """All metrics by canonical name."""

    groups: Mapping[str, Group]
    metrics: Mapping[str, Metric]

    def family(self, name: str) -> Family:
        """The family of a metric that the package itself names; a KeyError is a bug."""
        return self.metrics[name].family
