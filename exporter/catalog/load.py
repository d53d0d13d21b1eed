"""Decode a catalog file strictly: an unknown key, a wrong type or a name that clashes is an error with its place."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from exporter.catalog.decode import (
    WINDOW,
    as_list,
    as_mapping,
    as_texts,
    build,
    known,
    one_of,
    read_yaml,
    require,
    typed,
)
from exporter.catalog.model import Alias, Catalog, Group, Metric, Panel, Range
from exporter.catalog.own import adjusted, merged
from exporter.catalog.rules import decode_alerts, with_alerts
from exporter.errors import ConfigError

__all__ = ["default_catalog", "load_catalog", "parse_catalog"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_ADDRESS = re.compile(r"https?://[^/\s#][^\s#]*")
_TYPES = ("gauge", "counter", "histogram")
_FILES = ("catalog.yaml", "rules.yaml")
_PARTS = ("groups", "metrics", "rules", "thresholds", "silences", "runbook_url")


@functools.cache
def default_catalog() -> Catalog:
    """The catalog that ships with the package."""
    return _catalog(_shipped(), "the shipped catalog")


def load_catalog(path: Path) -> Catalog:
    """The shipped catalog with what a file adds to it or changes.

    Raises:
        ConfigError: it cannot be read or breaks a rule.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    own = read_yaml(text, str(path))
    known(own, _PARTS, str(path))
    return _catalog(merged(_shipped(), own, str(path)), str(path))


def parse_catalog(text: str, source: str) -> Catalog:
    """Decode a whole catalog; ``source`` names it in errors.

    Raises:
        ConfigError: it breaks a rule; the message names the place.
    """
    data = read_yaml(text, source)
    known(data, _PARTS, source)
    for part in ("groups", "metrics"):
        require(part in data, source, f"{part} is missing")
    return _catalog(data, source)


def _shipped() -> dict[str, Any]:
    """The shipped files, not yet decoded: names in one, rules in the other."""
    data: dict[str, Any] = {}
    for name in _FILES:
        data |= read_yaml(resources.files("exporter.catalog").joinpath(name).read_text("utf-8"), name)
    return data


def _catalog(data: Mapping[str, Any], source: str) -> Catalog:
    groups = {
        name: _group(item, f"{source}: groups.{name}") for name, item in as_mapping(data["groups"], source).items()
    }
    metrics = {
        name: _metric(name, item, groups, f"{source}: {name}")
        for name, item in as_mapping(data["metrics"], source).items()
    }
    _unique_keys(metrics.values(), source)
    rules = as_mapping(data.get("rules", {}), f"{source}: rules")
    alerts = decode_alerts(rules, groups, metrics, source)
    alerts = adjusted(alerts, data.get("thresholds", []), data.get("silences", []), source)
    return Catalog(groups, with_alerts(metrics, alerts), alerts, _runbook_url(data.get("runbook_url", ""), source))


def _runbook_url(data: Any, source: str) -> str:
    url: str = typed(data, "str", f"{source}: runbook_url")
    require(
        not url or _ADDRESS.fullmatch(url),
        f"{source}: runbook_url",
        f"{url!r} must be the address of RUNBOOK.md without a '#', such as https://wiki.example.com/RUNBOOK.md",
    )
    return url


def _metric(name: str, data: Any, groups: Mapping[str, Group], where: str) -> Metric:
    item = as_mapping(data, where)
    require("alerts" not in item, where, "alerts stand in the part 'rules' of the catalog, each with its metric")
    item["name"] = name
    item["labels"] = as_texts(item.get("labels", []), f"{where}: labels")
    item["aliases"] = tuple(_alias(alias, where) for alias in as_list(item.get("aliases", []), f"{where}: aliases"))
    if "panel" in item:
        item["panel"] = build(Panel, item["panel"], f"{where}: panel")
    if "healthy" in item:
        item["healthy"] = build(Range, item["healthy"], f"{where}: healthy")
    metric = build(Metric, item, where)
    _check_metric(metric, groups, where)
    return metric


def _check_metric(metric: Metric, groups: Mapping[str, Group], where: str) -> None:
    require(_NAME.fullmatch(metric.name), where, f"name {metric.name!r} must be lower-case letters, digits and _")
    one_of(metric.type, _TYPES, where, "type")
    one_of(metric.group, tuple(groups), where, "group")
    one_of(metric.headline, ("", "min", "max"), where, "headline")
    require(metric.help.strip(), where, "help is missing: say what the metric means")
    for window in (metric.window, metric.sparse_window):
        require(WINDOW.fullmatch(window), where, f"window {window!r} must be a Prometheus duration such as 1m")
    for alias in metric.aliases:
        require(
            set(alias.labels) == set(metric.labels), where, f"alias {alias.keys[0]!r} must give labels {metric.labels}"
        )
        require(
            metric.type == "counter" or not alias.per_step, where, "per_step is for counters, which add up their steps"
        )


def _group(data: Any, where: str) -> Group:
    item = as_mapping(data, where)
    return build(Group, {**item, "prefixes": as_texts(item.get("prefixes", []), f"{where}: prefixes")}, where)


def _alias(data: Any, where: str) -> Alias:
    item = as_mapping(data, where)
    require(item.get("keys"), where, "an alias needs keys")
    alias = build(Alias, {**item, "keys": as_texts(item["keys"], f"{where}: keys")}, where)
    require(math.isfinite(alias.scale) and alias.scale != 0, where, f"scale {alias.scale!r} must be finite and not 0")
    return alias


def _unique_keys(metrics: Iterable[Metric], source: str) -> None:
    seen: dict[str, str] = {}
    for metric in metrics:
        for key in (key.replace(".", "/") for alias in metric.aliases for key in alias.keys):
            require(key not in seen, source, f"native key {key!r} belongs to both {seen.get(key)} and {metric.name}")
            seen[key] = metric.name
