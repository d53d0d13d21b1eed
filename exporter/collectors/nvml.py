"""NVML by pynvml: the one module that imports it, and where its errors and C structures end."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Sequence
from typing import Any

__all__ = ["DriverError", "GpuLostError", "Handle", "NoDriverError", "Nvml", "known"]

Handle = Any
"""A device, an event set or a GPM sample; it does not outlive the session."""

_NOT_AVAILABLE = (-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)

_SESSION_OVER = ("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIBRARY_NOT_FOUND", "LIB_RM_VERSION_MISMATCH")
_GPU_LOST = ("GPU_IS_LOST", "RESET_REQUIRED")

_OLDER_NAMES = {
    "nvmlDeviceGetTemperatureV": "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCurrentClocksEventReasons": "nvmlDeviceGetCurrentClocksThrottleReasons",
    "nvmlDeviceGetSupportedClocksEventReasons": "nvmlDeviceGetSupportedClocksThrottleReasons",
}
"""What drivers call a function that do not know its present name yet."""

_UNION_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field value's union by nvmlValueType_t."""


class DriverError(Exception):
    """There is no driver, or it was reset or replaced since the session began."""


class NoDriverError(DriverError):
    """There was none when a session was to begin."""


class GpuLostError(Exception):
    """A GPU fell off the bus or must be reset."""


class _NotGivenError(Exception):
    """The library, the driver or the device does not have what was asked for."""


class Nvml:
    """NVML from its initialisation to its shutdown, for one thread.

    Every method raises ``DriverError`` when the session is over and ``GpuLostError`` when the GPU it is about
    does not answer any more.
    """

    def __init__(self) -> None:
        """Initialise the library.

        Raises:
            DriverError: the library or its driver is missing or does not answer.
        """
        try:
            import pynvml  # type: ignore[import-untyped]

            self._library: Any = pynvml
            self._session_over = {self.constant(f"NVML_ERROR_{name}") for name in _SESSION_OVER}
            self._gpu_lost = {self.constant(f"NVML_ERROR_{name}") for name in _GPU_LOST}
            self.constant("nvmlMemory_v2")  # the newest that everybody needs
            self._begin()
        except ImportError as error:
            raise NoDriverError("the package nvidia-ml-py is not installed") from error
        except DriverError:
            raise
        except Exception as error:  # an old version, or another package of that name
            raise DriverError(f"pynvml cannot be used ({error!r:.200}); pip install -U nvidia-ml-py") from error

    def close(self) -> None:
        """Shut the library down; a driver that is gone has done so itself."""
        with contextlib.suppress(DriverError):
            self.ask("nvmlShutdown")

    def constant(self, name: str) -> int:
        """The number of a constant of nvml.h."""
        return int(getattr(self._library, name))

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of pynvml answers; None where library, driver or device do not have it."""
        try:
            return self._call(function, *arguments)
        except _NotGivenError:
            return None

    def watch_xids(self, device: Handle, events: Handle) -> bool:
        """Let XID errors of a device come as events; False where the driver does not report them."""
        try:
            self._call("nvmlDeviceRegisterEvents", device, self.constant("nvmlEventTypeXidCriticalError"), events)
        except _NotGivenError:
            return False
        return True

    def fields(self, device: Handle, wanted: Sequence[tuple[str, int]]) -> list[float | None]:
        """The values of fields in scopes, None for each that the device does not have."""
        numbered = [(self.constant(field), scope) for field, scope in wanted]
        answers = self.ask("nvmlDeviceGetFieldValues", device, numbered)
        return [None] * len(wanted) if answers is None else [self._field(answer) for answer in answers]

    def gpm_metrics(self, older: Handle, newer: Handle, counters: Sequence[str]) -> list[float | None]:
        """What counters measured between two GPM samples, None for each that the device does not have."""
        request = self._library.c_nvmlGpmMetricsGet_t()
        request.version = self._library.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(counters)
        request.sample1, request.sample2 = older, newer
        for place, counter in enumerate(counters):
            request.metrics[place].metricId = self.constant(counter)
        if self.ask("nvmlGpmMetricsGet", request) is None:
            return [None] * len(counters)
        answers = request.metrics[: len(counters)]
        return [answer.value if answer.nvmlReturn == self._library.NVML_SUCCESS else None for answer in answers]

    @staticmethod
    def address(device: Handle) -> int:
        """Where a handle points to: two handles are the same device where they point to the same place."""
        return ctypes.cast(device, ctypes.c_void_p).value or 0

    def _begin(self) -> None:
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            raise NoDriverError(str(error)) from error

    def _call(self, function: str, *arguments: Any) -> Any:
        call = getattr(self._library, function, None)
        if call is not None:
            try:
                return call(*arguments)
            except self._library.NVMLError as error:
                self._translate(error)
        if function not in _OLDER_NAMES:
            raise _NotGivenError
        return self._call(_OLDER_NAMES[function], *arguments)

    def _translate(self, error: Any) -> None:
        """Raise our error for one of pynvml's; return if only the function's name is unknown."""
        if error.value in self._session_over:
            raise DriverError(str(error)) from error
        if error.value in self._gpu_lost:
            raise GpuLostError(str(error)) from error
        if error.value != self._library.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise _NotGivenError from error

    def _field(self, answer: Any) -> float | None:
        # The call succeeds if any field does: the value of one that failed is no value, and often a zero.
        if answer.nvmlReturn != self._library.NVML_SUCCESS or answer.valueType >= len(_UNION_MEMBERS):
            return None
        number: float = getattr(answer.value, _UNION_MEMBERS[answer.valueType])
        return number


def known(number: float | None) -> bool:
    """Whether a number is one: the driver says by all-ones that it has none."""
    return number is not None and number not in _NOT_AVAILABLE and math.isfinite(number)
