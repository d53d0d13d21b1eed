"""What the control group of each run, such as its container or its Slurm job, may use: CPUs, memory, OOM kills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from exporter.catalog import Catalog
from exporter.cgroup import ControlGroup
from exporter.collectors.processes import RunProcess
from exporter.records import Sample

__all__ = ["ControlGroupCollector"]


class ControlGroupCollector:
    """Samples the groups of the runs on this host; what is not limited has no series."""

    name = "cgroup"

    def __init__(self, catalog: Catalog, runs: Callable[[], Iterable[RunProcess]], root: Path = Path("/")) -> None:
        """Read the kernel's files below ``root``; ``runs`` gives the runs' processes as of now."""
        self._catalog = catalog
        self._runs = runs
        self._root = root

    def collect(self) -> Iterator[Sample]:
        """Current values, by run; each group is read once."""
        groups: dict[tuple[Path | None, ...], Mapping[str, float | None]] = {}
        for run in self._runs():
            group = ControlGroup(self._root, run.pid)
            if group.place not in groups:
                groups[group.place] = _values(group)
            for name, value in groups[group.place].items():
                if value is not None:
                    yield Sample(self._catalog.family(name), run.labels, value)


def _values(group: ControlGroup) -> Mapping[str, float | None]:
    memory = group.memory_limit()
    return {
        "run_cgroup_cpu_limit_cpus": group.cpu_limit(),
        "run_cgroup_memory_limit_bytes": memory and memory.limit,
        "run_cgroup_memory_used_bytes": memory and memory.used,
        "run_cgroup_oom_kills": group.oom_kills(),
    }
