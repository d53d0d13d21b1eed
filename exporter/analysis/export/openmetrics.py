"""OpenMetrics files: every sample with its time, as ``promtool tsdb create-blocks-from openmetrics`` takes them."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from exporter.analysis.export.journals import Warn
from exporter.analysis.export.samples import RunSamples, read_runs
from exporter.exposition import Format, Page, add_steps
from exporter.records import Family

__all__ = ["write_journals", "write_openmetrics"]

_Extent = tuple[int, int]
"""Where a block begins in the spool, and its length."""


def write_journals(journals: Sequence[Path], output: BinaryIO, warn: Warn) -> None:
    """Write all samples of journals.

    Raises:
        ConfigError: two journals are of one run.
        OSError: a journal cannot be read, or the output cannot be written.
    """
    runs = read_runs(journals)
    write_openmetrics(runs, output)
    for run in runs:
        for line in run.left_out():
            warn(line)


def write_openmetrics(runs: Iterable[RunSamples], output: BinaryIO) -> None:
    """Write all samples of runs, each family and each series in one place.

    Raises:
        OSError: a journal cannot be read, or the output cannot be written.
    """
    with tempfile.TemporaryFile() as spool:
        page = _SpooledPage(spool)
        for run in runs:
            for piece in run.pieces():
                add_steps(page, piece.steps, run.series, run.catalog)
                page.add(piece.summary)
        page.write_to(output)


class _SpooledPage(Page):
    """A page of any size: its blocks wait in a file until all are known."""

    def __init__(self, spool: IO[bytes]) -> None:
        super().__init__(Format.OPENMETRICS)
        self._spool = spool
        self._size = 0
        self._extents: dict[Family, dict[Hashable, list[_Extent]]] = {}

    def add_block(self, family: Family, series: Hashable, block: bytes) -> None:
        """Keep ready sample lines of one series of a family."""
        extents = self._extents.setdefault(family, {}).setdefault(series, [])
        extents.append((self._size, len(block)))
        self._spool.write(block)
        self._size += len(block)

    def write_to(self, output: BinaryIO) -> None:
        """Write the page."""
        for family, series in self._extents.items():
            output.write(self.format.header(family))
            for extents in series.values():
                for begin, length in extents:
                    self._spool.seek(begin)
                    output.write(self._spool.read(length))
        output.write(self.format.end)
