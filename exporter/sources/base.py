"""What a reader of a foreign log gives, and how a format is told from its content."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

__all__ = [
    "HEAD_BYTES",
    "LINES_NAMES",
    "Bad",
    "Ended",
    "Head",
    "Item",
    "Meta",
    "Row",
    "Source",
    "complete_lines",
    "open_log",
    "read_head",
]

HEAD_BYTES = 64 * 1024
"""How much of a file decides what it is."""

LINES_NAMES = (".jsonl", ".ndjson")
"""How names end that promise lines of JSON."""

_GZIP_MAGIC = b"\x1f\x8b"


class Row(NamedTuple):
    """The metrics of one step under their native keys: numbers, NaN and infinities included."""

    step: int
    metrics: Mapping[str, float]
    time: float | None = None
    """Seconds since 1970, or None where the log does not say."""
    epoch: float | None = None


class Meta(NamedTuple):
    """What the log says about the run: hyper-parameters, names."""

    config: Mapping[str, Any]


class Bad(NamedTuple):
    """Something that could not be read: its line (from 1; for binary logs the record) and why."""

    line: int
    reason: str


class Ended(NamedTuple):
    """The log says that the run is over: finished or failed."""

    status: str


Item = Row | Meta | Bad | Ended


class Head(NamedTuple):
    """The beginning of a file, unpacked, and its name without ``.gz``."""

    name: str
    data: bytes


class Source(Protocol):
    """One foreign format; a plug-in is one file, one line in ``SOURCES``, one test."""

    @property
    def name(self) -> str:
        """The format's name, as ``--format`` takes it."""

    def recognises(self, head: Head) -> bool:
        """Whether a file that begins like this is of this format: by its content, its name is a hint."""

    def read(self, path: Path) -> Iterator[Item]:
        """Everything that is completely in the file now, in its order; nothing in it is ever evaluated.

        A torn end is left out, a bad line is an item, a list, text or object is no metric.

        Raises:
            OSError: the file cannot be read.
        """


def read_head(path: Path) -> Head:
    """The beginning of a file, whatever it holds.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open_log(path) as file:
            return Head(path.name.removesuffix(".gz"), file.read(HEAD_BYTES))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return Head(path.name, b"")


def open_log(path: Path) -> BinaryIO:
    """Open a log, unpacking gzip whatever its name says."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path)) if packed else path.open("rb")


def complete_lines(path: Path) -> Iterator[str]:
    """The lines of a text log with their ends; the last one only if it has an end.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with open_log(path) as file:
            for number, raw in enumerate(file):
                if raw.endswith(b"\n"):
                    yield raw.decode("utf-8" if number else "utf-8-sig", "replace")
    except (EOFError, zlib.error):  # gzip that is still being written
        return
