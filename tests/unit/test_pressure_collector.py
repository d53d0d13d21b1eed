"""Pressure stall information, as this kernel and others write it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exporter.collectors.pressure import PressureCollector
from tests.support.journals import CATALOG

CPU = "some avg10=2.48 avg60=2.00 avg300=3.30 total=5016710249\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
MEMORY = "some avg10=0.00 avg60=0.00 avg300=0.00 total=762883\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=53076\n"
WAITING, STALLED = "host_pressure_waiting_seconds_total", "host_pressure_stalled_seconds_total"


def collect(root: Path) -> dict[tuple[str, str], float]:
    """Values by name and resource."""
    samples = list(PressureCollector(CATALOG, root).collect())
    assert all(sample.labels[0][0] == "resource" for sample in samples)
    return {(sample.name, sample.labels[0][1]): sample.value for sample in samples}


def test_times_are_seconds(tmp_path: Path) -> None:
    """Totals are seconds, where the kernel writes microseconds; that no CPU works is not measured, and absent."""
    folder = tmp_path / "proc" / "pressure"
    folder.mkdir(parents=True)
    (folder / "cpu").write_text(CPU)
    (folder / "memory").write_text(MEMORY)
    assert collect(tmp_path) == {
        (WAITING, "cpu"): pytest.approx(5016.710249),
        (WAITING, "memory"): pytest.approx(0.762883),
        (STALLED, "memory"): pytest.approx(0.053076),
    }


def test_this_kernel_s_times_lie_within_its_uptime() -> None:
    """On this host no task has waited longer than the host is up, for each resource that the kernel measures."""
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    values = collect(Path("/"))
    assert {resource for name, resource in values if name == WAITING} == (
        {path.name for path in Path("/proc/pressure").glob("*")} & {"cpu", "memory", "io"}
    )
    assert all(0 <= seconds <= uptime for seconds in values.values())


def test_a_kernel_that_does_not_measure_it_has_no_series(tmp_path: Path) -> None:
    """Without the files there is nothing, and no error."""
    assert collect(tmp_path) == {}
