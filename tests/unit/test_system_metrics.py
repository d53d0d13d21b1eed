"""The file of system metrics: where it is, what is in it, how often, and that nothing of it disturbs a training."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from exporter import ConfigError, SystemMetricsLogger, start_run
from exporter.cli import main
from exporter.collectors import system
from exporter.collectors.gpu_readings import Device, Reading, Value
from exporter.collectors.nvml import DriverError, GpuLostError
from exporter.collectors.system import SystemSampler
from tests.support.servers import wait_until

THREAD = "telemetry-system-metrics"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends without the thread."""
    yield
    assert threads() == 0


def threads() -> int:
    """How many loggers are at work in this process."""
    return sum(thread.name == THREAD for thread in threading.enumerate())


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, in strict JSON."""
    if not path.exists():
        return []
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def no_driver() -> None:
    """A machine without GPUs."""
    raise DriverError("none")


# ------------------------------------------------------------------ a record


def test_a_record_is_as_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, counts and loads are those of the standard library, the process is this one, the time is now."""
    monkeypatch.setattr(system, "GpuSession", no_driver)
    record = SystemSampler().sample()
    assert record.keys() == {"ts", "cpu_percent", "cpu_count", "memory", "swap", "load_avg", "process"}
    assert record["ts"] == pytest.approx(time.time(), abs=5)
    assert record["cpu_count"] == os.cpu_count()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert record["memory"]["total"] == pages
    assert {"available", "percent", "used", "free"} <= record["memory"].keys()
    assert {"total", "used", "free", "percent"} <= record["swap"].keys()
    assert record["load_avg"] == pytest.approx(os.getloadavg(), abs=1)
    assert record["process"]["cpu_percent"] == 0, "psutil has nothing to compare the first sample with"
    assert 0 < record["process"]["memory_info"]["rss"] < pages
    assert record["process"]["memory_info"]["vms"] >= record["process"]["memory_info"]["rss"]


def test_a_busy_process_is_seen_as_busy() -> None:
    """Between two samples the share of one CPU that the process had is its percentage."""
    sampler = SystemSampler()
    sampler.sample()
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.3:
        pass
    share = sampler.sample()["process"]["cpu_percent"]
    assert share == pytest.approx(100 * 0.3 / (time.monotonic() - wall), rel=0.25)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        ("cpu_percent", "cpu_percent"),
        ("cpu_count", "cpu_count"),
        ("virtual_memory", "memory"),
        ("swap_memory", "swap"),
        ("getloadavg", "load_avg"),
    ],
)
def test_a_part_that_fails_is_null(monkeypatch: pytest.MonkeyPatch, function: str, part: str) -> None:
    """Whatever the system does not have is null, and the rest is there."""

    def fail() -> None:
        raise OSError("not here")

    monkeypatch.setattr(psutil, function, fail)
    record = SystemSampler().sample()
    assert [name for name, value in record.items() if value is None] == [part]


def test_a_process_that_is_gone_is_null() -> None:
    """The machine is told also when the process has ended, or never was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        sampler = SystemSampler(process.pid)
    assert sampler.sample()["process"] == {"cpu_percent": None, "memory_info": None}
    assert SystemSampler(2**22 + 1).sample()["process"] is None


class Gpus:
    """A driver with a GPU that tells everything and one that tells nothing; then it goes away."""

    def __init__(self) -> None:
        self.gpus = [Device(0, "GPU-0", "H200"), Device(1, "GPU-1", "H200")]
        self.is_there = True

    def read(self, gpu: Device) -> list[Reading]:
        """What a GPU says."""
        if not self.is_there:
            raise DriverError("reset")
        if gpu.gpu:
            raise GpuLostError("lost")
        numbers = {
            "gpu_utilization_ratio": 0.25, "gpu_memory_used_bytes": 2**30, "gpu_memory_total_bytes": 2**33,
            "gpu_temperature_celsius": 40.0, "gpu_power_watts": 99.5,
        }  # fmt: skip
        return [Reading(gpu, [Value(name, number) for name, number in numbers.items()], {})]

    def close(self) -> None:
        """Nothing to give back."""


def test_gpus_are_told_until_their_driver_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is told in percent, bytes, degrees and watts, a lost one as null; without a driver none is."""
    driver = Gpus()
    monkeypatch.setattr(system, "GpuSession", lambda: driver)
    sampler = SystemSampler()
    record = sampler.sample()
    assert (record["gpu_count"], record["gpu_util_mean"]) == (2, 25)
    assert record["gpus"] == [
        {"index": 0, "util": 25, "mem_used": 2**30, "mem_total": 2**33, "temp_c": 40, "power_w": 99.5},
        {"index": 1, "util": None, "mem_used": None, "mem_total": None, "temp_c": None, "power_w": None},
    ]
    driver.is_there = False
    record = sampler.sample()
    assert {"gpu_count", "gpus", "gpu_util_mean"}.isdisjoint(record)
    assert record["cpu_count"]
    driver.is_there = True
    assert "gpus" not in sampler.sample(), "a driver that failed is not asked again"


