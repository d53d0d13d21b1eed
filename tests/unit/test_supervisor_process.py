"""The supervisor and its recorder: a witness that may come late, hang, or be gone."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from exporter.errors import RunError
from exporter.supervisor import process
from exporter.supervisor.ending import Ending
from exporter.supervisor.process import RecorderProcess

READY = bytes([0])


class Pair:
    """A recorder's process without the process: the test sends what it would send."""

    def __init__(self):
        ours, self.theirs = socket.socketpair()
        self.recorder = RecorderProcess(os.getpid(), [], ours)
        self._ours = ours

    def close(self):
        """Take both away."""
        self.theirs.close()
        self._ours.close()


@pytest.fixture
def pair():
    """A recorder as the supervisor sees it."""
    pair = Pair()
    yield pair
    pair.close()


def test_ready_once_the_journal_is_open(pair):
    """The command starts as soon as the recorder says that the journal is open."""
    pair.theirs.send(bytes([signal.SIGUSR1]) + READY)
    started = time.monotonic()
    assert pair.recorder.wait_until_ready()
    assert time.monotonic() - started < 5


def test_a_recorder_that_hangs_at_the_start_is_not_waited_for(pair, monkeypatch):
    """A journal that cannot be opened in time does not hold up the command."""
    monkeypatch.setattr(process, "_START_SECONDS", 0.05)
    assert pair.recorder.wait_until_ready()


def test_a_recorder_that_ends_has_no_journal(pair):
    """When the recorder ends instead of being ready there will be no journal."""
    pair.theirs.close()
    assert not pair.recorder.wait_until_ready()
    assert not pair.recorder.got_too(signal.SIGTERM)
    pair.recorder.tell({"signal": "SIGTERM"})


def test_a_signal_that_the_recorder_got_was_for_everybody(pair):
    """A signal is one for the whole group if the recorder got the same, just before or after; each counts once."""
    pair.theirs.send(bytes([signal.SIGUSR1, signal.SIGTERM]))
    assert pair.recorder.got_too(signal.SIGTERM)
    assert not pair.recorder.got_too(signal.SIGTERM)
    assert pair.recorder.got_too(signal.SIGUSR1)
    assert not pair.recorder.got_too(signal.SIGINT)


def test_a_signal_that_only_the_recorder_got_long_ago_does_not_count(pair, monkeypatch):
    """What somebody once sent to the recorder alone does not swallow a later signal."""
    pair.theirs.send(bytes([signal.SIGTERM]))
    pair.recorder.take_in(5)
    monkeypatch.setattr(process, "_LATELY_SECONDS", 0.0)
    assert not pair.recorder.got_too(signal.SIGTERM)


def test_a_journal_that_hangs_at_the_end_is_not_waited_for(pair, monkeypatch, capsys):
    """When the recorder does not come to its end in time we say so and end."""
    monkeypatch.setattr(process, "_END_SECONDS", 0.05)
    pair.recorder.finish(Ending(0))
    assert capsys.readouterr().err.startswith("telemetry: the journal's end is still being written")


@pytest.fixture
def record(monkeypatch):
    """The recorder's body in this process, with whatever starting the run does."""

    def call(start):
        ours, theirs = socket.socketpair()
        monkeypatch.setattr(process, "let_go_of", lambda *_: None)
        monkeypatch.setattr(process, "start_resolved", start)
        with ours, theirs:
            return process._record({}, [], theirs)

    return call


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("no room"), 0, "telemetry: no room; the command runs without telemetry\n"),
        (ValueError("a bug"), 1, "telemetry: recording has stopped: ValueError('a bug'); the command goes on\n"),
        (KeyboardInterrupt(), 1, ""),
    ],
)
def test_a_recorder_that_fails_says_so_in_one_line(record, capsys, error, code, said):
    """Whatever goes wrong in the recorder is one line on stderr."""

    def fail(settings, pid):
        raise error

    assert record(fail) == code
    assert capsys.readouterr().err == said
