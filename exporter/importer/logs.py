"""Which files of a folder are logs, and which run each belongs to."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Namer
from exporter.journal import is_journal
from exporter.sources import Row, Source, find_source, read_all

__all__ = [
    "WHOLE_HISTORY",
    "FoundLog",
    "LogFinder",
    "Place",
    "as_run_id",
    "lone_log",
    "preferred",
    "runs_of",
]

_PREFERENCE = ("jsonl", "csv", "trackio", "tensorboard", "trainer_state", "console", "wandb")
"""Of the formats in which a trainer writes one run, the one that is read: exact and complete ones first."""

WHOLE_HISTORY = "trainer_state"
"""The format whose every file repeats the whole history, one in each checkpoint: the newest is followed."""

_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".txt", ".log", ".out", ".err", ".db", ".yaml", ".v2", ""})
_RUN_NAMES = re.compile(
    r"progress\.(csv|json)|result\.json|metrics\.(csv|jsonl)|trainer_state\.json|trainer_log\.jsonl"
    r"|events\.out\.tfevents\..*|wandb-summary\.json|config\.yaml|(train_?)?log\.(txt|csv|jsonl)"
)
"""Names that say nothing about the run: its folder does."""

_FOLDERS_IN_A_RUN = re.compile(
    r"(?<![^/])(checkpoint-\d+|files|tensorboard|tb|tb_logs|csv|runs/[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_[^/]+)/"
)
"""Folders that trainers make within a run's: Hugging Face's checkpoints and event files, W&B's files."""

_RANK = re.compile(r"(?:^|[./_-])rank[._-]?(\d{1,6})(?=$|[./_-])")
_SETTINGS_NAME = "config.yaml"
"""W&B's file of settings adds to whatever the metrics are read from."""

_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_.:=@+-]+")
_ID_LENGTH = 128
_DEEPEST = 8
_MOST_FILES = 100_000
_ROWS_LOOKED_AT = 20
_UNDECIDED_BYTES = 64 * 1024
_NAME = attrgetter("name")


class Place(NamedTuple):
    """Which journal something belongs to."""

    run_id: str
    rank: int


class FoundLog(NamedTuple):
    """A log, how to read it, and the run and rank it belongs to."""

    path: Path
    source: Source
    place: Place
    home: str
    """The folder that was looked through."""
    key: str
    """What it is known by: the path before it was compressed; a file with the whole history replaces another one."""


class _Verdict(NamedTuple):
    """What a file of this inode and size is; a log is one however much it grows."""

    inode: int
    size: int
    run_id: str = ""
    journal: Path | None = None
    log: FoundLog | None = None

    @property
    def is_log(self) -> bool:
        """Whether it is a log of any kind."""
        return self.log is not None or self.journal is not None

    def holds(self, status: os.stat_result) -> bool:
        """Whether there is no need to look into the file again."""
        is_settled = self.log is not None or self.size >= _UNDECIDED_BYTES
        return self.inode == status.st_ino and (is_settled or self.size == status.st_size)


_UNSEEN = _Verdict(0, 0)


class LogFinder:
    """Looks through folders again and again; a file is opened only while it is not known what it is."""

    def __init__(self, paths: Iterable[Path], namer: Namer, source: Source | None = None, run_id: str = "") -> None:
        """``source`` and ``run_id`` are taken for every log, instead of what content and path say."""
        self.trouble = ""
        """Why a log was left out, in one line."""
        self._paths = list(paths)
        self._namer = namer
        self._source = source
        self._run_id = run_id
        self._verdicts: dict[str, _Verdict] = {}

    def find(self, changed_since: float) -> tuple[list[Path], list[FoundLog]]:
        """Journals, and other logs that were written after a time; a file that was named is taken whatever its age."""
        journals: list[_Verdict] = []
        logs: list[_Verdict] = []
        verdicts: dict[str, _Verdict] = {}
        for root in self._paths:
            is_folder = os.path.isdir(root)
            for path, status in _files(root) if is_folder else _file(root):
                if verdicts.get(path, _UNSEEN).is_log:
                    continue
                verdict = self._verdicts.get(path, _UNSEEN)
                if not verdict.holds(status):
                    verdict = self._judge(root, Path(path), status, is_named=not is_folder)
                verdicts[path] = verdict
                if verdict.journal:
                    journals.append(verdict)
                elif verdict.log and (status.st_mtime > changed_since or not is_folder):
                    logs.append(verdict)
        self._verdicts = verdicts
        return self._journals(journals), self._logs(logs, journals)

    def _journals(self, found: list[_Verdict]) -> list[Path]:
        """Without those that were compressed and are there still."""
        paths = {verdict.journal: None for verdict in found if verdict.journal}
        return [path for path in paths if path.suffix != ".gz" or path.with_suffix("") not in paths]

    def _logs(self, found: list[_Verdict], journals: list[_Verdict]) -> list[FoundLog]:
        """Without those of runs that have a journal, and those of another run that would be called the same."""
        native = {verdict.run_id for verdict in journals}
        folders = {verdict.journal.parent for verdict in journals if verdict.journal}
        homes: dict[Place, str] = {}
        logs = []
        for run_id, log in ((verdict.run_id, verdict.log) for verdict in found):
            if log is None or run_id in native or (folders and log.path.parent in folders):
                continue
            home = homes.setdefault(log.place, log.home)
            if home == log.home or self._run_id:
                logs.append(log)
            else:
                self.trouble = (
                    f"{log.path} is not imported: {home} has a run {run_id!r} already; "
                    "serve the folder above both, so that they are told apart"
                )
        return logs

    def _judge(self, root: Path, path: Path, status: os.stat_result, *, is_named: bool) -> _Verdict:
        """What a file is."""
        verdict = _Verdict(status.st_ino, status.st_size)
        try:
            run_id, rank = _identity(root, path)
            if self._source is None and is_journal(path):
                return verdict._replace(run_id=run_id, journal=path)
            source = self._recognise(path, is_named=is_named) if status.st_size else None
        except Exception:  # noqa: BLE001 - whatever it is that a reader stumbles over, it is no log of ours
            return verdict
        if source is None:
            return verdict
        home = str(root.parent if is_named else root)
        log = FoundLog(path, source, Place(self._run_id or run_id, rank), home, _key(path, source))
        return verdict._replace(run_id=run_id, log=log)

    def _recognise(self, path: Path, *, is_named: bool) -> Source | None:
        if is_named and self._source:
            return self._source
        source = find_source(path)
        if source is None or self._source:
            return source and self._source
        if is_named or source.name not in ("jsonl", "csv") or _RUN_NAMES.fullmatch(_plain(path)):
            return source
        # A folder may hold tables of anything: a log has a metric that the catalog knows.
        rows = (item for item in read_all(source, path) if isinstance(item, Row))
        keys = {key for row in islice(rows, _ROWS_LOOKED_AT) for key in row.metrics}
        return source if any(self._namer.resolve(key).metric for key in keys) else None


