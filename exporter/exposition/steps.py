"""Every step of a stretch of a journal as samples with their own timestamps: the fast renderer.

Records are grouped by the keys they have, so that a metric's values become one column which is encoded
in one call; the bytes before a value and behind it are made once per series and once per step.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from exporter.catalog import Catalog
from exporter.encoding import encode_numbers
from exporter.exposition.formats import value_text
from exporter.exposition.page import Page
from exporter.exposition.series import RunSeries, Series
from exporter.journal import Stamped
from exporter.records import Step

__all__ = ["Column", "StepTable", "add_steps", "step_table"]

Column = tuple[Sequence[int], Sequence[Any]]
"""Row numbers, ascending, and the native values in them."""

_Schema = tuple[int, tuple[str, ...]]
"""An attempt and the keys of a record."""


class StepTable(NamedTuple):
    """Timestamps of rows, and the columns of the series that have values in them."""

    times_ms: list[int]
    columns: list[tuple[Series, Column]]


class _Row(NamedTuple):
    ms: int
    attempt: int
    step: Step


def add_steps(page: Page, stamped: Iterable[Stamped], series: RunSeries, catalog: Catalog) -> int:
    """Add every step to the page, oldest first; returns the number of samples."""
    table = step_table(stamped, series, catalog)
    suffixes = page.format.suffixes(table.times_ms)
    for owner, column in table.columns:
        _add_column(page, owner, column, suffixes)
    return sum(len(indices) for _, (indices, _) in table.columns)


def step_table(stamped: Iterable[Stamped], series: RunSeries, catalog: Catalog) -> StepTable:
    """Every step of a stretch of a journal, oldest first, as one column a series: its step, its epoch, its metrics."""
    rows = [_Row(item.ms, item.attempt, item.record) for item in stamped if isinstance(item.record, Step)]
    if not rows:
        return StepTable([], [])
    columns = [_positions(rows, series, catalog), *_epochs(rows, series, catalog), *_metrics(rows, series)]
    return StepTable([row.ms for row in rows], columns)


def _positions(rows: list[_Row], series: RunSeries, catalog: Catalog) -> tuple[Series, Column]:
    return series.own(catalog.metrics["training_step"]), (range(len(rows)), [row.step.step for row in rows])


def _epochs(rows: list[_Row], series: RunSeries, catalog: Catalog) -> Iterator[tuple[Series, Column]]:
    indices = [index for index, row in enumerate(rows) if row.step.epoch is not None]
    if indices:
        yield series.own(catalog.metrics["training_epoch"]), (indices, [rows[index].step.epoch for index in indices])


def _metrics(rows: list[_Row], series: RunSeries) -> Iterator[tuple[Series, Column]]:
    """The values of each series, taken from every group of records that have the same keys."""
    # Per attempt, because in another one the same series may belong to a key of another scale.
    owners: dict[tuple[int, bytes], Series] = {}
    columns: dict[tuple[int, bytes], list[Column]] = defaultdict(list)
    for (attempt, keys), indices in _group(rows).items():
        values = zip(*[rows[index].step.metrics.values() for index in indices], strict=True)
        for key, column in zip(keys, values, strict=False):
            owner = series.get(attempt, key)
            if owner is not None and owner.name.family.type == "gauge":
                owners[attempt, owner.prefix] = owner
                columns[attempt, owner.prefix].append((indices, column))
    for place, parts in columns.items():
        yield owners[place], parts[0] if len(parts) == 1 else _merge(parts)


def _group(rows: list[_Row]) -> dict[_Schema, list[int]]:
    """Row numbers by attempt and keys."""
    groups: dict[_Schema, list[int]] = defaultdict(list)
    previous: _Schema = (0, ())
    indices = groups[previous]
    for index, row in enumerate(rows):
        # Most records have the keys of the one before: comparing them is cheaper than hashing them.
        schema = (row.attempt, tuple(row.step.metrics))
        if schema != previous:
            previous, indices = schema, groups[schema]
        indices.append(index)
    return groups


def _merge(columns: list[Column]) -> Column:
    """One column in the order of time; a series has at most one value per row."""
    pairs = [pair for column in columns for pair in zip(*column, strict=True)]
    pairs.sort(key=itemgetter(0))
    indices, values = zip(*pairs, strict=True)
    return indices, values


def _add_column(page: Page, series: Series, column: Column, suffixes: list[bytes]) -> None:
    indices, values = column
    parts = [series.prefix] * (3 * len(values))
    parts[1::3] = _value_texts(values, series.name.scale)
    parts[2::3] = suffixes if len(indices) == len(suffixes) else [suffixes[index] for index in indices]
    page.add_block(series.name.family, series.prefix, b"".join(parts))


def _value_texts(values: Sequence[Any], scale: float) -> list[bytes]:
    """Values as text; plain numbers, the common case, are encoded in one call."""
    if scale == 1.0:
        with contextlib.suppress(TypeError):  # an integer beyond 64 bits
            text = encode_numbers(values)
            # JSON's other words - true, false, null and strings - have a u, an l or a quote; numbers have none.
            if not (b'"' in text or b"u" in text or b"l" in text):
                return text.split(b",")
    return [value_text(float(value) * scale) for value in values]
