"""The past of a run into a server: each sample once, and none is believed to be stored before a query shows it.

What the server has already is not sent again, so a backfill that broke off goes on where it stopped.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from exporter.analysis.export.columns import time_series
from exporter.analysis.export.samples import RunSamples
from exporter.errors import ServerError
from exporter.records import Labels
from exporter.remote_write import FUTURE_SECONDS, Limits, RemoteWriter, StoredRun, TimeSeries, Written

__all__ = ["Backfill", "Outcome", "objections"]

_MOST_REFUSALS = 5
_LOOK_AGAIN_SECONDS = 0.5


def objections(runs: Iterable[RunSamples], limits: Limits, now: float) -> Iterator[str]:
    """Why a server would refuse runs or throw them away, and what to do; ``runs`` in the order of sending."""
    newest_ms = limits.newest_ms
    for run in runs:
        for objection in limits.objections(run.first_ms, run.last_ms, newest_ms, now):
            yield f"{run.name}: {objection}"
        newest_ms = max(newest_ms, run.last_ms)


@dataclass
class Outcome:
    """What became of a run, in samples."""

    total: int = 0
    known: int = 0
    """Stored before."""
    differing: int = 0
    """Stored before at the same time with another value, which a server keeps."""
    missing: Counter[str] = field(default_factory=Counter)
    """Not stored in the end, by metric."""
    dropped_nan: int = 0
    """Not stored because they are NaN, of which VictoriaMetrics stores none."""
    refusals: list[str] = field(default_factory=list)
    """What the server said to samples that it did not take, the first few."""

    @property
    def stored(self) -> int:
        """Stored now."""
        return self.total - self.missing.total() - self.dropped_nan - self.differing

    @property
    def is_complete(self) -> bool:
        """Whether the server has everything that it can have."""
        return not self.missing and not self.differing


class Backfill:
    """Sends one run to one server, and looks whether it is there."""

    def __init__(self, run: RunSamples, writer: RemoteWriter, stored: StoredRun) -> None:
        self.outcome = Outcome()
        self._run = run
        self._writer = writer
        self._stored = stored
        self._tally = _Tally()

    def send(self, progress: Callable[[int], object]) -> None:
        """Send what is not stored yet; ``progress`` is told how many bytes of the journal are done.

        Raises:
            ServerError: the server does not answer, or does not accept this sender.
            OSError: the journal cannot be read.
        """
        is_new = not self._stored.exists(self._run.first_ms, self._run.last_ms)
        with ThreadPoolExecutor(1) as sender:  # the next request is prepared while one is on its way
            try:
                self._send_all(sender, progress, is_new=is_new)
            except BaseException:  # an interrupted user does not wait for a server that is down
                self._writer.stop()
                raise
        self.outcome.total = self._tally.total

    def verify(self, settling_seconds: float) -> None:
        """Look for every sample, for so long; the outcome names what is missing.

        Raises:
            ServerError: the server cannot be asked.
            OSError: the journal cannot be read.
        """
        deadline = time.monotonic() + settling_seconds
        while not self._look(is_last=time.monotonic() >= deadline):
            time.sleep(_LOOK_AGAIN_SECONDS)

    def _look(self, *, is_last: bool) -> bool:
        """Look once; returns whether that decided it: nothing is missing, or this is the last time.

        Counts are cheap, and samples are read where they do not prove it. A VictoriaMetrics under load may show a new
        series to the one query and not yet to the other.
        """
        shown = self._tally.compare(self._stored)
        if shown.fewer and not is_last:
            return False
        self.outcome.dropped_nan = shown.without_nan
        if shown.fewer or shown.more:
            self._find_missing()
        return is_last or not self.outcome.missing

    def _send_all(self, sender: Executor, progress: Callable[[int], object], *, is_new: bool) -> None:
        sent: Future[Written] | None = None
        for piece in self._run.pieces():
            series = time_series(piece, self._run)
            self._check_clock(series)
            self._tally.add(series)
            if not is_new:
                series = self._without_known(series)
            request = self._writer.prepare(series) if series else None
            self._finish(sent)
            sent = sender.submit(self._writer.send, request) if request else None
            progress(piece.end)
        self._finish(sent)

    @staticmethod
    def _check_clock(series: Iterable[TimeSeries]) -> None:
        """A clock that was wrong for a while is not seen at a journal's ends."""
        if max((one.times_ms[-1] for one in series), default=0) / 1000 > time.time() + FUTURE_SECONDS:
            raise ServerError(
                "a step is more than 10 minutes in the future, which would block the server for all others"
            )

    def _finish(self, sent: Future[Written] | None) -> None:
        refusals = sent.result().refusals if sent else ()
        self.outcome.refusals += refusals[: _MOST_REFUSALS - len(self.outcome.refusals)]

    def _without_known(self, series: Sequence[TimeSeries]) -> list[TimeSeries]:
        missing = []
        for one, known in self._beside_stored(series):
            differing = sum(
                ms in known and not _same(known[ms], value) for ms, value in zip(one.times_ms, one.values, strict=True)
            )
            rest = _without(one, known)
            self.outcome.differing += differing
            self.outcome.known += len(one.values) - len(rest.values) - differing
            if rest.values:
                missing.append(rest)
        return missing

    def _find_missing(self) -> None:
        missing: Counter[str] = Counter()
        nans = 0
        for piece in self._run.pieces():
            for one, known in self._beside_stored(time_series(piece, self._run)):
                rest = _without(one, known)
                missing[dict(one.labels)["__name__"]] += len(rest.values)
                nans += sum(map(math.isnan, rest.values))
        has_all_numbers = nans == missing.total()
        self.outcome.dropped_nan = nans if has_all_numbers else 0
        self.outcome.missing = Counter() if has_all_numbers else +missing

    def _beside_stored(self, series: Sequence[TimeSeries]) -> Iterator[tuple[TimeSeries, dict[int, float]]]:
        """Each series with what the server has of it in the same span of time: value by milliseconds."""
        first = min((one.times_ms[0] for one in series), default=0)
        last = max((one.times_ms[-1] for one in series), default=0)
        stored = self._stored.samples(first, last) if series else {}
        for one in series:
            yield one, stored.get(one.labels, {})


