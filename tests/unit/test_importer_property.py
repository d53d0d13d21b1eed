"""Whatever becomes of a log, each of its rows is in the journal once: random lives of a file against a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.importer import followed, imported_run
from tests.support.imports import Import, json_rows, replace_bytes, table

Row = dict[str, Any]
COLUMNS = ["step", "train/loss", "epoch", "train/kl"]


class Life:
    """A log and what happens to it; the model knows every row by its loss, which is unique.

    Attributes:
        written: All rows that were ever complete in the file, in their order.
        fragile: Those of them that were gone before anybody could have read them.
    """

    def __init__(self, folder: Path, form: str) -> None:
        self.path = folder / "job" / f"log.{form}"
        self.path.parent.mkdir()
        self.form = form
        self.columns = COLUMNS
        self.imported = Import(folder, folder=folder / "journals")
        self.rows: list[Row] = []
        self.torn = b""
        self.written: list[Row] = []
        self.fragile: set[float] = set()
        self.unread: list[Row] = []
        self.is_followed = False
        """Whether the file is the one that the sidecar saw, with more at its end; another is lost when it goes."""
        self.rotations = 0

    # ------------------------------------------------------------------ what the trainer does

    def append(self, count: int, cut: int) -> None:
        """Write rows, the last one perhaps not to its end."""
        for _ in range(count):
            self._finish_row()
            self._add(self._new_row())
        if cut:
            self._finish_row()
            text = self._text([self._new_row()])
            self.torn = text[:-1][:cut]
            self._write(self.torn)
            self._rest = text[len(self.torn) :]

    def widen(self, in_place: bool) -> None:
        """A new metric: the table is written anew with more columns, in another order; lines of JSON just go on."""
        self._finish_row()
        if self.form == "csv" and self.rows:
            new = f"kl{len(self.columns)}"
            self.columns = ["step", new, *reversed(self.columns[1:])]
            self._rewrite(in_place)

    def rewrite(self, in_place: bool) -> None:
        """The same rows again: by open("w"), or another file renamed to the log's name, as rsync does."""
        self._finish_row()
        self._rewrite(in_place)

    def truncate(self, count: int) -> None:
        """All is cut away, as copytruncate does, and other rows come."""
        self._lose()
        replace_bytes(self.path, "")
        self._begin_file(count, is_followed=False)

    def cut_back(self, left: int) -> None:
        """A resumed trainer cuts the log to where it goes on; what was there before is known or lost."""
        self._finish_row()
        kept, gone = self.rows[:left], self.rows[left:]
        self.fragile |= {row["train/loss"] for row in gone if row in self.unread}
        self.unread = [row for row in self.unread if row in kept]
        self.rows = kept
        self._rewrite(in_place=True)

    def delete(self, count: int) -> None:
        """The file is removed and made anew."""
        self._lose()
        self.path.unlink(missing_ok=True)
        self._begin_file(count, is_followed=False)

    def rotate(self, count: int) -> None:
        """The file is renamed and a new one begun; what was not read yet lies in the renamed one."""
        if not self.path.exists():
            return
        self.rotations += 1
        if not self.is_followed:
            self._lose()
        pending = self.unread
        self.path.rename(self.path.with_name(f"{self.path.name}.{self.rotations}"))
        self.torn = b""
        self._begin_file(count, is_followed=False)
        self.unread = pending + self.unread if self.rows else pending

    # ------------------------------------------------------------------ what the sidecar does

    def poll(self) -> None:
        """The sidecar looks."""
        self.imported.poll(2)
        if self.rows:
            self.unread, self.is_followed = [], True

    def begin_to_read(self) -> None:
        """The sidecar's time is over after one item."""
        self.imported.importer.find()
        with mock.patch.object(imported_run, "_LOOKS_AT_THE_CLOCK", 1):
            self.imported.importer.take(-1.0)

    def restart(self) -> None:
        """The sidecar ends and begins again."""
        self.imported.restart()

    def kill_before_marks(self, garbage: bytes) -> None:
        """The sidecar is killed after it wrote to the journal and before it noted how far it had got."""
        marks, before = self.imported.marks("job"), None
        if marks.exists():
            before = marks.read_bytes()
        self.imported.poll(2)
        journal = marks.with_name("metrics.jsonl")
        if before is not None and journal.exists():
            marks.write_bytes(before)
            with journal.open("ab") as file:
                file.write(garbage)
        self.imported.restart()

    # ------------------------------------------------------------------ the model

    def check(self) -> None:
        """After the last polls the journal holds every row once, in order; only fragile ones may be missing."""
        self._finish_row()
        self._add(self._new_row())
        self.poll()
        self.poll()
        steps = self.imported.steps("job")
        found = [step["metrics"]["train/loss"] for step in steps]
        fates = {loss: "twice" for loss in found if found.count(loss) > 1}
        fates |= {
            row["train/loss"]: "lost"
            for row in self.written
            if row["train/loss"] not in found and row["train/loss"] not in self.fragile
        }
        assert fates == {}
        by_loss = {row["train/loss"]: row for row in self.written}
        assert found == [loss for loss in by_loss if loss in set(found)]
        for step in steps:
            row = by_loss[step["metrics"]["train/loss"]]
            assert (step["step"], step["epoch"]) == (row["step"], row["epoch"])
            assert step["metrics"].keys() == {"train/loss", "train/kl"}
            assert step["metrics"]["train/kl"] == row["train/kl"]

    def _new_row(self) -> Row:
        number = len(self.written) + 1
        return {"step": number, "train/loss": number + 0.25, "epoch": number / 8, "train/kl": number / 4}

    def _text(self, rows: list[Row]) -> bytes:
        if self.form == "jsonl":
            return json_rows(rows).encode()
        return table(rows, self.columns).partition("\n")[2].encode()

    def _add(self, row: Row) -> None:
        if self.form == "csv" and not (self.path.exists() and self.path.stat().st_size):
            self._write(",".join(self.columns).encode() + b"\n")
        self._write(self._text([row]))
        self._note(row)

    def _note(self, row: Row) -> None:
        self.rows.append(row)
        self.written.append(row)
        self.unread.append(row)

    def _finish_row(self) -> None:
        if self.torn:
            if self.form == "csv" and self.path.stat().st_size == len(self.torn):
                replace_bytes(self.path, "")
                self.torn = b""
                return
            self._write(self._rest)
            self.torn = b""
            self._note(self._new_row())

    def _write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def _rewrite(self, in_place: bool) -> None:
        header = ",".join(self.columns) + "\n" if self.form == "csv" else ""
        text = header + self._text(self.rows).decode()
        if in_place or not self.path.exists():
            replace_bytes(self.path, text)
        else:
            other = self.path.with_name(".log.tmp")
            other.write_text(text)
            other.replace(self.path)
        self.is_followed = False

    def _lose(self) -> None:
        self.fragile |= {row["train/loss"] for row in self.unread}
        self.torn, self.rows, self.unread = b"", [], []

    def _begin_file(self, count: int, *, is_followed: bool) -> None:
        self.is_followed = is_followed
        self.rows = []
        self.path.touch()
        for _ in range(count):
            self._add(self._new_row())


