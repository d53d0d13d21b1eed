"""Panels of metrics that a run logs.

A gauge is drawn as its mean over the steps in a pixel and, thin and grey, their extremes. Nothing of a run is hidden by
that, however fast it steps, and where a step has a pixel of its own, the three lines are one.
"""

from __future__ import annotations

from collections.abc import Iterable

from exporter.catalog import Catalog, Metric
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.explain import described, no_value, scaled, title, unit
from exporter.generate.dashboards.panels import FAINT, Line, graph, override
from exporter.generate.dashboards.sdk import timeseries

__all__ = ["DASHED", "RATE", "legend", "quantile_lines", "run_panel"]

RATE = "15s"
"""Grafana's rate interval is at least four of these: one minute, the window of the alerts."""

DASHED = override(custom__lineStyle={"fill": "dash", "dash": [6, 4]})


def run_panel(metric: Metric, catalog: Catalog) -> timeseries.Panel:
    """A gauge's steps, a counter's rate, or a histogram's quantiles."""
    kinds = {"gauge": _gauge, "counter": _counter, "histogram": _histogram}
    panel = described(kinds[metric.type](metric), metric, catalog)
    return scaled(panel, metric).no_value(no_value(metric))


def quantile_lines(metric: Metric) -> list[Line]:
    """Median and 99th percentile of a histogram, also where it is rarely observed."""
    return [
        Line(f"{name}{suffix}", query(metric, share, metric.labels), legend(metric.labels, name))
        for name, share in (("p50", 0.5), ("p99", 0.99))
        for suffix, query in (("", promql.quantile), ("sparse", promql.sparse_quantile))
    ]


def legend(labels: Iterable[str] = (), *words: str) -> str:
    """The name of a curve: its run, these labels and words."""
    return " ".join(["{{run_id}}", *("{{" + label + "}}" for label in labels), *words])


def _gauge(metric: Metric) -> timeseries.Panel:
    name, labels = metric.sample_name, metric.labels
    lines = [
        Line("mean", promql.mean(name, labels), legend(labels)),
        Line("highest", promql.highest(name, labels), legend(labels)),
        Line("lowest", promql.lowest(name, labels), legend(labels)),
    ]
    panel = graph(title(metric), lines, unit(metric))
    return panel.override_by_query("highest", FAINT).override_by_query("lowest", FAINT)


def _counter(metric: Metric) -> timeseries.Panel:
    line = Line("rate", promql.per_second(metric.sample_name, metric.labels), legend(metric.labels))
    return graph(f"{title(metric)} per second", [line], unit(metric), RATE)


def _histogram(metric: Metric) -> timeseries.Panel:
    panel = graph(f"{title(metric)} (p50, p99)", quantile_lines(metric), unit(metric), RATE)
    return panel.override_by_query("p99", DASHED).override_by_query("p99sparse", DASHED)
