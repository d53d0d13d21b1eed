"""JSON for journals: strict on disk, exact for every float.

Non-finite numbers are written as the strings "NaN", "Infinity" and "-Infinity", because JSON has no
tokens for them; bare tokens written by other tools are understood when reading.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

__all__ = [
    "APPEND_NEWLINE",
    "NON_FINITE",
    "clean",
    "decode",
    "encode",
    "encode_line",
    "encode_numbers",
    "is_finite_sum",
    "number_token",
]

NON_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_MOST_DIGITS = 20
"""Of a whole number of 64 bits, with its sign or without."""

_MAX_DEPTH = 12
_MAX_TEXT = 65_536
_MAX_EXACT_INT = 2**63


encode = orjson.dumps
"""The encoder itself, for the hot path: ``encode(record, default, APPEND_NEWLINE)``."""

APPEND_NEWLINE = orjson.OPT_APPEND_NEWLINE


def encode_line(record: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> bytes:
    """Encode one record as a line ending in a newline; non-finite floats become ``null``.

    Raises:
        TypeError: a value is of a type that ``default`` does not convert either.
    """
    return encode(record, default, APPEND_NEWLINE)


def encode_numbers(values: Sequence[Any]) -> bytes:
    """Encode numbers as comma separated tokens: each the shortest text that reads back as the same float."""
    return orjson.dumps(values, list)[1:-1]


def decode(line: bytes) -> Any:
    """Decode one line of JSON, bare NaN and Infinity tokens included.

    Raises:
        ValueError: the line is not JSON.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(line, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole_number(digits: str) -> float:
    """A whole number as orjson gives it: a float where 64 bits do not hold it."""
    number = int(digits) if len(digits) <= _MOST_DIGITS else math.inf
    return number if -(1 << 63) <= number < 1 << 64 else float(digits)


def is_finite_sum(total: Any) -> bool:
    """Whether a sum of values proves that all of them were finite numbers."""
    return bool(-math.inf < total < math.inf)


def number_token(value: float) -> float | str:
    """A float as a journal holds it: itself, or the string for a non-finite one."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def clean(value: Any, depth: int = 0) -> Any:
    """The value in JSON's types: keys and unknown objects as text, non-finite floats as strings, text cut at 64 KiB."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_MAX_EXACT_INT <= value < _MAX_EXACT_INT else str(value)
    if isinstance(value, float):
        return number_token(float(value))
    if isinstance(value, str):
        return value[:_MAX_TEXT].encode("utf-8", "replace").decode()
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {clean(str(key)): clean(item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [clean(item, depth + 1) for item in value]
    if hasattr(value, "item"):
        with contextlib.suppress(Exception):  # it holds not exactly one value, or is no array at all
            return clean(value.item(), _MAX_DEPTH)
    return clean(str(value))
