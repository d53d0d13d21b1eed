"""Logs are followed while they grow: nothing is lost, nothing is said twice, no file stays open."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.sources import SOURCES, base, find_source, read_all, source_named
from exporter.sources.base import Bad, Ended, Item, Meta, Row
from tests.support.event_files import NOW, VERSION, event, field, frame, simple, tensor

NUMBERS = st.floats(width=32) | st.integers(0, 9)
NAMES = st.sampled_from(["train/loss", "kl", "é/ü", "reward"])
INSERT = "INSERT INTO metrics (run_name, step, metrics) VALUES (?, ?, '{\"loss\": 1}')"
STREAMS = ("jsonl", "csv", "tensorboard", "console")


def open_files() -> list[str]:
    """The files that this process has open."""
    numbers = os.listdir("/proc/self/fd")
    return sorted(os.readlink(f"/proc/self/fd/{number}") for number in numbers if _is_file(number))


def _is_file(number: str) -> bool:
    return Path(f"/proc/self/fd/{number}").is_file()


def asked(reading: Iterator[Item | None]) -> list[Item]:
    """What a reader says until it has no more for now or ends."""
    items: list[Item] = []
    while (item := next(reading, None)) is not None:
        items.append(item)
    return items


def follow(name: str, content: bytes, cuts: list[int]) -> list[Item]:
    """What a reader says of a file that grows by these cuts, asked after each; it never leaves the file open."""
    items: list[Item] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.touch()
        before = open_files()
        reading = source_named(name).read(path)
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with path.open("ab") as file:
                file.write(content[begin:end])
            items += asked(reading)
            assert open_files() == before
    return items


def whole(name: str, content: bytes) -> list[Item]:
    """What a reader says of a finished file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(content)
        return list(read_all(source_named(name), path))


def points(items: list[Item]) -> list[tuple[object, ...]]:
    """The numbers one by one, and everything else as it is."""
    found: list[tuple[object, ...]] = []
    for item in items:
        if isinstance(item, Row):
            found += [(item.step, item.time, *pair) for pair in item.metrics.items()]
        else:
            found.append(item)
    return found


def json_lines(rows: list[dict[str, object]]) -> bytes:
    """Rows as Python's own encoder writes them, NaN as a bare token."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list[list[object]]) -> bytes:
    """Rows as Python's own writer makes them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


