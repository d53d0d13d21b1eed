"""A run as the training script holds it: each call is one line, and none of them raises."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections import UserDict
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import Run, Table
from exporter.journal import JournalWriter
from exporter.records import Check, Checkpoint, EpochEnd, Event, Lost, RunEnd, RunStart, Step, TableRows, Timing


class Tensor:
    """Behaves like a torch tensor of one element."""

    def __init__(self, value):
        self.value = value

    def item(self):
        """The one element."""
        return self.value

    def __radd__(self, other):
        return Tensor(other + self.value)

    def __add__(self, other):
        return Tensor(self.value + getattr(other, "value", other))

    def __lt__(self, other):
        return self.value < other

    def __gt__(self, other):
        return self.value > other


@pytest.fixture
def run(start):
    """An open run."""
    return start()


def steps(records, run):
    """The step records of a run's journal."""
    return [record for record in records(run.path) if isinstance(record, Step)]


def lost(records, run):
    """What a run's journal says was lost, by reason."""
    return {r.reason: r.records for r in records(run.path) if isinstance(r, Lost)}


def next_report(monkeypatch):
    """Time passes: refused values are reported at most once a second."""
    moment = time.time() + 2
    monkeypatch.setattr(time, "time", lambda: moment)


# ---------------------------------------------------------------------------------------------- log


def test_log_is_one_line_at_once(run, lines):
    """When log returns, one line with the step, its metrics and the wall clock is in the file."""
    before = time.time()
    run.log({"train/loss": 0.5, "lr": 1e-4}, step=3)
    after = time.time()
    line = lines(run.path)[-1]
    assert before <= line.pop("time") <= after
    assert line == {"_type": "step", "step": 3, "metrics": {"train/loss": 0.5, "lr": 1e-4}}
    run.log({}, step=4)
    assert len(lines(run.path)) == 3


def test_calling_the_run_is_logging(run, records):
    """``run(...)`` is ``run.log(...)``."""
    run({"a": 1}, 5)
    assert steps(records, run)[0][1:3] == (5, {"a": 1})


def test_epoch_is_kept(run, records):
    """An epoch given with a step is in its record, from either path through log."""
    run.log({"a": 1}, epoch=2)
    run.log({"a": math.nan}, epoch=2.5)
    run.log({"a": 1}, epoch=np.float32(3))
    run.log({"a": 1})
    assert [step.epoch for step in steps(records, run)] == [2.0, 2.5, 3.0, None]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (0.1, 0.1),
        (1, 1),
        (True, True),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (10**400, "Infinity"),
        (-(10**400), "-Infinity"),
        (2**64, 2.0**64),
        (np.float16(0.1), 0.0999755859375),
        (np.float32(0.1), 0.10000000149011612),
        (np.float64(0.1), 0.1),
        (np.float32("nan"), "NaN"),
        (np.int8(-128), -128),
        (np.int64(2**53 + 1), 2**53 + 1),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.uint8(255), 255),
        (np.bool_(True), True),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (Tensor(0.25), 0.25),
        (Tensor(math.nan), "NaN"),
        (Decimal("0.1"), 0.1),
        (Fraction(1, 4), 0.25),
    ],
    ids=lambda value: f"{type(value).__name__} {value!r:.20}",
)
@pytest.mark.parametrize("others", [{}, {"other": 2.5}, {"other": math.nan}], ids=["alone", "with", "with NaN"])
def test_every_kind_of_number_keeps_its_value(run, records, value, stored, others):
    """A number of any kind is stored with its exact value, whatever stands beside it."""
    run.log({"k": value, **others}, step=1)
    (step,) = steps(records, run)
    number = step.metrics["k"]
    assert number == stored if isinstance(stored, str) else float(number) == float(stored)
    assert len(step.metrics) == 1 + len(others)
    run.finish()
    assert not lost(records, run)


