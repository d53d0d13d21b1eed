"""Grafana dashboards: what a panel is called, measured in, explained by and warned at comes from the catalog.

A gauge is drawn as three lines of one colour: the mean of the steps in a pixel, and thinly their extremes.
Nothing of a run is hidden by that, however fast it steps, and where a step has a pixel of its own, the
three lines are one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from exporter.catalog import Alert, Catalog, Metric

with warnings.catch_warnings():
    # The library advises dashboards of version 2, which only recent Grafana servers read from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as common_model
    from grafana_foundation_sdk.models import dashboard as model

__all__ = ["dashboards", "overview"]

_COLUMNS = 24
_HEIGHT = 8
_COLOURS = {"info": "blue", "warning": "yellow", "critical": "red"}
_DATASOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUNS = '{run_id=~"$run", user_id=~"$user"}'
# Scrapes come every 5 s but carry every step with its own time: a run of up to one step a second is drawn
# whole in the default range. Finer would be read for pixels that do not exist, as a panel has some 700.
_FINEST = "1s"
# Grafana's rate interval is at least four of these: one minute, the window of the alerts.
_RATE_STEP = "15s"
# A run that steps once an hour is a line; one that was stopped and resumed the next day shows its gap.
_LONGEST_BRIDGE_MS = 3_600_000.0
# Times the highest bound: a single KL of 100 would flatten all other steps, so it leaves the panel instead.
# (On a logarithmic axis it could stay, but Grafana's does not reach to a bound that no value is near.)
_TALLEST = 10
_DASHED = [model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 4]})]
_FAINT = [
    model.DynamicConfigValue("custom.lineWidth", 0.5),
    model.DynamicConfigValue("custom.showPoints", "never"),
    model.DynamicConfigValue("custom.hideFrom", {"legend": True, "tooltip": True, "viz": False}),
]

_OVERVIEW = (
    ("training_loss", "training_learning_rate"),
    ("rl_kl_divergence", "rl_clip_fraction"),
    ("gpu_utilization_ratio", "performance_queue_depth"),
    ("performance_forward_backward_duration_seconds",),
)


class _Line(NamedTuple):
    """A query of a panel; ``name`` is its reference in overrides, ``suffix`` ends its legend."""

    name: str
    expression: str
    suffix: tuple[str, ...] = ()
    finest: str = ""


def dashboards(catalog: Catalog) -> dict[str, str]:
    """Every dashboard's file name and JSON text."""
    return {name: build(catalog) for name, build in _DASHBOARDS.items()}


def overview(catalog: Catalog) -> str:
    """The first look at a run: loss, policy health, machine and latency."""
    return _json(_dashboard("telemetry-overview", "Training overview", _OVERVIEW, catalog))


_DASHBOARDS: dict[str, Callable[[Catalog], str]] = {
    "overview.json": overview,
}


def _json(board: dashboard.Dashboard) -> str:
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _dashboard(uid: str, title: str, rows: Sequence[Sequence[str]], catalog: Catalog) -> dashboard.Dashboard:
    """A dashboard of rows of metric names; the metrics of a row share its width."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["telemetry-exporter"])
        .timezone("browser")
        .time("now-15m", "now")
        .refresh("5s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables([_datasource_variable(), *_run_variables()])
    )
    for number, (name, position) in enumerate(_positions(rows), start=1):
        board.with_panel(_panel(catalog.metrics[name]).id(number).grid_pos(position))
    return board


def _positions(rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, model.GridPos]]:
    for row, names in enumerate(rows):
        width = _COLUMNS // len(names)
        for column, name in enumerate(names):
            yield name, model.GridPos(h=_HEIGHT, w=width, x=column * width, y=row * _HEIGHT)


def _datasource_variable() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _run_variables() -> list[dashboard.QueryVariable]:
    """User, then the runs of the chosen users; a run without a user is among those of all users."""
    return [
        _query_variable("user", "User", "label_values(run_info, user_id)", ".*"),
        _query_variable("run", "Run", 'label_values(run_info{user_id=~"$user"}, run_id)', ".+"),
    ]


def _query_variable(name: str, label: str, query: str, everything: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_DATASOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(everything)
        .current(model.VariableOption(text=["All"], value=["$__all"], selected=True))
    )


def _panel(metric: Metric) -> timeseries.Panel:
    histogram = metric.type == "histogram"
    panel = _blank(metric).title(_title(metric) + (" (p50, p99)" if histogram else ""))
    for line in _quantiles(metric) if histogram else _gauge(metric):
        panel.with_target(_target(metric, line))
    if histogram:
        panel.override_by_query("p99", _DASHED)
    else:
        panel.interval(_FINEST).override_by_query("highest", _FAINT).override_by_query("lowest", _FAINT)
    return _scaled(panel, metric)


def _blank(metric: Metric) -> timeseries.Panel:
    """The panel of a metric without its queries and scale."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    return (
        timeseries.Panel()
        .description(_description(metric))
        .datasource(_DATASOURCE)
        .unit(_unit(metric))
        .no_value(_no_value(metric))
        # By name, a run has the same colour in every panel.
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .line_width(2)
        .span_nulls(_LONGEST_BRIDGE_MS)
        .legend(legend.placement(common_model.LegendPlacement.BOTTOM).calcs(["lastNotNull"]))
        .tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    )