class _Shown(NamedTuple):
    """How the counts of a server differ from what it has to have."""

    fewer: int
    more: int
    """Samples that are not of this backfill: then a count proves nothing."""
    without_nan: int
    """NaN that are missing in series which are complete without them."""


class _Tally:
    """How many samples a server has to have."""

    def __init__(self) -> None:
        self.total = 0
        self._counts: dict[str, Counter[Labels]] = {}
        self._nans: Counter[Labels] = Counter()
        self._first_ms, self._last_ms = 0, 0

    def add(self, series: Sequence[TimeSeries]) -> None:
        for one in series:
            name = dict(one.labels)["__name__"]
            self._counts.setdefault(name, Counter())[one.labels] += len(one.values)
            if math.isnan(sum(one.values)):
                self._nans[one.labels] += sum(map(math.isnan, one.values))
            self._first_ms = min(self._first_ms or one.times_ms[0], one.times_ms[0])
            self._last_ms = max(self._last_ms, one.times_ms[-1])
            self.total += len(one.values)

    def compare(self, stored: StoredRun) -> _Shown:
        """Count what the server shows."""
        fewer = more = without_nan = 0
        for name, counts in self._counts.items():
            shown = stored.count(name, self._first_ms, self._last_ms)
            for labels, count in counts.items():
                difference = count - shown.get(labels, 0)
                if difference and difference == self._nans[labels]:
                    without_nan += difference
                else:
                    fewer += max(difference, 0)
                    more += max(-difference, 0)
        return _Shown(fewer, more, without_nan)


def _without(one: TimeSeries, known: dict[int, float]) -> TimeSeries:
    if not known:
        return one
    points = [(ms, value) for ms, value in zip(one.times_ms, one.values, strict=True) if ms not in known]
    return one._replace(times_ms=[ms for ms, _ in points], values=[value for _, value in points])


def _same(one: float, other: float) -> bool:
    """VictoriaMetrics keeps numbers as decimal ones, whose last digits may differ."""
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))