def test_a_sum_that_overflows_is_no_infinity(run, records):
    """Two values whose sum is beyond every float are both stored as they are."""
    run.log({"a": 1e308, "b": 1e308})
    run.log({"a": 10**300, "b": 1e308})
    assert [step.metrics for step in steps(records, run)] == [{"a": 1e308, "b": 1e308}, {"a": 1e300, "b": 1e308}]


@pytest.mark.parametrize("value", [np.float16(60000), np.int8(100), np.uint8(200), np.float32(2.0**127)], ids=repr)
def test_a_narrow_sum_that_overflows_costs_nothing(run, records, value):
    """Two values whose sum is beyond their own narrow type are both stored as they are."""
    run.log({"a": value, "b": value})
    assert steps(records, run)[0].metrics == {"a": float(value), "b": float(value)}


def test_opposite_infinities_both_stay(run, records):
    """An infinite value and its opposite do not cancel out."""
    run.log({"a": math.inf, "b": -math.inf, "c": 1})
    assert steps(records, run)[0].metrics == {"a": "Infinity", "b": "-Infinity", "c": 1.0}


@pytest.mark.parametrize(
    "value",
    [object(), {"a": 1}, [1, 2], (1, 2), 1j, b"1", np.array([1.0, 2.0]), np.arange(3), np.array([]), lambda: 1],
    ids=lambda value: f"{type(value).__name__} {value!r:.20}",
)
def test_what_is_no_number_is_refused_counted_and_said(run, records, capsys, value):
    """A value that is no number costs itself only: it is counted in the journal and named once on stderr."""
    for _ in range(3):
        run.log({"before": 1, "the key": value, "after": 2})
    run.finish()
    assert [step.metrics for step in steps(records, run)] == 3 * [{"before": 1, "after": 2}]
    counts = [r.records for r in records(run.path) if isinstance(r, Lost) and r.reason == "not_a_number"]
    assert sum(counts) == 3
    assert capsys.readouterr().err == "telemetry: no number: the key\n"
    assert run.lost == {}


def test_refusals_are_reported_once_a_second(run, records, monkeypatch):
    """Refused values are in the journal at the first one, then at most once a second, and all at the end."""
    for _ in range(5):
        run.log({"a": object()})
    assert [r.records for r in records(run.path) if isinstance(r, Lost)] == [1]
    next_report(monkeypatch)
    run.log({"a": object()})
    assert [r.records for r in records(run.path) if isinstance(r, Lost)] == [1, 5]
    run.log({"a": object()})
    run.finish()
    assert [r.records for r in records(run.path) if isinstance(r, Lost)] == [1, 5, 1]


def test_texts_tables_and_none_beside_numbers(run, records):
    """Texts are properties, tables records of their own behind the step, None is left out."""
    run.log({"a": 1, "note": "hi", "samples": Table(["x", "y"], [[1, "é"], [math.nan, None]]), "none": None}, step=7)
    _, step, table = records(run.path)
    assert step[1:] == (7, {"a": 1.0}, None, {"note": "hi"})
    assert table[1:] == ("samples", 7, ["x", "y"], [[1, "é"], ["NaN", None]])
    assert isinstance(table, TableRows)


def test_a_call_with_only_a_table_is_a_step(run, records):
    """A call without numbers is a step too, so the step advances by one."""
    run.log({"t": Table(["x"], [[1]])})
    run.log({"note": "only text"})
    run.log({"a": 1})
    assert [step.step for step in steps(records, run)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a key", "a key"),
        ("\"quoted\" 'key'\\", "\"quoted\" 'key'\\"),
        ("two\nlines\r", "two\nlines\r"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("lone \ud800", "lone ?"),
        ("k" * 10_240, "k" * 10_240),
        ("", ""),
        (5, "5"),
        (None, "None"),
        (("a", 1), "('a', 1)"),
    ],
    ids=lambda key: f"{key!r:.12}",
)
@pytest.mark.parametrize("value", [1, math.nan])
def test_every_key_is_stored(run, records, key, text, value):
    """A key with any characters is stored as it is, and never breaks the line; other keys become text."""
    run.log({key: value, "b": 2}, step=1)
    (step,) = steps(records, run)
    assert set(step.metrics) == {text, "b"}
    assert run.path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("metrics", [None, [1, 2], 5, "loss", object(), [("a", 1)]], ids=lambda value: f"{value!r:.8}")
