"""What is measured beside the runs: one file per collector, each with ``name`` and ``collect()``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from exporter.collectors.gpu import GpuCollector
from exporter.collectors.gpu_owners import RunProcess
from exporter.collectors.host import HostCollector, process_is_alive
from exporter.records import Sample

__all__ = ["Collector", "GpuCollector", "HostCollector", "RunProcess", "process_is_alive"]


class Collector(Protocol):
    """Anything that can be sampled at a scrape."""

    @property
    def name(self) -> str:
        """Value of the label ``collector`` in the collector's own success and duration."""

    def collect(self) -> Iterable[Sample]:
        """Current values; an exception is shown as a failed collector, not as a failed scrape."""
