"""``telemetry-exporter explain``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import click

from exporter.catalog import Alert, Catalog, Metric, Namer, SeriesName, default_catalog

__all__ = ["explain"]


@click.command()
@click.argument("key")
def explain(key: str) -> None:
    """Say what a native key or a metric means: its series, unit, sign, healthy range and alerts.

    Example: telemetry-exporter explain train/approx_kl
    """
    catalog = default_catalog()
    metric = _by_name(catalog, key)
    if metric:
        click.echo(_describe(metric, catalog, {}))
        return
    name = Namer(catalog).resolve(key)
    click.echo(f"{key} is exported as {_series(name)}")
    if name.metric:
        click.echo(_describe(name.metric, catalog, dict(name.labels)))
    else:
        keys = [alias for metric in catalog.metrics.values() for item in metric.aliases for alias in item.keys]
        similar = difflib.get_close_matches(key, keys, n=3)
        hint = f"; similar keys that it knows: {', '.join(similar)}" if similar else ""
        click.echo(f"The catalog does not know this key, so nothing watches it{hint}.")


def _by_name(catalog: Catalog, name: str) -> Metric | None:
    return catalog.metrics.get(name) or catalog.metrics.get(name.removesuffix("_total"))


def _series(name: SeriesName) -> str:
    labels = ", ".join(f'{label}="{value}"' for label, value in name.labels)
    scale = f", multiplied by {name.scale:g}" if name.scale != 1 else ""
    scale += ", added up over the steps" if name.per_step else ""
    return f"{name.family.sample_name}{{{labels}}}{scale}" if labels else f"{name.family.sample_name}{scale}"


def _describe(metric: Metric, catalog: Catalog, labels: Mapping[str, str]) -> str:
    lines = [f"{metric.sample_name} ({metric.type}): {metric.help}"]
    if metric.healthy:
        bounds = {"above": metric.healthy.above, "below": metric.healthy.below}
        lines.append("healthy: " + " and ".join(f"{side} {b:g}" for side, b in bounds.items() if b is not None))
    for alert in (alert for alert in catalog.alerts if _watches(alert, metric, labels)):
        lines.append(
            f"alert {alert.name} ({alert.severity}): {alert.told(alert.meaning)} What to do: {alert.told(alert.action)}"
        )
    keys = [key for alias in metric.aliases for key in alias.keys]
    if keys:
        lines.append(f"native keys: {', '.join(keys)}")
    return "\n".join(lines)


def _watches(alert: Alert, metric: Metric, labels: Mapping[str, str]) -> bool:
    """Whether an alert is about a metric and the series of it that have these labels."""
    where = ((pattern, labels[label]) for label, pattern in alert.where.items() if label in labels)
    return alert.condition.metric == metric.name and all(re.fullmatch(pattern, value) for pattern, value in where)
