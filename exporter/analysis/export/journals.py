"""Whole journals, read piece by piece in the order of their lines."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from exporter.journal import Stamped, read_chunks

__all__ = ["Warn", "read_journal", "unpacked"]

Warn = Callable[[str], object]
"""Is told what could not be read, one line at a time."""

_PIECE_BYTES = 1024 * 1024


def read_journal(path: Path, warn: Warn) -> Iterator[Stamped]:
    """Every record of a journal.

    Raises:
        OSError: the journal cannot be read.
    """
    for chunk in read_chunks(path, _PIECE_BYTES):
        for bad in chunk.bad_lines:
            warn(f"{path}: line {bad.line} is left out: {bad.reason}")
        yield from chunk.records


def unpacked(path: Path, folder: Path) -> Path:
    """The journal itself, or its content in ``folder``: a packed one would be unpacked again for every piece.

    Raises:
        OSError: it cannot be read, or the folder cannot be written.
    """
    if path.suffix != ".gz":
        return path
    plain = folder / path.resolve().parent.name / path.stem
    plain.parent.mkdir(parents=True, exist_ok=True)
    try:
        with gzip.open(path) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, _PIECE_BYTES)
    except (EOFError, zlib.error) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    return plain
