"""Alert rules and their runbook, from the catalog.

Every step is stored, so a rule sees all updates of its window: the median decides, and one bad update
among good ones does not page. Where updates are rarer than the window, the last one decides.
"""

from __future__ import annotations

from typing import Any

import yaml

from exporter.catalog import Alert, Catalog, Metric
from exporter.generate.text import GENERATED, wrap

__all__ = ["RUNBOOK_URL", "alert_rules", "condition", "runbook"]

RUNBOOK_URL = "https://github.com/telemetry-exporter/telemetry-exporter/blob/main/alerts/RUNBOOK.md"

_RUNNING = 'run_status{status="running"} == 1'


def alert_rules(catalog: Catalog) -> str:
    """The rule file, one group per catalog group."""
    groups = []
    for name in catalog.groups:
        metrics = [metric for metric in catalog.metrics.values() if metric.group == name]
        rules = [_rule(metric, alert) for metric in metrics for alert in metric.alerts]
        if rules:
            groups.append({"name": name, "rules": rules})
    return f"# {GENERATED}\n" + yaml.safe_dump({"groups": groups}, sort_keys=False, width=1000)


def runbook(catalog: Catalog) -> str:
    """What each alert means and what to do, as the page that ``runbook_url`` points to."""
    by_name: dict[str, list[tuple[Metric, Alert]]] = {}
    for metric in catalog.metrics.values():
        for alert in metric.alerts:
            by_name.setdefault(alert.name, []).append((metric, alert))
    sections = [_section(name, entries) for name, entries in by_name.items()]
    return f"<!-- {GENERATED} -->\n\n# What to do when an alert fires\n\n" + "\n".join(sections)


def condition(metric: Metric, alert: Alert) -> str:
    """The PromQL condition, without the gate on the run's status."""
    matchers = ", ".join(f'{label}=~"{pattern}"' for label, pattern in alert.where.items())
    selector = f"{metric.sample_name}{{{matchers}}}" if matchers else metric.sample_name
    if alert.increased:
        return f"increase({selector}[{metric.window}]) > 0"
    median = (
        f"(quantile_over_time(0.5, {selector}[{metric.window}]) or last_over_time({selector}[{metric.sparse_window}]))"
    )
    if alert.above is not None:
        return _between(median, ">", alert.above, "<=", alert.up_to)
    return _between(median, "<", alert.below, ">=", alert.down_to)


def _between(value: str, beyond: str, bound: float | None, within: str, limit: float | None) -> str:
    text = f"{value} {beyond} {bound:g}"
    return text if limit is None else f"({text}) {within} {limit:g}"


def _rule(metric: Metric, alert: Alert) -> dict[str, Any]:
    expression = f"{condition(metric, alert)} and on (run_id) {_RUNNING}"
    if alert.warm_up:
        expression += (
            f" and on (run_id) last_over_time(training_steps_total[{metric.sparse_window}]) >= {alert.warm_up}"
        )
    return {
        "alert": alert.name,
        "expr": expression,
        "labels": {"severity": alert.severity},
        "annotations": {
            "summary": alert.summary,
            "description": alert.meaning,
            "action": alert.action,
            "watches": metric.sample_name,
            "runbook_url": f"{RUNBOOK_URL}#{alert.name.lower()}",
        },
    }


def _section(name: str, entries: list[tuple[Metric, Alert]]) -> str:
    parts = [f"## {name}\n"]
    for metric, alert in entries:
        parts.append(
            f"### {name}, {alert.severity}\n\n"
            f"Watches `{metric.sample_name}`: {wrap(metric.help)}\n\n"
            f"Condition, while the run is running{_warm_up(alert)}:\n\n"
            f"```promql\n{condition(metric, alert)}\n```\n\n"
            f"**Means.** {wrap(alert.meaning)}\n\n**What to do.** {wrap(alert.action)}\n"
        )
    return "\n".join(parts)


def _warm_up(alert: Alert) -> str:
    return f" and has logged {alert.warm_up} steps" if alert.warm_up else ""
