"""``telemetry-exporter export``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import click

from exporter.analysis.export import FORMATS, ExportFormat, new_file, unpacked
from exporter.errors import ConfigError
from exporter.importer import journals_of

__all__ = ["export"]

_STDOUT = Path("-")
_SHOWN = 20


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@click.argument("destination", metavar="DST", type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), help="Default: by the ending of DST.")
def export(path: Path, destination: Path, format_name: str | None) -> None:
    """Write a run, from its journal or any trainer's log, in the form of another tool; DST - is the output.

    jsonl is a journal in strict JSON. csv and parquet have a row for each step, with its native keys; where a
    run was resumed, the column attempt tells steps apart that were trained twice. openmetrics has the series
    that Prometheus would have, each sample with its time.

    Example: telemetry-exporter export progress.csv run.parquet
    """
    form = _format(destination, format_name)
    warnings = _Warnings()
    with TemporaryDirectory() as folder, _opened(destination) as output:
        journals = [unpacked(journal, Path(folder) / "unpacked") for journal in journals_of(path, Path(folder))]
        form.write(journals, output, warnings.add)
    warnings.show()


class _Warnings:
    """Lines for stderr, the first of them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def add(self, line: str) -> None:
        self._count += 1
        if self._count <= _SHOWN:
            self._lines.append(line)

    def show(self) -> None:
        for line in self._lines:
            click.echo(f"warning: {line}", err=True)
        if self._count > _SHOWN:
            click.echo(f"warning: and {self._count - _SHOWN} more", err=True)


def _format(destination: Path, name: str | None) -> ExportFormat:
    if name is None:
        name = next((key for key, form in FORMATS.items() if destination.suffix in form.suffixes), None)
    if name is None:
        known = ", ".join(suffix for form in FORMATS.values() for suffix in form.suffixes)
        raise ConfigError(f"{destination} has none of the endings {known}; choose a form with --format")
    if destination == _STDOUT and not FORMATS[name].is_text:
        raise ConfigError(f"{name} is no text and needs a file; give one as DST")
    return FORMATS[name]


@contextlib.contextmanager
def _opened(destination: Path) -> Iterator[BinaryIO]:
    if destination != _STDOUT:
        with new_file(destination) as file:
            yield file
        return
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
