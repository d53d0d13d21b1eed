"""Control groups of both versions, as kernels write them, and as this kernel does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.cgroup import ControlGroup, MemoryLimit
from exporter.collectors import cgroup as module
from exporter.collectors.cgroup import ControlGroupCollector
from exporter.collectors.processes import RunProcess
from tests.support.journals import CATALOG
from tests.support.servers import wait_until

NO_LIMIT = str(2**63 - 4096)
STAT = "anon 500\nfile 400\ninactive_file 100\nactive_file 50\nslab_reclaimable 7\nslab_unreclaimable 9\n"


def write(folder: Path, **files: str) -> None:
    """Files in a folder; __ stands for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def group(root: Path, lines: str, pid: int | str = "self") -> ControlGroup:
    """The group of a process whose kernel says this of it."""
    write(root / "proc" / str(pid), cgroup=lines)
    return ControlGroup(root, pid)


def test_version_2_as_a_container_sees_it(tmp_path: Path) -> None:
    """Half of three CPUs' time, and memory in use without what the kernel can drop."""
    write(
        tmp_path / "sys/fs/cgroup",
        cpu__max="150000 100000\n", memory__max="1000\n", memory__current="900\n", memory__stat=STAT,
        memory__events="oom 3\noom_kill 2\n",
    )  # fmt: skip
    own = group(tmp_path, "0::/\n")
    assert own.cpu_limit() == 1.5
    assert own.memory_limit() == MemoryLimit(1000, 900 - 100 - 50 - 7)
    assert own.oom_kills() == 2


