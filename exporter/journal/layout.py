"""Where journals live: ``<runs>/<run_id>/metrics.jsonl``, one more file per rank above 0."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from exporter.errors import ConfigError

__all__ = ["TARGETS_FOLDER", "find_journals", "journal_name", "journal_rank", "validate_run_id"]

TARGETS_FOLDER = ".targets"
"""Folder under the runs folder where in-process servers register for Prometheus' file discovery."""

_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:=@+ '\"-]{0,127}", re.ASCII)
_JOURNAL = re.compile(r"metrics(?:\.rank([0-9]+))?\.jsonl(?:\.gz)?")


def validate_run_id(run_id: str) -> str:
    """Return the id if it can be one folder's name.

    Raises:
        ConfigError: it is empty, too long, hidden, or has a character that is not allowed.
    """
    if not _RUN_ID.fullmatch(run_id) or run_id.endswith((" ", ".")):
        raise ConfigError(
            f"run_id {run_id[:140]!r} is not usable: it names a folder, so it must be 1 to 128 letters, digits, "
            "spaces or _ . : = @ + ' \" - and start with a letter, digit or underscore; choose another id"
        )
    return run_id


def journal_name(rank: int) -> str:
    """File name of a rank's journal."""
    return "metrics.jsonl" if rank == 0 else f"metrics.rank{rank}.jsonl"


def journal_rank(path: Path) -> int | None:
    """The rank a journal's file name stands for, or None where the name is no journal's."""
    match = _JOURNAL.fullmatch(path.name)
    return int(match[1] or 0) if match else None


def find_journals(path: Path) -> Iterator[Path]:
    """Journals at a path: itself, those of a run folder, or those of every run of a runs folder.

    A folder that vanishes or cannot be read meanwhile yields nothing; hidden folders are left out.
    A plain file shadows its own ``.gz``, so a run that is being compressed is not seen twice.
    """
    if path.is_file():
        yield path
        return
    yield from _journals_in(path)
    for folder in _subfolders(path):
        yield from _journals_in(folder)


def _journals_in(folder: Path) -> list[Path]:
    names = {entry.name for entry in _entries(folder) if _JOURNAL.fullmatch(entry.name)}
    return [folder / name for name in sorted(names) if name.removesuffix(".gz") not in names - {name}]


def _subfolders(folder: Path) -> list[Path]:
    entries = (entry for entry in _entries(folder) if not entry.name.startswith("."))
    return sorted(folder / entry.name for entry in entries if entry.is_dir())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
