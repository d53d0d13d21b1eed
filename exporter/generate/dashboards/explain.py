"""What a panel says about its metric: title, unit, meaning, bounds, and what is missing when it is empty."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.catalog import Alert, Catalog, Metric
from exporter.generate.alerts.rules import filled
from exporter.generate.dashboards.sdk import Graph, common, common_model, dashboard, model
from exporter.generate.text import wrap

__all__ = ["COLOURS", "described", "description", "no_value", "scaled", "title", "unit"]

COLOURS = {
    "good": "#0072B2",
    "healthy": "#009E73",
    "info": "#56B4E9",
    "warning": "#E69F00",
    "critical": "#D55E00",
    "neutral": "#999999",
}
"""Those of Okabe and Ito, which are told apart with any kind of colour vision; red and green are not."""

_UNITS = {
    "_bytes_per_second": "Bps",
    "_bytes": "bytes",
    "_timestamp_seconds": "dateTimeAsIso",
    "_seconds": "s",
    "_ratio": "percentunit",
}
# Times the highest bound: a single KL of 100 would flatten all other steps, so it leaves the panel instead.
# (On a logarithmic axis it could stay, but Grafana's does not reach to a bound that no value is near.)
_TALLEST = 10


def title(metric: Metric) -> str:
    """The catalog's title, or the metric's name in words."""
    if metric.panel:
        return metric.panel.title
    words = metric.name.partition("_")[2].removesuffix(next(filter(metric.name.endswith, _UNITS), ""))
    return words.replace("_", " ").capitalize()


def unit(metric: Metric) -> str:
    """Grafana's unit id: the catalog's, or what the name ends with."""
    if metric.panel:
        return metric.panel.unit
    return next((name for suffix, name in _UNITS.items() if metric.name.endswith(suffix)), "short")


def described(panel: Graph, metric: Metric, catalog: Catalog) -> Graph:
    """Let a panel say what its metric is."""
    return panel.description(description(metric, catalog))


def description(metric: Metric, catalog: Catalog) -> str:
    """What the metric means, its healthy range, and what each alert means and asks for, as Markdown."""
    parts = [wrap(metric.help)]
    if metric.healthy:
        parts.append(f"Healthy: {_range(metric, metric.healthy.above, metric.healthy.below)}.")
    for heading, alert in _alerts(metric, catalog):
        parts.append(f"**{heading}.** {filled(alert.meaning, alert, catalog)} *{filled(alert.action, alert, catalog)}*")
    return "\n\n".join(parts)


def no_value(metric: Metric) -> str:
    """What has to be logged for data to appear; the keys of particular trainers are in the reference."""
    keys = [alias.keys[0] for alias in metric.aliases if not alias.framework] or [metric.name]
    timed = f", or time the operation {metric.timing}" if metric.timing else ""
    return f"No {title(metric)} in this time range: log {' or '.join(keys)}{timed}"


def scaled(panel: Graph, metric: Metric) -> Graph:
    """Draw the healthy band and the alerts' bounds, and choose an axis on which they and the values can be read."""
    steps = _thresholds(metric)
    panel.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    drawn: list[float] = [step.value for step in steps if step.value is not None]
    if drawn:
        style = common_model.GraphThresholdsStyleMode.DASHED_AND_AREA
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
        panel.axis_soft_min(min([0.0, *drawn])).axis_soft_max(max(drawn))
    if metric.name.endswith("_per_second"):
        panel.axis_soft_min(0)
    upper = [alert.above for alert in metric.alerts if alert.above is not None]
    if upper and unit(metric) != "percentunit":
        panel.max(_TALLEST * max(upper))
    if unit(metric) == "sci":
        panel.decimals(2)
    return panel


def _thresholds(metric: Metric) -> list[model.Threshold]:
    """Grafana's steps, each with the colour from its value upwards: alerts below, the healthy band, alerts above."""
    below = sorted((alert.below, alert.severity) for alert in metric.alerts if alert.below is not None)
    above = sorted((alert.above, alert.severity) for alert in metric.alerts if alert.above is not None)
    edges = [None, *(bound for bound, _ in below)]
    steps: dict[float | None, str] = dict(zip(edges, [*(name for _, name in below), "transparent"], strict=True))
    healthy = metric.healthy
    if healthy and healthy.above is not None:
        steps[healthy.above] = "healthy"
    if healthy and healthy.above is not None and healthy.below is not None:
        steps[healthy.below] = "transparent"
    steps |= dict(above)
    return [model.Threshold(value=value, color=COLOURS.get(name, name)) for value, name in steps.items()]


def _alerts(metric: Metric, catalog: Catalog) -> Iterator[tuple[str, Alert]]:
    """Those with a bound in the panel, by that; then those that compare the metric with its own past, by name."""
    for alert in metric.alerts:
        yield _condition(metric, alert), alert
    others = [alert for alert in catalog.alerts if alert.condition.metric == metric.name]
    for name in dict.fromkeys(alert.name for alert in others):
        worst = [alert for alert in others if alert.name == name][-1]
        if name not in {alert.name for alert in metric.alerts}:
            yield name, worst


def _condition(metric: Metric, alert: Alert) -> str:
    low = alert.down_to if alert.above is None else alert.above
    high = alert.up_to if alert.below is None else alert.below
    where = "".join(f", {label} {value.replace('|', ' or ')}" for label, value in alert.where.items())
    return f"{alert.severity.capitalize()}: {_range(metric, low, high) or 'any increase'}{where}"


def _range(metric: Metric, above: float | None, below: float | None) -> str:
    form = ".0%" if unit(metric) == "percentunit" else "g"
    bounds = (("above", above), ("below", below))
    return " and ".join(f"{word} {bound:{form}}" for word, bound in bounds if bound is not None)
