"""What the processes of a run use: exact figures from recorded kernel files, and real processes that come and go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from exporter.collectors.processes import Processes, RunProcess
from exporter.collectors.run_processes import RunProcessCollector
from tests.support.journals import CATALOG

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
RUN = RunProcess((("run_id", "r"),), 10)
CPU = "run_process_cpu_seconds_total"
READ, WRITTEN = "run_process_read_bytes_total", "run_process_written_bytes_total"
MEMORY, THREADS, FILES = "run_process_resident_memory_bytes", "run_process_threads", "run_process_open_fds"


class Kernel:
    """A recorded /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def process(
        self,
        pid: int,
        parent: int,
        seconds: Iterable[int] = (0, 0, 0, 0),
        *,
        state: str = "S",
        storage: tuple[int, int] | None = (0, 0),
        files: int | None = 0,
    ) -> None:
        """A process with 2 threads, 3 pages of memory, and CPU seconds: user, system, and of waited-for children."""
        folder = self.root / "proc" / str(pid)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        before, times = "1 " * 9, " ".join(str(second * TICKS) for second in seconds)
        (folder / "stat").write_text(
            f"{pid} (python a) {state} {parent} {before}{times} 20 0 2 0 77 4096 3 {'0 ' * 28}"
        )
        if storage:
            (folder / "io").write_text(f"rchar: 9\nread_bytes: {storage[0]}\nwrite_bytes: {storage[1]}\n")
        if files is not None:
            (folder / "fd").mkdir()
            for number in range(files):
                (folder / "fd" / str(number)).touch()

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self.root / "proc" / str(pid))


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """No process yet."""
    return Kernel(tmp_path)


@pytest.fixture
def read(kernel: Kernel) -> Callable[..., dict[str, float]]:
    """Read what the run's processes use, again and again with one collector."""
    runs = [RUN]
    collector = RunProcessCollector(CATALOG, lambda: runs, kernel.root)

    def values(*others: RunProcess) -> dict[str, float]:
        runs[:] = [RUN, *others]
        return {sample.name: sample.value for sample in collector.collect() if sample.labels == RUN.labels}

    return values


