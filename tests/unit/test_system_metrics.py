"""The file of system metrics: where it is, what is in it, how often, and that nothing of it disturbs a training."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
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
from exporter.collectors import gpu_usage
from exporter.collectors.nvml import NoDriverError
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
    raise NoDriverError("none")


# ------------------------------------------------------------------ a record


def test_a_record_is_as_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, counts and loads are those of the standard library, the process is this one, the time is now."""
    monkeypatch.setattr(gpu_usage, "Nvml", no_driver)
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


WRAPPER = """
    import subprocess, sys
    worker = "import sys; block = bytearray(200 << 20); print(flush=True); sys.stdin.readline()\\nwhile True: pass"
    subprocess.Popen([sys.executable, "-c", worker]).wait()
"""


def test_a_wrapper_counts_with_what_it_starts() -> None:
    """Of a process with a pid, as of a shell that starts a trainer, memory and CPU are those of the whole tree."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRAPPER)], start_new_session=True, **pipes) as wrapper:
        wrapper.stdout.readline()
        sampler = SystemSampler(wrapper.pid)
        first = sampler.sample()["process"]
        (worker,) = psutil.Process(wrapper.pid).children()
        (used, wall) = (sum(worker.cpu_times()[:2]), time.monotonic())
        wrapper.stdin.write(b"\n")
        wrapper.stdin.flush()
        wait_until(lambda: sum(worker.cpu_times()[:2]) > used + 0.3, 30, "a busy worker")
        second = sampler.sample()["process"]
        share = 100 * (sum(worker.cpu_times()[:2]) - used) / (time.monotonic() - wall)
        os.killpg(wrapper.pid, signal.SIGKILL)
    assert first["cpu_percent"] == 0
    assert min(first["memory_info"]["rss"], second["memory_info"]["rss"]) > 200 << 20
    assert second["cpu_percent"] == pytest.approx(share, rel=0.3)


def test_what_an_ended_worker_used_is_not_lost() -> None:
    """CPU time of a worker that came and went between two samples is that of the tree which waited for it."""
    work = "import time\nwhile time.process_time() < 0.3: pass"
    script = (
        "import subprocess, sys\nprint(flush=True)\nsys.stdin.readline()\n"
        f"subprocess.run([sys.executable, '-c', {work!r}])\nprint(flush=True)\nsys.stdin.readline()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as parent:
        parent.stdout.readline()
        sampler = SystemSampler(parent.pid)
        sampler.sample()
        begin = time.monotonic()
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        parent.stdout.readline()
        percent = sampler.sample()["process"]["cpu_percent"]
        assert percent >= 0.9 * 100 * 0.3 / (time.monotonic() - begin)
        parent.communicate(b"\n", timeout=30)


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


def test_a_path_that_no_file_can_have_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A path with a NUL character, which is no error of the system, costs a line, too."""
    logger = SystemMetricsLogger("system\0.jsonl", 0.1)
    logger.start()
    said = []
    wait_until(lambda: said.append(capsys.readouterr().err) or any(said), 10, "the complaint")
    assert threads() == 1
    logger.stop()
    said.append(capsys.readouterr().err)
    assert "".join(said).startswith("[monitoring-error] system metrics cannot be written to system")
    assert "".join(said).count("\n") == 1


def test_a_sample_that_fails_is_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a library raises is said once, and the next sample is taken."""
    answers = iter([RuntimeError("a bug of a library"), {"ts": 1.0}])

    def sample(sampler: SystemSampler) -> dict[str, float]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(SystemSampler, "sample", sample)
    path = tmp_path / "system.jsonl"
    logger = SystemMetricsLogger(path, 0.1)
    logger.start()
    wait_until(lambda: lines(path), 10, "a record")
    logger.stop()
    assert lines(path)[0] == {"ts": 1.0}
    assert "[monitoring-error] system metrics cannot be written to" in capsys.readouterr().err


def test_where_no_thread_can_be_started_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on threads costs the samples and a line, and not the training."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    logger = SystemMetricsLogger(tmp_path / "system.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        logger.start()
    logger.stop()
    said = capsys.readouterr().err
    assert said == "[monitoring-error] failed to start system metrics logger: can't start new thread\n"


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


@pytest.mark.parametrize("value", [True, False, 5, b"x", "a\0b", "/", "."])
def test_what_can_be_no_file_is_refused(tmp_path: Path, value: Any) -> None:
    """The error names the value, the rule and the remedy, before anything starts."""
    with pytest.raises(ConfigError) as caught:
        start_run("r", directory=tmp_path, system_metrics=value)
    assert str(caught.value) == (
        f"system_metrics={value!r} must be 'AUTO' or the path of a file; leave it out for none"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and its value."""
    monkeypatch.setenv("TELEMETRY_SYSTEM_METRICS_INTERVAL", "often")
    with pytest.raises(ConfigError, match="TELEMETRY_SYSTEM_METRICS_INTERVAL='often' must be a number of seconds"):
        start_run("r", directory=tmp_path)


# ------------------------------------------------------------------ without psutil

TRAINING = """
    import sys
    from exporter import start_run
    with start_run("r", directory="runs", **eval(sys.argv[1])) as run:
        run.log({"train/loss": 0.5})
    print("trained")
"""


@pytest.mark.parametrize("module", ["raise ImportError('none')", "raise RuntimeError('another version')"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"system_metrics": "AUTO"}, "[monitoring-error] failed to start system metrics logger: psutil cannot be"),
        ({"port": 0}, "telemetry: this run serves no pages: psutil cannot be imported"),
    ],
)
def test_without_psutil_training_goes_on(tmp_path: Path, module: str, settings: dict[str, Any], said: str) -> None:
    """One line on stderr says what is missing and how to get it; the run is logged, and its exit code is its own."""
    (tmp_path / "psutil.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING), repr(settings)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert done.stderr.startswith(said)
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
