"""The page that ``runbook_url`` points to: when each alert fires, what it means, and what to do."""

from __future__ import annotations

from exporter.catalog import Alert, Catalog, Condition
from exporter.generate.alerts.promql import condition
from exporter.generate.alerts.rules import filled, said_runs, watched
from exporter.generate.text import GENERATED, wrap

__all__ = ["runbook"]

_ABOUT = {
    "run": "while the run is running",
    "rank": "for a rank of a running run",
    "any run": "whether the run is running or not",
    "gpu": "for a GPU of a running run",
    "host": "while a run is running on the host",
    "exporter": "at any time",
}
_VALUES = {
    "median": "The median of the recent updates",
    "worst": "One recent update, unlike most of the others,",
    "lowest": "The lowest of the recent updates",
    "highest": "The highest of the recent updates",
    "mean": "The mean over the window",
    "increase": "The increase of the counter",
    "rate": "The rate per second",
}
_AGAINST = {"before": "against the time before", "highest": "against the highest of the time before"}


def runbook(catalog: Catalog) -> str:
    """One section an alert, in it one a severity."""
    by_name: dict[str, list[Alert]] = {}
    for alert in catalog.alerts:
        by_name.setdefault(alert.name, []).append(alert)
    sections = [_section(name, alerts, catalog) for name, alerts in by_name.items()]
    return f"<!-- {GENERATED} -->\n\n# What to do when an alert fires\n\n" + "\n".join(sections)


def _section(name: str, alerts: list[Alert], catalog: Catalog) -> str:
    parts = [f"## {name}\n", f"{_watches(alerts[0], catalog)}\n"]
    parts += [_severity(alert, catalog) for alert in alerts]
    source = wrap(alerts[0].source)
    return "\n".join([*parts, *([f"**Source.** {source}\n"] if source else [])])


def _watches(alert: Alert, catalog: Catalog) -> str:
    metric = catalog.metrics.get(alert.condition.metric)
    return f"Watches `{watched(alert, catalog)}`" + (f": {wrap(metric.help)}" if metric else ".")


def _severity(alert: Alert, catalog: Catalog) -> str:
    return (
        f"### {alert.name}, {alert.severity}{_runs(alert)}\n\n"
        f"**Fires when.** {_fires(alert.condition)}, {_ABOUT[alert.about]}{_warm_up(alert)}.\n\n"
        f"**Means.** {filled(alert.meaning, alert, catalog)}\n\n"
        f"**What to do.** {filled(alert.action, alert, catalog)}\n\n"
        f"<details><summary>Condition</summary>\n\n```promql\n{condition(alert, catalog)}\n```\n\n</details>\n"
    )


def _fires(condition: Condition) -> str:
    """The condition in words."""
    value = _VALUES[condition.value] if condition.metric else "The expression"
    ratio = f" divided by `{condition.per}`" if condition.per else ""
    sign = " without its sign" if condition.absolute else ""
    if condition.against == "spread":
        side = "above" if condition.above is not None else "below"
        return f"{value} lies {abs(condition.bound):g} standard deviations {side} the mean of the time before"
    if condition.against:
        value = f"The change of {value[0].lower()}{value[1:].rstrip(',')} {_AGAINST[condition.against]}"
    form = ".0%" if condition.against else "g"
    side, within, limit = "above", "at most", condition.up_to
    if condition.above is None:
        side, within, limit = "below", "at least", condition.down_to
    end = "" if limit is None else f" and {within} {limit:{form}}"
    return f"{value}{ratio}{sign} is {side} {condition.bound:{form}}{end}"


def _warm_up(alert: Alert) -> str:
    steps = f" and has logged {alert.warm_up} steps" if alert.warm_up else ""
    return steps + (f", for {alert.lasting}" if alert.lasting else "")


def _runs(alert: Alert) -> str:
    return f" (runs with {said_runs(alert)})" if alert.runs else ""
