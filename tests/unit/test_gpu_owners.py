"""Which run has which GPU: what CUDA_VISIBLE_DEVICES means, and whose the processes on a GPU are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.collectors.gpu_owners import Holding, holdings, owned, owners, visible
from exporter.collectors.gpu_readings import Device, Reading
from exporter.collectors.processes import Processes, RunProcess

H100 = "NVIDIA H100 80GB HBM3"
ALIKE = [Device(number, f"GPU-{number}{number}{number}{number}-aa", H100) for number in range(4)]
MIXED = [Device(0, "GPU-0000-aa", "NVIDIA RTX A2000"), Device(1, "GPU-1111-aa", H100)]
SMALL = Device(0, "GPU-0000-aa", H100, "7", "1g.10gb", ("MIG-77aa",))
LARGE = Device(0, "GPU-0000-aa", H100, "2", "3g.40gb", ("MIG-22aa", "MIG-22bb"))
DIVIDED = [ALIKE[0], SMALL, LARGE, ALIKE[1]]
RUN = (("run_id", "r1"),)
OTHER = (("run_id", "r2"),)


class FakeProcesses(Processes):
    """A process tree and environments that are written down."""

    def __init__(self, parents: dict[int, int] | None = None, visible_devices: dict[int, str] | None = None) -> None:
        super().__init__()
        self.parents = parents or {}
        self.visible_devices = visible_devices or {}

    def environment(self, pid: int) -> dict[str, str]:
        """Only CUDA_VISIBLE_DEVICES, where the process has one."""
        return {"CUDA_VISIBLE_DEVICES": self.visible_devices[pid]} if pid in self.visible_devices else {}

    def _parent(self, pid: int) -> int:
        return self.parents.get(pid, 0)


def names(devices: set[Device]) -> list[str]:
    """GPU numbers, with the instance behind a colon."""
    return sorted(f"{device.gpu}:{device.gpu_instance_id}".rstrip(":") for device in devices)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("0", ["0"]),
        ("2,3", ["2", "3"]),
        (" 1 , 2 ", ["1", "2"]),
        ("0,1,-1,2", ["0", "1"]),
        ("0,9,1", ["0"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_numbers_end_at_the_first_that_is_no_gpu(value: str, numbers: list[str]) -> None:
    """CUDA counts from 0 and reads up to the first entry that it does not know."""
    assert names(visible({"CUDA_VISIBLE_DEVICES": value}, ALIKE)[1]) == numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("GPU-1111-aa", ["1"]),
        ("GPU-2,GPU-3", ["2", "3"]),
        ("GPU-", []),
        ("GPU-9999-aa,GPU-1111-aa", []),
        ("GPU-1111-aa,0", ["1"]),
    ],
)
def test_a_uuid_may_be_shortened_while_it_fits_one_gpu(value: str, expected: list[str]) -> None:
    """The beginning of a UUID names the one GPU that it fits, and none where it fits several."""
    assert names(visible({"CUDA_VISIBLE_DEVICES": value}, ALIKE)[0]) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("MIG-77aa", ["0:7"]),
        ("MIG-22bb", ["0:2"]),
        ("MIG-22", ["0:2"]),
        ("MIG-GPU-0000-aa/7/0", ["0:7"]),
        ("MIG-GPU-0000-aa/9/0", []),
        ("MIG-GPU-1111-aa/7/0", []),
        ("GPU-1111-aa", ["1"]),
        ("GPU-0000-aa", []),
        ("MIG-99", []),
    ],
)
def test_a_mig_id_names_its_gpu_instance(value: str, expected: list[str]) -> None:
    """By the UUID of a MIG device or in the older form of GPU and instances; a divided GPU itself is nobody's."""
    assert names(visible({"CUDA_VISIBLE_DEVICES": value}, DIVIDED)[0]) == expected


