"""Phases timed on a GPU, with a stand-in for torch.cuda whose device works when the test says so."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.run import cuda_timer as module
from exporter.run.cuda_timer import CudaTimer
from tests.conftest import read_lines


class Device:
    """A GPU with one stream: work and events are queued, and done in their order."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.queue: list[Callable[[], None]] = []
        self.calls = 0
        self.is_in_use, self.captures, self.fails = True, False, False

    def launch(self, seconds: float) -> None:
        """Hand over work."""

        def work() -> None:
            self.clock += seconds

        self.queue.append(work)

    def work_off(self, count: int | None = None) -> None:
        """Do what is queued, or so many of it."""
        done = self.queue[:count]
        del self.queue[:count]
        for work in done:
            work()


def torch_cuda(device: Device) -> SimpleNamespace:
    """What the timer uses of torch.cuda; events are torch's: times in milliseconds, errors where CUDA has failed."""

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at: float | None = None

        def record(self) -> None:
            self._call()
            device.queue.append(lambda: setattr(self, "at", device.clock))

        def query(self) -> bool:
            self._call()
            return self.at is not None

        def elapsed_time(self, end: Any) -> float:
            self._call()
            return float(1000 * (end.at - self.at))

        def _call(self) -> None:
            device.calls += 1
            if device.fails:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    return SimpleNamespace(
        Event=Event,
        is_initialized=lambda: device.is_in_use,
        is_current_stream_capturing=lambda: device.captures,
    )


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU that torch uses."""
    device = Device()
    monkeypatch.setitem(sys.modules, "torch.cuda", torch_cuda(device))
    return device


@pytest.fixture
def recorded() -> list[tuple[str, float]]:
    """What a timer has recorded."""
    return []


@pytest.fixture
def timer(recorded: list[tuple[str, float]]) -> CudaTimer:
    """A timer."""
    return CudaTimer(lambda name, seconds: recorded.append((name, seconds)))


def test_a_block_lasts_as_long_as_its_work_on_the_gpu(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]]
) -> None:
    """Its time is that between its two events, without what was queued before it, and told once it is known."""
    device.launch(7)
    with timer.time("forward"):
        device.launch(2)
    with timer.time("backward"):
        device.launch(3)
    assert recorded == []
    device.work_off()
    with timer.time("optimizer"):
        assert recorded == [("forward", 2), ("backward", 3)]


def test_a_block_that_is_not_done_does_not_hold_up_the_host(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]]
) -> None:
    """A block is told as soon as the GPU has left it, the others stay; there is no call that waits."""
    for name in ("forward", "backward"):
        with timer.time(name):
            device.launch(1)
    device.work_off(3)
    with timer.time("optimizer"):
        assert recorded == [("forward", 1)]


def test_the_end_waits_for_a_second_at_most(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the GPU finishes soon is still told; a GPU that hangs is left behind."""
    with timer.time("forward"):
        device.launch(4)
    with timer.time("backward"):
        device.launch(5)
    monkeypatch.setattr(module.time, "sleep", lambda _: device.work_off(3))
    timer.finish()
    assert recorded == [("forward", 4), ("backward", 5)]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch.cuda", torch_cuda(device))
    monkeypatch.setattr(module, "_FINISH_SECONDS", 0.05)
    with timer.time("hangs"):
        device.launch(1)
    timer.finish()
    assert [name for name, _ in recorded] == ["forward", "backward"]


@pytest.mark.parametrize("state", ["no torch", "no CUDA in use", "a graph is captured", "CUDA has failed"])
def test_elsewhere_the_clock_of_the_host_tells(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU to ask, a block has the time it took, at once, and nothing is raised into the training."""
    device.is_in_use = state != "no CUDA in use"
    device.captures = state == "a graph is captured"
    device.fails = state == "CUDA has failed"
    if state == "no torch":
        monkeypatch.delitem(sys.modules, "torch.cuda")
    with timer.time("forward"):
        time.sleep(0.01)
    [(name, seconds)] = recorded
    assert name == "forward"
    assert seconds >= 0.01


def test_the_capture_of_a_graph_is_not_disturbed(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]]
) -> None:
    """While a graph is captured no event is made or asked, not even one of before; afterwards all goes on."""
    with timer.time("before"):
        device.launch(1)
    device.work_off()
    device.captures, calls = True, device.calls
    with timer.time("captured"):
        pass
    assert device.calls == calls
    device.captures = False
    timer.finish()
    assert [name for name, _ in recorded] == ["captured", "before"]


def test_a_cuda_that_fails_meanwhile_is_not_asked_again(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]]
) -> None:
    """After an error no time of what was queued is known; nothing is raised, and the end does not wait."""
    with timer.time("forward"):
        device.launch(1)
    device.fails = True
    with timer.time("backward"):
        pass
    calls = device.calls
    timer.finish()
    assert device.calls == calls
    assert [name for name, _ in recorded] == ["backward"]


def test_what_waits_is_bounded(
    device: Device, timer: CudaTimer, recorded: list[tuple[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a thousand blocks that the GPU has not left, the host's clock tells."""
    monkeypatch.setattr(module, "_MAX_PENDING", 2)
    for name in ("a", "b", "c"):
        with timer.time(name):
            device.launch(1)
    assert [name for name, _ in recorded] == ["c"]
    device.work_off()
    timer.finish()
    assert recorded[1:] == [("a", 1), ("b", 1)]


def test_a_block_that_raises_is_timed(device: Device, timer: CudaTimer, recorded: list[tuple[str, float]]) -> None:
    """The exception passes through, and the time is told."""

    def step() -> None:
        with timer.time("forward"):
            device.launch(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()
    device.work_off()
    timer.finish()
    assert recorded == [("forward", 1)]


def test_a_phase_is_timed_on_the_gpu_where_it_is_asked_for(device: Device, start, tmp_path: Path) -> None:
    """run.phase(cuda=True) records its begin at once and the GPU's time later, before the run's end."""
    run = start()
    with run.phase("forward", cuda=True):
        device.launch(2.5)
    with run.phase("data"):
        pass
    device.work_off()
    run.finish()
    lines = [line for line in read_lines(run.path) if line["_type"] in ("phase", "timing", "run_end")]
    told = [(line["_type"], line.get("name")) for line in lines]
    assert told == [
        ("phase", "forward"),
        ("phase", "data"),
        ("timing", "phase/data"),
        ("timing", "phase/forward"),
        ("run_end", None),
    ]
    assert lines[3]["seconds"] == 2.5


def test_torch_is_never_imported_to_find_out() -> None:
    """A phase with cuda=True leaves a training without torch without it."""
    script = (
        "import sys, tempfile; from exporter import start_run\n"
        "run = start_run(directory=tempfile.mkdtemp())\n"
        "with run.phase('forward', cuda=True): pass\n"
        "run.finish(); print([name for name in sys.modules if name.split('.')[0] in ('torch', 'ray')])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
