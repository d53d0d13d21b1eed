"""Telemetry never breaks training: real full disks, read-only mounts, lost folders, lost permissions, SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from itertools import count

import pytest

from exporter import start_run
from exporter.journal import START, read_chunk
from exporter.records import Lost, RunEnd, RunStart, Step

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts and permissions as Linux has them")

LONGEST_CALL = 1.0
"""Seconds. A call takes microseconds, but a shared machine may be busy; nothing here may wait for a disk."""


def need(condition, what):
    """Skip where the machine cannot do this, and fail where CI has promised that it can."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def need_root():
    """Skip, or fail in CI, where these tests may not change the machine."""
    need(os.geteuid() == 0, "this test mounts a file system or changes its user, which needs root")


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 KiB."""
    need_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    need(result.returncode == 0, f"this root may not mount: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take every free byte of a file system; returns the file to remove for more room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                if not file.write(b"x" * 4096):
                    break
            except OSError:
                break
    return ballast


class Training:
    """Logs steps and knows which; a call that takes long or raises fails the test."""

    def __init__(self, run):
        self.run = run
        self._numbers = count()
        self.logged = []

    def steps(self, number):
        """Log some steps."""
        for _ in range(number):
            step = next(self._numbers)
            started = time.perf_counter()
            self.run.log({"loss": 1.0, "step": step}, step=step)
            assert time.perf_counter() - started < LONGEST_CALL
            self.logged.append(step)

    def until(self, condition, pause=0.05):
        """Log step after step until something is true."""
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, f"lost so far: {self.run.lost}"
            time.sleep(pause)
            self.steps(1)

    def until_lost(self):
        """Fill what room is left."""
        lost = self.run.lost
        self.until(lambda: self.run.lost != lost, pause=0)


class Stored:
    """What a journal holds, torn lines apart."""

    def __init__(self, path):
        chunk = read_chunk(path, START, 1 << 30)
        records = [stamped.record for stamped in chunk.records]
        self.steps = [record.step for record in records if isinstance(record, Step)]
        self.values = [record.metrics["step"] for record in records if isinstance(record, Step)]
        self.starts = [record for record in records if isinstance(record, RunStart)]
        self.ends = [record.status for record in records if isinstance(record, RunEnd)]
        self.lost = Counter()
        for record in records:
            if isinstance(record, Lost):
                self.lost[record.reason] += record.records
        self.torn = len(chunk.bad_lines)


def check_nothing_is_missing(training, path):
    """Every logged step is either readable, with its value, or counted as lost, in the run and in the journal."""
    stored = Stored(path)
    assert stored.lost == training.run.lost
    assert len(stored.steps) + sum(stored.lost.values()) == len(training.logged)
    assert set(stored.steps) <= set(training.logged)
    assert len(set(stored.steps)) == len(stored.steps)
    assert stored.values == stored.steps
    return stored


def check_said(text, *reasons):
    """Stderr has one line for each reason and no other."""
    assert [line.split("records are being lost (")[1].split(")")[0] for line in text.splitlines()] == list(reasons)


def test_disk_full(disk, capfd):
    """On a full disk training goes on, losses are counted, and logging resumes by itself once there is room."""
    run = start_run("r", directory=disk / "runs")
    training = Training(run)
    training.steps(20)
    ballast = fill(disk)
    training.until_lost()
    before = len(training.logged)
    training.steps(200)
    assert run.lost == {"disk_full": len(training.logged) - before + 1}
    assert sorted(Stored(run.path).steps) == training.logged[: before - 1]

    ballast.unlink()
    size = run.path.stat().st_size
    training.until(lambda: run.path.stat().st_size > size)
    resumed = run.lost["disk_full"]
    training.steps(20)
    assert run.lost == {"disk_full": resumed}
    run.finish()
    stored = check_nothing_is_missing(training, run.path)
    assert stored.steps[-20:] == training.logged[-20:]
    assert stored.torn <= 1
    assert (len(stored.starts), stored.ends) == (1, ["finished"])
    check_said(capfd.readouterr().err, "disk_full")


def test_disk_full_again_and_again(disk, capfd):
    """However often a disk fills up and is cleaned, every loss is counted and the reason is said once."""
    run = start_run("r", directory=disk / "runs")
    training = Training(run)
    for round_ in (1, 2, 3):
        ballast = fill(disk)
        training.until_lost()
        ballast.unlink()
        size = run.path.stat().st_size
        training.until(lambda size=size: run.path.stat().st_size > size)
        assert Stored(run.path).lost == run.lost, round_
    run.finish()
    check_nothing_is_missing(training, run.path)
    check_said(capfd.readouterr().err, "disk_full")


def test_read_only_remount(disk, capfd):
    """A file system that turns read-only in mid-run costs lines only; writable again, logging resumes by itself."""

    def remount(mode):
        # A mount with a file open for writing cannot be remounted: the full disk makes the writer close it.
        subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True)

    run = start_run("r", directory=disk / "runs")
    training = Training(run)
    training.steps(20)
    ballast = fill(disk)
    training.until_lost()
    ballast.unlink()
    remount("ro")
    training.until(lambda: "read_only" in run.lost)
    training.steps(200)
    assert run.lost["read_only"] >= 200

    remount("rw")
    size = run.path.stat().st_size
    training.until(lambda: run.path.stat().st_size > size)
    training.steps(20)
    run.finish()
    stored = check_nothing_is_missing(training, run.path)
    assert set(stored.lost) == {"disk_full", "read_only"}
    assert stored.steps[-20:] == training.logged[-20:]
    check_said(capfd.readouterr().err, "disk_full", "read_only")


def test_a_read_only_disk_at_the_end(disk, capfd):
    """A run with a server that ends on a read-only file system raises nothing and stops serving."""
    run = start_run("r", directory=disk / "runs", port=0)
    training = Training(run)
    fill(disk)
    training.until_lost()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    time.sleep(0.3)
    run.finish()
    assert not run.is_open
    assert run.lost["read_only"] >= 1
    assert (disk / "runs/.targets/r.json").exists()


def test_stderr_on_the_same_full_disk(disk):
    """Where stderr is a file on the full disk itself, training goes on all the same."""
    script = """
        import sys
        from exporter import start_run
        run = start_run("r", directory=sys.argv[1])
        ballast = open(sys.argv[2], "wb", buffering=0)
        try:
            while ballast.write(b"x" * 4096):
                pass
        except OSError:
            pass
        for step in range(2000):
            run.log({"loss": 1.0}, step=step)
            run.log({"wrong": object()}, step=step)
        print(sum(run.lost.values()))
    """
    with (disk / "stderr.log").open("wb") as stderr:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(disk / "runs"), str(disk / "ballast")],
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
            check=False,
        )
    assert int(result.stdout) > 1000


def test_folder_removed(tmp_path, capfd):
    """A run whose folder is removed goes on in a new one within about a second: header, count, steps."""
    run = start_run("r", directory=tmp_path / "runs", user_id="u")
    training = Training(run)
    training.steps(5)
    shutil.rmtree(tmp_path / "runs")
    training.until(run.path.exists)
    training.steps(5)
    run.finish()
    stored = check_nothing_is_missing(training, run.path)
    assert set(stored.lost) == {"folder_removed"}
    assert stored.steps == training.logged[-len(stored.steps) :]
    assert [(start.run_id, start.user_id, start.attempt) for start in stored.starts] == [("r", "u", 1)]
    assert stored.ends == ["finished"]
    check_said(capfd.readouterr().err, "folder_removed")


def test_folder_gone_for_good(tmp_path, capfd):
    """While something else stands in the folder's place every line is counted; then logging resumes."""
    runs = tmp_path / "runs"
    run = start_run("r", directory=runs)
    training = Training(run)
    training.steps(5)
    shutil.rmtree(runs)
    runs.write_text("in the way")
    training.until(lambda: run.lost)
    training.steps(100)
    assert run.lost == {"folder_removed": len(training.logged)}
    runs.unlink()
    training.until(run.path.exists)
    run.finish()
    check_nothing_is_missing(training, run.path)
    check_said(capfd.readouterr().err, "folder_removed")


