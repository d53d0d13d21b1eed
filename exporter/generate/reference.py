"""The metric reference, from the catalog."""

from __future__ import annotations

from exporter.catalog import Alias, Catalog, Metric
from exporter.generate.text import GENERATED, wrap

__all__ = ["metric_reference"]


def metric_reference(catalog: Catalog) -> str:
    """One table per group: name, type, labels, meaning, native keys, alerts."""
    parts = [f"<!-- {GENERATED} -->\n", "# Metrics\n"]
    for name, group in catalog.groups.items():
        parts += [
            f"## {group.title}\n",
            "| metric | type | labels | meaning | native keys | alerts |",
            "|---|---|---|---|---|---|",
            *(_row(metric, catalog) for metric in catalog.metrics.values() if metric.group == name),
            "",
        ]
    return "\n".join(parts)


def _row(metric: Metric, catalog: Catalog) -> str:
    keys = ", ".join(
        f"`{key}`{_scale(alias.scale)}{_per_step(alias)}" for alias in metric.aliases for key in alias.keys
    )
    names = dict.fromkeys(alert.name for alert in catalog.alerts if alert.condition.metric == metric.name)
    alerts = ", ".join(f"[{name}](../alerts/RUNBOOK.md#{name.lower()})" for name in names)
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{metric.sample_name}`", metric.type, labels, wrap(metric.help), keys, alerts)
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _per_step(alias: Alias) -> str:
    return " (per step, added up)" if alias.per_step else ""


def _scale(scale: float) -> str:
    return "" if scale == 1 else f" (× {scale:g})"
