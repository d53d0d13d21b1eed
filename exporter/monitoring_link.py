"""Where a run can be looked at: its address in Grafana."""

from __future__ import annotations

from urllib.parse import urlencode

__all__ = ["COMPARE", "monitoring_link"]

COMPARE = "telemetry-compare"
"""The uid of the dashboard that compares runs."""


def monitoring_link(grafana_url: str, run_id: str, started: float | None = None) -> str:
    """The address at which the run is selected in Compare, from when it ``started`` (seconds since 1970) until now."""
    span = {} if started is None else {"from": int(started * 1000), "to": "now"}
    return f"{grafana_url.rstrip('/')}/d/{COMPARE}?{urlencode({'var-run': run_id, **span})}"
