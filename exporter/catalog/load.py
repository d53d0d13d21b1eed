"""Decode a catalog file strictly: an unknown key, a wrong type or a name that clashes is an error with its place."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from exporter.catalog.model import Alert, Alias, Catalog, Group, Metric, Panel, Range
from exporter.errors import ConfigError

__all__ = ["default_catalog", "load_catalog", "parse_catalog"]

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WINDOW = re.compile(r"[1-9][0-9]*[smhd]")
_TYPES = ("gauge", "counter", "histogram")
_SEVERITIES = ("info", "warning", "critical")


@functools.cache
def default_catalog() -> Catalog:
    """The catalog that ships with the package."""
    text = resources.files("exporter.catalog").joinpath("catalog.yaml").read_text("utf-8")
    return parse_catalog(text, "catalog.yaml")


def load_catalog(path: Path) -> Catalog:
    """Read a catalog file.

    Raises:
        ConfigError: it cannot be read or breaks a rule.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse_catalog(text, str(path))


def parse_catalog(text: str, source: str) -> Catalog:
    """Decode a catalog; ``source`` names it in errors.

    Raises:
        ConfigError: it breaks a rule; the message names the place.
    """
    try:
        data = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise ConfigError(f"{source}: not YAML: {error}") from error
    top = _mapping(data, source)
    _known(top, ("groups", "metrics"), source)
    for part in ("groups", "metrics"):
        _require(part in top, source, f"{part} is missing")
    groups = {name: _group(item, f"{source}: groups.{name}") for name, item in _mapping(top["groups"], source).items()}
    metrics = {
        name: _metric(name, item, groups, f"{source}: {name}")
        for name, item in _mapping(top["metrics"], source).items()
    }
    _unique_keys(metrics.values(), source)
    return Catalog(groups, metrics)


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _metric(name: str, data: Any, groups: Mapping[str, Group], where: str) -> Metric:
    item = _mapping(data, where)
    item["name"] = name
    item["labels"] = _texts(item.get("labels", []), f"{where}: labels")
    item["aliases"] = tuple(_alias(alias, where) for alias in _list(item.get("aliases", []), f"{where}: aliases"))
    item["alerts"] = tuple(_alert(alert, where) for alert in _list(item.get("alerts", []), f"{where}: alerts"))
    if "panel" in item:
        item["panel"] = _build(Panel, item["panel"], f"{where}: panel")
    if "healthy" in item:
        item["healthy"] = _build(Range, item["healthy"], f"{where}: healthy")
    metric = _build(Metric, item, where)
    _check_metric(metric, groups, where)
    return metric


def _check_metric(metric: Metric, groups: Mapping[str, Group], where: str) -> None:
    _require(_NAME.fullmatch(metric.name), where, f"name {metric.name!r} must be lower-case letters, digits and _")
    _one_of(metric.type, _TYPES, where, "type")
    _one_of(metric.group, tuple(groups), where, "group")
    _one_of(metric.headline, ("", "min", "max"), where, "headline")
    _require(metric.help.strip(), where, "help is missing: say what the metric means")
    for window in (metric.window, metric.sparse_window):
        _require(_WINDOW.fullmatch(window), where, f"window {window!r} must be a Prometheus duration such as 1m")
    for alias in metric.aliases:
        _require(
            set(alias.labels) == set(metric.labels), where, f"alias {alias.keys[0]!r} must give labels {metric.labels}"
        )


def _group(data: Any, where: str) -> Group:
    item = _mapping(data, where)
    return _build(Group, {**item, "prefixes": _texts(item.get("prefixes", []), f"{where}: prefixes")}, where)


def _alias(data: Any, where: str) -> Alias:
    item = _mapping(data, where)
    _require(item.get("keys"), where, "an alias needs keys")
    alias = _build(Alias, {**item, "keys": _texts(item["keys"], f"{where}: keys")}, where)
    _require(math.isfinite(alias.scale) and alias.scale != 0, where, f"scale {alias.scale!r} must be finite and not 0")
    return alias


def _alert(data: Any, where: str) -> Alert:
    alert = _build(Alert, _mapping(data, where), where)
    where = f"{where}: alert {alert.name}"
    _one_of(alert.severity, _SEVERITIES, where, "severity")
    conditions = (alert.above is not None, alert.below is not None, alert.increased)
    _require(sum(conditions) == 1, where, "give exactly one of above, below, increased")
    return alert


def _unique_keys(metrics: Iterable[Metric], source: str) -> None:
    seen: dict[str, str] = {}
    for metric in metrics:
        for key in (key.replace(".", "/") for alias in metric.aliases for key in alias.keys):
            _require(key not in seen, source, f"native key {key!r} belongs to both {seen.get(key)} and {metric.name}")
            seen[key] = metric.name


def _build(cls: type[T], data: Any, where: str) -> T:
    item = _mapping(data, where)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    _known(item, fields, where)
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        _require(name in item or not missing, where, f"{name} is missing")
        if name in item:
            item[name] = _typed(item[name], str(field.type), f"{where}: {name}")
    return cls(**item)


def _typed(value: Any, annotation: str, where: str) -> Any:
    """Check a scalar against its field's annotation; whole numbers pass as floats."""
    expected: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
        "float | None": (int, float),
    }
    if annotation == "Mapping[str, str]":
        return {_typed(key, "str", where): _typed(text, "str", where) for key, text in _mapping(value, where).items()}
    kinds = expected.get(annotation)
    if kinds is None:
        return value
    _require(
        isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)),
        where,
        f"{value!r} must be of type {annotation}",
    )
    return float(value) if float in kinds else value


def _texts(data: Any, where: str) -> tuple[str, ...]:
    return tuple(_typed(item, "str", where) for item in _list(data, where))


def _list(data: Any, where: str) -> list[Any]:
    _require(isinstance(data, list), where, f"{data!r} must be a list")
    return list(data)


def _mapping(data: Any, where: str) -> dict[str, Any]:
    _require(isinstance(data, dict), where, f"{data!r} must be a mapping")
    return dict(data)


def _known(item: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = tuple(known)
    for key in item:
        _one_of(key, names, where, "key")


def _one_of(value: Any, allowed: tuple[str, ...], where: str, what: str) -> None:
    _require(value in allowed, where, f"unknown {what} {value!r}; known are: {', '.join(filter(None, allowed))}")


def _require(condition: object, where: str, message: str) -> None:
    if not condition:
        raise ConfigError(f"{where}: {message}")
