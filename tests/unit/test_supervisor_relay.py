"""Passing an output on after the command's end, when others still hold its ends."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from exporter.supervisor import relay
from exporter.supervisor.streams import Stream
from tests.support.servers import wait_until
from tests.support.supervised import read_until

PIPE_BYTES = 65536


@pytest.fixture
def ends(monkeypatch):
    """A relay between two pipes, after the command's end; it waits a tenth of a second for what is left."""
    monkeypatch.setattr(relay, "DRAIN_SECONDS", 0.1)
    (source, write_end), (read_end, target), (tap_reader, tap) = os.pipe(), os.pipe(), os.pipe()
    ended, end = os.pipe()
    os.close(end)
    running = relay.Relay(Stream(target, source, write_end), relay.Tap(tap), ended)
    yield SimpleNamespace(relay=running, write_end=write_end, read_end=read_end, target=target)
    os.close(write_end)
    os.close(read_end)
    running.join(10)
    assert not running.is_alive()
    for fd in (target, tap_reader, ended):
        os.close(fd)


def test_what_the_command_wrote_before_its_end_is_passed_on_however_late(ends):
    """A reader of ours that is slower than the wait after the command's end still gets all that was written."""
    os.write(ends.target, b"." * PIPE_BYTES)
    os.write(ends.write_end, b"first")
    ends.relay.start()
    wait_until(lambda: ends.relay.tail == b"first", 5, "the relay reading")
    os.write(ends.write_end, b"x" * PIPE_BYTES)
    time.sleep(0.2)
    assert read_until(ends.read_end, b"x" * PIPE_BYTES) == b"." * PIPE_BYTES + b"first" + b"x" * PIPE_BYTES
    ends.relay.join(5)
    assert not ends.relay.is_alive()


def test_a_process_left_behind_that_never_stops_talking(monkeypatch):
    """Whoever is left behind and writes on and on does not keep us for ever."""
    monkeypatch.setattr(relay, "DRAIN_SECONDS", 0.1)
    source, target = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
    (tap_reader, tap), (ended, end) = os.pipe(), os.pipe()
    os.close(end)
    running = relay.Relay(Stream(target, source, target), relay.Tap(tap), ended)
    running.start()
    running.join(10)
    assert not running.is_alive()
    for fd in (target, tap_reader, ended):
        os.close(fd)
