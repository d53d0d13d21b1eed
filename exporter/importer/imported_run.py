"""One run and rank as its foreign logs tell it, taken over into journals."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from exporter.catalog import Namer
from exporter.exposition import run_labels
from exporter.importer.followed import FollowedLog, Mark
from exporter.importer.logs import WHOLE_HISTORY, FoundLog, as_run_id
from exporter.importer.output import JournalOutput
from exporter.importer.timeline import LogClock
from exporter.journal import journal_name
from exporter.records import Labels, RunStart
from exporter.sources import Bad, Ended, Item, Meta, Row, read_all

__all__ = ["ImportedRun"]

_FLUSH_LINES = 20_000
_LOOKS_AT_THE_CLOCK = 256


class ImportedRun:
    """Follows the logs of one run; a log that holds several runs gives several journals.

    The marks file is written after the journals and says how long they were, so that a process that is killed
    in between neither loses nor repeats a value.
    """

    def __init__(self, folder: Path, start: RunStart, namer: Namer) -> None:
        self.skips_history = False
        self.trouble = ""
        """What was wrong with a log, in one line; empty while all is well."""
        self._folder = folder
        self._start = start
        self._namer = namer
        self._marks_file = folder / start.run_id / f".marks-{start.rank}.json"
        self._saved = _load(self._marks_file)
        self.form: str = self._saved.get("format", "")
        """The format that is read, once there is one."""
        self._logs: dict[Path, FollowedLog] = {}
        self._clocks: dict[Path, LogClock] = {}
        self._outputs: dict[str, JournalOutput] = {}
        for name in self._saved.get("journals", {}):
            self._output(name)

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
        return sum(log.mark.bad for log in self._logs.values())

    def follow(self, logs: Sequence[FoundLog]) -> None:
        """Follow these logs, and go on with those that are followed already."""
        for log in logs:
            if log.path not in self._logs:
                self._logs[log.path] = FollowedLog(log.path, log.source, self._mark(log))
                self.form = self.form or log.source.name

    def journals(self) -> Iterator[Path]:
        """The journals that there are."""
        return (output.path for output in self._outputs.values() if output.size)

    def take(self, deadline: float) -> bool:
        """Take what is new until a time of the monotonic clock; returns whether that was all.

        Raises:
            OSError: a journal cannot be written; a new object goes on from what is on disk.
        """
        marks = [log.mark for log in self._logs.values()]
        for log in self._logs.values():
            with contextlib.suppress(OSError):  # it is gone, or out of sight, for now
                log.look()
        is_done = self._take_all(deadline)
        if marks != [log.mark for log in self._logs.values()]:
            self._save()
        return is_done

    def _mark(self, log: FoundLog) -> Mark | None:
        """How far a log was taken; a newer file with the whole history goes on where the one before it stood."""
        saved = {path: Mark(*mark) for path, mark in self._saved.get("logs", {}).items()}
        if log.source.name != WHOLE_HISTORY:
            return saved.get(str(log.path))
        before = [path for path, known in self._logs.items() if known.source.name == WHOLE_HISTORY]
        marks = [self._logs.pop(path).mark for path in before] or list(saved.values())
        return max(marks, key=lambda mark: mark.values, default=None)

    def _take_all(self, deadline: float) -> bool:
        taken = 0
        while log := self._earliest():
            item = log.peek()
            if item is not None:
                log.pop()
                self._take(log, item)
            taken += 1
            if taken % _FLUSH_LINES == 0:
                self._save()
            if taken % _LOOKS_AT_THE_CLOCK == 0 and time.monotonic() > deadline:
                return False
        self.skips_history = False
        return True

    def _earliest(self) -> FollowedLog | None:
        """The log whose next item comes first, so that several files of one run make one history."""
        best, best_time = None, math.inf
        for log in self._logs.values():
            with contextlib.suppress(OSError):
                item = log.peek()
                when = item.time if isinstance(item, Row) and item.time is not None else -math.inf
                if item is not None and (best is None or when < best_time):
                    best, best_time = log, when
        return best

    def _take(self, log: FollowedLog, item: Item) -> None:
        if isinstance(item, Bad):
            self.trouble = f"{log.path}, line {item.line}: {item.reason} (more such lines are only counted)"
            return
        if self.skips_history and not isinstance(item, Meta):
            return
        output = self._output(log.mark.run)
        if isinstance(item, Row):
            if item.metrics:
                output.add_row(item, self._time_of(log, item))
        elif isinstance(item, Meta):
            output.add_meta(item, output.latest or log.modified)
        elif isinstance(item, Ended):
            output.end(item.status, log.modified)

    def _time_of(self, log: FollowedLog, row: Row) -> float:
        if row.time is not None:
            return row.time
        if log.path not in self._clocks:
            clock = self._clocks[log.path] = LogClock()
            with contextlib.suppress(OSError):
                clock.set(read_all(log.source, log.path), log.mark.values, log.modified)
        return self._clocks[log.path].time_of(row, log.modified)

    def _output(self, name: str) -> JournalOutput:
        """The journal of a run by its name in the log; most logs hold one run without a name."""
        if name not in self._outputs:
            run_id = as_run_id(f"{self._start.run_id}-{name}") if name else self._start.run_id
            path = self._folder / run_id / journal_name(self._start.rank)
            size, epoch_offset = self._saved.get("journals", {}).get(name, (0, 0))
            output = JournalOutput(path, self._start._replace(run_id=run_id), self._namer, size)
            output.timeline.epoch_offset = epoch_offset
            self._outputs[name] = output
        return self._outputs[name]

    def _save(self) -> None:
        for output in self._outputs.values():
            output.flush()
        state = {
            "format": self.form,
            "journals": {name: [out.size, out.timeline.epoch_offset] for name, out in self._outputs.items()},
            "logs": {str(path): list(log.mark) for path, log in self._logs.items()},
        }
        self._marks_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._marks_file.with_name(f"{self._marks_file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(state))
        temporary.replace(self._marks_file)


def _load(path: Path) -> dict[str, Any]:
    """What was saved; where it is missing or spoilt, the import starts over."""
    try:
        state = json.loads(path.read_text())
        {name: (int(size), int(offset)) for name, (size, offset) in state["journals"].items()}
        {path: Mark(*mark) for path, mark in state["logs"].items()}
        return dict(state)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return {}
