"""One look at the machine and at one process, as a record in JSON's types.

Names and units are those of ``system_metrics.jsonl``: percent from 0 to 100, bytes, degrees Celsius, watts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from exporter.collectors.gpu_usage import GpuUsage
from exporter.collectors.host import load_psutil

__all__ = ["SystemSampler"]


class SystemSampler:
    """Samples for one thread; CPU percentages are since the sample before, and 0 in the first."""

    def __init__(self, pid: int | None = None, report: Callable[[str], None] = lambda _: None) -> None:
        """Look at this process alone, or at the one with a pid and all that descends from it.

        ``report`` is told what keeps GPUs from being seen.

        Raises:
            MissingDependencyError: psutil is not installed.
        """
        self._psutil = load_psutil()
        self._process: Any = _or_none(lambda: self._process_of(pid))
        self._gpus = GpuUsage(report)

    def sample(self) -> dict[str, Any]:
        """What there is now; a part that cannot be read is None, and without a driver there is nothing of GPUs."""
        psutil = self._psutil
        return {
            "ts": time.time(),
            "cpu_percent": _or_none(psutil.cpu_percent),
            "cpu_count": _or_none(psutil.cpu_count),
            "memory": _or_none(lambda: psutil.virtual_memory()._asdict()),
            "swap": _or_none(lambda: psutil.swap_memory()._asdict()),
            "load_avg": _or_none(lambda: list(psutil.getloadavg())),
            "process": self._of_process(),
            **self._of_gpus(),
        }

    def close(self) -> None:
        """Give the driver back."""
        self._gpus.close()

    def _process_of(self, pid: int | None) -> Any:
        process = self._psutil.Process(pid)
        return process if pid is None else _Tree(process)

    def _of_process(self) -> dict[str, Any] | None:
        if self._process is None:
            return None
        return {
            "cpu_percent": _or_none(self._process.cpu_percent),
            "memory_info": _or_none(lambda: self._process.memory_info()._asdict()),
        }

    def _of_gpus(self) -> dict[str, Any]:
        """All of them; nothing where there is no driver, or it does not answer."""
        found = _or_none(self._gpus.look)
        if found is None:
            return {}
        known = [gpu["util"] for gpu in found if gpu["util"] is not None]
        return {"gpu_count": len(found), "gpus": found, "gpu_util_mean": statistics.fmean(known) if known else None}


class _Tree:
    """A process and all that descends from it, asked like one process of psutil."""

    def __init__(self, process: Any) -> None:
        self._root = process
        self._seen: tuple[float, float] | None = None

    def cpu_percent(self) -> float:
        """Percent of one CPU since the last call, 0 in the first.

        What an ended process has used counts for the one that waited for it, so workers may come and go.
        """
        seen = time.monotonic(), sum(sum(times[:4]) for times in self._of_each("cpu_times"))
        (before, used), self._seen = self._seen or seen, seen
        return max(0.0, 100 * (seen[1] - used) / (seen[0] - before)) if seen[0] > before else 0.0

    def memory_info(self) -> Any:
        """Their sums; what processes share counts for each."""
        infos = self._of_each("memory_info")
        return type(infos[0])(*map(sum, zip(*infos, strict=True)))

    def _of_each(self, figure: str) -> list[Any]:
        """The process' own first; a child that ends meanwhile is left out."""
        found = [getattr(self._root, figure)()]
        children = (_or_none(getattr(child, figure)) for child in self._root.children(recursive=True))
        return found + [of_child for of_child in children if of_child is not None]


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # noqa: BLE001 - whatever a system does not have, or has no longer
        return None
