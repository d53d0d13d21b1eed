"""The table of steps as CSV, for spreadsheets and for everything that has no other reader."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

from exporter.analysis.export.journals import Warn
from exporter.analysis.export.table import LoggedStep, Table, logged_steps, table_of

__all__ = ["write_csv"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def write_csv(journals: Sequence[Path], output: BinaryIO, warn: Warn) -> None:
    """Write the table of steps: times in ISO 8601, an empty cell where a step has no value.

    Raises:
        OSError: a journal cannot be read, or the output cannot be written.
    """
    table = table_of(journals, warn)
    text = io.TextIOWrapper(output, "utf-8", newline="")
    writer = csv.writer(text)  # with CRLF, as RFC 4180 has it: then a lone CR in a text is quoted, too
    writer.writerow([*table.fixed, *table.numbers.values(), *table.texts.values()])
    writer.writerows(_cells(table, row) for row in logged_steps(journals, lambda _: None))
    text.detach()


def _cells(table: Table, row: LoggedStep) -> list[Any]:
    step = row.step
    fixed = [row.run_id, row.rank, _iso(row.ms), step.step, step.epoch, row.attempt]
    numbers = [_number(step.metrics.get(key)) for key in table.numbers]
    return [*fixed[-len(table.fixed) :], *numbers, *map(row.texts.get, table.texts)]


def _number(value: Any) -> Any:
    """Any tool reads a 1; not every one reads a True."""
    return int(value) if isinstance(value, bool) else value


def _iso(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
