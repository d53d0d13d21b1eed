"""Progress tables: Stable-Baselines3, RLlib, Lightning, Keras, OpenAI baselines, DeepSpeed, monitor.csv."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from exporter.sources.base import Bad, Ended, Head, Item, Meta, Row, make_row, read_text
from exporter.sources.objects import WHOLE_LIMIT, unix_seconds

__all__ = ["EPOCH_COLUMNS", "STEP_COLUMNS", "TIME_COLUMNS", "CsvTable"]

STEP_COLUMNS = (
    "step",  # Lightning, DeepSpeed csv_monitor
    "Step",  # TensorBoard's CSV download
    "_step",  # W&B's CSV download
    "global_step",
    "trainer/global_step",  # Lightning through W&B
    "training/global_step",  # verl
    "time/total_timesteps",  # Stable-Baselines3
    "training_iteration",  # RLlib
    "total_timesteps",  # Stable-Baselines 2, baselines A2C and ACER
    "misc/total_timesteps",  # baselines PPO2
    "TimestepsSoFar",  # baselines PPO1, TRPO
    "total/steps",  # baselines DDPG
    "nupdates",
    "misc/nupdates",
    "iteration",
    "iter",
    "epoch",  # Keras, where it counts from 0
)
"""Columns that say the step, the first that a table has; a table with none of them is numbered by its rows from 1."""

TIME_COLUMNS = ("timestamp", "_timestamp", "wall_time", "Wall time")
"""Columns that hold seconds since 1970: RLlib, W&B, TensorBoard's CSV download."""

EPOCH_COLUMNS = ("epoch", "trainer/epoch", "train/epoch")

_NAMES = frozenset({"date", "done", "experiment_id", "experiment_tag", "hostname", "node_ip", "pid", "trial_id"})
"""RLlib columns that name things; a name of digits is no metric either."""

_KNOWN = frozenset({*STEP_COLUMNS, *TIME_COLUMNS, *EPOCH_COLUMNS, "loss", "train_loss", "r", "episode_reward_mean"})
_MONITOR = "#{"
_MISSING = frozenset({"", "NA"})
_OBJECT = re.compile(r"\s*[\[{(]|\s*(?:array|tensor)\(")
_NAME = re.compile(r"\s*[^\s=<>{}\"'][^=<>{}\"']{0,199}")

_LONGEST_CELL = 4 << 20
"""An RLlib cell may hold a whole configuration; a quote left open must not swallow a file of any size."""


class CsvTable:
    """Comma separated tables with a header; sparse cells, later headers and text columns are usual."""

    name = "csv"

    def recognises(self, head: Head) -> bool:
        """Names separated by commas over numbers; a single name has to be a known one."""
        text = _text(head.data)
        if text is None or text.lstrip()[:1] in ("<", "[", "{"):
            return False
        lines = [line for line in text.splitlines() if line.strip()]
        monitor = bool(lines) and lines[0].startswith(_MONITOR)
        header, first = _first_records(lines[1:] if monitor else lines)
        return _is_header(header) and _fits(header, first)

    def read(self, path: Path) -> Iterator[Item | None]:
        """Every complete row; a cell that holds an object is reported once per column and never evaluated."""
        progress = _Progress()
        for text in read_text(path):
            if isinstance(text, str):
                yield from progress.items(text)
            else:
                yield text


class _Records:
    """The records of a table and the line each begins at; one that is not complete waits for more lines."""

    def __init__(self) -> None:
        self.line = 0
        self._taken = 0
        self._torn: list[str] = []

    def parse(self, text: str) -> Iterator[list[str] | Bad]:
        """The records that are complete with these lines."""
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        lines, end = [*self._torn, *StringIO(text, newline="\n")], _End()
        reader = csv.reader(chain(lines, end), strict=True)
        begin = 0
        while True:
            self.line = self._taken + begin + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if end.reached:
                    break
                yield Bad(self.line, f"not CSV: {error}")
            else:
                if cells is None:
                    break
                if cells:
                    yield cells
            begin = reader.line_num
        self._torn = lines[begin:]
        self._taken += begin


class _End(Iterator[str]):
    """No more lines, and whether they were asked for: a quoted cell that is not closed asks for more."""

    reached = False

    def __next__(self) -> str:
        self.reached = True
        raise StopIteration


