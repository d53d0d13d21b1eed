"""The metric reference, from the catalog."""

from __future__ import annotations

from exporter.catalog import Alert, Catalog, Metric
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
            *(_row(metric) for metric in catalog.metrics.values() if metric.group == name),
            "",
        ]
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    keys = ", ".join(f"`{key}`{_scale(alias.scale)}" for alias in metric.aliases for key in alias.keys)
    alerts = ", ".join(_alert(alert) for alert in metric.alerts)
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{metric.sample_name}`", metric.type, labels, wrap(metric.help), keys, alerts)
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _scale(scale: float) -> str:
    return "" if scale == 1 else f" (× {scale:g})"


def _alert(alert: Alert) -> str:
    bounds = {">": alert.above, "≤": alert.up_to, "<": alert.below, "≥": alert.down_to}
    text = " ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
    return f"{alert.severity}: {text or 'any increase'}"
