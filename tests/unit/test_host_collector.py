"""What is measured of the host, against the standard library, and who is alive."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from exporter.collectors import host as module
from exporter.collectors.host import HostCollector, process_is_alive
from exporter.errors import MissingDependencyError
from tests.support.journals import CATALOG


def collect() -> dict[str, float]:
    """Values by name; each name may stand once."""
    samples = list(HostCollector(CATALOG).collect())
    values = {sample.family.name: sample.value for sample in samples}
    assert len(values) == len(samples)
    return values


def test_the_host_is_as_the_system_says() -> None:
    """Sizes and counts equal those of the standard library; used memory lies within its total."""
    values = collect()
    assert values["host_cpus"] == os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert values["host_memory_total_bytes"] == pages
    assert 0 < values["host_memory_available_bytes"] <= pages
    assert 0 <= values["host_cpu_utilization_ratio"] <= 1
    assert values["host_load1"] == pytest.approx(os.getloadavg()[0], abs=0.5)


def test_the_own_process_is_as_the_system_says() -> None:
    """CPU time, start, threads and files are those of this process."""
    values = collect()
    times = os.times()
    assert values["process_cpu_seconds"] == pytest.approx(times.user + times.system, abs=0.5)
    assert 0 < values["process_start_time_seconds"] < time.time()
    assert values["process_threads"] >= 1
    assert values["process_open_fds"] == pytest.approx(len(os.listdir("/proc/self/fd")), abs=3)
    assert values["process_resident_memory_bytes"] > 1e6


def test_everything_collected_is_in_the_catalog() -> None:
    """Each family is the catalog's, and none has a label."""
    for sample in HostCollector(CATALOG).collect():
        assert (sample.family, sample.labels) == (CATALOG.metrics[sample.family.name].family, ())


def test_utilization_is_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the CPU time in use is 0.5."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 50.0)
    assert collect()["host_cpu_utilization_ratio"] == 0.5


def test_what_a_system_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without disks, network interfaces or a known number of CPUs the rest is collected."""
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "cpu_count", lambda: None)
    monkeypatch.setattr(module, "os", SimpleNamespace(name="nt"))
    values = collect()
    assert values["host_cpus"] == 1
    assert not {"host_disk_read_bytes", "host_network_sent_bytes", "process_open_fds"} & set(values)
    assert "process_threads" in values


def test_without_psutil_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psutil cannot be imported the error says how to get it."""
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingDependencyError, match="pip install psutil"):
        HostCollector(CATALOG)


# ------------------------------------------------------------------ who is alive


def test_this_process_is_alive() -> None:
    """A process that was there before the given time is the one that was meant."""
    assert process_is_alive(os.getpid(), time.time())


def test_a_later_process_with_the_same_number_is_another() -> None:
    """A process created after the given time has only inherited the number; a minute is for clocks that were set."""
    created = psutil.Process().create_time()
    assert not process_is_alive(os.getpid(), created - 61)
    assert process_is_alive(os.getpid(), created - 59)


def test_an_ended_process_is_dead_also_while_nobody_waits_for_it() -> None:
    """A zombie is dead, and so is what was waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not process_is_alive(process.pid, time.time())
    process.wait()
    assert not process_is_alive(process.pid, time.time())


@pytest.mark.parametrize("pid", [-1, 2**22 + 1, 2**31, 2**64, 10**30])
def test_a_number_that_is_no_process_is_dead(pid: int) -> None:
    """A journal may hold any number: it is asked for without an error."""
    assert not process_is_alive(pid, time.time())


def test_a_process_that_may_not_be_looked_at_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to somebody else exists."""

    def refuse(pid: int) -> Any:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", refuse)
    assert process_is_alive(1, 0.0)