def test_a_tree_is_summed_up(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """The trainer, its child and its grandchild count; who else there is does not."""
    kernel.process(1, 0, (500, 0, 0, 0))
    kernel.process(10, 1, (4, 1, 0, 0), storage=(100, 10), files=3)
    kernel.process(11, 10, (2, 0, 0, 0), storage=(200, 20), files=1)
    kernel.process(9, 11, (1, 0, 0, 0), storage=(0, 5), files=2)
    kernel.process(12, 1, (99, 0, 0, 0))
    assert read() == {
        CPU: 8, READ: 300, WRITTEN: 35, "run_processes": 3, MEMORY: 3 * 3 * PAGE, THREADS: 6, FILES: 6,
    }  # fmt: skip


def test_what_an_ended_child_has_used_stays(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """A child that ends hands its CPU time to its parent, also while nobody has waited for it: the sum is the same."""
    kernel.process(10, 1, (4, 0, 0, 0))
    kernel.process(11, 10, (2, 1, 0, 0))
    assert read()[CPU] == 7
    kernel.process(11, 10, (2, 1, 0, 0), state="Z", files=None)
    assert (read()[CPU], read()["run_processes"]) == (7, 1)
    kernel.end(11)
    kernel.process(10, 1, (4, 0, 2, 1))
    assert read()[CPU] == 7


def test_what_leaves_the_tree_is_kept(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """A process that is adopted by another one takes nothing away, and what comes afterwards is added."""
    kernel.process(10, 1, (4, 0, 0, 0), storage=(100, 100))
    kernel.process(11, 10, (2, 0, 0, 0), storage=(7, 8))
    assert read()[CPU] == 6
    kernel.process(11, 1, (2, 0, 0, 0))
    assert (read()[CPU], read()[READ], read()[WRITTEN]) == (6, 107, 108)
    kernel.process(10, 1, (5, 0, 0, 0), storage=(101, 100))
    assert (read()[CPU], read()[READ], read()[WRITTEN]) == (7, 108, 108)


def test_a_process_that_takes_over_a_number_begins_anew(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """A resumed run with the number of the process before it starts from what it has used itself."""
    kernel.process(10, 1, (400, 0, 0, 0))
    assert read()[CPU] == 400
    kernel.end(10)
    assert read() == {}
    kernel.process(10, 1, (1, 0, 0, 0))
    assert read()[CPU] == 1


def test_a_run_within_a_run_has_its_own(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """A process belongs to the nearest run above it."""
    kernel.process(10, 1, (4, 0, 0, 0))
    kernel.process(11, 10, (2, 0, 0, 0))
    kernel.process(12, 11, (1, 0, 0, 0))
    assert read(RunProcess((("run_id", "inner"),), 11))[CPU] == 4


def test_what_may_not_be_read_is_absent(kernel: Kernel, read: Callable[..., dict[str, float]]) -> None:
    """Of another user's process the kernel gives no I/O and no files: these series are absent, the others are there."""
    kernel.process(10, 1, (4, 0, 0, 0), storage=None, files=None)
    values = read()
    assert values[CPU] == 4
    assert {READ, WRITTEN, FILES}.isdisjoint(values)


def test_a_process_that_is_gone_has_no_series(read: Callable[..., dict[str, float]]) -> None:
    """A journal may name a process that does not exist."""
    assert read() == {}


def test_a_host_without_such_files_has_no_series(tmp_path: Path) -> None:
    """Where there is no /proc nothing is known, and nothing fails."""
    assert list(RunProcessCollector(CATALOG, lambda: [RUN], tmp_path).collect()) == []


def test_a_child_that_ends_while_it_is_read_is_not_counted_twice(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is waited for after its parent was read leaves the sum as it was."""
    kernel.process(10, 1, (4, 0, 0, 0))
    kernel.process(11, 10, (3, 0, 0, 0))
    collector = RunProcessCollector(CATALOG, lambda: [RUN], kernel.root)

    def cpu() -> float:
        return next(sample.value for sample in collector.collect() if sample.name == CPU)

    assert cpu() == 7
    storage = Processes.storage

    def ends_meanwhile(self: Processes, pid: int) -> tuple[int, int] | None:
        if pid == 11 and (kernel.root / "proc/11").exists():
            kernel.end(11)
            kernel.process(10, 1, (4, 0, 3, 0))
        return storage(self, pid)

    monkeypatch.setattr(Processes, "storage", ends_meanwhile)
    assert [cpu(), cpu()] == [7, 7]


def test_a_tree_that_never_holds_still_keeps_its_counters(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes always vanish while they are read, counters stay as they were last seen complete."""
    kernel.process(10, 1, (4, 0, 0, 0))
    collector = RunProcessCollector(CATALOG, lambda: [RUN], kernel.root)
    values = {sample.name: sample.value for sample in collector.collect()}
    kernel.process(10, 1, (9, 0, 0, 0))
    monkeypatch.setattr(Processes, "children", lambda self: {10: [11]})
    assert {sample.name: sample.value for sample in collector.collect()} == values


WORKER = """
    import os, signal, sys, time
    for line in sys.stdin:
        if line == "work\\n":
            pid = os.fork()
            if not pid:
                while time.process_time() < 0.4:
                    pass
                print("worked", flush=True)
                signal.pause()
        elif line == "wait\\n":
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            print("waited", flush=True)
"""


def test_real_processes_that_come_and_go() -> None:
    """A worker's CPU time counts while it lives and after it has ended; files and memory are the kernel's figures."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        run = RunProcess(RUN.labels, trainer.pid)
        collector = RunProcessCollector(CATALOG, lambda: [run])

        def values() -> dict[str, float]:
            return {sample.name: sample.value for sample in collector.collect()}

        trainer.stdin.write("work\n")
        trainer.stdin.flush()
        assert trainer.stdout.readline() == "worked\n"
        working = values()
        assert working["run_processes"] == 2
        assert working[CPU] >= 0.4 - 2 / TICKS
        assert working[FILES] == 2 * len(os.listdir(f"/proc/{trainer.pid}/fd"))
        trainer.stdin.write("wait\n")
        trainer.stdin.flush()
        assert trainer.stdout.readline() == "waited\n"
        after = values()
        assert after["run_processes"] == 1
        assert after[CPU] >= working[CPU]
        assert after[MEMORY] == pytest.approx(working[MEMORY] / 2, rel=0.4)
        trainer.communicate(timeout=30)
    assert values() == {}
