"""Five figures of each GPU, and no more: what a line of system metrics has room for.

Each look is made by a thread, because any call into the driver may hang.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from exporter.collectors.nvml import DriverError, GpuLostError, Handle, NoDriverError, Nvml, known

__all__ = ["GpuUsage"]

_ANSWER_SECONDS = 1.0


class GpuUsage:
    """The GPUs of one NVML session; a driver that is not there, or fails once, is not asked again."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Ask nothing yet; ``report`` is told what keeps GPUs from being seen, but not that there is no driver."""
        self._report = report
        self._nvml: Nvml | None = None
        self._handles: dict[int, Handle] = {}
        self._is_over = False
        self._answer: list[dict[str, Any]] | None = None
        self._thread: threading.Thread | None = None

    def look(self) -> list[dict[str, Any]] | None:
        """What each GPU says now; None where nothing does within a second."""
        if self._thread is not None and self._thread.is_alive():
            self._report("the GPUs' driver does not answer; system metrics go on without GPUs until it does")
            return None
        if self._is_over:
            return None
        self._answer = None
        self._thread = threading.Thread(target=self._ask, name="telemetry-gpu-usage", daemon=True)
        self._thread.start()
        self._thread.join(_ANSWER_SECONDS)
        return self._answer

    def close(self) -> None:
        """Give the driver back, unless a call into it hangs."""
        self._is_over = True
        if self._thread is None or not self._thread.is_alive():
            self._end_session()

    def _ask(self) -> None:
        try:
            nvml = self._nvml or self._begin_session()
            self._answer = [_of_gpu(nvml, index, handle) for index, handle in self._handles.items()]
        except NoDriverError:
            self._is_over = True
        except Exception as error:  # noqa: BLE001 - whatever a driver or another version of pynvml does
            self._is_over = True
            reason = error if isinstance(error, DriverError) else repr(error)
            self._report(f"system metrics go on without GPUs: {reason}")
            self._end_session()

    def _begin_session(self) -> Nvml:
        self._nvml = nvml = Nvml()
        for index in range(nvml.ask("nvmlDeviceGetCount") or 0):
            with contextlib.suppress(GpuLostError):
                handle = nvml.ask("nvmlDeviceGetHandleByIndex", index)
                if handle is not None:
                    self._handles[index] = handle
        return nvml

    def _end_session(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(Exception):  # it was the last that we wanted of it
                nvml.close()


def _of_gpu(nvml: Nvml, index: int, handle: Handle) -> dict[str, Any]:
    """Percent, bytes, degrees Celsius and watts; nothing is known of a GPU that is lost."""
    try:
        rates = nvml.ask("nvmlDeviceGetUtilizationRates", handle)
        memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle, nvml.constant("nvmlMemory_v2"))
        celsius = nvml.ask("nvmlDeviceGetTemperatureV", handle, nvml.constant("NVML_TEMPERATURE_GPU"))
        milliwatts = nvml.ask("nvmlDeviceGetPowerUsage", handle)
    except GpuLostError:
        rates = memory = celsius = milliwatts = None
    return {
        "index": index,
        "util": None if rates is None else _number(rates.gpu),
        "mem_used": None if memory is None else _number(memory.used),
        "mem_total": None if memory is None else _number(memory.total),
        "temp_c": _number(celsius),
        "power_w": _number(milliwatts, per=1000),
    }


def _number(answer: int | None, per: int = 1) -> float | None:
    """What the driver says, if it says anything; a whole number where its unit is ours."""
    if answer is None or not known(answer):
        return None
    return answer if per == 1 else answer / per
