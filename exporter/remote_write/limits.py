"""What a server keeps: how old samples may be. A server that answers 204 may have thrown them away."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from exporter.encoding import decode
from exporter.errors import ServerError
from exporter.remote_write.endpoint import Endpoint

__all__ = ["FUTURE_SECONDS", "Limits", "read_limits"]

_DAY = 86400.0
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY, "w": 7 * _DAY, "y": 365 * _DAY}
_MONTH_SECONDS = 31 * _DAY
_DURATION_PART = re.compile(r"([0-9.]+)(ms|[smhdwy])")
_RETENTION_FLAG = re.compile(r'^flag\{name="retentionPeriod", ?value="([^"]*)"', re.MULTILINE)

_IN_ORDER_SECONDS = 3600.0
"""How far behind its newest sample Prometheus takes samples without an out-of-order window."""

_UNWELCOME = (401, 403)

FUTURE_SECONDS = 600.0
"""Prometheus 3 refuses later samples. Version 2 takes them, and then refuses everything earlier."""


@dataclass(frozen=True)
class Limits:
    """The limits of one server; infinite where it has none or does not say."""

    retention_seconds: float = math.inf
    retention_flag: str = ""
    window_seconds: float = math.inf
    """How far samples may be behind the newest one."""
    newest_ms: float = -math.inf
    """Time of the newest sample that the server has of anything."""
    settling_seconds: float = 30.0
    """How long queries may not show what was accepted: VictoriaMetrics remembers that there was nothing."""

    @property
    def are_known(self) -> bool:
        """Whether the server told them."""
        return bool(self.retention_flag)

    def objections(self, first_ms: int, last_ms: int, newest_ms: float, now: float) -> Iterator[str]:
        """Why samples from ``first_ms`` to ``last_ms`` would be refused or thrown away, and what to do.

        ``newest_ms`` is the time of the newest sample that the server will have by then.
        """
        if last_ms / 1000 > now + FUTURE_SECONDS:
            yield (
                f"its last sample is {_span(last_ms / 1000 - now)} in the future; samples more than 10 minutes ahead "
                "are refused or block what comes after them: set the right times with --start and --step-seconds"
            )
        age = now - first_ms / 1000
        if age > self.retention_seconds:
            yield (
                f"its first sample is {_span(age)} old, and the server keeps {_span(self.retention_seconds)}: "
                f"start it with {self.retention_flag}={_days(age)}"
            )
        behind = (newest_ms - first_ms) / 1000
        if behind > self.window_seconds:
            yield (
                f"its first sample is {_span(behind)} behind the newest one that the server has, and the server takes "
                f"at most {_span(self.window_seconds)}: set `storage: {{tsdb: {{out_of_order_time_window: "
                f"{_days(behind)}}}}}` in its configuration and reload it, or write blocks with --openmetrics"
            )


def read_limits(endpoint: Endpoint) -> Limits:
    """The limits of a Prometheus or VictoriaMetrics; none where the server says nothing about them.

    Raises:
        ServerError: it does not answer, or not to this sender.
    """
    runtime = _data(endpoint, "status/runtimeinfo")
    if "storageRetention" in runtime:
        return _prometheus(endpoint, runtime)
    page = endpoint.page("/metrics")
    flag = _RETENTION_FLAG.search(page.body.decode("utf-8", "replace")) if page.is_ok else None
    return Limits(_victoria_seconds(flag[1]), "-retentionPeriod") if flag else Limits()


def _prometheus(endpoint: Endpoint, runtime: dict[str, Any]) -> Limits:
    head = _data(endpoint, "status/tsdb").get("headStats", {})
    has_samples = head.get("maxTime", -1) >= head.get("minTime", 0)
    return Limits(
        _seconds(runtime["storageRetention"].split(" ")[0]) or math.inf,  # none where only the size is limited
        "--storage.tsdb.retention.time",
        _window_seconds(_data(endpoint, "status/config").get("yaml", "")) or _IN_ORDER_SECONDS,
        head["maxTime"] if has_samples else -math.inf,
        settling_seconds=1.0,
    )


def _data(endpoint: Endpoint, path: str) -> dict[str, Any]:
    reply = endpoint.api(path)
    if reply.status in _UNWELCOME:
        raise ServerError(reply.complaint)
    try:
        data = decode(reply.body)["data"] if reply.is_ok else None
    except (ValueError, KeyError, TypeError):
        data = None
    return data if isinstance(data, dict) else {}


def _window_seconds(configuration: str) -> float:
    try:
        return _seconds(str(yaml.safe_load(configuration)["storage"]["tsdb"]["out_of_order_time_window"]))
    except (yaml.YAMLError, KeyError, TypeError):
        return 0.0


def _seconds(duration: str) -> float:
    """A duration such as ``1h30m``; 0 for what is none, such as a size."""
    if not re.fullmatch(f"(?:{_DURATION_PART.pattern})+", duration):
        return 0.0
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(duration))


def _victoria_seconds(period: str) -> float:
    """VictoriaMetrics takes a number without a unit as months, which later versions call M."""
    return _seconds(period) or float(period.removesuffix("M")) * _MONTH_SECONDS


def _span(seconds: float) -> str:
    for unit, name in ((_DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{round(seconds / unit, 1):g} {name}"
    return f"{round(seconds, 1):g} s"


def _days(seconds: float) -> str:
    """A duration as long, in whole days, and one more for the time that passes meanwhile."""
    return f"{math.ceil(seconds / _DAY) + 1}d"