def test_what_is_no_mapping_is_counted_and_said_once(run, records, capsys, metrics):
    """Metrics that are no mapping cost this call only, are counted, and are said once on stderr."""
    run.log(metrics)
    run.log(metrics)
    run.log({"a": 1})
    run.finish()
    assert [(step.step, step.metrics) for step in steps(records, run)] == [(2, {"a": 1})]
    assert sum(r.records for r in records(run.path) if isinstance(r, Lost) and r.reason == "not_a_mapping") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"log() got {type(metrics).__name__}, which it cannot store" in said[0]


@pytest.mark.parametrize("wrap", [MappingProxyType, UserDict])
def test_any_mapping_will_do(run, records, wrap):
    """Metrics may be any mapping."""
    run.log(wrap({"a": 1, "b": 0.5}))
    assert steps(records, run)[0].metrics == {"a": 1, "b": 0.5}


class Unreadable:
    """A mapping that raises."""

    def values(self):
        """Never."""
        raise RuntimeError("values")

    def items(self):
        """Never."""
        raise RuntimeError("items")


def test_a_mapping_that_raises_is_counted(run, records):
    """An error inside the user's own mapping does not reach the training."""
    run.log(Unreadable())
    assert lost(records, run) == {"not_a_mapping": 1}


# ---------------------------------------------------------------------------------------------- steps


def test_the_step_advances_by_one_per_call(run, records):
    """Without a step, the step is one more than the last call's, also after a given one."""
    run.log({"a": 1})
    run.log({"a": 1})
    run.log({"a": math.nan}, step=10)
    run.log({"a": 1})
    run.log({"a": 1}, step=3)
    run.log({"a": object()})
    assert [step.step for step in steps(records, run)] == [0, 1, 10, 11, 3, 4]


@pytest.mark.parametrize(
    ("step", "stored"),
    [
        (3.0, 3),
        (np.int64(7), 7),
        (np.float32(7), 7),
        (True, 1),
        (-1, -1),
        ("12", 12),
        (Tensor(5).item(), 5),
        (2**63 - 1, 2**63 - 1),
        (-(2**63) + 1, -(2**63) + 1),
    ],
)
def test_steps_of_other_kinds(run, records, step, stored):
    """A step of any kind that is a whole number is that step, and the next call goes on from there."""
    run.log({"a": 1}, step=step)
    run.log({"a": 1}, step=None)
    assert [record.step for record in steps(records, run)] == [stored, stored + 1]
    run.finish()
    assert not lost(records, run)


class NoRepr:
    """Neither a number nor a text."""

    def __int__(self):
        raise RuntimeError("no number")

    def __repr__(self):
        raise RuntimeError("no text")

    __str__ = __repr__


