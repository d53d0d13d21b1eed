"""One run and rank as its foreign logs tell it, taken over into journals."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

from exporter.catalog import Namer
from exporter.exposition import run_labels
from exporter.importer.followed import FollowedLog, Mark
from exporter.importer.logs import FoundLog, as_run_id, preferred
from exporter.importer.output import JournalOutput
from exporter.importer.timeline import LogClock
from exporter.journal import journal_name
from exporter.journal.decode import END_OF_TIME
from exporter.records import Labels, RunStart
from exporter.sources import Bad, Ended, Item, Meta, Row

__all__ = ["ImportedRun"]

_FLUSH_LINES = 20_000
_LOOKS_AT_THE_CLOCK = 256


class _Journal(NamedTuple):
    size: int
    epoch_offset: int


class _Saved(NamedTuple):
    """What the marks file says."""

    form: str = ""
    journals: Mapping[str, _Journal] = {}
    logs: Mapping[str, Mark] = {}


class ImportedRun:
    """Follows the logs of one run; a log that holds several runs gives several journals.

    The marks file is written after the journals and says how long they were, so that a process that is killed
    in between neither loses nor repeats a value.
    """

    def __init__(self, folder: Path, start: RunStart, namer: Namer, *, skips_history: bool = False) -> None:
        """Nothing is written before the first ``take``.

        Args:
            folder: Holds the journals of all runs, and how far their logs were taken.
            start: What is known about the run from outside of its logs.
            namer: Tells the framework by the metrics' names.
            skips_history: Leave out what the logs hold by now, unless their import began earlier.
        """
        self.trouble = ""
        """What was wrong with a log, in one line; empty while all is well."""
        self.changed = time.monotonic()
        """When a log was last seen to have changed, by the monotonic clock."""
        self._folder = folder
        self._start = start
        self._namer = namer
        self._marks_file = folder / start.run_id / f".marks-{start.rank}.json"
        self._saved = _load(self._marks_file)
        if not all(_is_there(self._journal(name), journal.size) for name, journal in self._saved.journals.items()):
            self._saved = _Saved()
        self.skips_history = skips_history and not self._saved.form
        self.form = self._saved.form
        """The format that is read: settled with the first row."""
        self._is_begun = bool(self.form)
        self._logs: dict[str, FollowedLog] = {}
        self._clocks: WeakKeyDictionary[FollowedLog, tuple[int, LogClock]] = WeakKeyDictionary()
        self._outputs: dict[str, JournalOutput] = {}

    @property
    def labels(self) -> Labels:
        """Labels of every series of the run."""
        return tuple(sorted(run_labels(self._start).items()))

    @property
    def modified(self) -> float:
        """When one of the logs was last written, in seconds since 1970."""
        return max((log.modified for log in self._logs.values()), default=0.0)

    @property
    def bad_lines(self) -> int:
        """Lines of the logs that could not be read."""
        return sum(log.mark.bad for log in list(self._logs.values()))

    def follow(self, found: Sequence[FoundLog]) -> None:
        """Follow those of its logs that are to be read, and go on with those that are followed already."""
        logs = preferred(found, self.form if self._is_begun else "")
        if not self._is_begun:
            self.form = logs[0].source.name
            keys = {log.key for log in logs}
            self._logs = {key: log for key, log in self._logs.items() if key in keys}
        for log in logs:
            known = self._logs.get(log.key)
            if known is None or known.path != log.path:
                mark = known.mark if known else self._saved.logs.get(log.key)
                self._logs[log.key] = FollowedLog(log.path, log.source, mark)

    def journals(self) -> list[Path]:
        """The journals that there are."""
        sizes = {name: journal.size for name, journal in self._saved.journals.items()}
        sizes.update((name, output.size) for name, output in list(self._outputs.items()))
        return [self._journal(name) for name, size in sizes.items() if size]

    def take(self, deadline: float) -> bool:
        """Take what is new until a time of the monotonic clock; returns whether that was all.

        Raises:
            OSError: a journal cannot be written; a new object goes on from what is on disk.
        """
        for name in self._saved.journals:
            self._output(name)
        for log in self._logs.values():
            with contextlib.suppress(OSError):  # it is gone, or out of sight, for now
                if log.look():
                    self.changed = time.monotonic()
        if all(log.is_drained for log in self._logs.values()):
            return True
        is_done = self._take_all(deadline)
        self._save()
        return is_done

    def _take_all(self, deadline: float) -> bool:
        for taken, (log, item) in enumerate(self._in_order(), 1):
            log.pop()
            self._take(log, item)
            if taken % _FLUSH_LINES == 0:
                self._save()
            if taken % _LOOKS_AT_THE_CLOCK == 0 and time.monotonic() > deadline:
                return False
        self.skips_history = False
        return True

    def _in_order(self) -> Iterator[tuple[FollowedLog, Item]]:
        """What the logs have to say, by time, so that several files of one run make one history."""
        while heads := self._heads():
            log, until = heads[0][1], heads[1][0] if heads[1:] else math.inf
            with contextlib.suppress(OSError):
                while (item := log.peek()) is not None and _moment(item) <= until:
                    yield log, item

    def _heads(self) -> list[tuple[float, FollowedLog]]:
        """The logs with a next item and its time, the earliest first."""
        heads = []
        for log in self._logs.values():
            with contextlib.suppress(OSError):
                if (item := log.peek()) is not None:
                    heads.append((_moment(item), log))
        return sorted(heads, key=itemgetter(0))

    def _take(self, log: FollowedLog, item: Item) -> None:
        if isinstance(item, Bad):
            self.trouble = f"{log.path}, line {item.line}: {item.reason} (more such lines are only counted)"
        elif isinstance(item, Meta):
            output = self._output(log.mark.run)
            output.add_meta(item, output.latest or log.modified)
        elif isinstance(item, Row) and item.metrics:
            self._is_begun = True
            if not self.skips_history:
                self._output(log.mark.run).add_row(item, self._time_of(log, item))
        elif isinstance(item, Ended) and not self.skips_history:
            self._output(log.mark.run).end(item.status, log.modified)

    def _time_of(self, log: FollowedLog, row: Row) -> float:
        if row.time is not None and not 0 <= row.time < END_OF_TIME:
            row = row._replace(time=None)
        inode, clock = self._clocks.get(log, (0, None))
        if row.time is not None and clock is None:
            return row.time
        modified = min(log.modified, time.time())
        if clock is None or inode != log.mark.inode:
            clock = LogClock(log.rows(), log.mark.taken.values, modified)
            self._clocks[log] = log.mark.inode, clock
        return clock.time_of(row, modified)

    def _output(self, name: str) -> JournalOutput:
        """The journal of a run by its name in the log; most logs hold one run without a name."""
        if name not in self._outputs:
            path, saved = self._journal(name), self._saved.journals.get(name, _Journal(0, 0))
            output = JournalOutput(path, self._start._replace(run_id=path.parent.name), self._namer, saved.size)
            output.timeline.epoch_offset = saved.epoch_offset
            self._outputs[name] = output
        return self._outputs[name]

    def _journal(self, name: str) -> Path:
        run_id = as_run_id(f"{self._start.run_id}-{name}") if name else self._start.run_id
        return self._folder / run_id / journal_name(self._start.rank)

    def _save(self) -> None:
        if self.skips_history:  # who goes on from here would take the rest of it
            return
        for output in self._outputs.values():
            output.flush()
        state = {
            "format": self.form if self._is_begun else "",
            "journals": {name: [out.size, out.timeline.epoch_offset] for name, out in self._outputs.items()},
            "logs": {**self._saved.logs, **{key: log.mark for key, log in self._logs.items()}},
        }
        self._marks_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._marks_file.with_name(f"{self._marks_file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._marks_file)


def _moment(item: Item) -> float:
    """When an item was; what says no time comes first."""
    time = item.time if isinstance(item, Row) else None
    return time if time is not None and time >= 0 else -math.inf


def _is_there(journal: Path, size: int) -> bool:
    try:
        return journal.stat().st_size >= size
    except OSError:
        return not size


def _load(path: Path) -> _Saved:
    """What was saved; where it is missing or spoilt, the import starts over."""
    try:
        state = json.loads(path.read_text())
        journals = {name: _Journal(int(size), int(offset)) for name, (size, offset) in state["journals"].items()}
        return _Saved(str(state["format"]), journals, {key: Mark.parse(mark) for key, mark in state["logs"].items()})
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return _Saved()
