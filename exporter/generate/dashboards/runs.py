"""Runs: every run, how it stands, how good it is; a click opens it in Compare."""

from __future__ import annotations

from exporter.catalog import Catalog
from exporter.generate.dashboards import promql, run_facts
from exporter.generate.dashboards.board import Section, board
from exporter.generate.dashboards.explain import COLOURS
from exporter.generate.dashboards.panels import Column, coloured, listing, override, transformation
from exporter.generate.dashboards.sdk import dashboard, model, table
from exporter.monitoring_link import COMPARE

__all__ = ["runs"]

_LABELS = {
    "run_id": "Run",
    "user_id": "User",
    "recipe": "Recipe",
    "base_model": "Base model",
    "framework": "Framework",
}
_ORDER = (
    *("Run", "Status", "User", "Recipe", "Base model", "Framework", "Started", "Duration", "Step", "Progress", "ETA"),
    *("Headline", "Last", "Best", "At step", "Attempts", "Ranks", "Alerts"),
)
_WIDTHS = {"Base model": 105, "Framework": 95, "Started": 150, "Headline": 135}
"""In pixels; the other columns share what is left."""
_HELPERS = ("Target", "Left", "Seconds per step")
_UNSEEN = {"viz": True, "legend": False, "tooltip": False}
_STATUS_COLOURS = ("neutral", "good", "warning", "healthy", "critical", "critical")
_CHECKS = {
    "0": ("OK", "healthy"),
    "1": ("WARNING", "warning"),
    "2": ("CRITICAL", "critical"),
    "3": ("UNKNOWN", "neutral"),
}
_OPEN = (
    f"/d/{COMPARE}?from=${{__data.fields.Started.numeric}}&to=${{__data.fields.Ended.numeric}}"
    "&var-datasource=${datasource}&var-run=${__value.raw}"
)
"""The run in its own time, which the range of this dashboard need not be."""


def runs(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    sections = [
        Section("", [[_with_progress(_runs(catalog))]], height=14),
        Section("What needs attention", [[_alerts(), _checks()]], height=9),
    ]
    return board("runs", "Runs", sections, span="now-24h")


def _runs(catalog: Catalog) -> table.Panel:
    names = ("not seen now", *run_facts.STATUSES)
    statuses = {str(n): shown for n, shown in enumerate(zip(names, _STATUS_COLOURS, strict=True))}
    # Those that come later in the catalog say more of a run that has several.
    headlines = [name for name, metric in catalog.metrics.items() if metric.headline][::-1]
    columns = [
        Column("", run_facts.identity(list(_LABELS))),
        Column("Status", run_facts.status(), {**coloured(statuses, "color-background"), "custom__align": "center"}),
        Column("Started", f"floor({run_facts.start()} * 1000)", {"unit": "dateTimeAsIso"}),
        Column("Ended", f"ceil(({run_facts.end()}) * 1000)", {"custom__hideFrom": _UNSEEN}),
        Column("Duration", run_facts.duration(), {"unit": "dthms"}),
        Column("Step", run_facts.step(), {"unit": "none"}),
        Column("Attempts", run_facts.attempts()),
        Column("Ranks", run_facts.world_size()),
        Column("", run_facts.target()),
        Column("Seconds per step", run_facts.seconds_per_step()),
        Column("Last", run_facts.headline("run_last_value", headlines, "metric")),
        Column("Best", run_facts.headline("run_best_value", headlines)),
        Column("At step", run_facts.headline("run_best_step", headlines)),
        Column("Alerts", f"count by (run_id) ({run_facts.firing()})"),
    ]
    labels = {**_LABELS, "metric": "Headline", "value": "Target"}
    panel = listing("Runs", columns, labels, "No run in this time range")
    panel.override_by_name("Run", override(links=[{"title": "Compare", "url": _OPEN}], custom__width=150))
    for name, width in _WIDTHS.items():
        panel.override_by_name(name, override(custom__width=width))
    red = {"mode": "fixed", "fixedColor": COLOURS["critical"]}
    return panel.override_by_name("Alerts", override(color=red, custom__cellOptions={"type": "color-text"}))


def _with_progress(panel: table.Panel) -> table.Panel:
    """Progress and time left of the runs that say how many steps they are going to take.

    What is missing counts as 0 in Grafana's calculations, so results that mean nothing are not shown.
    """
    panel.override_by_name("Progress", override(unit="percentunit", mappings=_without(1.5, None)))
    panel.override_by_name("ETA", override(unit="dthms", mappings=_without(None, 0)))
    order = {name: index for index, name in enumerate(_ORDER)}
    for step in (
        transformation(
            "convertFieldType", fields={}, conversions=[{"targetField": "Target", "destinationType": "number"}]
        ),
        _calculation("Progress", "Step", "/", "Target"),
        _calculation("Left", "Target", "-", "Step"),
        _calculation("ETA", "Left", "*", "Seconds per step"),
        transformation("organize", excludeByName=dict.fromkeys(_HELPERS, True), indexByName=order, renameByName={}),
        transformation("sortBy", fields={}, sort=[{"field": "Started", "desc": True}]),
    ):
        panel.with_transformation(step)
    return panel


def _without(lowest: float | None, highest: float | None) -> list[dict[str, object]]:
    """Show no number in this range, and no NaN."""
    nothing = {"text": "", "index": 0}
    return [
        {"type": "range", "options": {"from": lowest, "to": highest, "result": nothing}},
        {"type": "special", "options": {"match": "nan", "result": nothing}},
    ]


def _calculation(name: str, left: str, operator: str, right: str) -> model.DataTransformerConfig:
    operation = {"left": left, "operator": operator, "right": right}
    return transformation("calculateField", mode="binary", alias=name, binary=operation, timeSeries=False)


def _alerts() -> table.Panel:
    labels = {"run_id": "Run", "alertname": "Alert", "severity": "Severity", "kind": "Kind", "metric": "Metric"}
    firing = Column("", f"group by ({', '.join(labels)}) ({run_facts.firing()})")
    panel = listing("Alerts that are firing", [firing], labels, "No alert is firing")
    severities = {name: (name, name) for name in ("critical", "warning", "info")}
    return panel.override_by_name("Severity", override(**coloured(severities, "color-text")))


def _checks() -> table.Panel:
    worst = f"max by (run_id, check) ({promql.of_runs('run_check_status')})"
    column = Column("Status", worst, {**coloured(_CHECKS, "color-text"), "custom__align": "left"})
    return listing("Checks", [column], {"run_id": "Run", "check": "Check"}, "None of these runs reports a check")
