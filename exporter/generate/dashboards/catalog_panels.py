"""The panel of any metric of the catalog, and those of all metrics that no other panel shows."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from exporter.catalog import Catalog, Metric
from exporter.generate.dashboards.board import Section, expressions
from exporter.generate.dashboards.machine_panels import gpu_panel, instance_panel
from exporter.generate.dashboards.run_panels import run_panel
from exporter.generate.dashboards.sdk import timeseries

__all__ = ["more", "panel_rows", "shows"]

_KINDS = {"gpu": gpu_panel, "host": instance_panel, "process": instance_panel, "telemetry": instance_panel}
_IN_A_ROW = 4


def panel_rows(catalog: Catalog, *rows: Sequence[str]) -> list[list[timeseries.Panel]]:
    """Panels of metrics, row by row."""
    return [[_panel(catalog.metrics[name], catalog) for name in row] for row in rows]


def more(title: str, catalog: Catalog, groups: Collection[str], shown: Sequence[Section]) -> list[Section]:
    """What is left of these groups, in a section that is closed until it is asked for."""
    queries = " ".join(expressions(shown))
    left = [name for name, metric in catalog.metrics.items() if metric.group in groups and not shows(queries, metric)]
    rows = [left[start : start + _IN_A_ROW] for start in range(0, len(left), _IN_A_ROW)]
    return [Section(title, panel_rows(catalog, *rows), collapsed=True)] if rows else []


def shows(queries: str, metric: Metric) -> bool:
    """Whether a metric is in the text of queries."""
    suffixes = "(_bucket|_sum|_count)" if metric.type == "histogram" else ""
    name = metric.name if metric.type == "histogram" else metric.sample_name
    return re.search(rf"\b{name}{suffixes}\b", queries) is not None


def _panel(metric: Metric, catalog: Catalog) -> timeseries.Panel:
    return _KINDS.get(metric.group, run_panel)(metric, catalog)