class _Table:
    """Which column of one header means what."""

    def __init__(self, header: Sequence[str], start: float | None) -> None:
        self.header = [name.strip() for name in header]
        self.step = self._find(STEP_COLUMNS)
        self.epoch = self._find(EPOCH_COLUMNS)
        self.start = start
        self.time = self._find(TIME_COLUMNS if start is None else ("t",))
        self.done = self._find(("done",)) if self._find(("training_iteration",)) is not None else None
        special = {self.step, self.epoch, self.time}
        self.metrics = [
            (column, name)
            for column, name in enumerate(self.header)
            if name and name not in _NAMES and column not in special
        ]

    def _find(self, names: Sequence[str]) -> int | None:
        return next((self.header.index(name) for name in names if name in self.header), None)

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether a record is a header again: DeepSpeed writes one at every restart."""
        return list(cells) == self.header or (self.step is not None and self.header[self.step] in cells)

    def time_of(self, values: Sequence[float | None]) -> float | None:
        """Seconds since 1970, where the table says."""
        value = values[self.time] if self.time is not None else None
        if value is None:
            return None
        value += self.start or 0.0
        return unix_seconds(value)


class _Progress:
    """What earlier lines of a table mean for later ones."""

    def __init__(self) -> None:
        self._records = _Records()
        self._begun = False
        self._table: _Table | None = None
        self._start: float | None = None
        self._reported: set[str] = set()
        self._step = self._number = 0

    def items(self, text: str) -> Iterator[Item]:
        """What complete lines say."""
        if not self._begun and text.startswith(_MONITOR):
            first, _, rest = text.partition("\n")
            said, self._start = _monitor_start(first)
            yield said
            text = "\n" + rest
        self._begun = True
        for cells in self._records.parse(text):
            if isinstance(cells, Bad):
                yield cells
                continue
            table, values = self._table, _numbers(cells)
            if table is None or (None in values and table.is_header(cells)):
                self._table = _Table(cells, self._start)
            elif len(cells) != len(table.header):
                yield Bad(self._records.line, f"{len(cells)} cells under {len(table.header)} columns")
            else:
                if None in values:
                    yield from self._objects(table, cells, values)
                yield self._row(table, values)
                if table.done is not None and cells[table.done] == "True":
                    yield Ended("finished")

    def _objects(self, table: _Table, cells: Sequence[str], values: Sequence[float | None]) -> Iterator[Bad]:
        for column, name in table.metrics:
            if values[column] is None and name not in self._reported and _OBJECT.match(cells[column]):
                self._reported.add(name)
                yield Bad(self._records.line, f"column {name[:100]!r} is not numeric: it holds objects or lists")

    def _row(self, table: _Table, values: Sequence[float | None]) -> Row:
        """The row of these cells; one without a step belongs to the step before it."""
        self._number += 1
        if table.step is None:
            self._step = self._number
        elif (step := values[table.step]) is not None and -WHOLE_LIMIT <= step < WHOLE_LIMIT:
            self._step = int(step)
        metrics = {name: value for column, name in table.metrics if (value := values[column]) is not None}
        epoch = None if table.epoch is None else values[table.epoch]
        return make_row((self._step, metrics, table.time_of(values), epoch))


def _numbers(cells: Sequence[str]) -> Sequence[float | None]:
    """What the cells hold; most often numbers only."""
    if "_" not in "".join(cells):  # float() takes 1_000
        try:
            return [*map(float, cells)]
        except ValueError:
            pass
    return [*map(_number, cells)]


def _number(cell: str) -> float | None:
    if cell in _MISSING or "_" in cell:  # float() takes 1_000
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _monitor_start(line: str) -> tuple[Meta | Bad, float | None]:
    """What the first line of a monitor.csv says, and when its clock started."""
    try:
        said: dict[str, Any] = json.loads(line[1:])
        return Meta(said), float(said["t_start"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Bad(1, "no JSON object with t_start"), None


def _text(data: bytes) -> str | None:
    """The beginning of a text file, or None for something binary; the last character may be cut."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8-sig") if error.start > len(data) - 4 else None


def _first_records(lines: list[str]) -> tuple[list[str], list[str]]:
    """The header and the first row under it; the end of a head may cut a quoted cell."""
    reader = csv.reader(lines)
    return next(reader, []), next(reader, [])


def _is_header(header: list[str]) -> bool:
    names = [name.strip() for name in header if name]
    if len(names) < 2 and not (names and names[0] in _KNOWN):
        return False
    return all(_NAME.fullmatch(name) and _number(name) is None for name in names)


def _fits(header: list[str], first: list[str]) -> bool:
    """Whether the first row looks like values; under a known name one number will do."""
    filled = [cell for cell in first if cell not in _MISSING]
    numbers = sum(_number(cell) is not None for cell in filled)
    if not _KNOWN.isdisjoint(name.strip() for name in header):
        return numbers > 0 or not first
    return len(first) == len(header) and 2 * numbers > len(filled)
