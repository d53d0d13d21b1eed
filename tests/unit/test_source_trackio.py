"""A trackio database gives its committed rows, whoever else has it open."""

from __future__ import annotations

import gzip
import json
import math
import sqlite3
from contextlib import closing

import pytest

from exporter.sources.base import Bad, Head, Meta, Row, read_all, read_head
from exporter.sources.jsonl import Jsonl
from exporter.sources.trackio import Trackio
from exporter.sources.trainer_state import TrainerState
from exporter.sources.wandb import Wandb

TABLE = "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT, run_name TEXT, step, metrics TEXT)"
INSERT = "INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES (?, ?, ?, ?)"
START = "2023-11-14T22:13:20+00:00"


@pytest.fixture
def path(tmp_path):
    """A database with trackio's table and no rows; its name holds what a URI must quote."""
    path = tmp_path / "pro ject?#%20.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(TABLE)
    return path


def insert(path, *rows):
    """Log rows and commit them."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(INSERT, rows)


def test_rows_in_their_order(path):
    """Rows come in the order in which they were logged, and each change of the run is said before its row."""
    logged = [("one", 0), ("one", 1), ("two", 0), ("one", 2)]
    insert(path, *((START, run, step, json.dumps({"loss": step / 4})) for run, step in logged))
    runs = [Meta({}, name) for name in ("one", "two")]
    one, two, other, last = (Row(step, {"loss": step / 4}, 1.7e9) for _, step in logged)
    assert list(read_all(Trackio(), path)) == [runs[0], one, two, runs[1], other, runs[0], last]


IDS = "CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_id TEXT, timestamp TEXT, run_name TEXT, step, metrics TEXT)"
CONFIGS = "CREATE TABLE configs (id INTEGER PRIMARY KEY, run_id TEXT, run_name TEXT, config TEXT, created_at TEXT)"


def test_runs_are_told_apart_by_their_id(tmp_path):
    """Two runs of one name are two runs, and the configuration of each is said with its name, without trackio's own."""
    path = tmp_path / "project.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(IDS)
        database.execute(CONFIGS)
        for run, lr in (("a1", 0.1), ("b2", 0.2)):
            config = json.dumps({"lr": lr, "_Username": "x"})
            database.execute("INSERT INTO configs (run_id, run_name, config) VALUES (?, 'run', ?)", (run, config))
        database.execute("INSERT INTO configs (run_id, run_name) VALUES ('c3', 'run')")
        rows = [("a1", 0), ("b2", 0), ("a1", 1), ("c3", 0)]
        database.executemany(
            "INSERT INTO metrics (run_id, run_name, step, metrics) VALUES (?, 'run', ?, '{\"a\":1}')", rows
        )
    one, two = Meta({"lr": 0.1}, "run"), Meta({"lr": 0.2}, "run-b2")
    rows = [Row(step, {"a": 1}) for _, step in rows]
    assert list(read_all(Trackio(), path)) == [one, rows[0], two, rows[1], one, rows[2], Meta({}, "run-c3"), rows[3]]


