"""Panels without a metric's meaning: graphs over time, curves over a number, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from exporter.generate.dashboards.explain import COLOURS
from exporter.generate.dashboards.sdk import (
    Graph,
    PromQueryFormat,
    common,
    common_model,
    dashboard,
    model,
    prometheus,
    table,
    timeseries,
    trend,
)

__all__ = [
    "DATASOURCE",
    "FAINT",
    "FINEST",
    "SCRAPE",
    "Column",
    "Line",
    "coloured",
    "graph",
    "listing",
    "over_number",
    "over_time",
    "override",
    "query",
    "transformation",
]

DATASOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${datasource}")
FINEST = "1s"
"""Scrapes come every 5 s but carry every step with its own time: a run of up to one step a second is drawn whole in a
range of ten minutes. Finer would be read for pixels that do not exist, as a panel has some 700."""
SCRAPE = "5s"

# Grafana has it since 13.0; the library does not know it yet.
_COLOUR_BLIND_SAFE = cast(model.FieldColorModeId, "palette-colorblind")
# Of what cannot be negative a small change looks small, and the axis has marks that differ when they are rounded.
_FROM_ZERO = {"s", "bytes", "Bps", "watt", "hertz", "percentunit"}
# A run that steps once an hour is a line; one that was stopped and resumed the next day shows its gap.
_LONGEST_BRIDGE_MS = 3_600_000.0


class Line(NamedTuple):
    """A query of a graph; ``name`` is its reference in overrides."""

    name: str
    expression: str
    legend: str


class Column(NamedTuple):
    """A query of a table: its value is a column with this title and these field options; none without a title."""

    title: str
    expression: str
    options: Mapping[str, Any] = {}


def override(**options: Any) -> list[model.DynamicConfigValue]:
    """Field options of an override; two underscores stand for a dot."""
    return [model.DynamicConfigValue(name.replace("__", "."), value) for name, value in options.items()]


def coloured(values: Mapping[str, tuple[str, str]], cell: str) -> dict[str, Any]:
    """Field options that show values as texts, each in a colour."""
    texts = {
        value: {"text": text, "color": COLOURS[colour], "index": index}
        for index, (value, (text, colour)) in enumerate(values.items())
    }
    return {"mappings": [{"type": "value", "options": texts}], "custom__cellOptions": {"type": cell}}


FAINT = override(
    color={"mode": "fixed", "fixedColor": COLOURS["neutral"]},
    custom__lineWidth=0.5,
    custom__showPoints="never",
    custom__hideFrom={"legend": True, "tooltip": True, "viz": False},
)
"""A line behind the others, in no run's colour."""


def transformation(name: str, **options: Any) -> model.DataTransformerConfig:
    """One step of what Grafana does to the answers of queries."""
    return model.DataTransformerConfig(id_val=name, options=options)


def graph(title: str, lines: Sequence[Line], unit: str = "short", finest: str = FINEST) -> timeseries.Panel:
    """Lines over clock time; ``finest`` is the shortest time between two points."""
    panel = _drawn(timeseries.Panel(), title, unit).interval(finest).span_nulls(_LONGEST_BRIDGE_MS)
    for line in lines:
        panel.with_target(query(line, finest))
    return panel


def query(line: Line, finest: str = FINEST) -> prometheus.Dataquery:
    """The query of one more line."""
    named = prometheus.Dataquery().ref_id(line.name).legend_format(line.legend)
    return named.expr(line.expression).range().interval(finest)


def over_number(
    title: str, lines: Sequence[tuple[str, str]], number: str, number_unit: str, unit: str = "short"
) -> trend.Panel:
    """Curves over a number; each line is two expressions with a label ``curve``: that number, and the value."""
    panel = _drawn(trend.Panel(), title, unit).interval(FINEST).span_nulls(True).x_field(number)
    for index, pair in enumerate(lines):
        for axis, expression in zip(("x", "y"), pair, strict=True):
            panel.with_target(_table_query(f"{axis}{index}", expression).range().interval(FINEST))
    for step in _columns({number: "x", "value": "y"}, len(lines), number):
        panel.with_transformation(step)
    # The scale is that of the values.
    return panel.override_by_name(number, override(unit=number_unit, min=None, max=None, decimals=None))


