"""Commands under ``telemetry-exporter run``, and what their runs say afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from exporter.journal import START, read_chunk
from exporter.records import Event, RunEnd, RunStart, Step

PROGRAM = (sys.executable, "-m", "exporter", "run", "--run-id", "r", "--directory", "runs")
SECONDS = 30.0


def python(script: str) -> list[str]:
    """A command that runs a script."""
    return [sys.executable, "-c", textwrap.dedent(script)]


class Recorded:
    """The journal that a supervised command left."""

    def __init__(self, folder: Path, run_id: str = "r") -> None:
        self.path = folder / "runs" / run_id / "metrics.jsonl"
        records = [item.record for item in read_chunk(self.path, START, 1 << 30).records]
        self.starts = [record for record in records if isinstance(record, RunStart)]
        self.steps = [record for record in records if isinstance(record, Step)]
        self.events = [record for record in records if isinstance(record, Event)]
        self.ends = [record for record in records if isinstance(record, RunEnd)]

    @property
    def end(self) -> RunEnd:
        """How the one attempt ended."""
        (end,) = self.ends
        return end


class Supervised:
    """A running supervisor with pipes to its stdin, stdout and stderr; ``options`` replace Popen's.

    ``shell`` is shell code that runs before it, in its process.
    """

    def __init__(self, folder: Path, command: list[str], shell: str = "", **options: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        before = ["sh", "-c", f'{shell}\nexec "$@"', "sh"] if shell else []
        self.folder = folder
        self.process = subprocess.Popen(
            [*before, *PROGRAM, "--", *command], cwd=folder, bufsize=0, start_new_session=True, **{**pipes, **options}
        )

    def expect(self, wanted: bytes) -> bytes:
        """Read stdout up to some bytes; returns everything read."""
        return read_until(self.process.stdout.fileno(), wanted)

    def say(self, line: str) -> None:
        """Give the command a line."""
        self.process.stdin.write(f"{line}\n".encode())

    def end(self) -> tuple[int, bytes, bytes]:
        """Wait for the end: exit code, the rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, err

    def recorder_pid(self) -> int:
        """The process that writes the journal: the supervisor's first child."""
        return min(psutil.Process(self.process.pid).children(), key=psutil.Process.create_time).pid


@contextlib.contextmanager
def supervised(folder: Path, command: list[str], **options: Any) -> Iterator[Supervised]:
    """Start a command under the supervisor; it and its whole process group are gone afterwards."""
    running = Supervised(folder, command, **options)
    try:
        yield running
    finally:
        end_group(running.process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and what it left behind in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(SECONDS)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            pipe.close()


def run(folder: Path, command: list[str], **options: Any) -> tuple[int, bytes, bytes]:
    """A command from start to end under the supervisor: exit code, stdout, stderr."""
    with supervised(folder, command, **{"stdin": subprocess.DEVNULL, **options}) as running:
        return running.end()


def read_until(fd: int, wanted: bytes) -> bytes:
    """Read a descriptor until some bytes came; everything that was read."""
    data = b""
    deadline = time.monotonic() + SECONDS
    while wanted not in data:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come: {data[-2000:]!r}"
        piece = os.read(fd, 65536)
        assert piece, f"{wanted!r} did not come before the end: {data[-2000:]!r}"
        data += piece
    return data


_AT_TERMINAL = """
    import fcntl, os, sys, termios
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A terminal with somebody in front of it; what is started there has it as its controlling terminal."""

    def __init__(self) -> None:
        self.screen, self.inside = os.openpty()
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, folder: Path, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own; ``options`` replace Popen's."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self.inside)
        process = subprocess.Popen([*python(_AT_TERMINAL), *command], cwd=folder, **{**streams, **options})
        self._started.append(process)
        return process

    def expect(self, wanted: bytes) -> bytes:
        """Look at the screen until some bytes are there."""
        return read_until(self.screen, wanted)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.screen, keys)

    def close(self) -> None:
        """End what was started there, and take the terminal away."""
        for process in self._started:
            end_group(process)
        os.close(self.screen)
        os.close(self.inside)
