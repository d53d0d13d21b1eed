"""On a machine with a real GPU: what the collector says beside what nvidia-smi says.

    python tests/gpu/real_gpu.py

Prints a line per figure and exits with 1 if one of them has a figure that the other lacks, or they are further apart
than the figure moves between two looks. It is no pytest test, because CI has no GPU. Look under load, too.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from exporter.collectors.gpu_readings import GpuSession, Reading

MIB = 2**20


class Figure(NamedTuple):
    """A series of ours, nvidia-smi's field, its unit in ours, and how far they may be apart in ours."""

    series: str
    field: str
    unit: float
    apart: float


REASONS = (
    "gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal_slowdown",
    "hw_thermal_slowdown", "hw_power_brake_slowdown",
)  # fmt: skip
FIGURES = [
    Figure("gpu_memory_total_bytes", "memory.total", MIB, MIB),
    Figure("gpu_memory_reserved_bytes", "memory.reserved", MIB, MIB),
    Figure("gpu_memory_used_bytes", "memory.used", MIB, 256 * MIB),
    Figure("gpu_power_limit_watts", "enforced.power.limit", 1, 0.01),
    Figure("gpu_power_watts", "power.draw", 1, 100),
    Figure("gpu_temperature_celsius", "temperature.gpu", 1, 3),
    Figure("gpu_memory_temperature_celsius", "temperature.memory", 1, 3),
    Figure("gpu_sm_clock_hertz", "clocks.sm", 1e6, 300e6),
    Figure("gpu_memory_clock_hertz", "clocks.mem", 1e6, 300e6),
    Figure("gpu_fan_speed_ratio", "fan.speed", 0.01, 0.05),
    Figure("gpu_performance_state", "pstate", 1, 0),
    Figure("gpu_utilization_ratio", "utilization.gpu", 0.01, 0.3),
    Figure("gpu_memory_activity_ratio", "utilization.memory", 0.01, 0.3),
    Figure("gpu_encoder_utilization_ratio", "utilization.encoder", 0.01, 0.3),
    Figure("gpu_decoder_utilization_ratio", "utilization.decoder", 0.01, 0.3),
    Figure("gpu_ecc_errors{kind=corrected}", "ecc.errors.corrected.volatile.total", 1, 0),
    Figure("gpu_ecc_errors{kind=uncorrected}", "ecc.errors.uncorrected.volatile.total", 1, 0),
    *(Figure(f"gpu_throttle_reason{{reason={name}}}", f"clocks_event_reasons.{name}", 1, 1) for name in REASONS),
]


def query(what: str, *fields: str) -> list[list[str]]:
    """The rows of one of nvidia-smi's queries."""
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def number(cell: str) -> float | None:
    """A cell as a number; None where nvidia-smi has none."""
    words = {"Active": 1.0, "Not Active": 0.0}
    if cell in words:
        return words[cell]
    try:
        return float(cell.removeprefix("P"))
    except ValueError:
        return None


def series(reading: Reading) -> dict[str, float]:
    """The values of a reading, the label beside the device's in braces."""
    return {
        value.metric + "".join(f"{{{name}={text}}}" for name, text in value.labels): value.number
        for value in reading.values
    }


def compare(ours: dict[str, float], cells: dict[str, str]) -> Iterator[bool]:
    """Print each figure; whether they agree."""
    for name, field, unit, apart in FIGURES:
        raw = number(cells[field])
        mine, theirs = ours.get(name), None if raw is None else raw * unit
        agree = mine == theirs if mine is None or theirs is None else abs(mine - theirs) <= apart
        print(f"  {'ok' if agree else 'DIFFERS':8}{name:48}{mine!s:>22}{theirs!s:>22}")
        yield agree
    for name in sorted(set(ours) - {figure.series for figure in FIGURES}):
        print(f"  {'':8}{name:48}{ours[name]!s:>22}")


def main() -> int:
    """Compare every GPU, then the processes."""
    session = GpuSession()
    fields = ["uuid", "driver_version", *(figure.field for figure in FIGURES)]
    rows = {row[0]: dict(zip(fields, row, strict=True)) for row in query("gpu", *fields)}
    agreed = [len(rows) == len(session.gpus)]
    for gpu in session.gpus:
        session.read(gpu)
    time.sleep(1)  # GPM measures from one look to the next
    readings = [reading for gpu in session.gpus for reading in session.read(gpu)]
    for reading in readings:
        print(reading.device)
        if not reading.device.gpu_instance_id:
            print(f"  driver {rows[reading.device.uuid]['driver_version']}; ours, then nvidia-smi")
            figures = series(reading)
            if any(other.device.uuid == reading.device.uuid and other.device.gpu_instance_id for other in readings):
                figures.pop("gpu_utilization_ratio", None)  # nvidia-smi has none with MIG; GPM has
            agreed += compare(figures, rows[reading.device.uuid])
        else:
            print(*(f"  {name} {value}" for name, value in series(reading).items()), sep="\n")
    theirs = {(uuid, int(pid)) for uuid, pid in query("compute-apps", "gpu_uuid", "pid")}
    ours = {(reading.device.uuid, pid) for reading in readings for pid in reading.processes}
    print(f"processes: ours {sorted(ours)}, nvidia-smi {sorted(theirs)}")
    agreed.append(theirs <= ours)
    session.close()
    return int(not all(agreed))


if __name__ == "__main__":
    sys.exit(main())
