"""A Trainer's state is its log history, entry by entry, and is read whole or not at all."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from exporter.sources.base import Bad, Head, Row, read_all, read_head
from exporter.sources.jsonl import Jsonl
from exporter.sources.trainer_state import TrainerState

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "trainer_state_viz" / "trainer_state.json"
STATE = {
    "epoch": 1.0,
    "global_step": 2,
    "log_history": [
        {"step": 0, "epoch": 0, "loss": 2.5, "grad_norm": math.nan, "note": "x", "list": [1], "flag": True},
        {"step": 1, "epoch": 0.5, "eval_a_loss": math.inf},
        {"step": 1, "eval_b_loss": 3, "epoch": "x"},
    ],
    "max_steps": 2,
}


@pytest.fixture
def state(tmp_path):
    """Write bytes as a state."""

    def write(data, name="trainer_state.json"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_entries_are_rows(state):
    """Each entry is one row in its order, non-finite tokens included; a step that repeats stays a row of its own."""
    first, *others = read_all(TrainerState(), state(json.dumps(STATE, indent=2).encode()))
    assert first[0::2] == (0, None)
    assert first.epoch == 0
    assert first.metrics.keys() == {"loss", "grad_norm"}
    assert first.metrics["loss"] == 2.5
    assert math.isnan(first.metrics["grad_norm"])
    assert others == [Row(1, {"eval_a_loss": math.inf}, None, 0.5), Row(1, {"eval_b_loss": 3})]


@pytest.mark.parametrize("cut", [0, 1, 30, 120, -2])
def test_half_written(state, cut):
    """A state that is being rewritten is one bad item, whatever part of it is there."""
    [item] = read_all(TrainerState(), state(json.dumps(STATE, indent=2).encode()[:cut]))
    assert isinstance(item, Bad)


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"log_history":{}}'])
def test_other_documents(state, text):
    """A document without a log history is one bad item."""
    [item] = read_all(TrainerState(), state(text.encode()))
    assert item == Bad(1, "no log_history")


def test_bad_entries(state):
    """An entry that is no row is reported by its number, and the next one is read."""
    deep = '{"step":1,"a":' + '{"a":' * 990 + "1" + "}" * 991
    text = '{"log_history":[5,{"loss":1},{"step":"x"},' + deep + ',{"step":4,"loss":1}]}'
    items = list(read_all(TrainerState(), state(text.encode())))
    assert [item.line for item in items[:-1]] == [1, 2, 3, 4]
    assert items[-1] == Row(4, {"loss": 1})


def test_gzip_is_the_plain_file(state):
    """A packed state gives what the plain one gives; a cut one is one bad item."""
    data = json.dumps({"log_history": [{"step": step, "loss": 1 / (step + 1)} for step in range(500)]}).encode()
    expected = [Row(step, {"loss": 1 / (step + 1)}) for step in range(500)]
    assert list(read_all(TrainerState(), state(data))) == expected
    packed = gzip.compress(data)
    assert list(read_all(TrainerState(), state(packed, "a.gz"))) == expected
    assert [type(item) for item in read_all(TrainerState(), state(packed[:-20], "b.gz"))] == [Bad]


def test_missing_file(tmp_path):
    """A file that is not there is an error of the system, not a bad item."""
    with pytest.raises(FileNotFoundError):
        list(read_all(TrainerState(), tmp_path / "none"))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("cut", [200, 60_000])
def test_recognised(indent, cut):
    """An object with a log history is recognised, however it is laid out, by this reader alone."""
    data = json.dumps({**STATE, "log_history": STATE["log_history"] * 2000}, indent=indent).encode()
    assert TrainerState().recognises(Head("x", data[:cut]))
    assert not Jsonl().recognises(Head("x", json.dumps(STATE, indent=indent).encode()))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"step":1}\n', b'["log_history"]', b"log_history: []", b"\x89PNG\r\n\x1a\n", b"<html>"]
)
def test_not_recognised(data):
    """What is no object with a log history is another format, whatever its name."""
    assert not TrainerState().recognises(Head("trainer_state.json", data))


def test_real_state():
    """A real history gives its entries: 216 rows of 7 schemas, 185 of them at a step that was there before."""
    if not REAL.is_file():
        pytest.skip("shared/data is not here")
    rows = list(read_all(TrainerState(), REAL))
    entries = json.loads(REAL.read_text())["log_history"]
    assert len(rows) == len(entries) == 216
    assert len({frozenset(row.metrics) for row in rows}) == 7
    assert len(rows) - len({row.step for row in rows}) == 185
    expected = [Row(entry.pop("step"), entry, None, entry.pop("epoch")) for entry in entries]
    assert rows == expected
    assert TrainerState().recognises(read_head(REAL))
    assert not Jsonl().recognises(read_head(REAL))