# ------------------------------------------------------------------ the logger


def test_the_first_record_comes_at_once_and_no_other_before_its_time(tmp_path: Path) -> None:
    """With an interval of an hour there is one record soon, in a folder that was not there."""
    path = tmp_path / "a" / "b" / "system.jsonl"
    logger = SystemMetricsLogger(path, interval=3600)
    logger.start()
    wait_until(lambda: lines(path), 10, "the first record")
    started = time.monotonic()
    logger.stop()
    assert time.monotonic() - started < 1
    assert len(lines(path)) == 1


@pytest.mark.parametrize("interval", [0.01, 0, -5, math.nan])
def test_no_interval_is_shorter_than_a_tenth_of_a_second(tmp_path: Path, interval: float) -> None:
    """Whatever is asked for, records are at least 0.1 s apart, and come."""
    path = tmp_path / "system.jsonl"
    logger = SystemMetricsLogger(path, interval)
    logger.start()
    wait_until(lambda: len(lines(path)) >= 4, 20, "the fourth record")
    logger.stop()
    times = [record["ts"] for record in lines(path)]
    assert all(later - earlier >= 0.09 for earlier, later in itertools.pairwise(times))


def test_an_endless_interval_is_none(tmp_path: Path) -> None:
    """A thread that would wait for ever writes its first record and can be stopped."""
    logger = SystemMetricsLogger(tmp_path / "system.jsonl", math.inf)
    logger.start()
    wait_until(lambda: lines(tmp_path / "system.jsonl"), 10, "the first record")
    logger.stop()


def test_started_twice_is_one_thread_and_stopped_is_none(tmp_path: Path) -> None:
    """Start and stop can be called again and again; after a stop it can be started anew, and appends."""
    path = tmp_path / "system.jsonl"
    logger = SystemMetricsLogger(path, 3600)
    for count in (1, 2):
        logger.start()
        logger.start()
        assert threads() == 1
        wait_until(lambda count=count: len(lines(path)) == count, 10, "a record")
        logger.stop()
        logger.stop()
        assert threads() == 0


