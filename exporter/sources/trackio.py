"""trackio's SQLite database: every row of every run of a project, readable while it is being written."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.sources.base import Bad, Head, Item, Meta, Row
from exporter.sources.objects import numeric_leaves, step_number, unix_seconds

__all__ = ["Trackio"]

_MAGIC = b"SQLite format 3\0"
_METRICS_TABLE = re.compile(rb"CREATE TABLE\s+[\"'`\[]?metrics\b[^;]*?\brun_name\b", re.I)
_ROWS = "SELECT rowid, run_name, timestamp, step, metrics FROM metrics WHERE rowid > ? ORDER BY rowid LIMIT ?"
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
        last, number, run, said = 0, 0, None, ""
        while True:
            path.open("rb").close()
            rows, error = _rows_after(path, last)
            for row, name, *cells in rows:
                last = row
                number += 1
                if name != run:
                    run = name
                    yield Meta({}, _text(name))
                yield _item(number, cells)
            if error is not None and str(error) != said:
                yield Bad(number + 1, str(error))
            if error is not None and not isinstance(error, sqlite3.OperationalError):
                return
            said = str(error)
            if error is not None or len(rows) < _BATCH:
                yield None


def _rows_after(path: Path, last: int) -> tuple[list[tuple[Any, ...]], sqlite3.Error | None]:
    """At most a batch of the rows behind one, and what kept the others back; the database is closed again."""
    rows: list[tuple[Any, ...]] = []
    try:
        with closing(_open(path)) as database:
            for row in database.execute(_ROWS, (last, _BATCH)):
                rows.append(row)  # those before an error are kept
    except sqlite3.Error as error:
        return rows, error
    return rows, None


def _open(path: Path) -> sqlite3.Connection:
    """Open for reading only; text stays bytes, since what is no UTF-8 must spoil one row, not all."""
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
    database.text_factory = bytes
    return database


def _item(number: int, cells: list[Any]) -> Item:
    time, step, metrics = cells
    try:
        fields = decode(metrics)
        if not isinstance(fields, dict):
            raise ValueError("metrics are no JSON object")
        return Row(step_number(step), numeric_leaves(fields), unix_seconds(_text(time)))
    except (TypeError, ValueError, RecursionError) as error:
        return Bad(number, str(error))


def _text(cell: Any) -> Any:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
