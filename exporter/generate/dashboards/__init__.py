"""Grafana dashboards: what a panel is called, measured in, explained by and warned at comes from the catalog.

Two more, of inference and feedback and of logged samples, will come with the store that they ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exporter.catalog import Catalog
from exporter.generate.dashboards.board import to_json
from exporter.generate.dashboards.compare import compare
from exporter.generate.dashboards.exporter import exporter
from exporter.generate.dashboards.performance import performance
from exporter.generate.dashboards.rl_health import rl_health
from exporter.generate.dashboards.runs import runs
from exporter.generate.dashboards.sdk import dashboard
from exporter.generate.dashboards.training import training

__all__ = ["dashboards"]

_DASHBOARDS: Mapping[str, Callable[[Catalog], dashboard.Dashboard]] = {
    "runs.json": runs,
    "compare.json": compare,
    "rl-health.json": rl_health,
    "training.json": training,
    "performance.json": performance,
    "exporter.json": exporter,
}


def dashboards(catalog: Catalog) -> dict[str, str]:
    """Every dashboard's file name and JSON text."""
    return {name: to_json(build(catalog)) for name, build in _DASHBOARDS.items()}