LINES = st.lists(
    st.fixed_dictionaries({"step": st.integers(0, 9)}, optional={"kl": NUMBERS, "é": NUMBERS, "note": st.text()})
    | st.sampled_from([{"training_iteration": 1, "a": 1, "done": True}, {"config": {"lr": {"a": 1}}, "a": 1}, {}])
).map(json_lines)
CELLS = st.sampled_from(["1", "-2.5", "nan", "", "é", "a\nb", 'say "x"', "{'a': 1,\n 'b': 2}", "a,b"])
ROWS = st.lists(
    st.tuples(st.integers(0, 9), CELLS, CELLS).map(list) | st.sampled_from([["step", "loss", "info"], ["step", "kl"]])
).map(lambda rows: table([["step", "loss", "info"], *rows]))
EVENTS = st.lists(
    st.builds(
        lambda tag, number, step, moment: event(simple(tag, number), step=step, time=NOW + moment / 4096),
        NAMES, st.floats(width=32, allow_nan=False), st.integers(0, 300), st.integers(0, 9),
    )
    | st.sampled_from([frame(b"\xff"), event(tensor("c", field(5, b"\0\0\x80\x3f")), simple("d", 1), step=4)])
).map(lambda events: VERSION + b"".join(events))  # fmt: skip
PRINTED = st.lists(
    st.sampled_from(
        ["{'loss': '1.25', 'epoch': '0.5'}", "step:3 - actor/kl:0.5", "prose é", " 10%|█ |\r{'loss': nan, 'epoch': 1}",
         "-" * 20, "| time/ |  |", "|    total_timesteps | 2048 |", "| loss | 1.5 |", "SPS: 12", "s:1 trl:2\r"]
    )
).map(lambda lines: "".join(line + "\n" for line in lines).encode())  # fmt: skip
CONTENTS = {"jsonl": LINES, "csv": ROWS, "tensorboard": EVENTS, "console": PRINTED}


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
def test_a_log_that_grows_in_any_cuts_says_what_the_whole_log_says(name: str, data: st.DataObject) -> None:
    """Asked after every cut, wherever it is, a reader says each item of the whole once and in its order."""
    content = data.draw(CONTENTS[name])
    content = content[: data.draw(st.integers(0, len(content)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    with mock.patch.object(base, "BLOCK_BYTES", data.draw(st.integers(2, 200))):
        followed = follow(name, content, cuts)
    assert repr(points(followed)) == repr(points(whole(name, content)))
    if name != "tensorboard":  # there a step that is cut is two rows
        assert repr(followed) == repr(whole(name, content))


def test_every_stream_is_written_here() -> None:
    """Each format whose reader can be asked again is tested for it: the others are whole documents, and a database."""
    assert {*STREAMS, "trackio", "trainer_state", "wandb"} == set(SOURCES)


@given(st.lists(st.tuples(st.sampled_from(["one", "two"]), st.integers(0, 3)), max_size=12), st.data())
def test_a_database_that_grows_says_each_row_once(logged: list[tuple[str, int]], data: st.DataObject) -> None:
    """Rows committed in any portions are said once, in their order, under their run, and the database is closed."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(logged)), max_size=4)))
    items: list[Item] = []
    with tempfile.TemporaryDirectory() as folder, mock.patch("exporter.sources.trackio._BATCH", 2):
        path = Path(folder) / "project.db"
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp, run_name, step, metrics)")
        before = open_files()
        reading = source_named("trackio").read(path)
        for begin, end in zip([0, *cuts], [*cuts, len(logged)], strict=True):
            with closing(sqlite3.connect(path)) as database, database:
                database.executemany(INSERT, logged[begin:end])
            items += asked(reading)
            assert open_files() == before
    run, found = "", []
    for item in items:
        if isinstance(item, Meta):
            assert item.run != run
            run = item.run
        else:
            found.append((run, item))
    assert found == [(name, Row(step, {"loss": 1})) for name, step in logged]


@pytest.mark.parametrize("name", STREAMS)
def test_no_file_is_open_while_a_row_is_used(name: str, tmp_path: Path) -> None:
    """Whoever stops in the middle of a plain log keeps no file open."""
    path = tmp_path / "log"
    content = {
        "jsonl": b'{"step":1,"a":1}\n' * 9,
        "csv": b"step,a\n" + b"1,2\n" * 9,
        "tensorboard": VERSION + event(simple("a", 1), step=1) * 9,
        "console": b"{'loss': 1.0, 'epoch': 1.0}\n" * 9,
    }[name]
    path.write_bytes(content)
    before = open_files()
    reading = source_named(name).read(path)
    assert isinstance(next(reading), Row)
    assert open_files() == before


@example('{"step":1,"a":1}', "  \r\n")
@given(st.sampled_from(['{"step":1,"a":1}', '{"step":1,"a":1} ', '{"step":1}']), st.sampled_from(["\n", " \r\n"]))
def test_a_whole_object_without_its_newline_counts_once(line: str, end: str) -> None:
    """An object at the end of the file counts at once, and its newline changes nothing."""
    first = line.index("}") + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_text(line[:first])
        reading = source_named("jsonl").read(path)
        said = asked(reading)
        path.write_text(line + end)
        assert asked(reading) == []
        path.write_text(line + end + '{"step":2,"a":2}')
        assert asked(reading) == [Row(2, {"a": 2})]
        path.write_text(line + end + '{"step":2,"a":2} and more\n')
        assert [item.line for item in asked(reading) if isinstance(item, Bad)] == [2]
    assert said == ([Row(1, {"a": 1})] if '"a"' in line else [])


def test_a_step_that_goes_on_is_another_row(tmp_path: Path) -> None:
    """Values of a TensorBoard step that come after the reader was asked are a further row of that step."""
    path = tmp_path / "events"
    path.write_bytes(VERSION + event(simple("a", 1.0), step=7))
    reading = source_named("tensorboard").read(path)
    assert asked(reading) == [Row(7, {"a": 1.0}, NOW)]
    with path.open("ab") as file:
        file.write(event(simple("b", 2.0), step=7))
    assert asked(reading) == [Row(7, {"b": 2.0}, NOW)]


def test_a_run_that_ended_may_be_resumed(tmp_path: Path) -> None:
    """After the end of a run the log is still followed, and what a resumed run writes is read."""
    path = tmp_path / "log"
    path.write_bytes(json_lines([{"_type": "run_end", "time": 1, "status": "failed"}]))
    reading = source_named("jsonl").read(path)
    assert asked(reading) == [Ended("failed")]
    with path.open("ab") as file:
        file.write(json_lines([{"step": 1, "a": math.inf}]))
    assert asked(reading) == [Row(1, {"a": math.inf})]


@pytest.mark.parametrize("name", STREAMS)
def test_packed_logs_end(name: str, tmp_path: Path) -> None:
    """A packed log cannot be followed: its reader ends without saying that more may come; damage is a bad item."""
    path = tmp_path / "log"
    packed = gzip.compress(VERSION * 9 if name == "tensorboard" else b'{"a":1}\n' * 9)
    path.write_bytes(packed)
    assert None not in list(source_named(name).read(path))
    path.write_bytes(packed[:-8] + bytes(8))
    assert "damaged gzip" in [item.reason for item in source_named(name).read(path) if isinstance(item, Bad)][-1]


def test_a_packed_log_that_is_cut_is_recognised_by_what_is_there(tmp_path: Path) -> None:
    """The head of a packed file is what can be unpacked of it, under its name without the packing."""
    path = tmp_path / "log.jsonl.gz"
    text = json_lines([{"step": step, "a": math.sin(step)} for step in range(9000)])
    packed = gzip.compress(text)
    for cut in (5, 1000, len(packed) - 9, len(packed)):
        path.write_bytes(packed[:cut])
        head = base.read_head(path)
        assert head.name == "log.jsonl"
        assert text.startswith(head.data)
        assert (find_source(path) is not None) == (cut > 5) == bool(head.data)
    assert len(head.data) == base.HEAD_BYTES


def test_damage_ends_a_log(tmp_path: Path) -> None:
    """Behind a damaged length of an event file nothing can be found: the reader ends, and the file is read anew."""
    path = tmp_path / "events"
    path.write_bytes(VERSION + bytes(40))
    *_, bad = list(source_named("tensorboard").read(path))
    assert isinstance(bad, Bad)


@pytest.mark.parametrize("name", STREAMS)
def test_nothing_of_another_content_is_taken_for_an_end(name: str, tmp_path: Path) -> None:
    """Where another file took the place of a log, or its content was rewritten, no part of that is read as its end."""
    path, other = tmp_path / "log", tmp_path / "other"
    content = {"csv": b"step,a\n1,2\n", "tensorboard": VERSION + event(simple("a", 1), step=1)}.get(name)
    content = content or b'{"step":1,"a":1}\n'
    for replace in (lambda: other.replace(path), lambda: path.write_bytes(other.read_bytes())):
        path.write_bytes(content)
        reading = source_named(name).read(path)
        said = asked(reading)
        other.write_bytes(content.replace(b"a", b"b") * 3)
        replace()
        assert said == [Row(1, said[0].metrics, said[0].time)]
        assert asked(reading) == []


def test_a_file_that_goes_away_is_an_error(tmp_path: Path) -> None:
    """A log that is deleted while it is followed is an error of the system, not the end of the log."""
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1}\n')
    reading = source_named("jsonl").read(path)
    assert asked(reading) == [Row(0, {"a": 1})]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        next(reading)