def test_a_table_of_other_columns_is_one_bad_item(tmp_path):
    """A database whose metrics are not trackio's is reported, and asked again it is not reported again."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE metrics (key TEXT, value REAL)")
        database.execute("INSERT INTO metrics VALUES ('a', 1)")
    reading = Trackio().read(path)
    assert [type(next(reading)) for _ in range(3)] == [Bad, type(None), type(None)]


def test_values(path):
    """Numbers are metrics, inner objects under slash names; NaN is kept, media, text and null are left out."""
    metrics = '{"a":NaN,"b":"Infinity","c":null,"d":"x","e":{"f":1},"g":{"_type":"trackio.image","size":1},"h":[1]}'
    insert(path, ("2023-11-14T22:13:20.500000", "r", 5, metrics))
    _, row = read_all(Trackio(), path)
    assert row[0::2] == (5, 1.7e9 + 0.5)
    assert row.metrics.keys() == {"a", "b", "e/f"}
    assert math.isnan(row.metrics["a"])
    assert row.metrics["b"] == math.inf


def test_bad_rows(path):
    """A row that cannot be read is reported by its number, and the next one is read."""
    bad = [("r", 1, "{"), ("r", 1, "[]"), ("r", 1, None), ("r", None, "{}"), ("r", 1, 5), ("r", 1, b"\xff")]
    insert(path, *((START, *row) for row in bad))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO metrics (run_name, step, metrics) VALUES (CAST(x'ff' AS TEXT), 7, '{\"a\":1}')")
    items = [item for item in read_all(Trackio(), path) if not isinstance(item, Meta)]
    assert [item.line for item in items[:-1]] == list(range(1, len(bad) + 1))
    assert items[-1] == Row(7, {"a": 1})


def test_read_while_written(path):
    """Beside a writer in WAL mode exactly the committed rows are read, and the writer is not disturbed."""
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute(INSERT, (START, "r", 0, '{"a":1}'))
        writer.commit()
        writer.execute(INSERT, (START, "r", 1, '{"a":2}'))
        assert list(read_all(Trackio(), path))[1:] == [Row(0, {"a": 1}, 1.7e9)]
        writer.commit()
        assert len(list(read_all(Trackio(), path))) == 3


def test_file_is_not_changed(path):
    """To read leaves the file and its folder as they are."""
    insert(path, (START, "r", 0, '{"a":1}'))
    before = path.read_bytes()
    path.chmod(0o444)
    list(read_all(Trackio(), path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_locked(path, monkeypatch):
    """A database that stays locked is one bad item."""
    monkeypatch.setattr("exporter.sources.trackio._PATIENCE", 0.01)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        [item] = read_all(Trackio(), path)
    assert isinstance(item, Bad)
    assert "locked" in item.reason


def test_damaged(path):
    """A damaged database gives the rows before the damage and then one bad item."""
    insert(path, *((START, "r", step, json.dumps({"a": step, "t": "x" * 500})) for step in range(200)))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xaa" * (len(data) - len(data) // 2))
    *items, bad = read_all(Trackio(), path)
    assert isinstance(bad, Bad)
    rows = items[1:]
    assert rows == [Row(step, {"a": step}, 1.7e9) for step in range(len(rows))]


@pytest.mark.parametrize("data", [b"", b"text", b"SQLite format 3\0" + bytes(5000)])
def test_no_database(tmp_path, data):
    """A file that is no such database is one bad item."""
    path = tmp_path / "x.db"
    path.write_bytes(data)
    assert [type(item) for item in read_all(Trackio(), path)] == [Bad]


def test_missing_file(tmp_path):
    """A file that is not there is an error of the system, and none is made."""
    with pytest.raises(FileNotFoundError):
        list(read_all(Trackio(), tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []


def test_recognised_by_its_table(path):
    """The table tells the database, whatever the file is called, by this reader alone."""
    head = Head("x", read_head(path).data)
    assert Trackio().recognises(head)
    assert not any(other.recognises(head) for other in (Jsonl(), TrainerState(), Wandb()))


def test_recognised_before_the_first_checkpoint(tmp_path):
    """Where all tables are still in the write-ahead log, the name decides."""
    path = tmp_path / "new.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute(TABLE)
        writer.commit()
        assert b"CREATE TABLE" not in path.read_bytes()
        assert Trackio().recognises(read_head(path))
        assert not Trackio().recognises(Head("new.bin", read_head(path).data))
        assert list(read_all(Trackio(), path)) == []


def test_not_recognised(tmp_path):
    """Another database, an empty file, text and packed data are something else, whatever they are called."""
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE metrics (key TEXT, value REAL)")
    for data in (path.read_bytes(), b"", b"text", gzip.compress(b"x")):
        assert not Trackio().recognises(Head("x.db", data))