@contextmanager
def life(form: str) -> Iterator[Life]:
    """A log in a folder of its own; a file counts as settled as soon as it is looked at."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(followed, "_QUIET_SECONDS", 0.0):
        log = Life(Path(folder), form)
        try:
            yield log
        finally:
            log.imported.close()


FEW = st.integers(0, 3)
EVENTS = st.one_of(
    st.tuples(st.just("append"), FEW, st.sampled_from([0, 0, 1, 5, 20])),
    st.tuples(st.just("widen"), st.booleans()),
    st.tuples(st.just("rewrite"), st.booleans()),
    st.tuples(st.just("truncate"), FEW),
    st.tuples(st.just("cut_back"), FEW),
    st.tuples(st.just("delete"), FEW),
    st.tuples(st.just("rotate"), FEW),
    st.tuples(st.just("poll")),
    st.tuples(st.just("begin_to_read")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("kill_before_marks"), st.sampled_from([b"", b'{"_type":"st', b"\0\0"])),
)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@given(events=st.lists(EVENTS, min_size=2, max_size=16))
def test_each_row_is_taken_once_whatever_becomes_of_the_log(form: str, events: list[tuple[Any, ...]]) -> None:
    """Cut, replaced, rotated, rewritten, looked at by processes that are killed: no row is lost and none doubled."""
    with life(form) as log:
        for name, *arguments in events:
            getattr(log, name)(*arguments)
        log.check()
