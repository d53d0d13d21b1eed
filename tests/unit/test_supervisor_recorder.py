"""The recorder: what comes from taps becomes steps, what the supervisor says becomes events and an end."""

from __future__ import annotations

import json
import os
import socket

import pytest

from exporter import start_run
from exporter.supervisor import recorder
from exporter.supervisor.ending import Ending
from exporter.supervisor.memory import OomKills
from exporter.supervisor.recorder import Recorder
from tests.support.supervised import Recorded


@pytest.fixture
def record(tmp_path):
    """Have some output and some messages recorded; returns what stands in the journal then."""

    def call(output, *messages, closed=True):
        (read_end, write_end), (ours, theirs) = os.pipe(), socket.socketpair()
        with ours, theirs:
            os.write(write_end, output)
            ours.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            ours.shutdown(socket.SHUT_WR)
            if closed:
                os.close(write_end)
            Recorder(start_run("r", directory=tmp_path / "runs")).follow([read_end], theirs)
        os.close(read_end)
        if not closed:
            os.close(write_end)
        return Recorded(tmp_path)

    return call


@pytest.mark.parametrize("closed", [True, False])
def test_an_output_to_its_end(record, closed):
    """All that was written before the command's end is read, also where somebody still holds the output."""
    recorded = record(b"s:1 loss:2.5\nprose\ns:2 loss:1.5\ns:3 lo", Ending(0)._asdict(), closed=closed)
    assert [(step.step, step.metrics) for step in recorded.steps] == [(1, {"loss": 2.5}), (2, {"loss": 1.5})]
    assert recorded.end[1:] == ("finished", "", 0)


def test_signals_and_gaps_are_marks_on_the_time_line(record):
    """A signal and output that could not be read are events."""
    recorded = record(b"", {"signal": "SIGTERM"}, Ending(143, skipped_bytes=70)._asdict())
    assert [(event.title, event.alert_type) for event in recorded.events] == [
        ("SIGTERM", "warning"),
        ("output skipped", "warning"),
    ]
    assert recorded.events[1].text.startswith("70 bytes")
    assert recorded.end[1:] == (
        "failed",
        "exit code 143, which a shell gives for SIGTERM (a time limit, a preemption, or somebody ended it)",
        143,
    )


def test_without_a_last_word_the_supervisor_was_killed(record):
    """When the supervisor is gone without having said how the command ended, the run has crashed."""
    assert record(b"s:1 loss:2.5\n").end.status == "crashed"


@pytest.mark.parametrize(("after", "told"), [(5, False), (6, True)])
def test_only_kills_during_the_run_count(record, monkeypatch, after, told):
    """The kernel's kills before the run say nothing about its end."""
    counts = iter([OomKills(5, 5), OomKills(after, 5)])
    monkeypatch.setattr(recorder, "count_oom_kills", lambda: next(counts))
    assert ("OUT OF MEMORY" in record(b"", Ending(1)._asdict()).end.reason) == told