def _scaled(panel: timeseries.Panel, metric: Metric) -> timeseries.Panel:
    """Draw the alerts' bounds, and choose an axis on which they and the values can be read."""
    steps = _thresholds(metric.alerts)
    panel.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    share = _unit(metric) == "percentunit"
    bounds = [step.value for step in steps if step.value is not None]
    if bounds:
        style = common_model.GraphThresholdsStyleMode.DASHED_AND_AREA
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    if bounds or share:
        panel.axis_soft_min(min([0.0, *bounds])).axis_soft_max(max(bounds or [1.0]))
    upper = [alert.above for alert in metric.alerts if alert.above is not None]
    if upper and not share:
        panel.max(_TALLEST * max(upper))
    if _unit(metric) == "sci":
        panel.decimals(2)
    return panel


def _target(metric: Metric, line: _Line) -> prometheus.Dataquery:
    legend = ["{{run_id}}", *("({{" + label + "}})" for label in metric.labels), *line.suffix]
    query = prometheus.Dataquery().ref_id(line.name).expr(line.expression).legend_format(" ".join(legend))
    return query.interval(line.finest).range() if line.finest else query.range()


def _gauge(metric: Metric) -> list[_Line]:
    # A window as long as a pixel, not the last value: that would hide all other steps in the pixel, and
    # draw the five minutes which Prometheus looks back as if a finished run went on. Two pages that show
    # the same run say the same, so it does not matter which of them the outer operator takes.
    kept = ", ".join(("run_id", *metric.labels))
    window = f"{metric.sample_name}{_RUNS}[$__interval]"
    return [
        _Line("mean", f"max by ({kept}) (avg_over_time({window}))"),
        _Line("highest", f"max by ({kept}) (max_over_time({window}))"),
        _Line("lowest", f"min by ({kept}) (min_over_time({window}))"),
    ]


def _quantiles(metric: Metric) -> list[_Line]:
    return [_quantile(metric, 0.5, "p50"), _quantile(metric, 0.99, "p99")]


def _quantile(metric: Metric, quantile: float, name: str) -> _Line:
    # A histogram has the time of its last observation, so one that is observed once a minute has no rate
    # over a short window. It is then drawn over the long one, which must not go on behind the run's end.
    # The comparison drops the NaN of a window without observations.
    buckets = f"{metric.name}_bucket{_RUNS}"
    running = 'on (run_id) (run_status{status="running"} == 1)'
    recent = f"sum by (le, run_id) (rate({buckets}[$__rate_interval]))"
    sparse = f"sum by (le, run_id) (rate({buckets}[{metric.sparse_window}]) and {running})"
    expression = f"histogram_quantile({quantile}, {recent}) >= 0 or histogram_quantile({quantile}, {sparse})"
    return _Line(name, expression, (name,), _RATE_STEP)


def _thresholds(alerts: Sequence[Alert]) -> list[model.Threshold]:
    """Grafana's steps, each with the colour from its value upwards: bands below, nothing, bands above."""
    below = sorted((alert.below, _COLOURS[alert.severity]) for alert in alerts if alert.below is not None)
    above = sorted((alert.above, _COLOURS[alert.severity]) for alert in alerts if alert.above is not None)
    colours = [colour for _, colour in below] + ["transparent"] + [colour for _, colour in above]
    values = [None, *(bound for bound, _ in below + above)]
    return [model.Threshold(value=value, color=colour) for value, colour in zip(values, colours, strict=True)]


def _title(metric: Metric) -> str:
    return metric.panel.title if metric.panel else metric.name


def _unit(metric: Metric) -> str:
    return metric.panel.unit if metric.panel else "short"


def _description(metric: Metric) -> str:
    """What the metric means, its healthy range, and what each alert means and asks for, as Markdown."""
    parts = [metric.help]
    if metric.healthy:
        parts.append(f"Healthy: {_range(metric, metric.healthy.above, metric.healthy.below)}.")
    for alert in metric.alerts:
        parts.append(f"**{_condition(metric, alert)}.** {alert.meaning} *{alert.action}*")
    return "\n\n".join(parts)


def _condition(metric: Metric, alert: Alert) -> str:
    low = alert.down_to if alert.above is None else alert.above
    high = alert.up_to if alert.below is None else alert.below
    where = "".join(f", {label} {value.replace('|', ' or ')}" for label, value in alert.where.items())
    return f"{alert.severity.capitalize()}: {_range(metric, low, high) or 'any increase'}{where}"


def _range(metric: Metric, above: float | None, below: float | None) -> str:
    form = ".0%" if _unit(metric) == "percentunit" else "g"
    bounds = (("above", above), ("below", below))
    return " and ".join(f"{word} {bound:{form}}" for word, bound in bounds if bound is not None)


def _no_value(metric: Metric) -> str:
    """What has to be logged for data to appear; the keys of particular trainers are in the reference."""
    keys = [alias.keys[0] for alias in metric.aliases if not alias.framework] or [metric.name]
    timed = f", or time the operation {metric.timing}" if metric.timing else ""
    return f"No {_title(metric)} in this time range: log {' or '.join(keys)}{timed}"
