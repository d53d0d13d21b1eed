"""GPUs in the record of system metrics, through the real pynvml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.collectors import gpu_usage
from exporter.collectors.nvml import NoDriverError
from exporter.collectors.system import SystemSampler
from tests.gpu.fake import H100, Scenario, host
from tests.support.servers import wait_until

FOR_EVER = 600_000
KNOWN = {"mem_used": 20_780_679_168, "mem_total": 85_520_809_984, "temp_c": 59}
GPU_PARTS = {"gpu_count", "gpus", "gpu_util_mean"}
Sampling = Callable[[], SystemSampler]


@pytest.fixture
def said() -> list[str]:
    """What the samplers reported."""
    return []


@pytest.fixture
def sampling(scenario: Scenario, said: list[str]) -> Iterator[Sampling]:
    """Begins to sample; at the end nothing hangs any more, and the driver is given back."""
    begun: list[SystemSampler] = []

    def begin() -> SystemSampler:
        begun.append(SystemSampler(report=said.append))
        return begun[-1]

    yield begin
    scenario.only(host(1))
    wait_until(lambda: not looks(), 10, "the end of the last look")
    for sampler in begun:
        sampler.close()


def looks() -> int:
    """How many threads ask a driver."""
    return sum(thread.name == "telemetry-gpu-usage" for thread in threading.enumerate())


def test_gpus_are_told_as_nvml_knows_them(scenario: Scenario, sampling: Sampling) -> None:
    """Percent, whole bytes, degrees and watts of each GPU, null for what one does not give, and the mean of use."""
    scenario.only({**host(2), "gpu1.utilization": "!3", "gpu1.power": "!3"})
    record = sampling().sample()
    assert record["gpus"] == [
        {"index": 0, "util": 57, "power_w": pytest.approx(631.95), **KNOWN},
        {"index": 1, "util": None, "power_w": None, **KNOWN},
    ]
    assert {type(gpu[key]) for gpu in record["gpus"] for key in ("mem_used", "mem_total")} == {int}
    assert (record["gpu_count"], record["gpu_util_mean"]) == (2, 57)


def test_without_a_driver_there_is_no_word_of_gpus(scenario: Scenario, sampling: Sampling, said: list[str]) -> None:
    """A library whose driver is not loaded leaves the rest of the record as it is, and is no mistake to report."""
    scenario.only({"driver": 9})
    sampler = sampling()
    for _ in range(2):
        record = sampler.sample()
        assert record["memory"]["total"] > 0
        assert GPU_PARTS.isdisjoint(record)
    assert scenario.initialisations == 1, "a driver that is not there is not asked again"
    assert said == []


def test_a_lost_gpu_is_null(scenario: Scenario, sampling: Sampling) -> None:
    """Nothing is known of a GPU that fell off the bus, and the others are told."""
    scenario.only(host(2))
    sampler = sampling()
    assert sampler.sample()["gpu_util_mean"] == 57
    scenario.set({"gpu0.lost": 1, "gpu1.utilization": 31})
    lost, other = sampler.sample()["gpus"]
    assert lost == {"index": 0, "util": None, "mem_used": None, "mem_total": None, "temp_c": None, "power_w": None}
    assert other["util"] == 31


def test_gpus_are_told_until_their_driver_is_gone(scenario: Scenario, sampling: Sampling, said: list[str]) -> None:
    """A driver that fails is reported, given back, and not asked again; the rest of the record goes on."""
    sampler = sampling()
    assert sampler.sample()["gpu_count"] == 1
    scenario.set({"driver": 9})
    assert GPU_PARTS.isdisjoint(sampler.sample())
    assert scenario.log.read_text().split() == ["init", "shutdown"]
    scenario.set({"driver": None})
    record = sampler.sample()
    assert GPU_PARTS.isdisjoint(record)
    assert record["memory"]["total"] > 0
    assert len(said) == 1
    assert said[0].startswith("system metrics go on without GPUs: ")
    assert scenario.initialisations == 1


def test_a_call_that_hangs_costs_the_gpus_only(scenario: Scenario, sampling: Sampling, said: list[str]) -> None:
    """While a call hangs the machine is told and no second call is made; when it returns, GPUs are told again."""
    scenario.only(host(8))
    scenario.set({"gpu5.power.delay": FOR_EVER})
    sampler = sampling()
    begin = time.monotonic()
    for _ in range(3):
        record = sampler.sample()
        assert record["memory"]["total"] > 0
        assert GPU_PARTS.isdisjoint(record)
        assert looks() == 1
    assert time.monotonic() - begin < 5
    assert set(said) == {"the GPUs' driver does not answer; system metrics go on without GPUs until it does"}
    scenario.set({"gpu5.power.delay": None})
    wait_until(lambda: sampler.sample().get("gpu_count") == 8, 10, "the GPUs")


def test_a_driver_that_hangs_at_the_start_costs_the_gpus_only(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also NVML's initialisation is waited for by a thread of its own."""
    answers = threading.Event()

    def hang() -> Any:
        answers.wait(60)
        raise NoDriverError("none")

    monkeypatch.setattr(gpu_usage, "Nvml", hang)
    begin = time.monotonic()
    sampler = sampling()
    assert time.monotonic() - begin < 0.5
    assert sampler.sample()["memory"]["total"] > 0
    answers.set()


