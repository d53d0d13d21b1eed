"""The host and the serving process, by psutil: CPU, load, memory, traffic. The one module that imports psutil."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import ModuleType

from exporter.catalog import Catalog
from exporter.errors import MissingDependencyError
from exporter.records import Sample

__all__ = ["HostCollector", "load_psutil", "process_is_alive"]

_CLOCK_TOLERANCE_SECONDS = 60.0
"""A process' start is told relative to the boot, and moves when the clock is set."""


def load_psutil() -> ModuleType:
    """The library, which a supervised command can do without.

    Raises:
        MissingDependencyError: it is not installed, or does not work here.
    """
    try:
        import psutil
    except Exception as error:  # another version of a library that it loads raises anything
        raise MissingDependencyError(f"psutil cannot be imported ({error}); pip install psutil") from error
    return psutil


class HostCollector:
    """Samples the host at each scrape; CPU utilisation is the mean since the scrape before.

    It is counted here, because ``psutil.cpu_percent`` does so for each thread by itself, and pages come from several.
    """

    name = "host"

    def __init__(self, catalog: Catalog) -> None:
        """Begin to measure.

        Raises:
            MissingDependencyError: psutil is not installed.
        """
        self._catalog = catalog
        self._psutil = load_psutil()
        self._process = self._psutil.Process()
        self._cpu_times = self._psutil.cpu_times()

    def collect(self) -> Iterator[Sample]:
        """Current values."""
        yield from self._cpu()
        yield self._sample("host_cpus", self._psutil.cpu_count() or 1)
        for minutes, load in zip((1, 5, 15), self._psutil.getloadavg(), strict=True):
            yield self._sample(f"host_load{minutes}", load)
        memory = self._psutil.virtual_memory()
        yield self._sample("host_memory_total_bytes", memory.total)
        yield self._sample("host_memory_available_bytes", memory.available)
        yield self._sample("host_swap_used_bytes", self._psutil.swap_memory().used)
        yield from self._disk()
        yield from self._network()
        yield from self._own_process()

    def _cpu(self) -> Iterator[Sample]:
        before, self._cpu_times = self._cpu_times, self._psutil.cpu_times()
        spent = _spent(before._asdict(), self._cpu_times._asdict())
        total = sum(spent.values())
        if total:
            idle = spent["idle"] + spent.get("iowait", 0.0)
            yield self._sample("host_cpu_utilization_ratio", 1 - idle / total)

    def _disk(self) -> Iterator[Sample]:
        counters = self._psutil.disk_io_counters()
        if counters:
            yield self._sample("host_disk_read_bytes", counters.read_bytes)
            yield self._sample("host_disk_written_bytes", counters.write_bytes)

    def _network(self) -> Iterator[Sample]:
        counters = self._psutil.net_io_counters()
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

    def _sample(self, name: str, value: float) -> Sample:
        return Sample(self._catalog.family(name), (), value)


def _spent(before: Mapping[str, float], now: Mapping[str, float]) -> Mapping[str, float]:
    """Seconds by kind between two moments. Linux counts some back at times, and a guest's in user and nice, too."""
    return {kind: max(now[kind] - before[kind], 0.0) for kind in now if not kind.startswith("guest")}


def process_is_alive(pid: int, since: float) -> bool:
    """Whether the process that had this pid at a time (seconds since 1970) still runs.

    A process that was created later has only inherited the number; a zombie is dead.

    Raises:
        MissingDependencyError: psutil is not installed.
    """
    psutil = load_psutil()
    try:
        process = psutil.Process(pid)
        created_before: bool = process.create_time() <= since + _CLOCK_TOLERANCE_SECONDS
        return created_before and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the last two: a number that is no pid
        return False
    except psutil.AccessDenied:
        return True
