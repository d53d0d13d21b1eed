"""From YAML to dataclasses, strictly: an unknown key or a wrong type is an error with its place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml

from exporter.errors import ConfigError

__all__ = ["WINDOW", "as_list", "as_mapping", "as_texts", "build", "known", "one_of", "read_yaml", "require", "typed"]

T = TypeVar("T")

WINDOW = re.compile(r"[1-9][0-9]*[smhd]")
"""A Prometheus duration of one unit."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float),
}
_TEXT_MAPPINGS = ("Mapping[str, str]", "Runs")


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; ``source`` names it in errors."""
    try:
        data = yaml.load(text, _UniqueKeys)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise ConfigError(f"{source}: not YAML: {error}") from error
    return as_mapping(data, source)


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def build(cls: type[T], data: Any, where: str) -> T:
    """An object of a dataclass from a mapping with the names of its fields."""
    item = as_mapping(data, where)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    known(item, fields, where)
    for name, field in fields.items():
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        require(name in item or not missing, where, f"{name} is missing")
        if name in item:
            item[name] = typed(item[name], str(field.type), f"{where}: {name}")
    return cls(**item)


def typed(value: Any, annotation: str, where: str) -> Any:
    """Check a scalar against its field's annotation; whole numbers pass as floats."""
    if annotation in _TEXT_MAPPINGS:
        return {typed(key, "str", where): typed(text, "str", where) for key, text in as_mapping(value, where).items()}
    kinds = _KINDS.get(annotation)
    if kinds is None:
        return value
    require(
        isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)),
        where,
        f"{value!r} must be of type {annotation}",
    )
    return float(value) if float in kinds else value


def as_texts(data: Any, where: str) -> tuple[str, ...]:
    """A list of strings."""
    return tuple(typed(item, "str", where) for item in as_list(data, where))


def as_list(data: Any, where: str) -> list[Any]:
    """A list."""
    require(isinstance(data, list), where, f"{data!r} must be a list")
    return list(data)


def as_mapping(data: Any, where: str) -> dict[str, Any]:
    """A mapping."""
    require(isinstance(data, dict), where, f"{data!r} must be a mapping")
    return dict(data)


def known(item: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Every key is one of these."""
    allowed = tuple(names)
    for key in item:
        one_of(key, allowed, where, "key")


def one_of(value: Any, allowed: tuple[str, ...], where: str, what: str) -> None:
    """A value is one of these."""
    require(value in allowed, where, f"unknown {what} {value!r}; known are: {', '.join(filter(None, allowed))}")


def require(condition: object, where: str, message: str) -> None:
    """Raise a ConfigError that names the place, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{where}: {message}")