@pytest.mark.parametrize(
    "step",
    ["x", math.nan, math.inf, [1], np.array([1, 2]), 10**400, -(10**400), 2**70, object(), {}],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_bad_step_is_replaced_counted_and_said_once(run, records, capsys, step):
    """A step that is no whole number of 64 bits is counted and said once; the values are kept at the next step."""
    run.log({"a": 1}, step=5)
    run.log({"a": 2}, step=step)
    run.log({"a": 3}, step=step)
    run.log({"a": 4})
    run.finish()
    assert [(record.step, record.metrics["a"]) for record in steps(records, run)] == [(5, 1), (6, 2), (7, 3), (8, 4)]
    assert sum(r.records for r in records(run.path) if isinstance(r, Lost) and r.reason == "bad_step") == 2
    assert re.fullmatch(r"telemetry: step .{1,100} is no whole number of 64 bits\n", capsys.readouterr().err)


def test_a_step_without_any_text_costs_its_call_only(run, records):
    """Even a step that can be neither converted nor shown does not reach the training."""
    run.log({"a": 1}, step=NoRepr())
    run.log({"a": 2}, step=1)
    assert [record.metrics["a"] for record in steps(records, run)][-1] == 2
    run.finish()
    assert sum(lost(records, run).values()) >= 1


def test_state_continues_the_step_axis(start, records):
    """What one run saves with a checkpoint lets another continue where it stood."""
    first = start("first")
    first.log({"a": 1}, step=41)
    state = json.loads(json.dumps(first.get_state()))
    second = start("second")
    second.set_state(state)
    second.log({"a": 1})
    assert steps(records, second)[0].step == 42


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
    | st.decimals() | st.fractions() | st.just(np.float32(0.1)) | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


class Memory:
    """Stands for a writer; a journal is only as good as what it is given."""

    def __init__(self):
        self.path, self.lost, self.lines = None, {}, []

    def append(self, line, now):
        """Keep a line."""
        self.lines.append(line)

    def close(self):
        """Nothing to close."""


@given(st.dictionaries(st.text() | st.integers(), anything, max_size=5) | anything, anything, anything)
def test_no_call_ever_raises(metrics, step, other):
    """Whatever is logged, nothing is raised, and every line is strict JSON of one known type with a time."""
    memory = Memory()
    run = Run("r", memory)
    run.log(metrics, step)
    run.log(metrics, None, other)
    run.event(other, metrics, step, metrics)
    run.check(other, metrics, step)
    run.checkpoint(other, step, metrics)
    run.epoch_end(other, metrics)
    run.finish(other, step, metrics)
    for line in memory.lines:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        fields = json.loads(line, parse_constant=pytest.fail)
        assert type(fields["time"]) is float
        assert type(fields.get("step", 0)) is int
    kinds = {json.loads(line)["_type"] for line in memory.lines}
    assert kinds >= {"event", "check", "checkpoint", "epoch_end", "run_end"}


# ---------------------------------------------------------------------------------------------- other records


def test_time_operation_takes_a_monotonic_time(run, records, monkeypatch):
    """A timed block is recorded with its duration, whatever the wall clock does meanwhile."""
    ticks = iter([100.0, 100.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    with run.time_operation("forward_backward"):
        pass
    assert records(run.path)[-1][1:] == ("forward_backward", 0.25)
    assert isinstance(records(run.path)[-1], Timing)


def test_time_operation_records_also_when_the_block_raises(run, records):
    """A block that raises is recorded too, and its exception goes on."""
    with pytest.raises(ZeroDivisionError), run.time_operation("x"):
        _ = 1 / 0
    assert [record.name for record in records(run.path) if isinstance(record, Timing)] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (("t",), ("t", "", "info", [])),
        (("t", "text", "error", ["a", "b"]), ("t", "text", "error", ["a", "b"])),
        (("t", "", "loud"), ("t", "", "info", [])),
        (("t", "", "info", "one"), ("t", "", "info", ["one"])),
        (("t", "", "info", None), ("t", "", "info", [])),
        (("t", "", "info", {"k": 1}), ("t", "", "info", ["k"])),
        (("t", "", "info", 5), ("t", "", "info", [5])),
    ],
)
def test_event(run, records, arguments, fields):
    """An event has title, text, type and tags; an unknown type is info."""
    run.event(*arguments)
    event = records(run.path)[-1]
    assert isinstance(event, Event)
    assert (event.title, event.text, event.alert_type, list(event.tags)) == fields


@pytest.mark.parametrize(
    ("status", "stored"),
    [("OK", "OK"), ("WARNING", "WARNING"), ("CRITICAL", "CRITICAL"), ("fine", "UNKNOWN"), (None, "UNKNOWN")],
)
def test_check(run, records, status, stored):
    """A check has one of four statuses; any other one is UNKNOWN."""
    run.check("kl", status, "message")
    assert records(run.path)[-1][1:] == ("kl", stored, "message")
    assert isinstance(records(run.path)[-1], Check)


def test_unknown_words_are_said_once(run, capsys):
    """However many different words are wrong in one place, stderr has one line about it."""
    for word in ("a", "b", "c"):
        run.check("name", word)
        run.event("title", alert_type=word)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "telemetry: 'a' is none of OK, WARNING, CRITICAL, UNKNOWN; recorded as UNKNOWN",
        "telemetry: 'a' is none of info, warning, error, success; recorded as info",
    ]


