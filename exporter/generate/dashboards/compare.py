"""Compare: any number of runs on the same axes, smoothed or not, and what they were started with."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.catalog import Catalog, Metric
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.board import Section, board, query_variable
from exporter.generate.dashboards.explain import COLOURS, described, no_value, scaled, title, unit
from exporter.generate.dashboards.panels import (
    DATASOURCE,
    FAINT,
    Column,
    listing,
    over_number,
    over_time,
    transformation,
)
from exporter.generate.dashboards.sdk import Graph, dashboard, model, table, timeseries, trend
from exporter.generate.dashboards.smoothing import smoothed, smoothing_variables

__all__ = ["compare"]

_METRIC = "${metric}"
_FIRST = "training_loss"
_RAW = " raw"
_STEP = ("step", "none")
_ELAPSED = ("time since start", "dthms")

_MAIN = (
    ("training_loss", "validation_loss", "rl_reward_mean", "rl_kl_divergence"),
    ("rl_entropy", "rl_clip_fraction", "rl_explained_variance", "training_grad_norm"),
    (
        "training_learning_rate",
        "performance_tokens_per_second",
        "performance_env_steps_per_second",
        "rl_response_length_tokens",
    ),
)


def compare(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    labels = _curve_labels(catalog)
    multiples = [[_multiple(catalog.metrics[name], catalog) for name in row] for row in _MAIN]
    sections = [
        Section("", [[_by_step(labels), _by_elapsed(labels), _by_time(labels)]], height=12),
        Section("Which run, which checkpoint", [[_bests(), _differences()]], height=9),
        Section("Main metrics by step", multiples, height=7),
    ]
    result = board("compare", "Compare", sections, span="now-6h")
    for variable in (_metric_variable(catalog), *smoothing_variables()):
        result.with_variable(variable)
    return result.annotation(_checkpoints()).annotation(_events())


def _metric_variable(catalog: Catalog) -> dashboard.QueryVariable:
    """What runs can log: gauges of the catalog and any others."""
    groups = [name for name, group in catalog.groups.items() if group.prefixes]
    names = f'__name__=~"({"|".join(groups)}|custom)_.+", __name__!~"training_step|.+_(total|bucket|sum|count)"'
    query = f"label_values({{{names}, {promql.CHOSEN}}}, __name__)"
    return query_variable("metric", "Metric", query).current(model.VariableOption(text=_FIRST, value=_FIRST))


def _curve_labels(catalog: Catalog) -> list[str]:
    """The labels that a run's own gauges may have."""
    chosen = [m for m in catalog.metrics.values() if m.type == "gauge" and catalog.groups[m.group].prefixes]
    return list(dict.fromkeys(label for metric in chosen for label in metric.labels))


def _by_time(labels: Sequence[str]) -> timeseries.Panel:
    # Without this a smooth curve would go on behind the end of its run.
    smooth = f"({smoothed(_METRIC, labels)}) and {_present(labels)}"
    lines = [_curve(smooth, labels), _curve(promql.mean(_METRIC, labels), labels, _RAW)]
    return _explained(over_time("$metric by time", lines)).override_by_regexp(f"/{_RAW}$/", FAINT)


def _by_elapsed(labels: Sequence[str]) -> trend.Panel:
    x = f"{_present(labels)} * time() - on (run_id) group_left () {promql.started()}"
    return _chosen_metric("$metric by time since start", x, labels, _ELAPSED)


def _by_step(labels: Sequence[str]) -> trend.Panel:
    x = f"{_present(labels)} * on (run_id) group_left () ({promql.kept_step()})"
    return _chosen_metric("$metric by step", x, labels, _STEP)


def _chosen_metric(title: str, x: str, labels: Sequence[str], number: tuple[str, str]) -> trend.Panel:
    """The chosen metric over a number, with the raw curve faint behind it."""
    lines = [
        (_curve(x, labels), _curve(smoothed(_METRIC, labels), labels)),
        (_curve(x, labels, _RAW), _curve(promql.mean(_METRIC, labels), labels, _RAW)),
    ]
    return _explained(over_number(title, lines, *number)).override_by_regexp(f"/{_RAW}$/", FAINT)


def _explained(panel: Graph) -> Graph:
    panel.description(
        "Smoothing works on the means of the steps in a pixel, over a width of clock time. SMA: the mean of the time "
        "before. EMA: the average of that span. Gaussian: centred, as wide as the SMA. The raw curve is grey behind it."
    )
    return panel.no_value("None of the chosen runs has this metric in this time range")


def _present(labels: Sequence[str]) -> str:
    """1 for each curve of the chosen metric in the pixels in which it was logged."""
    logged = f"last_over_time({promql.of_runs(_METRIC, promql.MAIN_RANK)}[$__interval])"
    return f"group by ({', '.join(('run_id', *labels))}) ({logged})"


