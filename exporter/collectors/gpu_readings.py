"""What the driver says of each GPU and MIG instance, in base units under the catalog's names.

What it does not say is left out: on MIG for example no utilisation, unless the device measures it by GPM.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from exporter.collectors.nvml import DriverError, GpuLostError, Handle, Nvml, known
from exporter.records import Labels

__all__ = ["Device", "GpuSession", "Reading", "Value", "Xid"]

_KIBIBYTE = 1024
_MEBIBYTE = 1024 * 1024
_ALL_LINKS = 0xFFFFFFFF
_UNKNOWN_STATE = 32
_MAX_XIDS = 1000
_MIG_PROFILE = re.compile(r"MIG (?:\d+c\.)?(\S+)")
"""A name that ends in ``MIG 1c.3g.71gb`` is that of one compute slice of the GPU instance 3g.71gb."""


class Device(NamedTuple):
    """A GPU, or a GPU instance of one that MIG divides; ``uuid`` is the GPU's in both cases, as in dcgm-exporter."""

    gpu: int
    uuid: str
    name: str
    gpu_instance_id: str = ""
    mig_profile: str = ""
    mig_uuids: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """What tells its series apart."""
        whole = {"gpu": str(self.gpu), "name": self.name, "uuid": self.uuid}
        if not self.gpu_instance_id:
            return whole
        return {**whole, "gpu_instance_id": self.gpu_instance_id, "mig_profile": self.mig_profile}


class Value(NamedTuple):
    """One metric of the catalog, its number in base units, and labels beside the device's."""

    metric: str
    number: float
    labels: Labels = ()


class Reading(NamedTuple):
    """What one device says now; ``processes`` holds bytes by pid, None where only the pid is known."""

    device: Device
    values: list[Value]
    processes: dict[int, int | None]


class Xid(NamedTuple):
    """A critical error that the driver reported; NVIDIA lists what each code means."""

    uuid: str
    code: int


class _Quantity(NamedTuple):
    """A metric that one call gives: value = answer * times / per."""

    metric: str
    function: str
    constants: tuple[str, ...] = ()
    times: float = 1
    per: float = 1
    labels: Labels = ()


class _Counter(NamedTuple):
    """A metric that a field or a GPM counter gives: value = answer * times / per."""

    metric: str
    name: str
    times: float = 1
    per: float = 1
    scope: int = 0


_QUANTITIES = (
    _Quantity("gpu_power_watts", "nvmlDeviceGetPowerUsage", per=1000),
    _Quantity("gpu_power_limit_watts", "nvmlDeviceGetEnforcedPowerLimit", per=1000),
    _Quantity("gpu_energy_joules", "nvmlDeviceGetTotalEnergyConsumption", per=1000),
    _Quantity("gpu_temperature_celsius", "nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",)),
    _Quantity("gpu_sm_clock_hertz", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",), times=1e6),
    _Quantity("gpu_memory_clock_hertz", "nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",), times=1e6),
    _Quantity("gpu_fan_speed_ratio", "nvmlDeviceGetFanSpeed", per=100),
    _Quantity("gpu_encoder_utilization_ratio", "nvmlDeviceGetEncoderUtilization", per=100),
    _Quantity("gpu_decoder_utilization_ratio", "nvmlDeviceGetDecoderUtilization", per=100),
    *(
        _Quantity(
            "gpu_ecc_errors",
            "nvmlDeviceGetTotalEccErrors",
            (f"NVML_MEMORY_ERROR_TYPE_{kind.upper()}", "NVML_VOLATILE_ECC"),
            labels=(("kind", kind),),
        )
        for kind in ("corrected", "uncorrected")
    ),
)

_PCIE = (
    _Quantity("gpu_pcie_transmit_bytes_per_second", "nvmlDeviceGetPcieThroughput", ("NVML_PCIE_UTIL_TX_BYTES",), 1000),
    _Quantity("gpu_pcie_receive_bytes_per_second", "nvmlDeviceGetPcieThroughput", ("NVML_PCIE_UTIL_RX_BYTES",), 1000),
)
"""The driver measures each for 20 ms while it is asked, so only where GPM does not know."""

