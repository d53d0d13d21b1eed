"""Readers of the logs that trainers write by themselves: one file per format, told by content."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from exporter.errors import ConfigError
from exporter.sources.base import Bad, Ended, Head, Item, Meta, Row, Source, open_log, read_all, read_head

__all__ = [
    "SOURCES",
    "Bad",
    "Ended",
    "Head",
    "Item",
    "Meta",
    "Row",
    "Source",
    "find_source",
    "open_log",
    "read_all",
    "read_head",
    "source_named",
]

SOURCES: Mapping[str, str] = {
    "tensorboard": "exporter.sources.tensorboard:TensorBoard",
    "trackio": "exporter.sources.trackio:Trackio",
    "trainer_state": "exporter.sources.trainer_state:TrainerState",
    "wandb": "exporter.sources.wandb:Wandb",
    "jsonl": "exporter.sources.jsonl:Jsonl",
    "csv": "exporter.sources.csv_table:CsvTable",
    "console": "exporter.sources.console:Console",
}
"""Formats by name, asked in this order: the strictest content first."""


def source_named(name: str) -> Source:
    """The reader of a format.

    Raises:
        ConfigError: there is no such format.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown format {name!r}; known are: {', '.join(SOURCES)}")
    module, _, attribute = SOURCES[name].partition(":")
    return cast("Source", getattr(importlib.import_module(module), attribute)())


def find_source(path: Path) -> Source | None:
    """The reader that recognises a file, or None where it is no log.

    Raises:
        OSError: the file cannot be read.
    """
    head = read_head(path)
    return next((source for source in map(source_named, SOURCES) if source.recognises(head)), None)
