"""What is measured beside the runs: one file per collector, each with ``name`` and ``collect()``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from exporter.catalog import Catalog
from exporter.collectors.background import BackgroundCollector
from exporter.collectors.cgroup import ControlGroupCollector
from exporter.collectors.disk import DiskCollector
from exporter.collectors.gpu import GpuCollector
from exporter.collectors.host import HostCollector, process_is_alive
from exporter.collectors.pressure import PressureCollector
from exporter.collectors.processes import RunProcess
from exporter.collectors.run_processes import RunProcessCollector
from exporter.records import Sample

__all__ = ["Collector", "GpuCollector", "RunProcess", "host_collectors", "process_is_alive"]


class Collector(Protocol):
    """Anything that can be sampled at a scrape."""

    @property
    def name(self) -> str:
        """Value of the label ``collector`` in the collector's own success and duration."""

    def collect(self) -> Iterable[Sample]:
        """Current values; an exception is shown as a failed collector, not as a failed scrape."""


def host_collectors(catalog: Catalog, folder: Path, runs: Callable[[], Iterable[RunProcess]]) -> list[Collector]:
    """What is measured of this host and of the runs on it, GPUs apart; ``folder`` holds the runs.

    Raises:
        MissingDependencyError: psutil is not installed.
    """
    return [
        HostCollector(catalog),
        PressureCollector(catalog),
        ControlGroupCollector(catalog, runs),
        BackgroundCollector(DiskCollector(catalog, folder, runs)),
        BackgroundCollector(RunProcessCollector(catalog, runs)),
    ]
