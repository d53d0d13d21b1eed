"""What is measured of the host, against the standard library, and who is alive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
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


CpuTimes = namedtuple("CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice")


def utilization_of(collector: HostCollector) -> list[float]:
    """The utilisation on a page; none where it is absent."""
    return [sample.value for sample in collector.collect() if sample.family.name == "host_cpu_utilization_ratio"]


def test_utilization_is_the_busy_share_of_the_time_between_two_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither idle time nor waiting for storage is busy, and what a guest uses is part of user and nice already."""
    times = [
        CpuTimes(1000, 100, 500, 9000, 400, 10, 20, 30, 600, 50),
        CpuTimes(1000, 100, 500, 9000, 400, 10, 20, 30, 600, 50),
        # 20 + 10 + 5 + 1 + 2 + 2 = 40 seconds of 100 are busy
        CpuTimes(1020, 110, 505, 9050, 410, 11, 22, 32, 615, 58),
        # time that is counted back, as kernels do with waiting, is no time
        CpuTimes(1020, 110, 505, 9050, 405, 11, 22, 32, 615, 58),
        CpuTimes(1030, 110, 505, 9050, 395, 11, 22, 32, 615, 58),
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda: times.pop(0))
    collector = HostCollector(CATALOG)
    assert [utilization_of(collector) for _ in range(4)] == [[], [0.4], [], [1]]


def test_each_page_goes_on_from_the_one_before_in_whichever_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is asked for by a new thread tells of the time since the last page, and is no false zero."""
    now = 0
    monkeypatch.setattr(psutil, "cpu_times", lambda: CpuTimes(now, 0, 0, 3 * now, 0, 0, 0, 0, 0, 0))
    collector = HostCollector(CATALOG)
    found: list[list[float]] = []
    for now in (1, 2):  # noqa: B007 - the clock of the test
        thread = threading.Thread(target=lambda: found.append(utilization_of(collector)))
        thread.start()
        thread.join(30)
    assert found == [[0.25], [0.25]]


def test_a_busy_cpu_is_busy() -> None:
    """While this process works, the share is at least what the process itself has used of all CPUs."""
    collector = HostCollector(CATALOG)
    begin, began = time.process_time(), time.monotonic()
    while time.monotonic() - began < 0.5:
        pass
    used = (time.process_time() - begin) / (time.monotonic() - began) / (os.cpu_count() or 1)
    assert used - 0.1 <= utilization_of(collector)[0] <= 1


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