def test_a_number_means_nothing_where_its_order_is_unknown() -> None:
    """Among different GPUs only CUDA_DEVICE_ORDER=PCI_BUS_ID, and with MIG nothing, says which GPU is number 0."""
    first = {"CUDA_VISIBLE_DEVICES": "0"}
    assert visible(first, MIXED) == (set(), set())
    assert visible({**first, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, MIXED) == (set(), {MIXED[0]})
    assert visible(first, DIVIDED) == (set(), set())


def test_without_the_variable_nothing_is_said() -> None:
    """A process that may see every GPU has none by that."""
    assert visible({}, ALIKE) == (set(), set())


def test_a_run_has_what_it_may_see_and_what_it_uses() -> None:
    """Devices are those of the variable and those that hold its memory, in the host's order."""
    run = RunProcess(RUN, 10)
    assert owned(run, [], ALIKE, FakeProcesses(visible_devices={10: "2,1"})) == [ALIKE[1], ALIKE[2]]
    assert owned(run, [ALIKE[3]], ALIKE, FakeProcesses()) == [ALIKE[3]]
    assert owned(run, [ALIKE[1]], ALIKE, FakeProcesses(visible_devices={10: "1,2"})) == [ALIKE[1], ALIKE[2]]
    assert owned(run, [SMALL], DIVIDED, FakeProcesses(visible_devices={10: "MIG-22aa"})) == [SMALL, LARGE]


def test_numbers_of_another_view_are_not_believed() -> None:
    """A job that sees one GPU of four calls it 0; its memory on GPU 3 shows that GPU 0 is not meant."""
    run = RunProcess(RUN, 10)
    assert owned(run, [ALIKE[3]], ALIKE, FakeProcesses(visible_devices={10: "0"})) == [ALIKE[3]]


def ranks_of(run_id: str, *pids: int) -> list[RunProcess]:
    """A run's ranks; rank 0 is not named."""
    labels = [((("rank", str(rank)),) if rank else ()) + (("run_id", run_id),) for rank in range(len(pids))]
    return [RunProcess(*pair) for pair in zip(labels, pids, strict=True)]


def test_a_rank_among_others_has_what_it_uses() -> None:
    """Ranks that may all see four GPUs have those on which each holds memory, and the visible ones until then."""
    ranks = ranks_of("r1", 10, 11, 12)
    held = [Holding(ranks[1].labels, ALIKE[1], 11, 5), Holding(ranks[2].labels, ALIKE[3], 12, None)]
    tree = FakeProcesses(visible_devices=dict.fromkeys((10, 11, 12), "0,1,2,3"))
    found = owners(ranks, held, ALIKE, tree)
    assert [[device.gpu for labels, device in found if labels == rank.labels] for rank in ranks] == [
        [0, 1, 2, 3], [1], [3],
    ]  # fmt: skip


def test_a_rank_alone_on_the_host_has_what_it_may_see() -> None:
    """Of two runs with one process each, both keep the devices that they may see, used or not."""
    runs = [*ranks_of("r1", 10), *ranks_of("r2", 20)]
    held = [Holding(runs[0].labels, ALIKE[0], 10, 5)]
    tree = FakeProcesses(visible_devices={10: "0,1", 20: "2"})
    assert owners(runs, held, ALIKE, tree) == [
        (runs[0].labels, ALIKE[0]), (runs[0].labels, ALIKE[1]), (runs[1].labels, ALIKE[2]),
    ]  # fmt: skip


def test_memory_belongs_to_the_run_of_the_nearest_ancestor() -> None:
    """A run's process and its descendants count as the run's; a stranger and a run's parent do not."""
    readings = [
        Reading(ALIKE[0], [], {10: 100, 11: None, 99: 5}),
        Reading(ALIKE[1], [], {12: 300, 21: 400, 5: 7}),
    ]
    tree = FakeProcesses({11: 10, 12: 11, 10: 5, 20: 10, 21: 20, 5: 1, 99: 1})
    held = holdings(readings, [RunProcess(RUN, 10), RunProcess(OTHER, 20)], tree)
    assert held == [
        Holding(RUN, ALIKE[0], 10, 100),
        Holding(RUN, ALIKE[0], 11, None),
        Holding(RUN, ALIKE[1], 12, 300),
        Holding(OTHER, ALIKE[1], 21, 400),
    ]


def test_two_runs_of_one_process_both_hold_its_memory() -> None:
    """A process that makes two runs at once is a process of both."""
    held = holdings([Reading(ALIKE[0], [], {10: 100})], [RunProcess(RUN, 10), RunProcess(OTHER, 10)], FakeProcesses())
    assert [holding.run for holding in held] == [RUN, OTHER]


def test_a_circle_of_parents_ends() -> None:
    """A process tree that changes while it is read cannot hold the sampler up."""
    held = holdings([Reading(ALIKE[0], [], {7: 1})], [RunProcess(RUN, 10)], FakeProcesses({7: 8, 8: 7}))
    assert held == []


def test_real_processes_are_read() -> None:
    """A child's lineage leads through this process up to the first, and its environment is the one it was given."""
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "1,2", "EMPTY": ""}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        processes = Processes()
        lineage = list(processes.lineage(child.pid))
        assert lineage[:3] == [child.pid, os.getpid(), os.getppid()]
        found = processes.environment(child.pid)
        assert found["CUDA_VISIBLE_DEVICES"] == "1,2"
        assert found["EMPTY"] == ""
        child.communicate(timeout=30)


def test_what_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    """A process that is gone or another user's has no environment and no parent; that is no error."""
    processes = Processes(tmp_path)
    assert processes.environment(1) == {}
    assert list(processes.lineage(1)) == [1]
    assert list(processes.lineage(0)) == []
    (tmp_path / "2" / "environ").mkdir(parents=True)
    assert processes.environment(2) == {}


def test_a_command_may_be_called_anything(tmp_path: Path) -> None:
    """Parentheses and spaces in a command's name do not move the parent's pid."""
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "stat").write_text(f"3 (a) S 9 (b c) S 2 3 3 0 -1 {'0 ' * 45}")
    assert list(Processes(tmp_path).lineage(3)) == [3, 2]
