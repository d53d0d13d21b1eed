"""The process beside the trainers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter.errors import ServerError
from exporter.exposition import Format
from exporter.server import Exporter
from exporter.sidecar import Sidecar, remove_stale_targets
from exporter.sidecar import serve as module
from tests.support.journals import Journal, Scrape, judge
from tests.support.servers import get, wait_until

HERE = socket.gethostname()


@contextmanager
def serving(*paths: Path, port: int = 0) -> Iterator[Sidecar]:
    """A sidecar that runs in a thread until the end of the block."""
    sidecar, stop = Sidecar(paths, "127.0.0.1", port), threading.Event()
    thread = threading.Thread(target=sidecar.run, args=[stop])
    thread.start()
    try:
        wait_until(lambda: get(f"{sidecar.url}/-/ready"), 10, "readiness")
        yield sidecar
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def page(sidecar: Sidecar, query: str = "") -> Scrape:
    """Its page."""
    return judge(get(f"{sidecar.url}/metrics{query}").encode(), Format.TEXT)


def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ------------------------------------------------------------------ serving


def test_runs_of_several_folders_are_served(tmp_path: Path) -> None:
    """Runs folders, a run folder and a journal file can be given; the host is on the page too."""
    Journal(tmp_path / "a", "r1").start().step(0, a=1)
    Journal(tmp_path / "b", "r2").start().step(0, a=1)
    Journal(tmp_path / "b", "r3").start().step(0, a=1)
    file = Journal(tmp_path / "c", "r4").start().step(0, a=1).path
    with serving(tmp_path / "a", tmp_path / "b" / "r2", file) as sidecar:
        shown = page(sidecar)
    assert sorted(labels["run_id"] for labels in shown.label_sets("run_info")) == ["r1", "r2", "r4"]
    assert shown.value("telemetry_collector_success", collector="host") == 1
    assert shown.label_sets("host_disk_size_bytes") == [{"path": str(tmp_path / "a")}]


def test_a_folder_may_come_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is said and waited for; its disk is that of the working folder meanwhile."""
    runs = tmp_path / "later"
    with serving(runs) as sidecar:
        assert page(sidecar).label_sets("run_info") == []
        assert page(sidecar).label_sets("host_disk_size_bytes") == [{"path": str(Path.cwd())}]
        Journal(runs).start().step(0, a=1)
        assert [labels["run_id"] for labels in page(sidecar).label_sets("run_info")] == ["r1"]
        assert page(sidecar, "?scraper=p").values("training_step") == [0]
    assert "does not exist yet" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["runs", "runs/r1/metrics.jsonl"])
def test_cursors_lie_with_the_first_path(tmp_path: Path, given: str) -> None:
    """The state file is in a hidden folder of the first path, or of its file's folder, and named by the port."""
    Journal(tmp_path / "runs").start().step(0, a=1)
    with serving(tmp_path / given) as sidecar:
        page(sidecar, "?scraper=p")
        home = tmp_path / given if given == "runs" else (tmp_path / given).parent
        wait_until((home / ".telemetry" / "cursors-0.json").is_file, 5, "the state file")


def test_a_busy_port_is_told_at_once(tmp_path: Path) -> None:
    """A sidecar that cannot listen is not made."""
    with serving(tmp_path) as sidecar, pytest.raises(ServerError):
        Sidecar([tmp_path], "127.0.0.1", int(sidecar.url.rpartition(":")[2]))


def test_a_sidecar_is_ready_although_its_runs_never_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading what was there is the start; what runs append meanwhile does not put it off."""
    monkeypatch.setattr(Exporter, "refresh", lambda self: 100)
    with serving(tmp_path) as sidecar:
        assert get(f"{sidecar.url}/-/ready") == "ready\n"


def test_a_sidecar_is_ready_once_all_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long journals take several turns before the first page."""
    read = iter([module.FOLLOW_BYTES, module.FOLLOW_BYTES + 7, 5, AssertionError("read once too often")])
    monkeypatch.setattr(Exporter, "refresh", lambda self: next(read))
    with serving(tmp_path):
        pass
    assert isinstance(next(read), AssertionError)


