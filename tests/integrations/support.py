"""What the tests of all trainers share: journals and logs as rows that can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter import Run
from exporter.records import Record, RunEnd, RunStart, Step
from exporter.sources import Item, Meta, find_source
from tests.conftest import read_records

Rows = list[tuple[int, dict[str, float]]]
"""Steps and their metrics, in the order of the log."""


def rows(pairs: Iterable[tuple[int, Mapping[str, Any]]], leave_out: Sequence[str] = ()) -> Rows:
    """Rows as floats; those without any metric left are no rows."""
    found = (
        (step, {key: _number(value) for key, value in metrics.items() if key not in leave_out})
        for step, metrics in pairs
    )
    return [(step, metrics) for step, metrics in found if metrics]


def _number(value: Any) -> float:
    """A float; NaN is always the same object, so that it equals itself in lists and dicts."""
    number = float(value)
    return math.nan if math.isnan(number) else number


class Journal:
    """What lies in the journal of one run, through the project's reader."""

    def __init__(self, runs: Path, run_id: str = "r1") -> None:
        self.records: list[Record] = read_records(runs / run_id / "metrics.jsonl")
        self.starts = [record for record in self.records if isinstance(record, RunStart)]
        self.steps = [record for record in self.records if isinstance(record, Step)]
        self.ends = [(record.status, record.reason) for record in self.records if isinstance(record, RunEnd)]

    @property
    def rows(self) -> Rows:
        """Its steps."""
        return rows((record.step, record.metrics) for record in self.steps)


def read_items(path: Path) -> list[Item]:
    """Everything that the reader which recognises a log finds in it now."""
    source = find_source(path)
    assert source is not None, f"no reader recognises {path}"
    items = []
    for item in source.read(path):
        if item is None:
            break
        items.append(item)
    return items


def read_rows(path: Path) -> Rows:
    """The rows of a log in which there is nothing else than rows, but for what it says about the run."""
    items = [item for item in read_items(path) if not isinstance(item, Meta)]
    return rows((item.step, item.metrics) for item in items)


def event_rows(path: Path) -> Rows:
    """The scalars of an event file as TensorBoard itself reads them, one a row."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reference = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    scalars = ((tag, event) for tag in reference.Tags()["scalars"] for event in reference.Scalars(tag))
    return rows((event.step, {tag: event.value}) for tag, event in scalars)


def tags(found: Rows) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by key, however they are spread over rows."""
    series: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in found:
        for key, value in metrics.items():
            series.setdefault(key, []).append((step, value))
    return series


class BrokenRun(Run):
    """A run all of whose methods raise, as none of them ever should."""

    def __init__(self) -> None:
        super().__init__("broken", None)
        self.calls = 0
        self.log = self.checkpoint = self.finish = self._break

    def _break(self, *_arguments: Any, **_others: Any) -> None:
        self.calls += 1
        raise OSError("broken")
