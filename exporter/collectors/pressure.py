"""Pressure stall information of Linux: how long tasks waited for CPU, memory and storage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from exporter.catalog import Catalog
from exporter.cgroup import read_text
from exporter.records import Sample

__all__ = ["PressureCollector"]

_TOTAL = re.compile(r"^(some|full) .*\btotal=(\d+)$", re.MULTILINE)
_FAMILIES = {"some": "host_pressure_waiting_seconds", "full": "host_pressure_stalled_seconds"}
_UNDEFINED = ("cpu", "full")
"""Some task always runs on a host's CPUs: the kernel only says zero so as not to break older programs."""


class PressureCollector:
    """Samples the host; a kernel that does not measure pressure has no series."""

    name = "pressure"

    def __init__(self, catalog: Catalog, root: Path = Path("/")) -> None:
        """Read the kernel's files below ``root``."""
        self._catalog = catalog
        self._folder = root / "proc/pressure"

    def collect(self) -> Iterator[Sample]:
        """Current values, by resource."""
        for resource in ("cpu", "memory", "io"):
            for share, microseconds in _TOTAL.findall(read_text(self._folder / resource)):
                if (resource, share) != _UNDEFINED:
                    family = self._catalog.family(_FAMILIES[share])
                    yield Sample(family, (("resource", resource),), int(microseconds) / 1e6)
