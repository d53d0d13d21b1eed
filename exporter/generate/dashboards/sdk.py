"""The library that knows Grafana's dashboard format, imported in this one place."""

from __future__ import annotations

import warnings
from typing import TypeVar

with warnings.catch_warnings():
    # The library advises dashboards of version 2, which only recent Grafana servers read from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, table, timeseries, trend
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as common_model
    from grafana_foundation_sdk.models import dashboard as model
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "Graph",
    "JSONEncoder",
    "PromQueryFormat",
    "common",
    "common_model",
    "dashboard",
    "model",
    "prometheus",
    "table",
    "timeseries",
    "trend",
]

Graph = TypeVar("Graph", timeseries.Panel, trend.Panel)
"""Curves over time, or over a number."""