def runs_of(logs: Iterable[FoundLog]) -> Mapping[Place, list[FoundLog]]:
    """The logs of each run and rank."""
    runs: dict[Place, list[FoundLog]] = {}
    for log in logs:
        runs.setdefault(log.place, []).append(log)
    return runs


def preferred(logs: Sequence[FoundLog], form: str = "") -> list[FoundLog]:
    """Of the logs of one run those to read: of one format, ``form`` where there is any, in the order of their names."""
    if len(logs) == 1:
        return list(logs)
    order = {name: number for number, name in enumerate(_PREFERENCE)}
    names = {log.source.name for log in logs}
    best = form if form in names else min(names, key=lambda name: order.get(name, len(order)))
    chosen = sorted((log for log in logs if log.source.name == best), key=lambda log: log.path.name)
    plain = {log.key for log in chosen if log.path.suffix != ".gz"}
    chosen = [log for log in chosen if log.path.suffix != ".gz" or log.key not in plain]
    if best == WHOLE_HISTORY:
        chosen = [max(chosen, key=lambda log: _modified(log.path))]
    return chosen + [log for log in logs if _plain(log.path) == _SETTINGS_NAME and log not in chosen]


def lone_log(path: Path, source: Source) -> FoundLog:
    """A log by itself."""
    return FoundLog(path, source, Place(*_identity(path, path)), str(path.parent), _key(path, source))


def _file(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """A file that was named, if it is there."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            yield str(path), status


def _files(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder that may be logs."""
    return islice(_walk(str(root), _DEEPEST), _MOST_FILES)


def _walk(folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=_NAME)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _walk(entry.path, depth - 1)
        elif _may_be_log(entry.name):
            with contextlib.suppress(OSError):
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):  # reading a pipe would wait for its writer
                    yield entry.path, status


@lru_cache(maxsize=_MOST_FILES)
def _may_be_log(name: str) -> bool:
    plain = name.removesuffix(".gz")
    return os.path.splitext(plain)[1].lower() in _SUFFIXES or ".tfevents." in plain


def _plain(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _key(path: Path, source: Source) -> str:
    return source.name if source.name == WHOLE_HISTORY else str(path).removesuffix(".gz")


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _identity(root: Path, path: Path) -> tuple[str, int]:
    """The run's id, from the folders below the root and where it says something the file's name; and the rank."""
    folders = "".join(f"{part}/" for part in path.relative_to(root).parts[:-1]) if root != path else ""
    name, ending = os.path.splitext(_plain(path))
    ranks = [found[1] for part in (folders, name) for found in _RANK.finditer(part)]
    name = _RANK.sub("", name)
    says_nothing = not name or _RUN_NAMES.fullmatch(name + ending)
    parts = [_RANK.sub("", part) for part in _FOLDERS_IN_A_RUN.sub("", folders).split("/")]
    kept = [part for part in (*parts, "" if says_nothing else name) if part]
    home = root if root != path else root.parent
    return as_run_id("-".join(kept or [home.resolve().name])), int(ranks[-1]) if ranks else 0


def as_run_id(text: str) -> str:
    """A text as a run's id: it names a folder and begins with a letter, digit or underscore."""
    run_id = _NOT_IN_AN_ID.sub("_", text).rstrip(". ") or "run"
    if not (run_id[0].isalnum() or run_id[0] == "_"):
        run_id = f"_{run_id}"
    if len(run_id) <= _ID_LENGTH:
        return run_id
    return f"{run_id[: _ID_LENGTH - 9]}-{zlib.crc32(run_id.encode()):08x}"
