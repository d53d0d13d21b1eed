"""One look at the machine and at one process, as a record in JSON's types.

Names and units are those of ``system_metrics.jsonl``: percent from 0 to 100, bytes, degrees Celsius, watts.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

from exporter.collectors.gpu_readings import Device, GpuSession
from exporter.collectors.host import load_psutil
from exporter.collectors.nvml import DriverError, GpuLostError

__all__ = ["SystemSampler"]

_PERCENT = 100


class SystemSampler:
    """Samples for one thread; CPU percentages are since the sample before, and 0 in the first."""

    def __init__(self, pid: int | None = None) -> None:
        """Look at a process, by default this one.

        Raises:
            MissingDependencyError: psutil is not installed.
        """
        self._psutil = load_psutil()
        self._process: Any = _or_none(lambda: self._psutil.Process(pid))
        self._gpus: GpuSession | None = None
        with contextlib.suppress(DriverError):
            self._gpus = GpuSession()

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
        if self._gpus:
            self._gpus.close()
            self._gpus = None

    def _of_process(self) -> dict[str, Any] | None:
        if self._process is None:
            return None
        return {
            "cpu_percent": _or_none(self._process.cpu_percent),
            "memory_info": _or_none(lambda: self._process.memory_info()._asdict()),
        }

    def _of_gpus(self) -> dict[str, Any]:
        """All of them; nothing any more once the driver is gone."""
        if self._gpus is None:
            return {}
        try:
            found = [_of_gpu(self._gpus, gpu) for gpu in self._gpus.gpus]
        except DriverError:
            self.close()
            return {}
        known = [gpu["util"] for gpu in found if gpu["util"] is not None]
        return {"gpu_count": len(found), "gpus": found, "gpu_util_mean": statistics.fmean(known) if known else None}


def _of_gpu(session: GpuSession, gpu: Device) -> dict[str, Any]:
    """What a GPU says; nothing is known of one that is lost."""
    try:
        values = {value.metric: value.number for value in session.read(gpu)[0].values if not value.labels}
    except GpuLostError:
        values = {}
    busy = values.get("gpu_utilization_ratio")
    return {
        "index": gpu.gpu,
        "util": None if busy is None else round(busy * _PERCENT, 3),
        "mem_used": values.get("gpu_memory_used_bytes"),
        "mem_total": values.get("gpu_memory_total_bytes"),
        "temp_c": values.get("gpu_temperature_celsius"),
        "power_w": values.get("gpu_power_watts"),
    }


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception:  # noqa: BLE001 - whatever a system does not have, or has no longer
        return None