def over_time(title: str, lines: Sequence[str], unit: str = "short") -> timeseries.Panel:
    """Curves over clock time, in the order and so in the colours that they have over a number."""
    panel = _drawn(timeseries.Panel(), title, unit).interval(FINEST).span_nulls(_LONGEST_BRIDGE_MS)
    for index, expression in enumerate(lines):
        panel.with_target(_table_query(f"y{index}", expression).range().interval(FINEST))
    for step in _columns({"value": "y"}, len(lines), "Time"):
        panel.with_transformation(step)
    return panel


def _columns(fields: Mapping[str, str], lines: int, row: str) -> list[model.DataTransformerConfig]:
    """From rows of a time and a curve, each with the fields of one of the lines, to one column per curve."""
    present = [{"fieldName": name, "config": {"id": "isNotNull", "options": {}}} for name in fields]
    return [
        transformation("merge"),
        *(_of_any(name, [f"Value #{axis}{index}" for index in range(lines)]) for name, axis in fields.items()),
        transformation("filterByValue", type="include", match="all", filters=present),
        transformation("groupingToMatrix", rowField=row, columnField="curve", valueField="value", emptyValue="null"),
        transformation("organize", excludeByName={}, indexByName={}, renameByName={rf"{row}\curve": row}),
        transformation("sortBy", fields={}, sort=[{"field": row, "desc": False}]),
    ]


def _of_any(name: str, fields: Sequence[str]) -> model.DataTransformerConfig:
    """A field with the value of that one of the fields which has any."""
    reduced = {"reducer": "max", "include": list(fields)}
    return transformation("calculateField", mode="reduceRow", alias=name, reduce=reduced, timeSeries=False)


def listing(title: str, columns: Sequence[Column], labels: Mapping[str, str], empty: str) -> table.Panel:
    """A table of what is now: a row for each set of labels, whose columns have these titles, then the values."""
    panel = table.Panel().title(title).datasource(DATASOURCE).no_value(empty)
    # The text stands for missing rows; in a cell of a row it would stand for a missing value.
    panel.override_by_regexp("/.*/", override(noValue="", custom__minWidth=60))
    panel.override_by_field_type("string", override(custom__filterable=True))
    names = dict(labels)
    for index, column in enumerate(columns):
        reference = chr(ord("A") + index)
        panel.with_target(_table_query(reference, column.expression).instant())
        names[f"Value #{reference}" if len(columns) > 1 else "Value"] = column.title
        if column.options:
            panel.override_by_name(column.title, override(**column.options))
    hidden = {"Time": True, **{field: True for field, name in names.items() if not name}}
    order = {field: index for index, (field, name) in enumerate(names.items()) if name}
    renamed = {field: name for field, name in names.items() if name}
    panel.with_transformation(transformation("merge"))
    return panel.with_transformation(
        transformation("organize", excludeByName=hidden, indexByName=order, renameByName=renamed)
    )


def _table_query(reference: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(reference).expr(expression).format(PromQueryFormat.TABLE)


def _drawn(panel: Graph, title: str, unit: str) -> Graph:
    """What curves over anything have in common."""
    if unit in _FROM_ZERO:
        panel.axis_soft_min(0)
    if unit == "percentunit":
        panel.axis_soft_max(1)
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    return (
        panel.title(title)
        .datasource(DATASOURCE)
        .unit(unit)
        .color_scheme(dashboard.FieldColor().mode(_COLOUR_BLIND_SAFE))
        .line_width(2)
        .legend(legend.placement(common_model.LegendPlacement.BOTTOM).calcs(["lastNotNull"]))
        .tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    )