def test_reading_ends_when_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop while long journals are read is obeyed."""
    stop = threading.Event()
    monkeypatch.setattr(Exporter, "refresh", lambda self: (stop.set(), module.FOLLOW_BYTES)[1])
    Sidecar([tmp_path], "127.0.0.1", 0).run(stop)
    assert stop.is_set()


# ------------------------------------------------------------------ tidying up


def target(folder: Path, name: str, pid: object, host: str = HERE, **more: str) -> Path:
    """A discovery file as a run writes it."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    labels = {"__telemetry_pid": str(pid), "__telemetry_host": host, **more}
    path.write_text(json.dumps([{"targets": ["127.0.0.1:1"], "labels": labels}]))
    return path


def test_only_targets_of_dead_processes_of_this_host_go(tmp_path: Path) -> None:
    """A target is removed if its process is gone and was ours to see; all others stay."""
    gone = dead_pid()
    stale = target(tmp_path, "stale", gone)
    kept = [
        target(tmp_path, "own", os.getpid()),
        target(tmp_path, "alive", os.getppid()),
        target(tmp_path, "elsewhere", gone, host="another-host"),
        target(tmp_path, "container", gone, __telemetry_pid_namespace="another-boot pid:[7]"),
    ]
    assert remove_stale_targets(tmp_path) == [stale]
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "7", "[7]", '[{"targets": []}]', '[{"labels": {}}]', '[{"labels": null}]', "\udcff",
     json.dumps([{"labels": {"__telemetry_host": HERE, "__telemetry_pid": "x"}}]),
     json.dumps([{"labels": {"__telemetry_host": HERE, "__telemetry_pid": None}}])],
)  # fmt: skip
def test_what_is_no_target_of_ours_stays(tmp_path: Path, content: str) -> None:
    """A file that somebody else wrote is left alone, and does not end the tidying."""
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    stale = target(tmp_path, "b", dead_pid())
    assert remove_stale_targets(tmp_path) == [stale]
    assert (tmp_path / "a.json").exists()


@pytest.mark.parametrize("pid", [-1, 2**22 + 1, 2**31, 10**30])
def test_a_number_that_is_no_process_is_a_dead_one(tmp_path: Path, pid: int) -> None:
    """An impossible pid ends nothing but its target."""
    path = target(tmp_path, "a", pid)
    remove_stale_targets(tmp_path)
    assert not path.exists()


def test_a_folder_without_targets_is_no_trouble(tmp_path: Path) -> None:
    """Nothing there, nothing removed."""
    assert remove_stale_targets(tmp_path / "missing") == []


def test_a_sidecar_tidies_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets are looked at again and again, not only at the start."""
    monkeypatch.setattr(module, "_TIDY_SECONDS", 0.05)
    with serving(tmp_path):
        path = target(tmp_path / ".targets", "late", dead_pid())
        wait_until(lambda: not path.exists(), 5, "removal")


# ------------------------------------------------------------------ as a process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    """``serve`` says where it serves, serves, and ends with exit code 0 when it is told to."""
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "exporter", "serve", str(runs), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            url = said.split()[-1].removesuffix("/metrics")
            assert said == f"serving {runs} on {url}/metrics\n"
            wait_until(lambda: get(f"{url}/-/ready"), 15, "readiness")
            Journal(runs).start().step(3, a=1)
            assert judge(get(f"{url}/metrics?scraper=p").encode(), Format.TEXT).values("training_step") == [3]
            process.send_signal(number)
            _, errors = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"telemetry: {runs} does not exist yet; its runs are shown once it does\n" in errors
    assert "Traceback" not in errors
    assert (runs / ".telemetry" / "cursors-0.json").is_file()