def test_nothing_is_asked_that_a_record_does_not_hold(scenario: Scenario, sampling: Sampling) -> None:
    """Calls for any other quantity could hang, and no record would miss them."""
    held = {"utilization", "utilization.memory", "memory.total", "memory.used", "memory.reserved"}
    others = {*H100, "uuid", "compute", "mig_count"} - held - {"temperature.0", "power"}
    scenario.only({**host(8), **{f"gpu*.{key}.delay": FOR_EVER for key in others}})
    assert sampling().sample()["gpu_count"] == 8


# ------------------------------------------------------------------ beside a training

TRAINING = """
import time
from exporter import start_run
begin = time.monotonic()
run = start_run("r", directory="runs", system_metrics="AUTO", system_metrics_interval=0.1)
print(time.monotonic() - begin)
deadline = time.monotonic() + 20
path = run.path.with_name("system_metrics.jsonl")
while time.monotonic() < deadline and not (path.exists() and len(path.read_bytes().splitlines()) >= 3):
    time.sleep(0.02)
run.finish()
print("trained")
"""


def train(folder: Path, environment: dict[str, str]) -> tuple[float, list[dict[str, Any]], str]:
    """A training of at least three records: how long its start took, its records, and stderr."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", TRAINING], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert time.monotonic() - begin < 30
    seconds, trained = done.stdout.split()
    assert trained == "trained"
    lines = (folder / "runs" / "r" / "system_metrics.jsonl").read_text().splitlines()
    return float(seconds), [json.loads(line) for line in lines], done.stderr


def test_a_driver_that_hangs_does_not_hold_up_a_training(library: Path, tmp_path: Path) -> None:
    """The run starts at once, CPU and memory are written, one line says why no GPUs are, and the process ends."""
    delays = {f"gpu*.{key}.delay": FOR_EVER for key in ("uuid", "power")}
    hanging = Scenario(tmp_path / "scenario", {**host(1), **delays})
    environment = {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML_SCENARIO": str(hanging.path)}
    seconds, records, said = train(tmp_path, environment)
    assert seconds < 1
    assert all(record["memory"]["total"] > 0 and GPU_PARTS.isdisjoint(record) for record in records)
    assert said == (
        "[monitoring-error] the GPUs' driver does not answer; system metrics go on without GPUs until it does\n"
    )


OLD_NAMES = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def __getattr__(name):
    if name.startswith("NVML_ERROR_"): return 1
    raise AttributeError(name)
"""


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise OSError('cannot load')", "OSError('cannot load')"),
        ("class NVMLError(Exception): pass\ndef nvmlInit(): pass", "AttributeError("),
        (OLD_NAMES, "AttributeError('nvmlMemory_v2')"),
        (OLD_NAMES.replace("def nvmlInit(): pass", "nvmlMemory_v2 = 1\ndef nvmlInit(): 1 / 0"), "ZeroDivisionError("),
    ],
)
def test_another_pynvml_is_no_reason_not_to_train(tmp_path: Path, module: str, reason: str) -> None:
    """A package of that name that is old, foreign or broken costs one line with the remedy, and the GPUs."""
    (tmp_path / "pynvml.py").write_text(module)
    _, records, said = train(tmp_path, {})
    assert all(record["memory"]["total"] > 0 and GPU_PARTS.isdisjoint(record) for record in records)
    assert said.startswith("[monitoring-error] system metrics go on without GPUs: pynvml cannot be used (")
    assert reason in said
    assert said.endswith("; pip install -U nvidia-ml-py\n")
    assert said.count("\n") == 1
