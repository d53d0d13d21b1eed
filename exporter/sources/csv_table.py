"""Progress tables: Stable-Baselines3, RLlib, Lightning, Keras, OpenAI baselines, DeepSpeed, monitor.csv."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from exporter.sources.base import Bad, Ended, Head, Item, Meta, Row, complete_lines

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
_UNIX_TIMES = (1e8, 1e11)

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

    def read(self, path: Path) -> Iterator[Item]:
        """Every complete row; a cell that holds an object is reported once per column and never evaluated."""
        lines = complete_lines(path)
        first = next(lines, None)
        if first is None:
            return
        start = None
        if monitor := first.startswith(_MONITOR):
            item, start = _monitor_start(first)
            yield item
        else:
            lines = chain([first], lines)
        yield from _items(_Records(lines, before=int(monitor)), start)


class _Records:
    """The records of a table and the line each begins at; a record that its writer has not finished is left out."""

    def __init__(self, lines: Iterator[str], before: int) -> None:
        self.line = before
        self._taken = before
        self._lines = lines
        self._ended = False

    def __iter__(self) -> Iterator[list[str] | Bad]:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        reader = csv.reader(self._counted(), strict=True)
        while True:
            self.line = self._taken + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if self._ended:
                    return
                yield Bad(self.line, f"not CSV: {error}")
                continue
            if cells is None:
                return
            if cells:
                yield cells

    def _counted(self) -> Iterator[str]:
        for line in self._lines:
            self._taken += 1
            yield line
        self._ended = True


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

    def time_of(self, cells: Sequence[str]) -> float | None:
        """Seconds since 1970, where the table says."""
        value = _number(cells[self.time]) if self.time is not None else None
        if value is None:
            return None
        value += self.start or 0.0
        return value if _UNIX_TIMES[0] < value < _UNIX_TIMES[1] else None


def _items(records: _Records, start: float | None) -> Iterator[Item]:
    table: _Table | None = None
    reported: set[str] = set()
    step = number = 0
    for cells in records:
        if isinstance(cells, Bad):
            yield cells
        elif table is None or table.is_header(cells):
            table = _Table(cells, start)
        elif len(cells) != len(table.header):
            yield Bad(records.line, f"{len(cells)} cells under {len(table.header)} columns")
        else:
            number += 1
            step = _step(table, cells, step, number)
            yield from _objects(table, cells, records.line, reported)
            yield Row(step, _metrics(table, cells), table.time_of(cells), _cell(cells, table.epoch))
            if table.done is not None and cells[table.done] == "True":
                yield Ended("finished")


def _step(table: _Table, cells: Sequence[str], before: int, number: int) -> int:
    """The row's step; a sparse row without one belongs to the step before it."""
    if table.step is None:
        return number
    value = _cell(cells, table.step)
    return int(value) if value is not None and math.isfinite(value) else before


def _metrics(table: _Table, cells: Sequence[str]) -> dict[str, float]:
    return {name: value for column, name in table.metrics if (value := _number(cells[column])) is not None}


def _objects(table: _Table, cells: Sequence[str], line: int, reported: set[str]) -> Iterator[Bad]:
    for column, name in table.metrics:
        if name not in reported and _OBJECT.match(cells[column]):
            reported.add(name)
            yield Bad(line, f"column {name[:100]!r} is not numeric: it holds objects or lists")


def _cell(cells: Sequence[str], column: int | None) -> float | None:
    return None if column is None else _number(cells[column])


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
