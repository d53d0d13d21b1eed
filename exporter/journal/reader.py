"""Read a journal from an offset, while it is written: torn lines wait, bad lines are counted and passed.

Every position of a journal is a function of the bytes before it, so that two readers of one journal
give every step the same timestamp.
"""

from __future__ import annotations

import errno
import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from exporter.journal.decode import decode_record
from exporter.journal.layout import journal_rank
from exporter.records import Record, RunStart, Step

__all__ = ["START", "BadLine", "Chunk", "Position", "Stamped", "identity", "is_journal", "read_chunk", "read_chunks"]


class Position(NamedTuple):
    """A place between two lines of a journal and what the lines before it decide."""

    offset: int
    line: int
    """Number of lines before this place."""
    step_ms: int
    """Timestamp of the last step before it, in milliseconds since the epoch."""
    attempt: int
    """How often the run was started before it."""


START = Position(0, 0, 0, 0)

_LONGEST_FIRST_LINE = 4 * 1024 * 1024


class Stamped(NamedTuple):
    """A record with its timestamp in milliseconds; those of steps strictly increase in a journal."""

    ms: int
    attempt: int
    record: Record


class BadLine(NamedTuple):
    """A line that is no record: its number (from 1) and the reason."""

    line: int
    reason: str


class Chunk(NamedTuple):
    """Consecutive records and the position behind them."""

    records: list[Stamped]
    bad_lines: list[BadLine]
    end: Position


def identity(path: Path) -> tuple[int, int]:
    """(inode, size in bytes) of a journal; another inode or a smaller size means another content.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return status.st_ino, status.st_size


def read_chunk(path: Path, start: Position, limit: int, until_ms: float = math.inf) -> Chunk:
    """Read complete lines from a position, at most ``limit`` bytes unless one line is longer.

    Reading stops before a step whose timestamp is later than ``until_ms``.

    Raises:
        OSError: the journal cannot be read.
    """
    try:
        with _open(path) as file:
            file.seek(start.offset)
            data = _complete_lines(file, limit)
    except (EOFError, zlib.error) as error:
        raise OSError(errno.EIO, f"damaged: {error}", str(path)) from error
    return _decode(data, start, until_ms)


def read_chunks(path: Path, piece: int) -> Iterator[Chunk]:
    """A whole journal, ``piece`` bytes at a time.

    Raises:
        OSError: the journal cannot be read.
    """
    position = START
    while (chunk := read_chunk(path, position, piece)).end != position:
        yield chunk
        position = chunk.end


def is_journal(path: Path) -> bool:
    """Whether a file is a journal and not another log of lines: by its name and its first line, or by that alone.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with _open(path) as file:
            line = file.readline(_LONGEST_FIRST_LINE)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    try:
        record = decode_record(line)
    except ValueError:
        record = None
    if journal_rank(path) is None:
        return isinstance(record, RunStart)
    return record is not None or not line.startswith(b"{") or not line.endswith(b"\n")


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _complete_lines(file: BinaryIO, limit: int) -> bytes:
    """At most ``limit`` bytes up to a newline; a longer first line is read to its end, a torn one not at all."""
    data = file.read(limit)
    end = data.rfind(b"\n") + 1
    if end or len(data) < limit or limit <= 0:
        return data[:end]
    rest = file.readline()
    return data + rest if rest.endswith(b"\n") else b""


def _decode(data: bytes, start: Position, until_ms: float) -> Chunk:
    records: list[Stamped] = []
    bad_lines: list[BadLine] = []
    offset, line, step_ms, attempt = start
    for text in data.split(b"\n")[:-1]:
        try:
            stamped = _stamp(text, step_ms, attempt) if text.strip() else None
        except (ValueError, OverflowError) as error:
            stamped = None
            bad_lines.append(BadLine(line + 1, str(error)[:200]))
        if stamped is not None:
            ms, attempt, record = stamped
            if type(record) is Step:
                if ms > until_ms:
                    break
                step_ms = ms
            records.append(stamped)
        offset += len(text) + 1
        line += 1
    return Chunk(records, bad_lines, Position(offset, line, step_ms, attempt))


def _stamp(line: bytes, step_ms: int, attempt: int) -> Stamped:
    record = decode_record(line)
    ms = int(record.time * 1000 + 0.5)
    if type(record) is Step:
        return Stamped(ms if ms > step_ms else step_ms + 1, attempt, record)
    begins = type(record) is RunStart and (record.attempt != attempt or not attempt)
    return Stamped(ms, attempt + begins, record)
