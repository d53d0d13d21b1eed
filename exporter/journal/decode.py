"""One journal line to one record: tolerant of what other tools write, strict about what is a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exporter.encoding import NON_FINITE, decode, is_finite_sum, number_token
from exporter.records import (
    Check,
    Checkpoint,
    EpochEnd,
    Event,
    Lost,
    Phase,
    Record,
    RunEnd,
    RunStart,
    Step,
    TableRows,
    Timing,
    Unknown,
)

__all__ = ["END_OF_TIME", "decode_record"]

END_OF_TIME = 1e11
"""Far beyond any clock, yet before the present in milliseconds: one such step would outrank all later ones."""

_STEP_FIELDS = frozenset(
    {"_type", "time", "timestamp", "step", "global_step", "iteration", "epoch", "metrics", "properties"}
)


def decode_record(line: bytes) -> Record:
    """Decode one line.

    Raises:
        ValueError: it is no JSON object, or a field that the record needs is missing or of another kind.
    """
    fields = decode(line)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")  # callers know one error for a bad line
    kind = fields.get("_type", "step")
    make = _DECODERS.get(kind) if isinstance(kind, str) else None
    if make is None:
        return Unknown(_time(fields), str(kind))
    try:
        return make(fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{kind} record: field {error} is missing or wrong") from error


def _time(fields: Mapping[str, Any]) -> float:
    value = fields.get("time", fields.get("timestamp"))
    if (type(value) is float or type(value) is int) and 0 <= value < END_OF_TIME:
        return value
    raise ValueError(f"time {value!r} is no number of seconds since 1970")


def _step_number(fields: Mapping[str, Any]) -> int:
    for key in ("step", "global_step", "iteration"):
        value = fields.get(key)
        if value is not None:
            return int(value)
    raise KeyError("step")


def _step(fields: dict[str, Any]) -> Step:
    metrics = fields.get("metrics")
    if not isinstance(metrics, dict):
        metrics = {key: value for key, value in fields.items() if key not in _STEP_FIELDS}
    epoch = fields.get("epoch")
    return Step(
        _time(fields),
        _step_number(fields),
        _numbers(metrics),
        epoch if isinstance(epoch, (int, float)) else None,
        fields.get("properties") or {},
    )


def _numbers(metrics: dict[str, Any]) -> Mapping[str, Any]:
    """The entries that are numbers; one sum proves the common case of finite numbers only."""
    try:
        if is_finite_sum(sum(metrics.values())):
            return metrics
    except TypeError:
        pass
    return {key: _token(value) for key, value in metrics.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and value in NON_FINITE)


def _token(value: float | str) -> float | str:
    return number_token(value) if isinstance(value, float) else value


def _run_start(fields: dict[str, Any]) -> RunStart:
    known = {name: kind(fields[name]) for name, kind in _RUN_FIELDS.items() if fields.get(name) is not None}
    return RunStart(_time(fields), str(fields["run_id"]), **known)


def _timing(fields: dict[str, Any]) -> Timing:
    return Timing(_time(fields), str(fields["name"]), float(fields["seconds"]))


def _phase(fields: dict[str, Any]) -> Phase:
    return Phase(_time(fields), str(fields["name"]))


def _table(fields: dict[str, Any]) -> TableRows:
    return TableRows(_time(fields), str(fields["name"]), int(fields["step"]), fields["columns"], fields["rows"])


def _event(fields: dict[str, Any]) -> Event:
    kind, tags = str(fields.get("alert_type", "info")), fields.get("tags") or ()
    return Event(_time(fields), str(fields["title"]), str(fields.get("text", "")), kind, tags)


def _check(fields: dict[str, Any]) -> Check:
    return Check(_time(fields), str(fields["name"]), str(fields["status"]), str(fields.get("message", "")))


def _checkpoint(fields: dict[str, Any]) -> Checkpoint:
    return Checkpoint(_time(fields), int(fields["step"]), str(fields["path"]), fields.get("metrics") or {})


def _epoch_end(fields: dict[str, Any]) -> EpochEnd:
    return EpochEnd(_time(fields), fields["epoch"], int(fields["step"]), fields.get("summary") or {})


def _lost(fields: dict[str, Any]) -> Lost:
    return Lost(_time(fields), str(fields["reason"]), int(fields["count"]))


def _run_end(fields: dict[str, Any]) -> RunEnd:
    return RunEnd(_time(fields), str(fields["status"]), str(fields.get("reason") or ""), fields.get("exit_code"))


_RUN_FIELDS: dict[str, Callable[[Any], Any]] = {
    "user_id": str,
    "recipe": str,
    "base_model": str,
    "framework": str,
    "tags": lambda tags: {str(name): str(value) for name, value in tags.items()},
    "config": lambda config: dict(config.items()),
    "host": str,
    "pid": int,
    "rank": int,
    "world_size": int,
    "version": str,
    "attempt": int,
    "pid_namespace": str,
}
"""The optional fields of a run_start and what they are made into."""

_DECODERS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "run_start": _run_start,
    "step": _step,
    "metric": _step,
    "timing": _timing,
    "phase": _phase,
    "table": _table,
    "event": _event,
    "check": _check,
    "checkpoint": _checkpoint,
    "epoch_end": _epoch_end,
    "lost": _lost,
    "run_end": _run_end,
}
