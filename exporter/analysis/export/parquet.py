"""The table of steps as Parquet, for pandas, Polars, DuckDB and Spark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from exporter.analysis.export.journals import Warn
from exporter.analysis.export.table import LoggedStep, Table, logged_steps, table_of
from exporter.errors import ConfigError, MissingDependencyError

__all__ = ["write_parquet"]

_GROUP_CELLS = 500_000
"""Cells of a row group, which is made in memory: some 100 MB."""


def write_parquet(journals: Sequence[Path], output: BinaryIO, warn: Warn) -> None:
    """Write the table of steps; numbers are doubles, null where a step has no value.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        OSError: a journal cannot be read, or the output cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow: python -m pip install 'telemetry-exporter[parquet]'"
        ) from error
    table = table_of(journals, warn)
    schema = _schema(pyarrow, table)
    rows = logged_steps(journals, lambda _: None)
    size = max(_GROUP_CELLS // len(schema), 1)
    try:
        with pyarrow.parquet.ParquetWriter(output, schema) as writer:
            while group := list(islice(rows, size)):
                writer.write_table(pyarrow.table(_columns(table, group), schema))
    except (pyarrow.ArrowInvalid, OverflowError) as error:
        raise ConfigError(f"a value does not fit into a column of 64 bits: {error}; csv has no such limit") from error


def _schema(pyarrow: Any, table: Table) -> Any:
    fixed = {
        "run_id": pyarrow.string(),
        "rank": pyarrow.int64(),
        "time": pyarrow.timestamp("ms", tz="UTC"),
        "step": pyarrow.int64(),
        "epoch": pyarrow.float64(),
        "attempt": pyarrow.int64(),
    }
    columns = {title: fixed[title] for title in table.fixed}
    columns.update(dict.fromkeys(table.numbers.values(), pyarrow.float64()))
    columns.update(dict.fromkeys(table.texts.values(), pyarrow.string()))
    return pyarrow.schema(columns)


def _columns(table: Table, rows: Sequence[LoggedStep]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "run_id": [row.run_id for row in rows],
        "rank": [row.rank for row in rows],
        "time": [row.ms for row in rows],
        "step": [row.step.step for row in rows],
        "epoch": [row.step.epoch for row in rows],
        "attempt": [row.attempt for row in rows],
    }
    columns = {title: columns[title] for title in table.fixed}
    for key, title in table.numbers.items():
        columns[title] = _numbers(row.step.metrics.get(key) for row in rows)
    for key, title in table.texts.items():
        columns[title] = [row.texts.get(key) for row in rows]
    return columns


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]