def test_version_1_as_a_container_sees_it(tmp_path: Path) -> None:
    """The same in a hierarchy for each controller, whose sums over inner groups count."""
    mount = tmp_path / "sys/fs/cgroup"
    write(mount / "cpu", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    write(
        mount / "memory",
        memory__limit_in_bytes="1000\n", memory__usage_in_bytes="900\n",
        memory__stat="inactive_file 1\nactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
    )  # fmt: skip
    own = group(tmp_path, "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/\n0::/\n")
    assert (own.cpu_limit(), own.memory_limit(), own.oom_kills()) == (0.5, MemoryLimit(1000, 750), 4)


def test_no_limit_is_none(tmp_path: Path) -> None:
    """The words and numbers by which kernels say that there is no limit are none, and so is a group without files."""
    write(tmp_path / "sys/fs/cgroup", cpu__max="max 100000\n", memory__max="max\n", memory__current="900\n")
    own = group(tmp_path, "0::/\n")
    assert (own.cpu_limit(), own.memory_limit()) == (None, None)
    old = tmp_path / "old"
    write(old / "sys/fs/cgroup/cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    write(old / "sys/fs/cgroup/memory", memory__limit_in_bytes=NO_LIMIT, memory__usage_in_bytes="900\n")
    own = group(old, "5:memory:/\n4:cpu:/\n")
    assert (own.cpu_limit(), own.memory_limit()) == (None, None)
    nothing = ControlGroup(tmp_path / "nothing")
    assert (nothing.cpu_limit(), nothing.memory_limit(), nothing.oom_kills()) == (None, None, None)


def test_the_tightest_limit_around_a_process_counts(tmp_path: Path) -> None:
    """Of a task in a step of a job the job's limit counts, and all of the job's use; kills are those of the task."""
    job = tmp_path / "sys/fs/cgroup/job"
    write(job, cpu__max="400000 100000", memory__max="1000", memory__current="800", memory__events="oom_kill 5")
    write(job / "step", cpu__max="max 100000", memory__max="1000", memory__current="300")
    write(job / "step/task", cpu__max="800000 100000", memory__max="max", memory__current="200")
    write(job / "step/task", memory__events="oom_kill 1")
    task = group(tmp_path, "0::/job/step/task\n")
    assert (task.cpu_limit(), task.memory_limit(), task.oom_kills()) == (4, MemoryLimit(1000, 800), 1)


def test_a_group_outside_of_what_we_see_says_nothing(tmp_path: Path) -> None:
    """Another container's group has a path that leads out of our own: nothing is read there."""
    write(tmp_path / "sys/fs/cgroup", memory__max="1000", memory__current="800")
    assert group(tmp_path, "0::/../other\n").memory_limit() is None


def test_use_that_cannot_be_read_is_absent(tmp_path: Path) -> None:
    """A limit without what is used of it is not shown as an empty container."""
    write(tmp_path / "sys/fs/cgroup", memory__max="1000")
    assert group(tmp_path, "0::/\n").memory_limit() is None


def test_runs_are_told_of_their_own_groups(tmp_path: Path) -> None:
    """Each run has its own group's values under the catalog's names; what is not limited has no series."""
    write(tmp_path / "sys/fs/cgroup/a", memory__max="1000", memory__current="800", memory__events="oom_kill 0")
    write(tmp_path / "sys/fs/cgroup/b", cpu__max="200000 100000")
    group(tmp_path, "0::/a\n", 1)
    group(tmp_path, "0::/b\n", 2)
    runs = [RunProcess((("run_id", str(pid)),), pid) for pid in (1, 2, 3)]
    samples = list(ControlGroupCollector(CATALOG, lambda: runs, tmp_path).collect())
    assert {(sample.name, sample.labels[0][1], sample.value) for sample in samples} == {
        ("run_cgroup_memory_limit_bytes", "1", 1000),
        ("run_cgroup_memory_used_bytes", "1", 800),
        ("run_cgroup_oom_kills_total", "1", 0),
        ("run_cgroup_cpu_limit_cpus", "2", 2),
    }


def of_a_killed_run(root: Path, runs: list[RunProcess]) -> ControlGroupCollector:
    """A collector that has seen a run, whose process was killed for want of memory since."""
    job = root / "sys/fs/cgroup/job"
    write(root / "sys/fs/cgroup", memory__events="oom_kill 7")
    write(job, memory__max="1000", memory__current="800", memory__events="oom_kill 0")
    group(root, "0::/job\n", 1)
    collector = ControlGroupCollector(CATALOG, lambda: runs, root)
    assert len(list(collector.collect())) == 3
    (root / "proc/1/cgroup").unlink()
    write(job, memory__events="oom_kill 1")
    return collector


@pytest.mark.parametrize("noticed", [False, True])
def test_the_kill_of_the_trainer_itself_is_told(tmp_path: Path, *, noticed: bool) -> None:
    """After its process has gone a run's group tells its kills; what it uses then is no longer the run's."""
    runs = [RunProcess((("run_id", "r"),), 1)]
    collector = of_a_killed_run(tmp_path, runs)
    if noticed:
        runs.clear()
    found = [(sample.name, sample.labels, sample.value) for sample in collector.collect()]
    assert found == [("run_cgroup_oom_kills_total", (("run_id", "r"),), 1)]


def test_a_group_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some minutes after a run's process was last seen its group is forgotten, and comes with it again."""
    collector = of_a_killed_run(tmp_path, [RunProcess((("run_id", "r"),), 1)])
    monkeypatch.setattr(module, "_LINGER_SECONDS", 0.0)
    assert list(collector.collect()) == []
    group(tmp_path, "0::/job\n", 1)
    assert len(list(collector.collect())) == 3


def test_of_a_group_that_is_gone_nothing_is_told(tmp_path: Path) -> None:
    """The groups around a removed one are not taken for it."""
    collector = of_a_killed_run(tmp_path, [RunProcess((("run_id", "r"),), 1)])
    shutil.rmtree(tmp_path / "sys/fs/cgroup/job")
    assert list(collector.collect()) == []


# ------------------------------------------------------------------ this kernel

HOLD = "import sys; block = bytearray(b'x' * (64 << 20)); print('up', flush=True); sys.stdin.read()"
LINES = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
OWN = next((line for line in LINES if ":memory:" in line), "")


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A memory group of 256 MiB, where this user may make one."""
    parent = Path("/sys/fs/cgroup/memory" if OWN else "/sys/fs/cgroup", OWN.split(":")[2].lstrip("/") if OWN else "")
    folder = parent / f"telemetry-limit-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if OWN else "memory.max")).write_text(str(256 << 20))
        yield folder
    except OSError as error:
        pytest.skip(f"no control group can be limited here: {error}")
    finally:
        if folder.exists():
            wait_until(lambda: folder.rmdir() is None, 10, "the end of the group's processes")


def test_a_real_limit_and_a_real_use(limited_group: Path) -> None:
    """A process that holds 64 MiB of 256 has that limit, and at least its own memory in use."""
    join = f"open({str(limited_group / 'cgroup.procs')!r}, 'w').write('0'); "
    command = [sys.executable, "-c", join + HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        own = ControlGroup(pid=process.pid)
        limit = own.memory_limit()
        assert limit is not None
        assert limit.limit == 256 << 20
        assert 64 << 20 <= limit.used < 128 << 20
        assert own.oom_kills() == 0
        process.communicate(timeout=30)


def test_this_process_can_be_asked() -> None:
    """Whatever this machine is, the numbers are positive where there are any."""
    own = ControlGroup()
    assert (own.cpu_limit() or 1) > 0
    assert (own.oom_kills() or 0) >= 0
