"""The catalog's decoded form: one frozen object per metric, alias, alert and panel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from exporter.records import Family

__all__ = ["Alert", "Alias", "Catalog", "Condition", "Group", "Metric", "Panel", "Range", "Runs"]

_BOUND = re.compile(r"\{bound(?::([^}]*))?\}")

Runs = Mapping[str, str]
"""Which runs: regular expressions, that match whole values, by label (``run_id``, ``user_id``, ``rank`` or a tag)."""


@dataclass(frozen=True)
class Group:
    """A set of metrics that share a name prefix; ``prefixes`` are the native ones."""

    title: str
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alias:
    """Native keys of a metric and the transform: canonical value = scale * native value.

    ``per_step`` is for counters: each value is that of one step alone, and a reader adds them up.
    """

    keys: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    framework: str = ""
    per_step: bool = False


@dataclass(frozen=True)
class Range:
    """Healthy values lie above and below these bounds."""

    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Condition:
    """A number made of a metric's recent updates, and the bounds beyond which it is bad.

    Bad is ``above`` < number <= ``up_to``, or ``below`` > number >= ``down_to``; the second bounds are optional.
    Where a run was restarted, no window counts that reaches back before that.
    """

    metric: str = ""
    expression: str = ""
    """PromQL instead of a metric, for what no single metric tells; nothing offline can evaluate it."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Which series of the metric, as regular expressions by label."""
    value: str = "median"
    """Made of the updates in the window:

    - ``median``: bad is what stays bad. The window is the shortest of ``window``, a third of ``sparse_window`` and
      ``sparse_window`` that holds three updates; where none does, the last update decides, for four such windows where
      updates are that rare.
    - ``worst``: one bad update of three or more, while their median is within the bounds.
    - ``lowest``, ``highest``: of three updates or more; ``mean``: over the time of the window.
    - ``increase``: of a counter within the window; ``rate``: of a counter or a histogram's sum, per second.
    """
    against: str = ""
    """Compare not the value itself, but

    - ``before``: its change relative to the baseline's mean, lowest value or rate; ``highest``: relative to the
      baseline's highest value. The baseline are the updates of ten windows before the window.
    - ``spread``: its distance from the baseline's mean, in the baseline's standard deviations.
    """
    baseline: str = ""
    """How long the baseline is, where it is not ten windows."""
    lag: str = ""
    """How long ago the baseline ends, where that is not one window: what has become worse is judged against the time
    before for at least so long."""
    least_scale: float = 0.0
    """A change is relative to at least this much, and to at least 1 where the metric was negative. A standard deviation
    counts as at least this share of the mean: a flat series has none of its own."""
    least_updates: int = 3
    """How many updates window and baseline must hold to be compared."""
    rare_window: str = ""
    """A further window to compare, with ten of them before it, for runs whose updates are too rare for the others."""
    rare_updates: int = 3
    """How many updates the baseline before ``rare_window`` must hold."""
    half_full: bool = False
    """The older half of the baseline must hold updates: a run that has only begun is not compared."""
    absolute: bool = False
    """The sign does not count."""
    per: str = ""
    """Divide by this metric, which has the same labels."""
    from_nothing: bool = False
    """A counter that was not there before counts as one that was 0."""
    window: str = ""
    sparse_window: str = ""
    """Both are the metric's own where they are empty."""
    above: float | None = None
    up_to: float | None = None
    below: float | None = None
    down_to: float | None = None

    @property
    def bound(self) -> float:
        """The bound where bad begins."""
        bound = self.above if self.above is not None else self.below
        return 0.0 if bound is None else bound

    def holds(self, number: float) -> bool:
        """Whether a number is beyond the bounds; NaN never is."""
        if self.above is not None:
            return number > self.above and (self.up_to is None or number <= self.up_to)
        return self.below is not None and number < self.below and (self.down_to is None or number >= self.down_to)


@dataclass(frozen=True)
class Alert:
    """One severity of an alert rule: when it fires, what it says, and which runs it is about."""

    name: str
    severity: str
    summary: str
    meaning: str
    action: str
    condition: Condition
    source: str = ""
    """Where the bound comes from."""
    watches: str = ""
    """The series that an expression is about."""
    about: str = "run"
    """What it is about:

    - ``run``: a run while it is running, each rank by itself; ``any run``, running or not.
    - ``rank`` of a running run, by series on which rank 0 is named, too.
    - ``gpu`` of a running run; ``host`` of one; ``exporter``.
    """
    group: str = ""
    also: tuple[Condition, ...] = ()
    """More conditions that must hold for the run; where there is ``hold``, only when it begins to fire."""
    unless: tuple[Condition, ...] = ()
    """Conditions of which one at least must not hold for the run."""
    without: tuple[str, ...] = ()
    """Metrics whose presence says that the rule is not for this run."""
    warm_up: int = 0
    """Logged steps before the rule applies; the updates of its window must be later ones."""
    lasting: str = ""
    """How long it must be true before it fires."""
    interval: str = ""
    """How often it is evaluated, where that is not as often as the server's configuration says."""
    hold: str = ""
    """Once it fires, a relative change is also judged against the extreme of so long a time, so that it does not end
    just because the baseline follows."""
    drawn: bool = True
    """Whether the bound is a line in the metric's panel."""
    runs: Runs = field(default_factory=dict)
    """Only these runs; empty for all."""
    excluded: tuple[Runs, ...] = ()
    """Runs that are left out."""

    def told(self, text: str) -> str:
        """One of its texts with its bound in place."""
        return _BOUND.sub(lambda match: format(self.condition.bound, match[1] or "g"), text)

    @property
    def above(self) -> float | None:
        """The condition's lower bound of bad; None for the increase of a counter, which is no value of it."""
        return None if self.increased else self.condition.above

    @property
    def up_to(self) -> float | None:
        """Where bad above ``above`` ends."""
        return self.condition.up_to

    @property
    def below(self) -> float | None:
        """The condition's upper bound of bad."""
        return self.condition.below

    @property
    def down_to(self) -> float | None:
        """Where bad below ``below`` ends."""
        return self.condition.down_to

    @property
    def increased(self) -> bool:
        """Whether it is about the increase of a counter."""
        return self.condition.value == "increase"

    @property
    def where(self) -> Mapping[str, str]:
        """Which series of the metric."""
        return self.condition.where


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
    nan_is_normal: bool = False
    """NaN says that the metric is not defined now, and not that something is broken."""
    alerts: tuple[Alert, ...] = ()
    """Those whose bounds are values of the metric itself; all others are the catalog's only."""
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
    """All metrics by canonical name, and all alert rules in the order of their groups."""

    groups: Mapping[str, Group]
    metrics: Mapping[str, Metric]
    alerts: tuple[Alert, ...] = ()
    runbook_url: str = ""
    """Where people read ``alerts/RUNBOOK.md``; empty for alerts without a link to it."""

    def family(self, name: str) -> Family:
        """The family of a metric that the package itself names; a KeyError is a bug."""
        return self.metrics[name].family
