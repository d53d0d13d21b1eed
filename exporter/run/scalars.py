"""What counts as a number: anything that float() or a one-element item() makes one, but no text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from exporter.encoding import number_token
from exporter.run.table import Table

__all__ = ["Sorted", "sort_values", "to_scalar"]


class Sorted(NamedTuple):
    """The values of one call by what becomes of them."""

    metrics: dict[str, Any]
    properties: dict[str, str]
    tables: dict[str, Table]
    refused: list[str]
    """Keys whose value is none of these."""


def to_scalar(value: Any) -> Any:
    """Convert a numpy, torch or similar scalar for the encoder.

    Raises:
        TypeError: it holds not exactly one number.
    """
    if isinstance(value, (bytes, bytearray)):
        raise TypeError(f"{type(value).__name__} is text")
    try:
        number = value.item() if hasattr(value, "item") else float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{type(value).__name__} is not one number") from error
    if isinstance(number, (int, float)):
        return number
    raise TypeError(f"{type(value).__name__} is not one number")


def sort_values(values: Mapping[Any, Any]) -> Sorted:
    """Look at each value of a call that does not consist of finite plain numbers; None is left out."""
    result = Sorted({}, {}, {}, [])
    for name, value in values.items():
        key = name if type(name) is str else str(name)
        key = key.encode("utf-8", "replace").decode()
        if isinstance(value, str):
            result.properties[key] = value.encode("utf-8", "replace").decode()
        elif isinstance(value, Table):
            result.tables[key] = value
        elif value is not None:
            _sort_number(key, value, result)
    return result


def _sort_number(key: str, value: Any, result: Sorted) -> None:
    try:
        number = value if isinstance(value, (int, float)) else to_scalar(value)
        result.metrics[key] = number_token(_as_float(number))
    except Exception:  # noqa: BLE001 - telemetry never breaks training
        result.refused.append(key)


def _as_float(number: float) -> float:
    """The nearest float; an integer beyond the largest one is infinite, as it is to IEEE 754."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