def _curve(expression: str, labels: Sequence[str], suffix: str = "") -> str:
    """Name a curve by its run and the labels that it has."""
    parts = ", ".join(f'"{label}"' for label in ("run_id", *labels))
    joined = f'label_join({expression}, "curve", " ", {parts})'
    return f'label_replace({joined}, "curve", "$1{suffix}", "curve", "(.*?) *")'


def _multiple(metric: Metric, catalog: Catalog) -> trend.Panel:
    """A metric of the catalog by step, not smoothed."""
    x = promql.kept_step()
    if metric.labels:
        logged = f"last_over_time({promql.of_runs(metric.sample_name, promql.MAIN_RANK)}[$__interval])"
        x = f"group by ({', '.join(('run_id', *metric.labels))}) ({logged}) * on (run_id) group_left () ({x})"
    y = promql.mean(metric.sample_name, metric.labels)
    line = (_curve(x, metric.labels), _curve(y, metric.labels))
    panel = described(over_number(title(metric), [line], *_STEP, unit=unit(metric)), metric, catalog)
    return scaled(panel, metric).no_value(no_value(metric))


def _bests() -> table.Panel:
    values = {"Best": "run_best_value", "At step": "run_best_step", "Last": "run_last_value"}
    columns = [
        Column(name, f"max by (run_id, metric) ({promql.of_runs(series, promql.MAIN_RANK)})")
        for name, series in values.items()
    ]
    panel = listing(
        "Best values: which checkpoint to take",
        columns,
        {"run_id": "Run", "metric": "Metric"},
        "None of these runs has logged a headline metric: a loss, a validation loss or a reward",
    ).description("Best and last value of the headline metrics over the whole run, and the step at which it was best.")
    order = [{"field": "Metric", "desc": False}]
    return panel.with_transformation(transformation("sortBy", fields={}, sort=order))


def _differences() -> table.Panel:
    """Keys whose value is not the same in all of the runs, or that some do not have."""
    configs = f"max by (run_id, key, value) ({promql.of_runs('run_config_info', promql.MAIN_RANK)})"
    runs = f"group by (run_id) ({promql.of_runs('run_info', promql.MAIN_RANK)})"
    alike = f"count by (key, value) ({configs}) < on () group_left () count({runs})"
    panel = listing(
        "Configuration: what differs",
        [Column("", f"{configs} and on (key) ({alike}) or ({_any(configs, runs)})")],
        {"key": "Key", "run_id": "run_id", "value": "value"},
        "Choose two runs or more. Of these, no configuration differs.",
    ).description("Only keys that are not the same in all of the chosen runs; one column per run.")
    matrix = transformation(
        "groupingToMatrix", rowField="Key", columnField="run_id", valueField="value", emptyValue="null"
    )
    absent = model.DashboardSpecialValueMapOptions(
        match=model.SpecialValueMatch.NULL, result=model.ValueMappingResult(text="absent", color=COLOURS["neutral"])
    )
    return panel.with_transformation(matrix).mappings([model.SpecialValueMap(options=absent)])


def _any(configs: str, runs: str) -> str:
    """A row that says which runs have a configuration, where only some do: one without has its column there."""
    with_any, without = f"{runs} and on (run_id) {configs}", f"{runs} unless on (run_id) {configs}"
    yes = f'label_replace({with_any} and on () ({without}), "value", "yes", "", "")'
    no = f'label_replace({without} and on () ({with_any}), "value", "no", "", "")'
    return f'label_replace({yes} or {no}, "key", "(any)", "", "")'


def _checkpoints() -> dashboard.AnnotationQuery:
    """The last checkpoint of each minute, at its own time."""
    series = promql.of_runs("run_checkpoint_step", promql.MAIN_RANK)
    steps = f'count_values by (run_id) ("step", {series})'
    marks = f"{steps} * on (run_id) group_left () (max by (run_id) (timestamp({series})) * 1000)"
    return _marks("Checkpoints", marks, "Checkpoint at step {{step}}", COLOURS["healthy"])


def _events() -> dashboard.AnnotationQuery:
    """The last event of each title and minute, at its own time."""
    series = promql.of_runs("run_event")
    marks = f"max by (run_id, alert_type, title) (timestamp({series})) * 1000"
    return _marks("Events", marks, "{{title}}", COLOURS["warning"]).tag_keys("alert_type")


def _marks(name: str, marks: str, title_format: str, colour: str) -> dashboard.AnnotationQuery:
    """Marks at times (ms) that are the values of an expression, which is evaluated every minute."""
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .expr(f"max_over_time(({marks})[$__interval:1m])")
        .use_value_for_time(True)
        .title_format(title_format)
        .text_format("{{run_id}}")
        .icon_color(colour)
    )