def test_what_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be written costs a line on stderr, and it is written as soon as it can be."""
    path = tmp_path / "system.jsonl"
    path.mkdir()
    logger = SystemMetricsLogger(path, 0.1)
    logger.start()
    said = []
    wait_until(lambda: said.append(capsys.readouterr().err) or any(said), 10, "the complaint")
    path.rmdir()
    wait_until(lambda: path.is_file() and lines(path), 10, "a record")
    logger.stop()
    said.append(capsys.readouterr().err)
    assert "".join(said) == f"[monitoring-error] system metrics cannot be written to {path}: Is a directory\n"


# ------------------------------------------------------------------ beside a run


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("AUTO", "runs/r/system_metrics.jsonl"),
        ("auto", "runs/r/system_metrics.jsonl"),
        ("logs/host.jsonl", "runs/r/logs/host.jsonl"),
        ("{root}/host.jsonl", "host.jsonl"),
    ],
)
def test_where_the_file_is(tmp_path: Path, setting: str, place: str) -> None:
    """AUTO, in any case, is beside the journal; a relative path is below that folder; an absolute one is itself."""
    with start_run("r", directory=tmp_path / "runs", system_metrics=setting.format(root=tmp_path)):
        wait_until(lambda: lines(tmp_path / place), 10, "the first record")
    assert [path.name for path in tmp_path.rglob("*.jsonl") if path.name != "metrics.jsonl"] == [Path(place).name]


def test_without_being_asked_for_there_is_none(tmp_path: Path) -> None:
    """A run has no such file, and no such thread, by default."""
    with start_run("r", directory=tmp_path):
        assert threads() == 0
    assert [path.name for path in tmp_path.rglob("*.jsonl")] == ["metrics.jsonl"]


def test_each_rank_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank above 0 that logs writes beside rank 0; one that does not log writes nothing."""
    monkeypatch.setenv("RANK", "3")
    with start_run("r", directory=tmp_path, system_metrics="AUTO"):
        assert threads() == 0
    with start_run("r", directory=tmp_path, system_metrics="AUTO", ranks="all"):
        wait_until(lambda: lines(tmp_path / "r" / "system_metrics.rank3.jsonl"), 10, "the first record")


def test_variables_set_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TELEMETRY_SYSTEM_METRICS and its interval are settings like the others."""
    monkeypatch.setenv("TELEMETRY_SYSTEM_METRICS", "AUTO")
    monkeypatch.setenv("TELEMETRY_SYSTEM_METRICS_INTERVAL", "0.1")
    with start_run("r", directory=tmp_path):
        wait_until(lambda: len(lines(tmp_path / "r" / "system_metrics.jsonl")) >= 2, 10, "the second record")


@pytest.mark.parametrize("interval", [math.nan, math.inf, "15", True])
def test_an_interval_that_is_no_number_of_seconds_is_refused(tmp_path: Path, interval: Any) -> None:
    """What cannot be an interval is an error before anything starts."""
    with pytest.raises(ConfigError, match="must be a number of seconds"):
        start_run("r", directory=tmp_path, system_metrics="AUTO", system_metrics_interval=interval)
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and its value."""
    monkeypatch.setenv("TELEMETRY_SYSTEM_METRICS_INTERVAL", "often")
    with pytest.raises(ConfigError, match="TELEMETRY_SYSTEM_METRICS_INTERVAL='often' must be a number of seconds"):
        start_run("r", directory=tmp_path)


# ------------------------------------------------------------------ without psutil

BLOCKED = """
    import sys
    sys.modules["psutil"] = None
"""
TRAINING = """
    from exporter import start_run
    with start_run("r", directory="runs", system_metrics="AUTO") as run:
        run.log({"train/loss": 0.5})
    print("trained")
"""


def python(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script in an interpreter that cannot import psutil."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BLOCKED) + textwrap.dedent(script)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_without_psutil_training_goes_on(tmp_path: Path) -> None:
    """One line on stderr says what is missing and how to get it; the run is logged, and its exit code is its own."""
    done = python(TRAINING, tmp_path)
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert done.stderr.startswith("[monitoring-error] failed to start system metrics logger: psutil cannot be imported")
    assert done.stderr.endswith("pip install psutil\n")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "runs" / "r").iterdir()] == ["metrics.jsonl"]


# ------------------------------------------------------------------ read again


def test_the_file_is_a_log_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``inspect`` knows it as lines of JSON, with the machine's figures in base units under the catalog's names."""
    path = tmp_path / "system_metrics.jsonl"
    path.write_text("".join(json.dumps(SystemSampler().sample()) + "\n" for _ in range(2)))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(path), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["records"], told["bad_lines"]) == ("jsonl", 2, [])
    names = {key: metric["canonical"] for key, metric in told["metrics"].items()}
    assert names["cpu_percent"] == "host_cpu_utilization_ratio"
    assert names["memory/total"] == "host_memory_total_bytes"
    assert names["process/memory_info/rss"] == "process_resident_memory_bytes"
