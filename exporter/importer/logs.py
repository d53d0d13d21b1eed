"""Which files of a folder are logs, and which run each belongs to."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Namer
from exporter.journal import is_journal
from exporter.sources import Row, Source, find_source, read_all

__all__ = ["WHOLE_HISTORY", "FoundLog", "LogFinder", "Place", "as_run_id", "lone_log", "preferred", "runs_of"]

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


class Place(NamedTuple):
    """Which journal something belongs to."""

    run_id: str
    rank: int


class FoundLog(NamedTuple):
    """A log, how to read it, and the run and rank it belongs to."""

    path: Path
    source: Source
    run_id: str
    rank: int


class _Verdict(NamedTuple):
    inode: int
    size: int
    source: Source | None
    is_journal: bool


class LogFinder:
    """Looks through folders again and again; a file is opened only while it is not known what it is."""

    def __init__(self, paths: Iterable[Path], namer: Namer, source: Source | None = None, run_id: str = "") -> None:
        """``source`` and ``run_id`` are taken for every log, instead of what content and path say."""
        self._paths = list(paths)
        self._namer = namer
        self._source = source
        self._run_id = run_id
        self._verdicts: dict[str, _Verdict] = {}

    def find(self, changed_since: float) -> tuple[list[Path], list[FoundLog]]:
        """Journals, and other logs that were written after a time; a file that was named is taken whatever its age."""
        journals, logs = [], []
        for root in self._paths:
            for entry, is_named in _files(root):
                try:
                    status = entry.stat()
                except OSError:
                    continue
                verdict = self._judge(Path(entry), status, is_named=is_named)
                if verdict.is_journal:
                    journals.append(Path(entry))
                elif verdict.source and (is_named or status.st_mtime > changed_since):
                    logs.append(self._found(root, Path(entry), verdict.source))
        journals = [path for path in journals if path.suffix != ".gz" or path.with_suffix("") not in journals]
        taken = {journal.parent for journal in journals}
        return journals, [log for log in logs if log.path.parent not in taken]

    def _judge(self, path: Path, status: os.stat_result, *, is_named: bool) -> _Verdict:
        """What a file is: settled once it is a log or long enough to tell."""
        known = self._verdicts.get(str(path))
        if known and known.inode == status.st_ino:
            settled = known.source or known.is_journal or known.size >= _UNDECIDED_BYTES
            if settled or known.size == status.st_size:
                return known
        verdict = _Verdict(status.st_ino, status.st_size, None, is_journal=False)
        try:
            if self._source is None and is_journal(path):
                verdict = verdict._replace(is_journal=True)
            elif status.st_size:
                verdict = verdict._replace(source=self._source or self._recognise(path, is_named=is_named))
        except OSError:
            pass
        self._verdicts[str(path)] = verdict
        return verdict

    def _recognise(self, path: Path, *, is_named: bool) -> Source | None:
        source = find_source(path)
        if source is None or is_named or source.name not in ("jsonl", "csv") or _RUN_NAMES.fullmatch(_plain(path)):
            return source
        # A folder may hold tables of anything: a log has a metric that the catalog knows.
        rows = (item for item in read_all(source, path) if isinstance(item, Row))
        keys = {key for row in islice(rows, _ROWS_LOOKED_AT) for key in row.metrics}
        return source if any(self._namer.resolve(key).metric for key in keys) else None

    def _found(self, root: Path, path: Path, source: Source) -> FoundLog:
        run_id, rank = _identity(root, path)
        return FoundLog(path, source, self._run_id or run_id, rank)


def runs_of(logs: Iterable[FoundLog]) -> Mapping[Place, list[FoundLog]]:
    """The logs of each run and rank."""
    runs: dict[Place, list[FoundLog]] = {}
    for log in logs:
        runs.setdefault(Place(log.run_id, log.rank), []).append(log)
    return runs


def preferred(logs: Sequence[FoundLog], form: str = "") -> list[FoundLog]:
    """Of the logs of one run those to read: of one format, ``form`` where there is any, in the order of their names."""
    order = {name: number for number, name in enumerate(_PREFERENCE)}
    names = {log.source.name for log in logs}
    best = form if form in names else min(names, key=lambda name: order.get(name, len(order)))
    chosen = sorted((log for log in logs if log.source.name == best), key=lambda log: log.path.name)
    if best == WHOLE_HISTORY:
        chosen = [max(chosen, key=lambda log: log.path.stat().st_mtime)]
    return chosen + [log for log in logs if _plain(log.path) == _SETTINGS_NAME and log not in chosen]


def lone_log(path: Path, source: Source) -> FoundLog:
    """A log by itself."""
    run_id, rank = _identity(path, path)
    return FoundLog(path, source, run_id, rank)


def _files(root: Path) -> Iterator[tuple[os.DirEntry[str] | Path, bool]]:
    """Files below a path that may be logs, and whether they were named themselves."""
    if not root.is_dir():
        yield root, True
        return
    yield from islice(((entry, False) for entry in _walk(root, _DEEPEST)), _MOST_FILES)


def _walk(folder: str | Path, depth: int) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _walk(entry.path, depth - 1)
        elif _may_be_log(entry.name):
            yield entry


@lru_cache(maxsize=_MOST_FILES)
def _may_be_log(name: str) -> bool:
    plain = name.removesuffix(".gz")
    return os.path.splitext(plain)[1].lower() in _SUFFIXES or ".tfevents." in plain


def _plain(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _identity(root: Path, path: Path) -> tuple[str, int]:
    """The run's id, from the folders below the root and where it says something the file's name; and the rank."""
    folders = "".join(f"{part}/" for part in path.relative_to(root).parts[:-1]) if root != path else ""
    name = os.path.splitext(_plain(path))[0]
    parts = [*_FOLDERS_IN_A_RUN.sub("", folders).split("/"), "" if _RUN_NAMES.fullmatch(_plain(path)) else name]
    kept = list(filter(None, (_RANK.sub("", part) for part in parts)))
    ranks = [found[1] for part in (folders, name) for found in _RANK.finditer(part)]
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
