"""Run a command as if nobody stood in between, and have its output recorded."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.run.settings import resolve_settings
from exporter.supervisor.ending import Ending, last_lines, signal_name
from exporter.supervisor.process import RecorderProcess, start_recorder
from exporter.supervisor.relay import Relay, Tap
from exporter.supervisor.signals import (
    FORWARDED,
    listen,
    restore_for_command,
    stop_like_others,
    until_interrupted,
)
from exporter.supervisor.streams import STDIN, Stream, let_go_of, occupy_standard_streams, open_streams

__all__ = ["supervise"]

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_MAX_SIGNALS = 5


def supervise(command: Sequence[str], settings: Mapping[str, Any]) -> int:
    """Run a command and record what it prints as a run; returns its exit code, negative for a death by signal.

    ``settings`` are arguments of ``start_run``. On a rank that does not log, and where the journal cannot be
    written, this process becomes the command.

    Raises:
        ConfigError: a setting is wrong; the command was not started.
    """
    resolve_settings(settings, os.environ, None)
    occupy_standard_streams()
    recorder = start_recorder(settings)
    if recorder is None:
        return _become(command)
    return _Supervisor(recorder).run(command)


class _Supervisor:
    """Stands between the command and whoever started us."""

    def __init__(self, recorder: RecorderProcess) -> None:
        self._recorder = recorder
        self._signals, inbox = os.pipe()
        self._came: deque[tuple[str, float]] = deque(maxlen=_MAX_SIGNALS)
        listen(inbox, (*FORWARDED, signal.SIGCHLD, signal.SIGWINCH))

    def run(self, command: Sequence[str]) -> int:
        """From the command's start to the journal's end."""
        streams = open_streams()
        try:
            process = _start(command, streams)
        except OSError as error:
            returncode, message = _cannot_start(command[0], error)
            self._recorder.finish(Ending(returncode, stderr=message))
            return returncode
        self._recorder.tell({"pid": process.pid})
        command_ended, end_of_command = os.pipe()
        taps = [Tap(fd) for fd in self._recorder.taps]
        for tap in taps[len(streams) :]:
            tap.close()
        relays = [Relay(stream, tap, command_ended) for stream, tap in zip(streams, taps, strict=False)]
        for relay in relays:
            relay.start()
        returncode = self._wait(process, streams)
        ended_at = time.monotonic()
        os.close(end_of_command)
        with until_interrupted():
            for relay in relays:
                relay.join()
        self._recorder.finish(self._ending(returncode, ended_at, relays, taps))
        return returncode

    def _wait(self, process: subprocess.Popen[bytes], streams: Sequence[Stream]) -> int:
        """Wait for the command's end, and pass signals on meanwhile."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        poll.register(self._recorder, select.POLLIN)
        while (returncode := process.poll()) is None:
            ready = {fd for fd, _ in poll.poll()}
            if self._recorder.fileno() in ready:
                self._recorder.take_in()
                if not self._recorder.is_alive:
                    poll.unregister(self._recorder)
            if self._signals in ready:
                for number in os.read(self._signals, 64):
                    self._handle(number, process, streams)
        return returncode

    def _handle(self, number: int, process: subprocess.Popen[bytes], streams: Sequence[Stream]) -> None:
        if number == signal.SIGWINCH:
            for stream in streams:
                if stream.is_terminal:
                    stream.copy_window_size()
        elif number != signal.SIGCHLD:
            name = signal_name(number)
            self._came.append((name, time.monotonic()))
            if not self._recorder.got_too(number):
                process.send_signal(number)
            self._recorder.tell({"signal": name})
            if number == signal.SIGTSTP:
                stop_like_others()

    def _ending(self, returncode: int, ended_at: float, relays: Sequence[Relay], taps: Sequence[Tap]) -> Ending:
        """Where both outputs are one it counts as stderr."""
        *stdout, stderr = (last_lines(relay.tail) for relay in relays)
        signals = [(name, round(ended_at - came_at, 1)) for name, came_at in self._came]
        skipped_bytes = sum(tap.skipped_bytes for tap in taps)
        return Ending(returncode, "".join(stdout), stderr, signals, skipped_bytes)


def _start(command: Sequence[str], streams: Sequence[Stream]) -> subprocess.Popen[bytes]:
    """Start the command in our own process group, with our stdin and everything that we inherited.

    Raises:
        OSError: there is no such program, or it cannot be executed.
    """
    environ = dict(os.environ)
    if not streams[0].is_terminal:
        # Into a pipe Python would write 8 KiB at a time: metrics would come late, and a crash would lose the last.
        environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        return subprocess.Popen(
            command,
            stdout=streams[0].write_end,
            stderr=streams[-1].write_end,
            env=environ,
            close_fds=False,  # MPI and make hand over open descriptors
        )
    finally:
        let_go_of(STDIN)
        for stream in streams:
            os.close(stream.write_end)


def _become(command: Sequence[str]) -> int:
    """Be the command from now on; returns an exit code only where that cannot be."""
    restore_for_command()
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - a command is what we are given
    except OSError as error:
        return _cannot_start(command[0], error)[0]


def _cannot_start(program: str, error: OSError) -> tuple[int, str]:
    """Say why, as a shell does; returns the exit code that a shell gives, and what was said."""
    is_missing = isinstance(error, FileNotFoundError)
    message = f"{program}: {'command not found' if is_missing else error.strerror}"
    print(f"telemetry-exporter: {message}", file=sys.stderr)
    return _NOT_FOUND if is_missing else _NOT_EXECUTABLE, message