def test_checkpoint(run, records, tmp_path):
    """A checkpoint has its path as text, its metrics, and by default the step of the last log."""
    run.checkpoint("before any step")
    run.log({"a": 1}, step=8)
    run.checkpoint(tmp_path / "model.pt", metrics={"loss": Tensor(0.5)})
    run.checkpoint("x", step=np.int64(3))
    run.checkpoint(None, step="x")
    checkpoints = [record[1:] for record in records(run.path) if isinstance(record, Checkpoint)]
    assert checkpoints == [
        (0, "before any step", {}),
        (8, str(tmp_path / "model.pt"), {"loss": 0.5}),
        (3, "x", {}),
        (8, "None", {}),
    ]
    run.finish()
    assert lost(records, run) == {"bad_step": 1}


def test_epoch_end(run, records):
    """The end of an epoch has the epoch, the last step and the summary."""
    run.log({"a": 1}, step=8)
    run.epoch_end(2, {"loss": np.float32(0.5), "note": "x", "nan": math.nan})
    run.epoch_end(2.5)
    ends = [record[1:] for record in records(run.path) if isinstance(record, EpochEnd)]
    assert ends == [(2, 8, {"loss": 0.5, "note": "x", "nan": "NaN"}), (2.5, 8, {})]


def test_configuration_that_comes_late_amends_the_start(start, records):
    """It joins what the run was started with, under the same attempt; a start repeated later has it, too."""
    run = start(config={"lr": 1, "seed": 2})
    run.add_config({"seed": 3, "layers": np.int64(4), "bad": math.inf})
    run.finish()
    run.add_config({"late": 1})
    starts = [record for record in records(run.path) if isinstance(record, RunStart)]
    assert [start.attempt for start in starts] == [1, 1]
    assert starts[1].config == {"lr": 1, "seed": 3, "layers": 4, "bad": "Infinity"}
    assert starts[1]._replace(config={}, time=0) == starts[0]._replace(config={}, time=0)


@pytest.mark.parametrize("config", [None, 5, ["a"]])
def test_configuration_that_is_none_is_lost_and_counted(run, records, config):
    """What is no mapping never raises."""
    run.add_config(config)
    run.finish()
    assert lost(records, run) == {"not_encodable": 1}


class Bad:
    """Has no text."""

    def __str__(self):
        raise RuntimeError("no text")


def test_what_cannot_be_stored_is_counted(run, records, capsys):
    """A record that holds an object without any text is counted and said once."""
    run.event("t", Bad())
    run.log({"t": Table(["x"], [[Bad()]])})
    run.finish()
    assert sum(r.records for r in records(run.path) if isinstance(r, Lost) and r.reason == "not_encodable") == 2
    assert capsys.readouterr().err == "telemetry: event cannot be stored: RuntimeError('no text')\n"


# ---------------------------------------------------------------------------------------------- the end


def test_finish_is_the_last_line(run, records, capsys):
    """A finished run's last record is its end; what comes later is ignored and said once."""
    ended = []
    run._on_finish = lambda: ended.append(run.is_open)
    assert run.is_open
    run.finish(reason="done", exit_code=0)
    size = run.path.stat().st_size
    for _ in range(2):
        run.log({"a": 1})
        run.event("late")
        run.finish("failed")
    assert run.path.stat().st_size == size
    assert records(run.path)[-1][1:] == ("finished", "done", 0)
    assert ended == [False]
    assert capsys.readouterr().err == "telemetry: run r1 is finished; what is logged now is ignored\n"