TRAINER = """
    import json, os, sys, time
    from exporter import start_run

    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    try:
        run = start_run("r", directory=sys.argv[1])
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        os._exit(0)
    step = 0
    slowest = 0.0
    print(json.dumps({"lost": {}, "step": 0, "slowest": 0.0}), flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            started = time.perf_counter()
            run.log({"loss": 1.0, "step": step}, step=step)
            slowest = max(slowest, time.perf_counter() - started)
            step += 1
        print(json.dumps({"lost": run.lost, "step": step, "slowest": slowest}), flush=True)
    run.finish()
    sys.stderr.flush()
    os._exit(0)
"""


class Nobody:
    """A trainer without any privilege, in a process of its own: root would be refused nothing.

    It starts as root, because the interpreter may lie where nobody else can reach it.
    """

    def __init__(self, runs):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(TRAINER), str(runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.run = self
        self.logged = []
        self.first = json.loads(self.process.stdout.readline())
        self.lost = self.first.get("lost")

    def steps(self, number):
        """Let it log some steps."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert answer["slowest"] < LONGEST_CALL
        self.logged = list(range(answer["step"]))
        self.lost = answer["lost"]

    until = Training.until

    def finish(self):
        """End the run; returns what it said on stderr."""
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def nobody():
    """Starts trainers without any privilege; those that are left are killed after the test."""
    need_root()
    trainers = []

    def begin(runs):
        trainers.append(Nobody(runs))
        return trainers[-1]

    yield begin
    for trainer in trainers:
        trainer.process.kill()
        trainer.process.communicate()


@pytest.fixture
def open_folder():
    """A folder that everybody may enter and write; pytest's own folders are closed to others."""
    need_root()
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(prefix="never-breaks-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def test_permission_lost(nobody, open_folder):
    """Who may no longer write to the folder loses lines, counted, and logs again once it may."""
    runs = open_folder / "runs"
    trainer = nobody(runs)
    trainer.steps(10)
    journal = runs / "r" / "metrics.jsonl"
    journal.unlink()
    journal.parent.chmod(0o555)
    trainer.until(lambda: "permission_denied" in trainer.lost)
    trainer.steps(100)
    assert trainer.lost["permission_denied"] >= 100
    assert not journal.exists()

    journal.parent.chmod(0o755)
    trainer.until(journal.exists)
    trainer.steps(10)
    said = trainer.finish()
    stored = check_nothing_is_missing(trainer, journal)
    assert set(stored.lost) == {"folder_removed", "permission_denied"}
    assert stored.steps[-10:] == trainer.logged[-10:]
    assert (len(stored.starts), stored.ends) == (1, ["finished"])
    check_said(said, "folder_removed", "permission_denied")


def test_a_folder_out_of_sight_costs_nothing(nobody, open_folder):
    """A folder that can no longer be entered costs nothing while the journal itself is open: nothing is lost."""
    runs = open_folder / "runs"
    trainer = nobody(runs)
    trainer.steps(10)
    (runs / "r").chmod(0)
    for _ in range(3):
        time.sleep(0.5)
        trainer.steps(10)
    assert trainer.lost == {}
    (runs / "r").chmod(0o755)
    assert trainer.finish() == ""
    assert check_nothing_is_missing(trainer, runs / "r" / "metrics.jsonl").steps == list(range(40))


@pytest.mark.parametrize(("mode", "words"), [(0o555, "cannot write"), (0o000, "cannot read")])
def test_no_permission_at_the_start(nobody, open_folder, mode, words):
    """Without the permission to write, starting is an error that says so: loud at the start, silent later."""
    runs = open_folder / "runs"
    runs.mkdir()
    runs.chmod(mode)
    error = nobody(runs).first["error"]
    assert error.startswith(f"RunError: {words} {runs}/r/metrics.jsonl: Permission denied; choose ")


def test_sigkill_loses_nothing(tmp_path):
    """Every call that returned before a SIGKILL is in the journal."""
    script = """
        import itertools, sys
        from exporter import start_run
        run = start_run("r", directory=sys.argv[1])
        for step in itertools.count():
            run.log({"step": step}, step=step)
            print(step, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 50:
                break
        process.send_signal(signal.SIGKILL)
        returned = [50, *(int(line) for line in process.stdout if line.endswith("\n"))][-1]
    stored = Stored(tmp_path / "r" / "metrics.jsonl")
    assert stored.steps[: returned + 1] == list(range(returned + 1))
    assert len(stored.steps) <= returned + 2
    assert stored.torn == 0

    with start_run("r", directory=tmp_path) as run:
        run.log({"step": returned + 100})
    again = Stored(run.path)
    assert again.steps == [*stored.steps, stored.steps[-1] + 1]
    assert [start.attempt for start in again.starts] == [1, 2]