_FIELDS = (
    _Counter("gpu_memory_temperature_celsius", "NVML_FI_DEV_MEMORY_TEMP"),
    _Counter("gpu_nvlink_transmit_bytes", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", _KIBIBYTE, scope=_ALL_LINKS),
    _Counter("gpu_nvlink_receive_bytes", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX", _KIBIBYTE, scope=_ALL_LINKS),
)

_GPM = (
    _Counter("gpu_utilization_ratio", "NVML_GPM_METRIC_GRAPHICS_UTIL", per=100),
    _Counter("gpu_sm_utilization_ratio", "NVML_GPM_METRIC_SM_UTIL", per=100),
    _Counter("gpu_sm_occupancy_ratio", "NVML_GPM_METRIC_SM_OCCUPANCY", per=100),
    _Counter("gpu_tensor_utilization_ratio", "NVML_GPM_METRIC_ANY_TENSOR_UTIL", per=100),
    _Counter("gpu_memory_bandwidth_utilization_ratio", "NVML_GPM_METRIC_DRAM_BW_UTIL", per=100),
    _Counter("gpu_pcie_transmit_bytes_per_second", "NVML_GPM_METRIC_PCIE_TX_PER_SEC", _MEBIBYTE),
    _Counter("gpu_pcie_receive_bytes_per_second", "NVML_GPM_METRIC_PCIE_RX_PER_SEC", _MEBIBYTE),
    _Counter("gpu_nvlink_transmit_bytes_per_second", "NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC", _MEBIBYTE),
    _Counter("gpu_nvlink_receive_bytes_per_second", "NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC", _MEBIBYTE),
)
"""What Hopper and later devices measure between two samples, whole GPUs and MIG instances alike."""

_THROTTLE_REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
"""Bits of the clocks event reasons, named as nvidia-smi names them."""

_PROCESS_LISTS = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
)


class GpuSession:
    """The GPUs of one NVML session; every method raises ``DriverError`` once the session is over."""

    def __init__(self) -> None:
        """Begin a session and find the GPUs."""
        self._nvml = Nvml()
        self._handles: dict[Device, Handle] = dict(self._find())
        self._windows: dict[Device, list[Handle]] = {}
        self._events: Handle = self._nvml.ask("nvmlEventSetCreate")
        self._watched = dict(self._watch())

    @property
    def gpus(self) -> list[Device]:
        """The GPUs that answered when the session began, in the driver's order."""
        return list(self._handles)

    @property
    def watched(self) -> list[str]:
        """UUIDs of the GPUs whose XID errors the driver reports."""
        return list(self._watched.values())

    def read(self, gpu: Device) -> list[Reading]:
        """What a GPU says, and each of its MIG instances.

        Raises:
            GpuLostError: the GPU does not answer any more.
        """
        handle = self._handles[gpu]
        instances = self._instances(gpu, handle)
        processes = {} if instances else self._processes([handle])
        readings = [Reading(gpu, list(self._gpu_values(gpu, handle)), processes)]
        for device, migs in instances.items():
            measured = self._gpm(device, "nvmlGpmMigSampleGet", handle, int(device.gpu_instance_id))
            readings.append(Reading(device, [*self._memory(migs[0]), *measured], self._processes(migs)))
        for device in [d for d in self._windows if d.uuid == gpu.uuid and d != gpu and d not in instances]:
            self._free(self._windows.pop(device))
        return readings

    def xids(self) -> Iterator[Xid]:
        """The XID errors since the last call.

        Raises:
            GpuLostError: a GPU does not answer any more.
        """
        for _ in range(_MAX_XIDS if self._watched else 0):
            event = self._nvml.ask("nvmlEventSetWait_v2", self._events, 0)
            if event is None:
                return
            uuid = self._watched.get(self._nvml.address(event.device))
            if uuid is None:
                uuid = self._nvml.ask("nvmlDeviceGetUUID", event.device)
            if uuid in self._watched.values():
                yield Xid(uuid, event.eventData)

    def close(self) -> None:
        """Give everything back, once: the library would free it twice."""
        windows, events = list(self._windows.values()), self._events
        self._windows, self._watched, self._events = {}, {}, None
        with contextlib.suppress(DriverError, GpuLostError):
            for window in windows:
                self._free(window)
            if events is not None:
                self._nvml.ask("nvmlEventSetFree", events)
        self._nvml.close()

    def _find(self) -> Iterator[tuple[Device, Handle]]:
        for number in range(self._nvml.ask("nvmlDeviceGetCount") or 0):
            with contextlib.suppress(GpuLostError):
                handle = self._nvml.ask("nvmlDeviceGetHandleByIndex", number)
                uuid = handle and self._nvml.ask("nvmlDeviceGetUUID", handle)
                if uuid:
                    yield Device(number, uuid, self._nvml.ask("nvmlDeviceGetName", handle) or ""), handle

    def _watch(self) -> Iterator[tuple[int, str]]:
        """The GPUs that report XIDs: UUID by the address of the handle that stands in an event."""
        for gpu, handle in self._handles.items():
            with contextlib.suppress(GpuLostError):
                if self._events is not None and self._nvml.watch_xids(handle, self._events):
                    yield self._nvml.address(handle), gpu.uuid

    def _instances(self, gpu: Device, handle: Handle) -> dict[Device, list[Handle]]:
        """The GPU instances with their MIG devices; asked each time, because they come and go under a driver."""
        migs: dict[int, list[Handle]] = {}
        for number in range(self._nvml.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            mig = self._nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)
            instance = mig and self._nvml.ask("nvmlDeviceGetGpuInstanceId", mig)
            if instance is not None:
                migs.setdefault(instance, []).append(mig)
        return {self._instance(gpu, number, handles): handles for number, handles in migs.items()}

    def _instance(self, gpu: Device, number: int, migs: list[Handle]) -> Device:
        profile = _MIG_PROFILE.search(self._nvml.ask("nvmlDeviceGetName", migs[0]) or "")
        uuids = tuple(self._nvml.ask("nvmlDeviceGetUUID", mig) or "" for mig in migs)
        return gpu._replace(gpu_instance_id=str(number), mig_profile=profile[1] if profile else "", mig_uuids=uuids)

    def _gpu_values(self, gpu: Device, handle: Handle) -> Iterator[Value]:
        yield from self._quantities(handle, _QUANTITIES)
        yield from self._memory(handle)
        answers = self._nvml.fields(handle, [(field.name, field.scope) for field in _FIELDS])
        yield from _counted(_FIELDS, answers)
        yield from self._throttle_reasons(handle)
        state = self._nvml.ask("nvmlDeviceGetPerformanceState", handle)
        if state != _UNKNOWN_STATE:
            yield from _value("gpu_performance_state", state)
        yield from self._activity(gpu, handle)

    def _activity(self, gpu: Device, handle: Handle) -> Iterator[Value]:
        """Utilisation and PCIe: where both know, NVML's utilisation and GPM's longer look at PCIe."""
        rates = self._nvml.ask("nvmlDeviceGetUtilizationRates", handle)
        values = {value.metric: value for value in self._gpm(gpu, "nvmlGpmSampleGet", handle)}
        if rates is not None:
            for metric, percent in (("gpu_utilization_ratio", rates.gpu), ("gpu_memory_activity_ratio", rates.memory)):
                values.update({value.metric: value for value in _value(metric, percent, per=100)})
        yield from values.values()
        yield from self._quantities(handle, [quantity for quantity in _PCIE if quantity.metric not in values])

    def _quantities(self, handle: Handle, quantities: Iterable[_Quantity]) -> Iterator[Value]:
        for metric, function, constants, times, per, labels in quantities:
            answer = self._nvml.ask(function, handle, *map(self._nvml.constant, constants))
            # Encoder and decoder give a pair: the utilisation, and how long it was measured.
            number = answer[0] if isinstance(answer, list) else answer
            yield from _value(metric, number, times, per, labels)

    def _memory(self, handle: Handle) -> Iterator[Value]:
        # Version 2, because in version 1 the used memory includes the reserved.
        memory = self._nvml.ask("nvmlDeviceGetMemoryInfo", handle, self._nvml.constant("nvmlMemory_v2"))
        if memory is not None:
            yield from _value("gpu_memory_used_bytes", memory.used)
            yield from _value("gpu_memory_reserved_bytes", memory.reserved)
            yield from _value("gpu_memory_total_bytes", memory.total)

    def _throttle_reasons(self, handle: Handle) -> Iterator[Value]:
        active = self._nvml.ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        supported = self._nvml.ask("nvmlDeviceGetSupportedClocksEventReasons", handle)
        if known(active) and known(supported):
            for reason, bit in _THROTTLE_REASONS.items():
                if supported & bit:
                    yield Value("gpu_throttle_reason", float(bool(active & bit)), (("reason", reason),))

    def _processes(self, handles: list[Handle]) -> dict[int, int | None]:
        found: dict[int, int | None] = {}
        for handle in handles:
            for function in _PROCESS_LISTS:
                for process in self._nvml.ask(function, handle) or ():
                    # A process that computes and draws stands in two lists with the same memory.
                    found[process.pid] = process.usedGpuMemory or found.get(process.pid)
        return found

    def _gpm(self, device: Device, function: str, *target: Handle) -> list[Value]:
        """What a device measured since it was last asked; nothing at the first time."""
        support = self._nvml.ask("nvmlGpmQueryDeviceSupport", target[0])
        if support is None or not support.isSupportedDevice:
            return []
        window = self._windows.setdefault(device, [])
        if len(window) < 2:
            window.append(self._nvml.ask("nvmlGpmSampleAlloc"))
        else:
            window.reverse()
        if self._nvml.ask(function, *target, window[-1]) is None:
            self._free(self._windows.pop(device))
            return []
        if len(window) < 2:
            return []
        older, newer = window
        return list(_counted(_GPM, self._nvml.gpm_metrics(older, newer, [counter.name for counter in _GPM])))

    def _free(self, window: list[Handle]) -> None:
        for sample in window:
            self._nvml.ask("nvmlGpmSampleFree", sample)


def _counted(counters: Iterable[_Counter], answers: Iterable[float | None]) -> Iterator[Value]:
    for counter, answer in zip(counters, answers, strict=True):
        yield from _value(counter.metric, answer, counter.times, counter.per)


def _value(metric: str, answer: float | None, times: float = 1, per: float = 1, labels: Labels = ()) -> Iterator[Value]:
    """The value, if there is one."""
    if answer is not None and known(answer):
        yield Value(metric, answer * times / per, labels)
