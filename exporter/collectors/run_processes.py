"""What the processes of each run use: its trainer's, and those that descend from it, taken together.

Counters do not fall when a process ends: the kernel adds what it has used to its parent once that has waited for it.
What leaves the tree in another way, such as a process whose parent has ended before, is kept as it was last seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Catalog
from exporter.collectors.processes import Processes, RunProcess, Status, tree
from exporter.records import Sample

__all__ = ["RunProcessCollector"]

_MAX_TRIES = 3
_COUNTERS = ("run_process_cpu_seconds", "run_process_read_bytes", "run_process_written_bytes")

_Counts = tuple[float | None, float | None, float | None]


class _Usage(NamedTuple):
    """What a tree of processes uses: counters in the order of ``_COUNTERS``, and gauges."""

    counts: _Counts
    gauges: Mapping[str, float | None]


class _Seen(NamedTuple):
    """The counters of a tree when they were read last, and what processes had counted that left it unheard."""

    counts: _Counts
    left: tuple[float, ...] = (0.0, 0.0, 0.0)

    def then(self, counts: _Counts) -> _Seen:
        """The same after another reading; one that fails, or is the first, changes nothing of what has left."""
        both = [(0.0 if a is None or b is None else a - b) for a, b in zip(self.counts, counts, strict=True)]
        kept = [new if new is not None else old for old, new in zip(self.counts, counts, strict=True)]
        left = tuple(gone + max(fallen, 0.0) for gone, fallen in zip(self.left, both, strict=True))
        return _Seen((kept[0], kept[1], kept[2]), left)


class RunProcessCollector:
    """Samples the processes of the runs on this host; a run whose process is gone has no series."""

    name = "run_processes"

    def __init__(self, catalog: Catalog, runs: Callable[[], Iterable[RunProcess]], root: Path = Path("/")) -> None:
        """Read the kernel's files below ``root``; ``runs`` gives the runs' processes as of now."""
        self._catalog = catalog
        self._runs = runs
        self._processes = Processes(root / "proc")
        self._seen: dict[tuple[RunProcess, int], _Seen] = {}

    def collect(self) -> Iterator[Sample]:
        """Current values, by run."""
        runs = [run._replace(checkpoint="") for run in self._runs()]
        pids = {run.pid for run in runs}
        children = self._processes.children() if runs else {}
        seen = {}
        for run in runs:
            first = self._processes.status(run.pid)
            if first:
                usage = self._usage(run.pid, children, pids)
                key = (run, first.started)
                seen[key] = self._seen.get(key, _Seen(usage.counts)).then(usage.counts)
                yield from self._samples(run, seen[key], usage)
        self._seen = seen

    def _usage(self, pid: int, children: Mapping[int, Sequence[int]], others: Collection[int]) -> _Usage:
        """What a tree uses at one time; a tree that changes while it is read is read again.

        A parent is read before its children: then one that ends meanwhile is missed, and never counted twice.
        """
        for _ in range(_MAX_TRIES):
            pids = list(tree(pid, children, others))
            pairs = [(self._processes.storage(each), self._processes.status(each)) for each in pids]
            statuses = [status for _, status in pairs if status]
            if len(statuses) == len(pids):
                return _Usage(_counts(pairs), self._gauges(pids, statuses))
            children = self._processes.children()
        return _Usage((None, None, None), self._gauges(pids, statuses))

    def _gauges(self, pids: Iterable[int], statuses: Iterable[Status]) -> Mapping[str, float | None]:
        alive = [status for status in statuses if not status.is_dead]
        files = [count for count in map(self._processes.open_files, pids) if count is not None]
        return {
            "run_processes": len(alive),
            "run_process_resident_memory_bytes": sum(status.resident_bytes for status in alive),
            "run_process_threads": sum(status.threads for status in alive),
            "run_process_open_fds": sum(files) if files else None,
        }

    def _samples(self, run: RunProcess, seen: _Seen, usage: _Usage) -> Iterator[Sample]:
        totals = {
            name: None if count is None else count + left
            for name, count, left in zip(_COUNTERS, seen.counts, seen.left, strict=True)
        }
        for name, value in {**totals, **usage.gauges}.items():
            if value is not None:
                yield Sample(self._catalog.family(name), run.labels, value)


def _counts(pairs: Sequence[tuple[tuple[int, int] | None, Status | None]]) -> _Counts:
    """Sums over a tree; None for what may be read of none of its processes."""
    storage = [bytes_of for bytes_of, _ in pairs if bytes_of]
    cpu_seconds = sum(status.cpu_seconds for _, status in pairs if status)
    if not storage:
        return (cpu_seconds, None, None)
    return (cpu_seconds, sum(read for read, _ in storage), sum(written for _, written in storage))
