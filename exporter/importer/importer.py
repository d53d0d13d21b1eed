"""Follows foreign logs and writes what they hold into journals, one folder a run, in a folder of its own."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.catalog import Namer, default_catalog
from exporter.errors import ConfigError
from exporter.importer.imported_run import ImportedRun
from exporter.importer.logs import FoundLog, LogFinder, Place, lone_log, runs_of
from exporter.journal import is_journal
from exporter.records import RunStart
from exporter.sources import Source, find_source

try:
    import fcntl
except ImportError:  # not on Windows: there two sidecars of one folder are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["ImportOptions", "Importer", "journals_below", "journals_of"]

FOLLOW_SECONDS = 7 * 86400.0
"""A log that was last written longer ago is not followed; ``backfill`` is for those."""

_ACTIVE_SECONDS = 30.0
_MOST_SAID = 1000


@dataclass(frozen=True)
class ImportOptions:
    """What is said about the runs from outside of their logs."""

    run_id: str = ""
    """The id of all of them, where there is only one."""
    user_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    source: Source | None = None
    """The format of all logs; None recognises each."""
    from_now: bool = False
    """Leave out what the logs hold when the import begins."""


class Importer:
    """Finds the logs below some paths and keeps their journals up to date; one process at a time writes them."""

    def __init__(self, paths: Iterable[Path], folder: Path, options: ImportOptions) -> None:
        """``folder`` holds the journals, and how far each log was taken."""
        self._folder = folder
        self._options = options
        self._namer = Namer(default_catalog())
        self._finder = LogFinder(paths, self._namer, options.source, options.run_id)
        self._runs: dict[Place, ImportedRun] = {}
        self._journals: list[Path] = []
        self._lock_fd: int | None = None
        self._skips_history = options.from_now
        self._active_since = 0.0
        self._said: set[str] = set()
        self.is_behind = False
        """Whether the last take ran out of time before it had read everything."""

    @property
    def runs(self) -> list[ImportedRun]:
        """Every run and rank that is being imported."""
        return list(self._runs.values())

    def find(self) -> None:
        """Look for new logs."""
        if self._lock_fd is None:
            self._runs.clear()  # who writes may have taken more since
            self._lock_fd = self._lock()
        oldest = time.time() - FOLLOW_SECONDS
        self._journals, logs = self._finder.find(oldest)
        self._say(self._finder.trouble)
        runs = runs_of(logs)
        self._runs = {place: run for place, run in self._runs.items() if place in runs or run.modified > oldest}
        for place, found in runs.items():
            if place not in self._runs:
                self._runs[place] = self._run(place, skips_history=self._skips_history)
            self._runs[place].follow(found)
        self._skips_history = False
        self._active_since = 0.0

    def take(self, seconds: float) -> None:
        """Take over what is new in the logs that were found, for about so many seconds at most.

        Of those that have not changed for a while only the first call after ``find`` takes notice.
        """
        now = time.monotonic()
        self.is_behind = False
        since, self._active_since = self._active_since, now - _ACTIVE_SECONDS
        if self._lock_fd is None:
            return
        for place, run in list(self._runs.items()):
            if run.changed >= since:
                self._take_run(place, now + seconds)

    def journals(self) -> list[Path]:
        """Every journal: native ones, and those of imported runs."""
        return self._journals + [path for run in self._runs.values() for path in run.journals()]

    def close(self) -> None:
        """Let another process go on."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _run(self, place: Place, *, skips_history: bool) -> ImportedRun:
        start = RunStart(0.0, place.run_id, self._options.user_id, tags=self._options.tags, rank=place.rank)
        return ImportedRun(self._folder, start, self._namer, skips_history=skips_history)

    def _take_run(self, place: Place, deadline: float) -> None:
        run = self._runs[place]
        try:
            is_done = run.take(deadline)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one run, the others go on
            self._say(f"cannot import {place.run_id}: {str(error) or repr(error)}; trying again")
            # When its logs are found again, it goes on from what is on disk.
            self._runs[place] = self._run(place, skips_history=run.skips_history)
            return
        self.is_behind |= not is_done
        self._say(run.trouble)

    def _lock(self) -> int | None:
        """Become the one that writes into the folder; another takes over when this process ends."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._say(f"cannot write {self._folder}: {error.strerror}; foreign logs are not imported")
            return None
        try:
            if fcntl is not None:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            pass  # a file system without locks
        return fd

    def _say(self, message: str) -> None:
        """One line per kind of trouble."""
        if message and message not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(message)
            print(f"telemetry: {message}", file=sys.stderr)


def journals_of(path: Path, folder: Path, source: Source | None = None) -> list[Path]:
    """Journals with everything that a log holds: itself if it is a journal, else imported into ``folder``.

    Raises:
        ConfigError: it is no log of a known format.
        OSError: it cannot be read, or the folder cannot be written.
    """
    if source is None and is_journal(path):
        return [path]
    source = source or find_source(path)
    if source is None:
        raise ConfigError(f"{path} is no training log of a known format; --format overrides the detection")
    log = lone_log(path, source)
    return _imported(log.place, [log], folder)


def journals_below(path: Path, folder: Path, source: Source | None = None) -> list[Path]:
    """Journals with everything that the logs below a path hold, each run once; of a file as ``journals_of``.

    Raises:
        ConfigError: there is no log of a known format.
        OSError: one cannot be read, or the folder cannot be written.
    """
    if not path.is_dir():
        return journals_of(path, folder, source)
    journals, logs = LogFinder([path], Namer(default_catalog()), source).find(-math.inf)
    found = journals + [made for place, log in runs_of(logs).items() for made in _imported(place, log, folder)]
    if not found:
        raise ConfigError(f"there is no training log of a known format below {path}; name a file")
    return found


def _imported(place: Place, logs: Sequence[FoundLog], folder: Path) -> list[Path]:
    """Journals with everything that the logs of one run hold."""
    run = ImportedRun(folder, RunStart(0.0, place.run_id, rank=place.rank), Namer(default_catalog()))
    run.follow(logs)
    while not run.take(math.inf):
        pass
    return list(run.journals())
