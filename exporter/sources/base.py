"""What a reader of a foreign log gives, and how a format is told from its content."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

__all__ = [
    "HEAD_BYTES",
    "LINES_NAMES",
    "Bad",
    "Ended",
    "Head",
    "Item",
    "LineBlocks",
    "Meta",
    "Row",
    "Source",
    "make_row",
    "open_log",
    "read_all",
    "read_blocks",
    "read_head",
    "read_text",
]

HEAD_BYTES = 64 * 1024
"""How much of a file decides what it is."""

LINES_NAMES = (".jsonl", ".ndjson")
"""How names end that promise lines of JSON."""

BLOCK_BYTES = 128 * 1024
"""How much of a log is taken at a time."""

_TAIL_BYTES = 64
_GZIP_MAGIC = b"\x1f\x8b"


class Row(NamedTuple):
    """The metrics of one step under their native keys: numbers, NaN and infinities included."""

    step: int
    metrics: Mapping[str, float]
    time: float | None = None
    """Seconds since 1970, or None where the log does not say."""
    epoch: float | None = None


make_row: Callable[[tuple[int, Mapping[str, float], float | None, float | None]], Row] = partial(tuple.__new__, Row)
"""A row of its four fields, in half the time that ``Row`` takes."""


class Meta(NamedTuple):
    """What the log says about the run: hyper-parameters, names."""

    config: Mapping[str, Any]
    run: str = ""
    """Name of the run that the following rows belong to, where a log holds several."""


class Bad(NamedTuple):
    """Something that could not be read: its line (from 1; for binary logs the record) and why."""

    line: int
    reason: str


class Ended(NamedTuple):
    """The log says that the run is over: finished or failed. A resumed run may write more after it."""

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

    def read(self, path: Path) -> Iterator[Item | None]:
        """Everything that is completely in the file now, in its order; nothing in it is ever evaluated.

        None says that this is all for now: asked again, the iterator goes on with what has been appended since, and
        in between it holds no file open. An iterator that ends cannot go on: the file has to be read anew (documents
        that are rewritten as a whole, packed files, a log that is damaged beyond).

        A torn end waits, a bad line is an item, a list, text or object is no metric.

        Raises:
            OSError: the file cannot be read.
        """


def read_all(source: Source, path: Path) -> Iterator[Item]:
    """Everything that is completely in a file now.

    Raises:
        OSError: the file cannot be read.
    """
    for item in source.read(path):
        if item is None:
            return
        yield item


def read_head(path: Path) -> Head:
    """The beginning of a file, whatever it holds; of a packed one as much of it as can be unpacked.

    Raises:
        OSError: the file cannot be read.
    """
    data = b""
    for block in read_blocks(path):
        if not isinstance(block, bytes) or len(data) >= HEAD_BYTES:
            break
        data += block
    return Head(path.name.removesuffix(".gz"), data[:HEAD_BYTES])


def open_log(path: Path) -> BinaryIO:
    """Open a log, unpacking gzip whatever its name says."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP_MAGIC
    return cast("BinaryIO", gzip.open(path)) if packed else path.open("rb")


def read_blocks(path: Path) -> Iterator[bytes | Bad | None]:
    """The bytes of a log, block by block; a plain file is open only while a block is taken.

    At the end of a plain file comes None, and asked again what was appended since; nothing any more where another
    file took its place or what was read has changed. A packed file ends, with an item where it is damaged; one that is
    still being written just ends.

    Raises:
        OSError: the file cannot be read.
    """
    offset = inode = 0
    tail = b""
    while True:
        with path.open("rb") as file:
            here = os.fstat(file.fileno()).st_ino
            file.seek(offset - len(tail))
            block = file.read(len(tail) + BLOCK_BYTES)
        inode = inode or here
        if inode != here or not block.startswith(tail):
            yield None
            continue
        block = block[len(tail) :]
        if not offset and block.startswith(_GZIP_MAGIC):
            yield from _unpacked_blocks(path)
            return
        if offset or len(block) >= len(_GZIP_MAGIC):  # the first bytes decide together
            offset += len(block)
            tail = (tail + block[-_TAIL_BYTES:])[-_TAIL_BYTES:]
            yield block
        if len(block) < BLOCK_BYTES:
            yield None


def _unpacked_blocks(path: Path) -> Iterator[bytes | Bad]:
    try:
        with gzip.open(path) as file:
            while block := file.read1(BLOCK_BYTES):
                yield block
    except EOFError:
        return
    except (zlib.error, gzip.BadGzipFile) as error:
        yield Bad(1, f"damaged gzip: {error}")


class LineBlocks:
    """The blocks of a log cut after their last newline.

    Attributes:
        unfinished: What came after it and waits for its own.
    """

    def __init__(self, path: Path) -> None:
        self.unfinished = b""
        self._path = path

    def __iter__(self) -> Iterator[bytes | Bad | None]:
        for block in read_blocks(self._path):
            if not isinstance(block, bytes):
                yield block
            elif end := block.rfind(b"\n") + 1:
                lines, self.unfinished = self.unfinished + block[:end], block[end:]
                yield lines
            else:
                self.unfinished += block


def read_text(path: Path) -> Iterator[str | Bad | None]:
    """Complete lines of text, many at a time, as ``read_blocks`` gives bytes; what is no UTF-8 is replaced.

    Raises:
        OSError: the file cannot be read.
    """
    encoding = "utf-8-sig"
    for block in LineBlocks(path):
        if isinstance(block, bytes):
            yield block.decode(encoding, "replace")
            encoding = "utf-8"
        else:
            yield block
