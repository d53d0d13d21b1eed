"""trackio's SQLite database: every row of every run of a project, readable while it is being written."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.sources.base import Bad, Head, Item, Meta, Row
from exporter.sources.objects import numeric_leaves, object_or_none, step_number, unix_seconds

__all__ = ["Trackio"]

_MAGIC = b"SQLite format 3\0"
_METRICS_TABLE = re.compile(rb"CREATE TABLE\s+[\"'`\[]?metrics\b[^;]*?\brun_name\b", re.I)
_ROWS = (
    "SELECT rowid AS place, run_name, timestamp, step, metrics, * FROM metrics WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_CONFIGS = "SELECT run_name, config, * FROM configs"
_BATCH = 1000
_PATIENCE = 1.0
"""Seconds to wait for a writer that has locked the database."""


class Trackio:
    """The rows in the order in which they were logged; which run the following ones are of is said at each change."""

    name = "trackio"

    def recognises(self, head: Head) -> bool:
        """Whether it is a database with trackio's table; tables may still be only in the write-ahead log."""
        if not head.data.startswith(_MAGIC):
            return False
        if b"CREATE TABLE" in head.data:
            return _METRICS_TABLE.search(head.data) is not None
        return head.name.endswith(".db")

    def read(self, path: Path) -> Iterator[Item | None]:
        """Every committed row; a locked or damaged database is a bad item after what could be read.

        Raises:
            OSError: the file cannot be read.
        """
        runs, number, last, said = _Runs(), 0, 0, ""
        while True:
            path.open("rb").close()
            rows, configs, error = _rows_after(path, last)
            for row in rows:
                last = row["place"]
                number += 1
                yield from runs.change(row, configs)
                yield _item(number, row)
            if error is not None and str(error) != said:
                yield Bad(number + 1, str(error))
            if error is not None and not isinstance(error, sqlite3.OperationalError):
                return
            said = str(error)
            if error is not None or len(rows) < _BATCH:
                yield None


class _Runs:
    """Which run the last row was of; trackio tells runs apart by an id, and two of them may have one name."""

    def __init__(self) -> None:
        self._current: _Run | None = None
        self._names: dict[_Run, str] = {}

    def change(self, row: sqlite3.Row, configs: Mapping[_Run, Mapping[str, Any]]) -> Iterator[Meta]:
        """The name of the row's run, where it is another than that of the row before, and its configuration."""
        run = _run(row)
        if run == self._current:
            return
        self._current = run
        name, identity = (_text(part) for part in run)
        taken = name in self._names.values()
        yield Meta(configs.get(run, {}), self._names.setdefault(run, f"{name}-{identity}" if taken else name))


_Run = tuple[Any, Any]
"""Name and id; databases of older versions know names only."""


def _run(row: sqlite3.Row) -> _Run:
    return row["run_name"], row["run_id"] if "run_id" in row.keys() else None  # noqa: SIM118 - keys() of a row


def _rows_after(path: Path, last: int) -> tuple[list[sqlite3.Row], dict[_Run, Mapping[str, Any]], sqlite3.Error | None]:
    """At most a batch of the rows behind one, all configurations, and what kept others back."""
    rows: list[sqlite3.Row] = []
    configs: dict[_Run, Mapping[str, Any]] = {}
    try:
        with closing(_open(path)) as database:
            for row in database.execute(_ROWS, (last, _BATCH)):
                rows.append(row)  # those before an error are kept
            if rows and _has_configs(database):
                configs = {_run(row): _config(row["config"]) for row in database.execute(_CONFIGS)}
    except sqlite3.Error as error:
        return rows, configs, error
    return rows, configs, None


def _has_configs(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = 'configs'").fetchone() is not None


def _config(text: Any) -> Mapping[str, Any]:
    """The settings of a run, without trackio's own."""
    fields = object_or_none(text) if isinstance(text, bytes) else None
    return {key: value for key, value in (fields or {}).items() if not key.startswith("_")}


def _open(path: Path) -> sqlite3.Connection:
    """Open for reading only; text stays bytes, since what is no UTF-8 must spoil one row, not all."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
    database.text_factory = bytes
    database.row_factory = sqlite3.Row
    return database


def _item(number: int, row: sqlite3.Row) -> Item:
    try:
        fields = decode(row["metrics"])
        if not isinstance(fields, dict):
            raise ValueError("metrics are no JSON object")
        return Row(step_number(row["step"]), numeric_leaves(fields), unix_seconds(_text(row["timestamp"])))
    except (TypeError, ValueError, RecursionError) as error:
        return Bad(number, str(error))


def _text(cell: Any) -> Any:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
