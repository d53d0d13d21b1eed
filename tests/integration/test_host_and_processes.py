"""A run with workers and checkpoints, and what the pages beside it say of its machine and its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import start_run
from exporter.exposition import Format
from exporter.importer import ImportOptions
from exporter.sidecar import Runs
from tests.support.journals import Scrape, judge
from tests.support.servers import wait_until
from tests.support.supervised import Recorded, python, run, supervised

CHECKPOINTS = Path("/dev/shm")
TRAINER = """
    import os, signal, sys
    from exporter import start_run
    with start_run("r", directory="runs", system_metrics="AUTO", system_metrics_interval=0.1) as run:
        workers = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                signal.pause()
            workers.append(pid)
        run.log({"train/loss": 0.5})
        run.checkpoint("/dev/shm/telemetry-test/1.pt")
        print("up", flush=True)
        sys.stdin.read()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
"""


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A trainer with three workers."""
    command = [sys.executable, "-c", textwrap.dedent(TRAINER)]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        process.communicate(timeout=30)
    assert process.returncode == 0


def page_of(folder: Path) -> Scrape:
    """What ``serve --once`` prints."""
    runs = Runs([folder], 1, ImportOptions(), folder / ".state")
    try:
        return judge(runs.page(), Format.TEXT)
    finally:
        runs.close()


def test_a_page_shows_machine_and_processes(tmp_path: Path, trainer: subprocess.Popen[bytes]) -> None:
    """The first page has the run's four processes, both file systems, the kernel's pressure, and every collector."""
    system_metrics = tmp_path / "runs" / "r" / "system_metrics.jsonl"
    wait_until(lambda: system_metrics.exists() and system_metrics.stat().st_size, 10, "system metrics")
    page = page_of(tmp_path / "runs")
    assert page.value("run_processes", run_id="r", user_id="") == 4
    assert page.value("run_process_cpu_seconds_total", run_id="r", user_id="") > 0
    assert {labels["path"] for labels in page.label_sets("host_disk_free_bytes")} == {
        *(str(tmp_path / "runs"), str(CHECKPOINTS)),
    }
    resources = {labels["resource"] for labels in page.label_sets("host_pressure_waiting_seconds_total")}
    assert resources == {path.name for path in Path("/proc/pressure").glob("[cim]*") if path.name != "irq"}
    collectors = page.label_sets("telemetry_collector_success")
    assert {labels["collector"] for labels in collectors} >= {"cgroup", "disk", "host", "pressure", "run_processes"}
    assert all(page.value("telemetry_collector_success", **labels) == 1 for labels in collectors)
    assert page.label_sets("telemetry_imported_runs") == [], "the file of system metrics is no run of its own"


def test_the_processes_of_a_supervised_command_are_the_run_s(tmp_path: Path) -> None:
    """Under ``run`` a shell and its trainer count: on pages with supervisor and recorder, in system metrics without."""
    script = "import os, sys; block = bytearray(300 << 20); print('up', flush=True); sys.stdin.readline()"
    options = {"TELEMETRY_SYSTEM_METRICS": "AUTO", "TELEMETRY_SYSTEM_METRICS_INTERVAL": "0.1"}
    command = ["sh", "-c", '"$@"; exit $?', "sh", *python(script)]
    with supervised(tmp_path, command, env={**os.environ, **options}) as running:
        running.expect(b"up\n")
        file = tmp_path / "runs" / "r" / "system_metrics.jsonl"
        wait_until(lambda: file.exists() and _resident(file) > 300 << 20, 20, "the command's memory in the file")
        page = page_of(tmp_path / "runs")
        assert page.value("run_processes", run_id="r", user_id="") == 4
        assert page.value("run_process_resident_memory_bytes", run_id="r", user_id="") > 300 << 20
        running.say("")
        assert running.end() == (0, b"", b"")
    records = file.read_text().splitlines()
    time.sleep(0.3)
    assert file.read_text().splitlines() == records
    assert Recorded(tmp_path).end.status == "finished"


def _resident(file: Path) -> int:
    """Resident memory in the last complete line."""
    lines = file.read_bytes().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["process"]["memory_info"]["rss"]) if lines else 0


@pytest.mark.parametrize("module", ["raise ImportError('none')", "raise RuntimeError('another version')"])
@pytest.mark.parametrize(
    "options", [["--system-metrics"], ["--system-metrics", "AUTO", "--system-metrics-interval", "1"]]
)
def test_a_command_runs_without_psutil(tmp_path: Path, module: str, options: list[str]) -> None:
    """Where psutil cannot be imported one line says so, and the command's output and exit code are its own."""
    (tmp_path / "psutil.py").write_text(module)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "exporter", "run", "--run-id", "r", "--directory", "runs", *options, "--"]
    done = subprocess.run(
        [*command, "sh", "-c", "echo out; exit 3"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "out\n")
    assert done.stderr.count("[monitoring-error]") == 1
    assert Recorded(tmp_path).end.status == "failed"
    assert not (tmp_path / "runs" / "r" / "system_metrics.jsonl").exists()


def test_a_kill_leaves_whole_lines(tmp_path: Path) -> None:
    """After a SIGKILL of everybody each line of the file is a record."""
    with supervised(tmp_path, ["sleep", "60"], env={**os.environ, "TELEMETRY_SYSTEM_METRICS": "AUTO"}) as running:
        file = tmp_path / "runs" / "r" / "system_metrics.jsonl"
        wait_until(lambda: file.exists() and file.stat().st_size, 20, "a record")
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait(30)
    assert all(json.loads(line)["ts"] > 0 for line in file.read_text().splitlines())


def test_without_the_flag_there_is_no_file(tmp_path: Path) -> None:
    """A supervised run writes its journal and nothing else by default."""
    run(tmp_path, ["true"])
    assert [path.name for path in (tmp_path / "runs" / "r").iterdir()] == ["metrics.jsonl"]


def test_a_run_that_serves_itself_shows_its_own_process(tmp_path: Path) -> None:
    """The page of ``start_run(port=0)`` has the same series as the sidecar's, of this process and its children."""
    with start_run("r", directory=tmp_path, port=0) as own, urllib.request.urlopen(f"{own.url}/metrics") as answer:
        page = judge(answer.read(), Format.TEXT)
    assert page.value("run_processes", run_id="r", user_id="") >= 1
    assert page.value("run_process_cpu_seconds_total", run_id="r", user_id="") > 0
    assert page.value("telemetry_collector_success", collector="run_processes") == 1
