"""Runs in the forms of other tools: JSON lines, tables, OpenMetrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from exporter.analysis.export.backfill import Backfill, Outcome, objections
from exporter.analysis.export.csv_file import write_csv
from exporter.analysis.export.files import new_file
from exporter.analysis.export.journals import Warn, unpacked
from exporter.analysis.export.jsonl import write_jsonl
from exporter.analysis.export.openmetrics import write_journals, write_openmetrics
from exporter.analysis.export.parquet import write_parquet
from exporter.analysis.export.samples import EvenTimes, RunSamples, read_runs

__all__ = [
    "FORMATS",
    "Backfill",
    "EvenTimes",
    "ExportFormat",
    "Outcome",
    "RunSamples",
    "new_file",
    "objections",
    "read_runs",
    "unpacked",
    "write_openmetrics",
]


class ExportFormat(NamedTuple):
    """A form in which journals can be written."""

    write: Callable[[Sequence[Path], BinaryIO, Warn], None]
    suffixes: tuple[str, ...]
    """How names of such files end."""
    is_text: bool = True


FORMATS: Mapping[str, ExportFormat] = {
    "jsonl": ExportFormat(write_jsonl, (".jsonl", ".ndjson")),
    "csv": ExportFormat(write_csv, (".csv",)),
    "parquet": ExportFormat(write_parquet, (".parquet", ".pq"), is_text=False),
    "openmetrics": ExportFormat(write_journals, (".om", ".openmetrics")),
}
