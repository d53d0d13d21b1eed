"""Alert rules from their YAML: one entry an alert, one Alert a severity of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from exporter.catalog.decode import WINDOW, as_list, as_mapping, as_texts, build, known, one_of, require, typed
from exporter.catalog.model import Alert, Condition, Group, Metric

__all__ = ["SEVERITIES", "banded", "check_order", "check_pattern", "decode_alerts", "with_alerts"]

SEVERITIES = ("info", "warning", "critical")
"""Each one worse than the one before."""

_SIDES = ("above", "below")
_VALUES = ("median", "worst", "lowest", "highest", "mean", "increase", "rate")
_AGAINST = ("", "before", "highest", "spread")
_ABOUT = ("run", "rank", "any run", "gpu", "host", "exporter")
_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
_CONDITION = {field.name for field in dataclasses.fields(Condition)} - {"above", "up_to", "below", "down_to"}
_RULE = {field.name for field in dataclasses.fields(Alert)} - {"name", "severity", "condition", "runs", "excluded"}
_WINDOWS = ("window", "sparse_window", "rare_window", "baseline", "lag")
_TEXTS = ("summary", "meaning", "action")


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
    limits: list[float | None] = [*ends, None]
    return [_limited(alert, limit) for alert, limit in zip(ordered, limits, strict=True)]


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
    texts = {key: _by_severity(common.get(key), bounds, f"{where}: {key}") for key in _TEXTS}
    alerts = [
        build(
            Alert,
            {
                **common,
                **{key: texts[key][severity] for key in _TEXTS},
                "name": name,
                "severity": severity,
                "condition": build(Condition, {**condition, side: bound}, where),
            },
            where,
        )
        for severity, bound in bounds.items()
    ]
    for alert in alerts:
        _check_alert(alert, metrics, where)
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
    _check_condition(condition, metrics, where)
    return condition


def _check_alert(alert: Alert, metrics: Mapping[str, Metric], where: str) -> None:
    one_of(alert.about, _ABOUT, where, "about")
    for window in (alert.lasting, alert.hold, alert.interval):
        require(not window or WINDOW.fullmatch(window), where, f"{window!r} must be a Prometheus duration such as 1m")
    for name in alert.without:
        one_of(name, tuple(metrics), where, "metric")
    for text in _TEXTS:
        require(getattr(alert, text).strip(), where, f"{text} is empty")
    _check_condition(alert.condition, metrics, where)


def _check_condition(condition: Condition, metrics: Mapping[str, Metric], where: str) -> None:
    require(bool(condition.metric) != bool(condition.expression), where, "give exactly one of metric, expression")
    require((condition.above is None) != (condition.below is None), where, "give exactly one of above, below")
    for name in filter(None, (condition.metric, condition.per)):
        one_of(name, tuple(metrics), where, "metric")
    one_of(condition.value, _VALUES, where, "value")
    one_of(condition.against, _AGAINST, where, "against")
    for window in filter(None, (getattr(condition, name) for name in _WINDOWS)):
        require(WINDOW.fullmatch(window), where, f"window {window!r} must be a Prometheus duration such as 1m")
    if condition.metric:
        _check_metric(condition, metrics[condition.metric], where)


def _check_metric(condition: Condition, metric: Metric, where: str) -> None:
    kinds = {"increase": ("counter",), "rate": ("counter", "histogram")}.get(condition.value, ("gauge",))
    require(metric.type in kinds, where, f"{condition.value} of {metric.name} needs a {' or '.join(kinds)}")
    for label, pattern in condition.where.items():
        one_of(label, metric.labels, f"{where}: where", "label")
        check_pattern(pattern, f"{where}: where")


def check_pattern(pattern: str, where: str) -> None:
    """A text is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        require(False, where, f"{pattern!r} is no regular expression: {error}")
