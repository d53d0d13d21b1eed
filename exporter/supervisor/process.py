"""The recorder's process, as the supervisor holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from exporter.errors import TelemetryError
from exporter.run.ranks import detect_rank
from exporter.run.settings import resolve_settings
from exporter.run.start import start_resolved
from exporter.run.system_metrics import system_metrics_logger
from exporter.supervisor.ending import Ending
from exporter.supervisor.recorder import Recorder
from exporter.supervisor.signals import FORWARDED, listen
from exporter.supervisor.streams import STDIN, STDOUT, let_go_of

__all__ = ["RecorderProcess", "start_recorder"]

_START_SECONDS = 10.0
"""A folder that hangs for longer does not hold up the command: the recorder comes in when it can."""

_END_SECONDS = 10.0

_GROUP_SECONDS = 0.2
"""A signal for a whole process group reaches all of it within this."""

_LATELY_SECONDS = 1.0

_READY = 0
"""What the recorder sends when the journal is open; every other byte is the number of a signal that it got."""

_TAP_BYTES = 1 << 18


class RecorderProcess:
    """Reads the copies of the outputs, and is the witness of signals that were sent to everybody.

    Attributes:
        taps: Where the copies of stdout and stderr go; closed by who writes there.
        is_alive: Whether it still reads along.
    """

    def __init__(self, pid: int, taps: Sequence[int], control: socket.socket) -> None:
        self.taps = taps
        self.is_alive = True
        self._pid = pid
        self._control = control
        self._control.setblocking(False)
        self._is_ready = False
        self._witnessed: dict[int, float] = {}

    def fileno(self) -> int:
        """What becomes readable when there is something to take in."""
        return self._control.fileno()

    def wait_until_ready(self) -> bool:
        """Wait for the journal; False where there will be none, because this rank does not log or it cannot be."""
        deadline = time.monotonic() + _START_SECONDS
        while self.is_alive and not self._is_ready and (left := deadline - time.monotonic()) > 0:
            self.take_in(left)
        return self.is_alive

    def take_in(self, seconds: float = 0.0) -> None:
        """Take in what it says, waiting for it at most this long."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        if not poll.poll(math.ceil(seconds * 1000)):
            return
        said = b""
        with contextlib.suppress(OSError):
            said = self._control.recv(4096)
        self.is_alive = bool(said)
        for number in said:
            self._is_ready = self._is_ready or number == _READY
            self._witnessed[number] = time.monotonic()

    def got_too(self, number: int) -> bool:
        """Whether a signal that we got just now was sent to the whole process group, and so to the command, too."""
        deadline = time.monotonic() + _GROUP_SECONDS
        while time.monotonic() - self._witnessed.pop(number, -math.inf) > _LATELY_SECONDS:
            left = deadline - time.monotonic()
            if left <= 0 or not self.is_alive:
                return False
            self.take_in(left)
        return True

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send it a message."""
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def finish(self, ending: Ending) -> None:
        """Have the run ended; returns when that stands in the journal, or after 10 s."""
        self.tell(ending._asdict())
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _END_SECONDS
        while self.is_alive and (left := deadline - time.monotonic()) > 0:
            self.take_in(left)
        if self.is_alive:
            _say("the journal's end is still being written; the command has ended")
        else:
            os.waitpid(self._pid, 0)


def start_recorder(settings: Mapping[str, Any]) -> RecorderProcess | None:
    """Start the run in a process of its own; None where this rank does not log, or the journal cannot be written."""
    taps = [os.pipe(), os.pipe()]
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        for fd in (ours.detach(), *(write_end for _, write_end in taps)):
            os.close(fd)
        os._exit(_record(settings, [read_end for read_end, _ in taps], theirs))
    theirs.close()
    for read_end, write_end in taps:
        os.close(read_end)
        _enlarge(write_end)
    process = RecorderProcess(pid, [write_end for _, write_end in taps], ours)
    if process.wait_until_ready():
        return process
    os.waitpid(pid, 0)
    for fd in (ours.detach(), *process.taps):
        os.close(fd)
    return None


def _record(settings: Mapping[str, Any], taps: Sequence[int], control: socket.socket) -> int:
    """All that the recorder's process does; returns its exit code."""
    try:
        let_go_of(STDIN, STDOUT)
        resolved = resolve_settings(settings, os.environ, None)
        # The command is no child of ours, but of the supervisor: its are the run's processes.
        run = start_resolved(dataclasses.replace(resolved, system_metrics=""), os.getppid())
        if run.is_open:
            listen(control.fileno(), FORWARDED)
            control.send(bytes([_READY]))
            rank = detect_rank(os.environ, sys.modules)
            Recorder(run, partial(system_metrics_logger, resolved, rank)).follow(taps, control)
    except TelemetryError as error:
        _say(f"{error}; the command runs without telemetry")
    except KeyboardInterrupt:
        return 1
    except BaseException as error:  # noqa: BLE001 - telemetry never breaks training
        _say(f"recording has stopped: {error!r:.200}; the command goes on")
        return 1
    return 0


def _enlarge(pipe: int) -> None:
    """More room for bursts, where the system has it."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _TAP_BYTES)


def _say(message: str) -> None:
    with contextlib.suppress(Exception):  # stderr may lie on a full disk, or be closed
        print(f"telemetry: {message}", file=sys.stderr)
