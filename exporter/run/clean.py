"""Make anything a user hands over fit for a line of JSON; used outside the hot path only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from exporter.encoding import number_token

__all__ = ["clean"]

_MAX_DEPTH = 12
_MAX_TEXT = 65_536
_MAX_EXACT_INT = 2**63


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
