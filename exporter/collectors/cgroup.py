"""What the control group of each run, such as its container or its Slurm job, may use: CPUs, memory, OOM kills."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Catalog
from exporter.cgroup import ControlGroup
from exporter.collectors.processes import RunProcess
from exporter.records import Labels, Sample

__all__ = ["ControlGroupCollector"]

_LINGER_SECONDS = 300.0
"""How long the kills in a run's group are told after its process has gone, of which the kernel's may be the cause."""


class _Seen(NamedTuple):
    """The group of a run, and when the run's process was last in it, in monotonic seconds."""

    group: ControlGroup
    at: float


class ControlGroupCollector:
    """Samples the groups of the runs on this host; what is not limited has no series."""

    name = "cgroup"

    def __init__(self, catalog: Catalog, runs: Callable[[], Iterable[RunProcess]], root: Path = Path("/")) -> None:
        """Read the kernel's files below ``root``; ``runs`` gives the runs' processes as of now."""
        self._catalog = catalog
        self._runs = runs
        self._root = root
        self._seen: dict[Labels, _Seen] = {}

    def collect(self) -> Iterator[Sample]:
        """Current values, by run; each group is read once. Of runs that ended lately only the kills."""
        now = time.monotonic()
        groups = ((run.labels, ControlGroup(self._root, run.pid)) for run in self._runs())
        self._seen |= {labels: _Seen(group, now) for labels, group in groups if group.exists}
        self._seen = {labels: seen for labels, seen in self._seen.items() if _is_told(seen, now)}
        values: dict[tuple[Path | None, ...], Mapping[str, float | None]] = {}
        for labels, (group, at) in self._seen.items():
            if group.place not in values:
                values[group.place] = _values(group)
            for name, value in values[group.place].items():
                if value is not None and (at == now or name == "run_cgroup_oom_kills"):
                    yield Sample(self._catalog.family(name), labels, value)


def _is_told(seen: _Seen, now: float) -> bool:
    return seen.group.exists and now - seen.at <= _LINGER_SECONDS


def _values(group: ControlGroup) -> Mapping[str, float | None]:
    memory = group.memory_limit()
    return {
        "run_cgroup_cpu_limit_cpus": group.cpu_limit(),
        "run_cgroup_memory_limit_bytes": memory and memory.limit,
        "run_cgroup_memory_used_bytes": memory and memory.used,
        "run_cgroup_oom_kills": group.oom_kills(),
    }
