"""A dashboard of sections, with what all dashboards share: variables, links to the others, refresh."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from exporter.generate.dashboards.panels import DATASOURCE
from exporter.generate.dashboards.sdk import JSONEncoder, dashboard, model

__all__ = ["Section", "board", "expressions", "query_variable", "to_json"]

_TAG = "telemetry-exporter"
_COLUMNS = 24


class Section(NamedTuple):
    """Rows of panels that share the width, under a heading; the first section needs none."""

    title: str
    rows: Sequence[Sequence[Any]]
    height: int = 8
    collapsed: bool = False


def board(name: str, title: str, sections: Iterable[Section], span: str = "now-1h") -> dashboard.Dashboard:
    """A dashboard of the chosen runs; it opens with the time since ``span``."""
    result = (
        dashboard.Dashboard(title)
        .uid(f"telemetry-{name}")
        .tags([_TAG])
        .timezone("browser")
        .time(span, "now")
        .refresh("5s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables([_datasource_variable(), *_run_variables()])
        .link(_links())
    )
    numbers = itertools.count(1)
    for section in sections:
        _add(result, section, numbers)
    return result


def to_json(result: dashboard.Dashboard) -> str:
    """The dashboard as Grafana reads it from a file."""
    return json.dumps(result.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def expressions(sections: Iterable[Section]) -> Iterator[str]:
    """Every query of the panels."""
    for section in sections:
        for panel in itertools.chain.from_iterable(section.rows):
            yield from (target.expr for target in panel.build().targets)


def query_variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable with the values of a label, as they are in the time range."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def _add(result: dashboard.Dashboard, section: Section, numbers: Iterator[int]) -> None:
    row = dashboard.Row(section.title).collapsed(section.collapsed)
    if section.title:
        row.id(next(numbers))
    if section.title and not section.collapsed:
        result.with_row(row)
    for panels in section.rows:
        for panel in panels:
            panel.id(next(numbers)).span(_COLUMNS // len(panels)).height(section.height)
            (row if section.collapsed else result).with_panel(panel)
    if section.collapsed:
        result.with_row(row)


def _links() -> dashboard.DashboardLink:
    """The other dashboards, with the runs and the time that are chosen."""
    return (
        _LinkRow("Telemetry").type(model.DashboardLinkType.DASHBOARDS).tags([_TAG]).include_vars(True).keep_time(True)
    )


class _LinkRow(dashboard.DashboardLink):
    """Links above the panels; the library puts them into a menu, and its setter knows no other place."""

    def build(self) -> model.DashboardLink:
        link = super().build()
        link.placement = None  # type: ignore[assignment]  # it may be absent
        return link


def _datasource_variable() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _run_variables() -> list[dashboard.QueryVariable]:
    """User, then the runs of the chosen users; a run without a user is among those of all users.

    A run is known by its steps, too: those of an imported log are older than what is said of it now.
    """
    runs = '{__name__=~"run_info|training_step", user_id=~`${user:regex}`}'
    return [
        _chosen(query_variable("user", "User", "label_values(run_info, user_id)"), ".*"),
        _chosen(query_variable("run", "Run", f"label_values({runs}, run_id)"), ".+"),
    ]


def _chosen(variable: dashboard.QueryVariable, everything: str) -> dashboard.QueryVariable:
    """Any number of values may be chosen; at first all."""
    every = model.VariableOption(text=["All"], value=["$__all"], selected=True)
    return variable.multi(True).include_all(True).all_value(everything).current(every)
