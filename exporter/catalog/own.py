"""A user's own catalog file on top of the shipped one: more metrics and rules, other thresholds, silences."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.catalog.checks import check_pattern
from exporter.catalog.decode import as_list, as_mapping, build, known, one_of, require, typed
from exporter.catalog.model import Alert, Runs
from exporter.catalog.rules import SEVERITIES, banded, check_order
from exporter.records import is_free_label

__all__ = ["adjusted", "merged"]

_RUN_LABELS = ("run_id", "user_id", "rank")


@dataclasses.dataclass(frozen=True)
class _Silence:
    """Runs that an alert, or every alert, is not for; without runs the alert is switched off."""

    alert: str = ""
    severity: str = ""
    runs: Runs = dataclasses.field(default_factory=dict)


def merged(shipped: Mapping[str, Any], own: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Two catalogs, not yet decoded, as one: the user's fields replace, his aliases are added."""
    result = {**shipped, **{part: own[part] for part in ("thresholds", "silences", "runbook_url") if part in own}}
    for part in ("groups", "metrics", "rules"):
        entries = dict(as_mapping(shipped[part], part))
        for name, item in as_mapping(own.get(part, {}), f"{source}: {part}").items():
            entries[name] = _merged_entry(entries.get(name), item)
        result[part] = entries
    return result


def _merged_entry(shipped: Any, own: Any) -> Any:
    if not isinstance(shipped, dict) or not isinstance(own, dict):
        return own
    entry = {**shipped, **own}
    if isinstance(own.get("aliases"), list):
        entry["aliases"] = [*shipped.get("aliases", []), *own["aliases"]]
    return entry


def adjusted(alerts: Sequence[Alert], thresholds: Any, silences: Any, source: str) -> tuple[Alert, ...]:
    """The alerts with the user's thresholds and without those he silenced."""
    for number, item in enumerate(as_list(thresholds, f"{source}: thresholds"), start=1):
        alerts = _with_threshold(alerts, item, f"{source}: thresholds, entry {number}")
    for number, item in enumerate(as_list(silences, f"{source}: silences"), start=1):
        alerts = _silenced(alerts, item, f"{source}: silences, entry {number}")
    return tuple(alerts)


def _with_threshold(alerts: Sequence[Alert], data: Any, where: str) -> list[Alert]:
    """Other bounds of one alert, for all runs or some; what stood there before leaves those runs out."""
    item = as_mapping(data, where)
    known(item, ("alert", "runs", *SEVERITIES), where)
    name = _alert_name(item.get("alert"), alerts, where)
    runs = _runs(item.get("runs", {}), where)
    before = [alert for alert in alerts if alert.name == name and not alert.runs]
    _check_about(before, runs, where)
    changed = banded([_moved(alert, item, runs, where) for alert in before])
    bounds = [alert.condition.bound for alert in changed]
    check_order("below" if changed[0].condition.above is None else "above", bounds, where)
    have = tuple(alert.severity for alert in before)
    for severity in (key for key in item if key in SEVERITIES):
        one_of(severity, have, where, f"severity of {name}")
    if not runs:
        return [changed[before.index(alert)] if alert in before else alert for alert in alerts]
    others = [_without(alert, runs) if alert.name == name else alert for alert in alerts]
    place = max(number for number, alert in enumerate(alerts) if alert.name == name) + 1
    return [*others[:place], *changed, *others[place:]]


def _without(alert: Alert, runs: Runs) -> Alert:
    return dataclasses.replace(alert, excluded=(*alert.excluded, runs))


def _moved(alert: Alert, item: Mapping[str, Any], runs: Runs, where: str) -> Alert:
    condition = alert.condition
    if alert.severity in item:
        side = "above" if condition.above is not None else "below"
        bound = typed(item[alert.severity], "float", f"{where}: {alert.severity}")
        condition = dataclasses.replace(condition, **{side: bound})
    return dataclasses.replace(alert, condition=condition, runs=runs, excluded=() if runs else alert.excluded)


def _silenced(alerts: Sequence[Alert], data: Any, where: str) -> list[Alert]:
    item = as_mapping(data, where)
    known(item, ("alert", "severity", "runs"), where)
    silence = build(_Silence, item, where)
    require(silence.alert or silence.runs, where, "give an alert, runs, or both")
    runs = _runs(silence.runs, where)
    if silence.alert:
        _alert_name(silence.alert, alerts, where)
        _check_about([alert for alert in alerts if alert.name == silence.alert], runs, where)
    if silence.severity:
        one_of(silence.severity, SEVERITIES, where, "severity")
    result: list[Alert] = []
    for _, rule in itertools.groupby(alerts, lambda alert: (alert.name, alert.runs)):
        result += _without_severities(list(rule), silence, runs, where)
    return result


def _without_severities(rule: list[Alert], silence: _Silence, runs: Runs, where: str) -> list[Alert]:
    """A rule's severities without the silenced ones, for some runs or all; what is left covers their values, too."""
    meant = [a for a in rule if silence.alert in ("", a.name) and silence.severity in ("", a.severity)]
    if not meant or (runs and not _is_about_runs(rule[0])):
        return rule
    left = banded(alert for alert in rule if alert not in meant)
    if not runs:
        return left
    wider = [alert for alert in left if alert not in rule]
    changed = {alert.severity for alert in (*meant, *wider)}
    others = [_without(alert, runs) if alert.severity in changed else alert for alert in rule]
    return [*others, *(dataclasses.replace(alert, runs=_both(alert.runs, runs, where)) for alert in wider)]


def _both(some: Runs, others: Runs, where: str) -> Runs:
    """The runs that are among both."""
    for label in some.keys() & others.keys():
        message = (
            f"runs: {label} {others[label]!r} cannot be joined with that of a threshold, {some[label]!r}: "
            "instead of this silence, give the runs a threshold that they never reach, such as critical: 1e9"
        )
        require(some[label] == others[label], where, message)
    return {**some, **others}


def _alert_name(name: Any, alerts: Sequence[Alert], where: str) -> str:
    require(name is not None, where, "alert is missing")
    one_of(name, tuple(dict.fromkeys(alert.name for alert in alerts)), where, "alert")
    return str(name)


def _runs(data: Any, where: str) -> dict[str, str]:
    """Labels of runs and what they must match."""
    runs: dict[str, str] = typed(data, "Runs", f"{where}: runs")
    for label, pattern in runs.items():
        require(
            label in _RUN_LABELS or is_free_label(label),
            f"{where}: runs",
            f"{label!r} is no label of a run; those are run_id, user_id, rank and the run's tags",
        )
        check_pattern(pattern, f"{where}: runs: {label}")
    return runs


def _check_about(alerts: Sequence[Alert], runs: Runs, where: str) -> None:
    for alert in alerts:
        message = f"{alert.name} is about the {alert.about}, so it cannot be set for some runs"
        require(not runs or _is_about_runs(alert), where, message)


def _is_about_runs(alert: Alert) -> bool:
    return alert.about in ("run", "rank", "any run", "gpu")