@pytest.mark.parametrize(("status", "stored"), [("finished", "finished"), ("crashed", "crashed"), ("done", "failed")])
def test_end_statuses(run, records, status, stored):
    """A run ends as finished, failed or crashed; any other word is failed, because something went wrong."""
    run.finish(status)
    assert records(run.path)[-1].status == stored


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (None, "finished", ""),
        (SystemExit(), "finished", ""),
        (SystemExit(0), "finished", ""),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (SystemExit("no data"), "failed", "SystemExit: no data"),
        (ValueError("bad \ud800 batch"), "failed", "ValueError: bad ? batch"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt: "),
    ],
    ids=repr,
)
def test_the_block_decides_how_the_run_ends(run, records, error, status, reason):
    """As a context manager a run is failed when the block raises, finished when it ends or exits with 0."""
    if error is None:
        with run as entered:
            assert entered is run
    else:
        with pytest.raises(type(error)), run:
            raise error
    assert records(run.path)[-1][1:3] == (status, reason)
    assert isinstance(records(run.path)[-1], RunEnd)


def test_a_run_finished_inside_its_block_stays_as_it_ended(run, records):
    """Leaving the block does not end the run a second time."""
    with run:
        run.finish("crashed")
    assert [record.status for record in records(run.path) if isinstance(record, RunEnd)] == ["crashed"]


def test_a_silent_rank_does_nothing(capsys):
    """A run without a writer takes every call, writes nothing and says nothing."""
    run = Run("r", None)
    run.log({"a": 1})
    run.log(None)
    run.event("x")
    run.checkpoint("x")
    with run.time_operation("x"), run:
        pass
    assert run._append(b"", 0.0) is None
    assert (run.path, run.url, run.lost, run.is_open) == (None, None, {}, False)
    assert capsys.readouterr() == ("", "")


def test_a_broken_stderr_does_not_reach_the_training(run, records, monkeypatch):
    """With stderr closed, mistakes are still counted and nothing is raised."""

    class Closed:
        def write(self, text):
            raise ValueError("I/O operation on closed file")

        flush = write

    monkeypatch.setattr(sys, "stderr", Closed())
    run.log({"a": object()})
    run.log(None)
    run.check("name", "word")
    run.finish()
    assert sum(r.records for r in records(run.path) if isinstance(r, Lost)) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_logs_but_does_not_end_the_run(run, records):
    """What a forked child logs is in the journal; only the process that started the run ends it."""
    child = os.fork()
    if child == 0:
        run.log({"child": 1}, step=1)
        run.finish("failed")
        run.log({"child": 2}, step=2)
        os._exit(0)
    os.waitpid(child, 0)
    assert run.is_open
    run.log({"parent": 3}, step=3)
    run.finish()
    assert [step.step for step in steps(records, run)] == [1, 2, 3]
    assert [record.status for record in records(run.path) if isinstance(record, RunEnd)] == ["finished"]


def test_lost_is_the_writers_count(tmp_path):
    """``lost`` counts by reason what the journal could not take, and is a copy."""
    writer = JournalWriter(tmp_path / "metrics.jsonl", b"\n")
    writer.open()
    writer.close()
    run = Run("r", writer)
    run.log({"a": 1})
    assert run.lost == {"closed": 1}
    run.lost["closed"] = 5  # type: ignore[index]
    assert run.lost == {"closed": 1}
    assert run.path == tmp_path / "metrics.jsonl"


def test_a_run_begins_with_its_start(run, records):
    """The first record of a journal says which run it is."""
    (first,) = records(run.path)
    assert isinstance(first, RunStart)
    assert (first.run_id, first.attempt, first.pid) == ("r1", 1, os.getpid())
