"""Journals as strict JSON lines, whatever tool wrote them: one form for each record, no bare NaN, no torn line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from exporter.analysis.export.journals import Warn, read_journal
from exporter.encoding import clean, encode_line
from exporter.records import (
    Check,
    Checkpoint,
    EpochEnd,
    Event,
    Lost,
    Phase,
    Record,
    RunEnd,
    RunStart,
    Step,
    TableRows,
    Timing,
    Unknown,
)

__all__ = ["write_jsonl"]

_TYPES: Mapping[type[Record], str] = {
    RunStart: "run_start",
    Step: "step",
    Timing: "timing",
    Phase: "phase",
    TableRows: "table",
    Event: "event",
    Check: "check",
    Checkpoint: "checkpoint",
    EpochEnd: "epoch_end",
    Lost: "lost",
    RunEnd: "run_end",
}


def write_jsonl(journals: Sequence[Path], output: BinaryIO, warn: Warn) -> None:
    """Write every record of journals, one after another; memory does not grow with them.

    Raises:
        OSError: a journal cannot be read, or the output cannot be written.
    """
    unknown: Counter[str] = Counter()
    for journal in journals:
        for stamped in read_journal(journal, warn):
            if isinstance(stamped.record, Unknown):
                unknown[stamped.record.type] += 1
            else:
                output.write(_line(stamped.record))
    for kind, count in unknown.items():
        warn(f"{count} record(s) of the unknown type {kind!r} are left out")


def _line(record: Record) -> bytes:
    fields = _fields(record)
    if isinstance(record, Step):
        try:
            return encode_line(fields)  # its numbers have been read strictly
        except TypeError:  # a key that is no UTF-8
            pass
    return encode_line(clean(fields))


def _fields(record: Record) -> dict[str, Any]:
    """What a record says; a field that is not said reads back as its default."""
    defaults = record._field_defaults
    said = {key: value for key, value in record._asdict().items() if key not in defaults or value != defaults[key]}
    if isinstance(record, Lost):
        said["count"] = said.pop("records")
    return {"_type": _TYPES[type(record)], **said}
