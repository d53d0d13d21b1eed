"""Training: the first look at any run, then losses, optimiser and progress."""

from __future__ import annotations

from exporter.catalog import Catalog
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.board import Section, board
from exporter.generate.dashboards.catalog_panels import more, panel_rows
from exporter.generate.dashboards.explain import described
from exporter.generate.dashboards.panels import Line, graph
from exporter.generate.dashboards.run_panels import RATE, legend
from exporter.generate.dashboards.sdk import dashboard, timeseries

__all__ = ["training"]

_ELSEWHERE = {"run", "rl", "performance", "gpu", "host", "process", "telemetry"}
"""Groups that other dashboards show; those that a user adds are shown here."""


def training(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    first_look = panel_rows(
        catalog,
        ("training_loss", "training_learning_rate"),
        ("gpu_utilization_ratio", "performance_queue_depth"),
        ("performance_forward_backward_duration_seconds",),
    )
    [losses] = panel_rows(catalog, ("validation_loss", "training_grad_norm"))
    throughput = panel_rows(catalog, ("performance_tokens_per_second", "performance_env_steps_per_second"))
    sections = [
        Section("", first_look),
        Section("Optimisation", [[*losses, _nonfinite(catalog)]]),
        Section("Progress", [[_step(catalog), _pace(catalog), _epoch(catalog)]]),
        Section("Throughput", throughput),
    ]
    groups = set(catalog.groups) - _ELSEWHERE
    return board("training", "Training", [*sections, *more("More", catalog, groups, sections)])


def _nonfinite(catalog: Catalog) -> timeseries.Panel:
    """One line per run, and one more for each metric that has any."""
    counted = promql.of_runs("training_nonfinite_total")
    lines = [
        Line("all", f"sum by (run_id) ({counted})", legend()),
        Line("metric", f"sum by (run_id, metric) ({counted}) > 0", legend(["metric"])),
    ]
    panel = graph("NaN and infinite values", lines)
    described(panel, catalog.metrics["training_nonfinite"], catalog).min(0).decimals(0)
    return panel.no_value("No step in this time range")


def _step(catalog: Catalog) -> timeseries.Panel:
    panel = graph("Step", [Line("step", promql.last_step(), legend())], "none")
    return described(panel, catalog.metrics["training_step"], catalog).no_value("No step in this time range")


def _pace(catalog: Catalog) -> timeseries.Panel:
    steps = promql.per_second("training_steps_total", (), promql.MAIN_RANK)
    panel = graph("Steps per second", [Line("pace", steps, legend())], "none", RATE)
    return described(panel, catalog.metrics["training_steps"], catalog).no_value("No step in this time range")


def _epoch(catalog: Catalog) -> timeseries.Panel:
    panel = graph("Epoch", [Line("epoch", promql.mean("training_epoch"), legend())], "none")
    described(panel, catalog.metrics["training_epoch"], catalog)
    return panel.no_value("No epoch in this time range: log with epoch=")
