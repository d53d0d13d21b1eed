"""The host and the serving process, by psutil: CPU, load, memory, disks, network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from exporter.catalog import Catalog
from exporter.records import Labels, Sample

__all__ = ["HostCollector", "process_is_alive"]

_CLOCK_TOLERANCE_SECONDS = 60.0
"""A process' start is told relative to the boot, and moves when the clock is set."""


class HostCollector:
    """Samples the host at each scrape; CPU utilisation is the mean since the scrape before."""

    name = "host"

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        """Watch the host and the file system of ``folder``."""
        self._catalog = catalog
        self._folder = folder
        self._process = psutil.Process()
        psutil.cpu_percent()

    def collect(self) -> Iterator[Sample]:
        """Current values."""
        yield self._sample("host_cpu_utilization_ratio", psutil.cpu_percent() / 100)
        yield self._sample("host_cpus", psutil.cpu_count() or 1)
        for minutes, load in zip((1, 5, 15), psutil.getloadavg(), strict=True):
            yield self._sample(f"host_load{minutes}", load)
        memory = psutil.virtual_memory()
        yield self._sample("host_memory_total_bytes", memory.total)
        yield self._sample("host_memory_available_bytes", memory.available)
        yield self._sample("host_swap_used_bytes", psutil.swap_memory().used)
        yield from self._disk()
        yield from self._network()
        yield from self._own_process()

    def _disk(self) -> Iterator[Sample]:
        labels = (("path", str(self._folder)),)
        usage = psutil.disk_usage(str(self._folder))
        yield self._sample("host_disk_size_bytes", usage.total, labels)
        yield self._sample("host_disk_free_bytes", usage.free, labels)
        counters = psutil.disk_io_counters()
        if counters:
            yield self._sample("host_disk_read_bytes", counters.read_bytes)
            yield self._sample("host_disk_written_bytes", counters.write_bytes)

    def _network(self) -> Iterator[Sample]:
        counters = psutil.net_io_counters()
        if counters:
            yield self._sample("host_network_received_bytes", counters.bytes_recv)
            yield self._sample("host_network_sent_bytes", counters.bytes_sent)

    def _own_process(self) -> Iterator[Sample]:
        with self._process.oneshot():
            times = self._process.cpu_times()
            yield self._sample("process_cpu_seconds", times.user + times.system)
            yield self._sample("process_resident_memory_bytes", self._process.memory_info().rss)
            yield self._sample("process_threads", self._process.num_threads())
            yield self._sample("process_start_time_seconds", self._process.create_time())
            if os.name == "posix":
                yield self._sample("process_open_fds", self._process.num_fds())

    def _sample(self, name: str, value: float, labels: Labels = ()) -> Sample:
        return Sample(self._catalog.family(name), labels, value)


def process_is_alive(pid: int, since: float) -> bool:
    """Whether the process that had this pid at a time (seconds since 1970) still runs.

    A process that was created later has only inherited the number; a zombie is dead.
    """
    try:
        process = psutil.Process(pid)
        created_before = process.create_time() <= since + _CLOCK_TOLERANCE_SECONDS
        return created_before and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: a number that is no pid
        return False
    except psutil.AccessDenied:
        return True
