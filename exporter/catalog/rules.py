"""Alert rules from their YAML: one entry an alert, one Alert a severity of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.catalog.checks import TEXTS, check_alert, check_condition
from exporter.catalog.decode import as_list, as_mapping, as_texts, build, known, one_of, require, typed
from exporter.catalog.model import Alert, Condition, Group, Metric

__all__ = ["SEVERITIES", "banded", "check_order", "decode_alerts", "with_alerts"]

SEVERITIES = ("info", "warning", "critical")
"""Each one worse than the one before."""

_SIDES = ("above", "below")
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
_CONDITION = {field.name for field in dataclasses.fields(Condition)} - {"above", "up_to", "below", "down_to"}
_RULE = {field.name for field in dataclasses.fields(Alert)} - {"name", "severity", "condition", "runs", "excluded"}


def decode_alerts(
    data: Mapping[str, Any], groups: Mapping[str, Group], metrics: Mapping[str, Metric], source: str
) -> tuple[Alert, ...]:
    """Every severity of every rule, ordered by the groups of the catalog."""
    alerts = [alert for name, item in data.items() for alert in _rule(name, item, metrics, f"{source}: rules.{name}")]
    for alert in alerts:
        one_of(alert.group, tuple(groups), f"{source}: rules.{alert.name}", "group")
    order = list(groups)
    return tuple(sorted(alerts, key=lambda alert: order.index(alert.group)))


def with_alerts(metrics: Mapping[str, Metric], alerts: Iterable[Alert]) -> dict[str, Metric]:
    """Each metric with the alerts that are about its own values for every run."""
    own: dict[str, list[Alert]] = {name: [] for name in metrics}
    for alert in alerts:
        condition = alert.condition
        is_level = condition.value in ("median", "increase") and not condition.against and not condition.per
        if condition.metric and is_level and alert.drawn and not alert.runs:
            own[condition.metric].append(alert)
    return {name: dataclasses.replace(metric, alerts=tuple(own[name])) for name, metric in metrics.items()}


def banded(alerts: Iterable[Alert]) -> list[Alert]:
    """The severities of one rule with bounds that touch and never overlap: each ends where the next begins."""
    ordered = sorted(alerts, key=lambda alert: SEVERITIES.index(alert.severity))
    ends = [alert.condition.bound for alert in ordered[1:]]
    return [_limited(alert, end) for alert, end in itertools.zip_longest(ordered, ends)]


def _limited(alert: Alert, limit: float | None) -> Alert:
    above = alert.condition.above is not None
    up_to, down_to = (limit, None) if above else (None, limit)
    return dataclasses.replace(alert, condition=dataclasses.replace(alert.condition, up_to=up_to, down_to=down_to))


def _rule(name: Any, data: Any, metrics: Mapping[str, Metric], where: str) -> list[Alert]:
    item = as_mapping(data, where)
    name = typed(name, "str", where)
    require(_NAME.fullmatch(name), where, f"name {name!r} must be words like KLDivergenceHigh")
    known(item, (*sorted(_RULE | _CONDITION), *_SIDES), where)
    side, bounds = _bounds(item, where)
    common = {key: value for key, value in item.items() if key in _RULE}
    for key in ("also", "unless"):
        parts = as_list(item.get(key, []), f"{where}: {key}")
        common[key] = tuple(_other(part, metrics, f"{where}: {key}") for part in parts)
    common["without"] = as_texts(item.get("without", []), f"{where}: without")
    condition = {key: value for key, value in item.items() if key in _CONDITION}
    metric = metrics.get(condition.get("metric", ""))
    if metric:
        common.setdefault("group", metric.group)
    texts = {key: _by_severity(common.get(key), bounds, f"{where}: {key}") for key in TEXTS}
    alerts = [
        build(
            Alert,
            {
                **common,
                **{key: texts[key][severity] for key in TEXTS},
                "name": name,
                "severity": severity,
                "condition": build(Condition, {**condition, side: bound}, where),
            },
            where,
        )
        for severity, bound in bounds.items()
    ]
    for alert in alerts:
        check_alert(alert, metrics, where)
    return banded(alerts)


def _bounds(item: Mapping[str, Any], where: str) -> tuple[str, dict[str, float]]:
    """The side on which bad lies, and where it begins by severity; the worse, the further out."""
    sides = [side for side in _SIDES if side in item]
    require(len(sides) == 1, where, "give exactly one of above, below")
    data = as_mapping(item[sides[0]], f"{where}: {sides[0]}")
    require(data, where, f"{sides[0]} needs a bound, such as warning: 0.5")
    known(data, SEVERITIES, f"{where}: {sides[0]}")
    bounds = {severity: _bound(data[severity], f"{where}: {severity}") for severity in SEVERITIES if severity in data}
    check_order(sides[0], list(bounds.values()), where)
    return sides[0], bounds


def check_order(side: str, bounds: list[float], where: str) -> None:
    """Worse bounds lie further out."""
    ordered = sorted(set(bounds), reverse=side == "below")
    require(bounds == ordered, where, f"bounds {bounds} must lie further {side} the worse the severity")


def _bound(value: Any, where: str) -> float:
    bound = typed(value, "float", where)
    require(math.isfinite(bound), where, f"bound {bound!r} must be finite")
    return float(bound)


def _by_severity(data: Any, severities: Iterable[str], where: str) -> dict[str, str]:
    """A text for all severities, or one for each."""
    names = tuple(severities)
    if isinstance(data, dict):
        known(data, names, where)
        for name in names:
            require(name in data, where, f"{name} is missing")
        return {name: typed(data[name], "str", where) for name in names}
    require(data is not None, where, "it is missing")
    return dict.fromkeys(names, typed(data, "str", where))


def _other(data: Any, metrics: Mapping[str, Metric], where: str) -> Condition:
    condition = build(Condition, data, where)
    check_condition(condition, metrics, where)
    return condition
