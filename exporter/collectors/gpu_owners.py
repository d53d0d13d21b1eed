"""Which GPUs a run has: those that its processes may see, and those on which they hold memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from exporter.collectors.gpu_readings import Device, Reading
from exporter.collectors.processes import Processes, RunProcess
from exporter.records import Labels

__all__ = ["Holding", "holdings", "owned", "owners", "visible"]


class Holding(NamedTuple):
    """A run's process, or one that descends from it, on a device; memory in bytes, None if only the pid is known."""

    run: Labels
    device: Device
    pid: int
    memory_bytes: int | None


def holdings(readings: Iterable[Reading], runs: Sequence[RunProcess], processes: Processes) -> list[Holding]:
    """What the runs' processes hold, those that descend from them included."""
    of_pid: dict[int, list[Labels]] = {}
    for run in runs:
        of_pid.setdefault(run.pid, []).append(run.labels)
    return [
        Holding(labels, reading.device, pid, memory)
        for reading in readings
        for pid, memory in reading.processes.items()
        for labels in _runs_of(pid, of_pid, processes)
    ]


def owners(
    runs: Sequence[RunProcess], held: Sequence[Holding], devices: Sequence[Device], processes: Processes
) -> list[tuple[Labels, Device]]:
    """Each run, or rank, with each of its devices.

    One rank of several on this host may see the GPUs of all, as a launcher leaves it, so what it uses decides.
    """
    ranks = Counter(_run_id(run) for run in runs)
    found: dict[tuple[Labels, Device], None] = {}
    for run in runs:
        using = [holding.device for holding in held if holding.run == run.labels]
        mine = using if using and ranks[_run_id(run)] > 1 else owned(run, using, devices, processes)
        found.update(dict.fromkeys((run.labels, device) for device in mine))
    return list(found)


def owned(run: RunProcess, held: Iterable[Device], devices: Sequence[Device], processes: Processes) -> list[Device]:
    """The devices of a run's process, given those on which the run holds memory."""
    named, numbered = visible(processes.environment(run.pid), devices)
    using = set(held)
    # Memory on a GPU outside the numbers shows that they count in another view, such as a job's own GPUs.
    mine = using | named | (numbered if using <= named | numbered else set())
    return [device for device in devices if device in mine]


def visible(environment: dict[str, str], devices: Sequence[Device]) -> tuple[set[Device], set[Device]]:
    """The devices that CUDA_VISIBLE_DEVICES names by UUID or MIG id, and those that it gives by number.

    As in CUDA the list ends at the first entry that is no device. Without the variable nothing is said: a
    process may then see every GPU and use none.
    """
    named: set[Device] = set()
    numbered: set[Device] = set()
    for entry in map(str.strip, environment.get("CUDA_VISIBLE_DEVICES", "").split(",")):
        if entry.isdecimal():
            device = _by_number(int(entry), devices, environment)
            numbered.update(device)
        else:
            device = _by_id(entry, devices)
            named.update(device)
        if not device:
            break
    return named, numbered


def _run_id(run: RunProcess) -> str:
    return dict(run.labels).get("run_id", "")


def _runs_of(pid: int, of_pid: dict[int, list[Labels]], processes: Processes) -> list[Labels]:
    """The runs of the nearest ancestor that is a run's process."""
    return next((of_pid[ancestor] for ancestor in processes.lineage(pid) if ancestor in of_pid), [])


def _by_number(number: int, devices: Sequence[Device], environment: dict[str, str]) -> set[Device]:
    """The GPU that CUDA calls by a number; none where CUDA's order is unknown or MIG divides a GPU.

    CUDA counts in the driver's order if told so; otherwise the fastest come first, which says nothing only
    where all are alike.
    """
    alike = len({device.name for device in devices}) == 1
    divided = any(device.gpu_instance_id for device in devices)
    if divided or not (alike or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"):
        return set()
    return {device for device in devices if device.gpu == number}


def _by_id(entry: str, devices: Sequence[Device]) -> set[Device]:
    """The device of a UUID, of which CUDA takes any beginning that fits one only; MIG devices have two forms."""
    if entry.startswith("MIG-GPU-"):
        uuid, _, rest = entry.removeprefix("MIG-").partition("/")
        found = {d for d in devices if d.uuid == uuid and d.gpu_instance_id == rest.partition("/")[0]}
    elif entry.startswith("MIG-"):
        found = {device for device in devices if any(uuid.startswith(entry) for uuid in device.mig_uuids)}
    else:
        divided = {device.uuid for device in devices if device.gpu_instance_id}
        wholes = [d for d in devices if d.uuid not in divided]
        found = {device for device in wholes if entry.startswith("GPU-") and device.uuid.startswith(entry)}
    return found if len(found) == 1 else set()
