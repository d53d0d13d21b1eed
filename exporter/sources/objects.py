"""What the readers of JSON share: the numbers in an object, a step, a point in time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from exporter.encoding import NON_FINITE, decode
from exporter.journal.decode import END_OF_TIME

__all__ = ["EARLIEST", "PLAIN", "WHOLE_LIMIT", "numeric_leaves", "object_or_none", "step_number", "unix_seconds"]

PLAIN = frozenset({int, float})
_PLAIN_OR_FLAG = frozenset({int, float, bool})
_NUMBER_TEXTS = NON_FINITE | {"nan", "inf", "-inf"}

WHOLE_LIMIT = 1 << 63
"""Steps beyond it are no 64-bit numbers and would not fit any journal."""


EARLIEST = 1e8
"""No log is older than 1973: a smaller number of seconds is how long something took."""


def numeric_leaves(fields: Mapping[str, Any], *, flags: bool = False) -> Mapping[str, float]:
    """The numbers in an object, those of inner objects under keys joined by ``/``.

    Lists, text and null are left out, and so are objects tagged ``_type``, which describe media.

    Args:
        fields: A decoded JSON object.
        flags: Whether true and false are the numbers 1 and 0.
    """
    if PLAIN.issuperset(map(type, fields.values())):
        return fields
    found: dict[str, float] = {}
    _collect(fields, "", _PLAIN_OR_FLAG if flags else PLAIN, found)
    return found


def _collect(fields: Mapping[str, Any], prefix: str, numbers: frozenset[type], found: dict[str, float]) -> None:
    if PLAIN.issuperset(map(type, fields.values())):
        found.update(zip(map(prefix.__add__, fields), fields.values(), strict=True))
        return
    for key, value in fields.items():
        kind = type(value)
        if kind in numbers:
            found[prefix + key] = +value
        elif kind is dict:
            if "_type" not in value:
                _collect(value, f"{prefix}{key}/", numbers, found)
        elif kind is str and value in _NUMBER_TEXTS:
            found[prefix + key] = float(value)


def step_number(value: Any) -> int:
    """A step as a whole number.

    Raises:
        ValueError: it is none, or too large for one.
    """
    try:
        step = int(value)
    except (TypeError, ValueError, OverflowError):
        step = WHOLE_LIMIT
    if -WHOLE_LIMIT <= step < WHOLE_LIMIT:
        return step
    raise ValueError(f"step {value!r:.40} is no whole number")


def unix_seconds(value: Any) -> float | None:
    """A point in time as seconds since 1970: a number of them or ISO 8601 text, in UTC where it names no zone.

    None for anything else: a duration, or milliseconds, for no clock shows as many seconds.
    """
    seconds: Any = _iso_seconds(value) if type(value) is str else value
    return seconds if type(seconds) in PLAIN and EARLIEST <= seconds < END_OF_TIME else None


def _iso_seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def object_or_none(text: bytes) -> dict[str, Any] | None:
    """The JSON object in a text, or None where it is none."""
    try:
        fields = decode(text)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None
