"""The pages of a set of runs: followed journals, scrapers' cursors and collectors put together.

In the trainer's process and in the sidecar the same object does the work.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from exporter._version import __version__
from exporter.catalog import Catalog, Namer
from exporter.collectors import Collector, RunProcess, process_is_alive
from exporter.exposition import (
    Budget,
    Format,
    Page,
    add_latest,
    add_steps,
    counter_samples,
    gauge_samples,
    is_mark,
    mark_samples,
)
from exporter.journal import Position, Stamped
from exporter.records import Labels, Sample
from exporter.server.client_bridge import render_samples
from exporter.server.cursors import Cursor, CursorStore
from exporter.server.history import PIECE_BYTES, RunHistory

__all__ = ["Exporter", "Served"]

PAGE_BYTES = 6 * 1024 * 1024
"""Journal bytes on one page: about 150 000 samples, so that a backlog drains over several scrapes."""

MAX_PAGE_BYTES = 4 * PAGE_BYTES
"""The same however many journals are behind; those with the least to tell come first, so that live runs do not wait."""

LEAST_SHARE_BYTES = 2 * PIECE_BYTES
"""What each journal may add to a page at least: between two scrapes a rank with many phases writes 100 kB and more."""

FOLLOW_BYTES = 64 * 1024 * 1024
"""Journal bytes taken in at one scrape, so that a long journal cannot make the scrape time out."""

KEEP_SECONDS = 7 * 86400.0
"""A run whose journal was last written longer ago is no longer shown."""

_COUNTERS_LINGER_MS = 60_000
_CLOCK_AHEAD_MS = 5_000


class Served(NamedTuple):
    """A page, and what to call once it has reached the scraper."""

    body: bytes
    delivered: Callable[[], None]


class _Shown(NamedTuple):
    history: RunHistory
    statuses: set[str]


class _ScraperState(NamedTuple):
    samples: int
    render_seconds: float
    backlog_bytes: int


class Exporter:
    """Renders pages; one lock lets one page be made at a time, sending them happens outside of it."""

    def __init__(
        self,
        journals: Callable[[], Iterable[Path]],
        state_file: Path,
        catalog: Catalog,
        collectors: Iterable[Collector] = (),
    ) -> None:
        """Show the runs whose ``journals`` there are at a scrape; ``state_file`` keeps the scrapers' cursors."""
        self._journals = journals
        self._catalog = catalog
        self._namer = Namer(catalog)
        self._collectors = list(collectors)
        self._cursors = CursorStore(state_file)
        self._budget = Budget()
        self._histories: dict[Path, RunHistory] = {}
        self._lock = threading.Lock()
        self._read_errors = 0
        self._scrapes: Counter[str] = Counter()
        self._scrapers: dict[str, _ScraperState] = {}
        self._said: set[str] = set()
        self._processes: list[RunProcess] = []

    def add_collector(self, collector: Collector) -> None:
        """Show what a collector samples on each page from now on."""
        self._collectors.append(collector)

    def processes(self) -> list[RunProcess]:
        """The processes of running runs on this host at the last page; for collectors, from any thread."""
        return self._processes

    @property
    def scrapers(self) -> list[str]:
        """Names of the scrapers that have a cursor."""
        return self._cursors.scrapers

    def refresh(self) -> int:
        """Find journals and read what was appended to them; returns the bytes read."""
        with self._lock:
            return self._refresh(time.time())

    def latest_page(self, form: Format) -> bytes:
        """The latest value of everything, without timestamps and without side effects."""
        with self._lock:
            now = time.time()
            self._refresh(now)
            page = Page(form)
            shown = self._show(now)
            for history, statuses in shown:
                with self._one_journal(history.path):
                    if "running" in statuses:
                        add_latest(page, history.state, self._catalog)
                    page.add(counter_samples(history.state, self._catalog))
                    page.add(history.state.totals.samples(history.state.rank_labels, None))
                    page.add(gauge_samples(history.state, self._catalog, statuses))
            return self._finish(page, shown)

    def scraper_page(self, form: Format, scraper: str, overlap_seconds: float = 0.0) -> Served:
        """Every step since the scraper's last page, and again those of the last ``overlap_seconds`` before it."""
        with self._lock:
            started = time.perf_counter()
            now = time.time()
            self._refresh(now)
            page = Page(form)
            shown = self._show(now)
            cursors, samples = self._add_steps(page, scraper, int(overlap_seconds * 1000), [h for h, _ in shown], now)
            for history, statuses in shown:
                with self._one_journal(history.path):
                    page.add(gauge_samples(history.state, self._catalog, statuses))
            backlog = sum(max(h.position.offset - cursors[h.path].position.offset, 0) for h, _ in shown)
            self._scrapes[scraper] += 1
            self._scrapers[scraper] = _ScraperState(samples, time.perf_counter() - started, backlog)
            body = self._finish(page, shown)
        return Served(body, lambda: self._advance(scraper, cursors))

    def _advance(self, scraper: str, cursors: dict[Path, Cursor]) -> None:
        with self._lock:
            self._cursors.advance(scraper, cursors)

    def _add_steps(
        self, page: Page, scraper: str, repeat_ms: int, histories: list[RunHistory], now: float
    ) -> tuple[dict[Path, Cursor], int]:
        starts = {h.path: h.resume(self._cursors.position(scraper, h.path, h.inode)) for h in histories}
        behind = sum(h.position.offset > starts[h.path].offset for h in histories)
        share = max(PAGE_BYTES // max(behind, 1), LEAST_SHARE_BYTES)
        cursors, samples, left = {}, 0, MAX_PAGE_BYTES
        for history in sorted(histories, key=lambda h: h.position.offset - starts[h.path].offset):
            start = starts[history.path]
            end, count = self._add_history(page, history, start, repeat_ms, min(share, left), int(now * 1000))
            cursors[history.path] = Cursor(history.inode, end)
            samples += count
            left = max(left - (end.offset - start.offset), 0)
        return cursors, samples

    def _add_history(
        self, page: Page, history: RunHistory, start: Position, repeat_ms: int, limit: int, now_ms: int
    ) -> tuple[Position, int]:
        """One journal's steps, and its counters while they may still be news to the scraper."""
        state, end, samples = history.state, start, 0
        until_ms = now_ms + _CLOCK_AHEAD_MS
        marks: list[Stamped] = []
        with self._one_journal(history.path):
            for piece in history.read(start, repeat_ms, limit, until_ms):
                samples += add_steps(page, piece.records, history.series, self._catalog)
                page.add(piece.totals)
                marks += (item for item in piece.records if is_mark(item, state, until_ms))
                end = max(end, piece.end)
            page.add(mark_samples(marks, state, self._catalog))
        is_news = end != start or now_ms - state.latest_ms < _COUNTERS_LINGER_MS
        if is_news and state.latest_ms <= until_ms:
            with self._one_journal(history.path):
                page.add(counter_samples(state, self._catalog, state.latest_ms, start.step_ms))
        return end, samples

    def _refresh(self, now: float) -> int:
        found = dict.fromkeys(self._journals())
        for path in [path for path in self._histories if path not in found]:
            self._histories.pop(path).close()
        budget = FOLLOW_BYTES
        for path in found:
            with self._one_journal(path):
                budget -= self._follow(path, budget, now)
        return FOLLOW_BYTES - budget

    def _follow(self, path: Path, limit: int, now: float) -> int:
        history = self._histories.get(path)
        if now - path.stat().st_mtime > KEEP_SECONDS:
            if history:
                self._histories.pop(path).close()
            return 0
        if history is None:
            history = RunHistory(path, self._catalog, self._namer, self._budget, process_is_alive)
            self._histories[path] = history
        return history.follow(limit)

    @contextlib.contextmanager
    def _one_journal(self, path: Path) -> Iterator[None]:
        """Whatever goes wrong with one journal is a number and a line, never a failed page of all runs."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a journal may come from another tool and hold anything
            self._read_errors += 1
            self._say(f"cannot read {path}: {error}")

    def _show(self, now: float) -> list[_Shown]:
        shown = list(self._shown(now))
        self._processes = [
            RunProcess(history.series.labels, history.state.start.pid, history.state.checkpoint_path)
            for history, statuses in shown
            if history.state.start and history.is_of_this_host and "running" in statuses
        ]
        return shown

    def _shown(self, now: float) -> Iterator[_Shown]:
        """Histories with anything to show; of two journals that claim to be one run, the first."""
        seen: dict[Labels, Path] = {}
        world_sizes = self._world_sizes()
        for history in self._histories.values():
            state = history.state
            if not state.latest_ms:
                continue
            owner = seen.setdefault(history.series.labels, history.path)
            if owner is history.path:
                yield _Shown(history, history.statuses(now, world_sizes))
            else:
                self._say(f"{history.path} is not shown: {owner} has the same run_id and labels")

    def _world_sizes(self) -> dict[str, int]:
        """How many ranks each run has in its newest attempt."""
        starts = [history.state.start for history in self._histories.values() if history.state.start]
        return {start.run_id: start.world_size for start in sorted(starts, key=lambda start: start.time)}

    def _finish(self, page: Page, shown: list[_Shown]) -> bytes:
        samples = [*self._collected(), *self._own_samples(shown)]
        # What a run has logged too, such as a GPU's utilisation, must stand with it: a family has one place.
        alone = [sample for sample in samples if sample.family.name not in page]
        page.add(sample for sample in samples if sample.family.name in page)
        return page.render(render_samples(alone, page.format))

    def _collected(self) -> Iterator[Sample]:
        """Each collector apart: one that fails is a number on the page, not a failed page."""
        for collector in self._collectors:
            labels = (("collector", collector.name),)
            started = time.perf_counter()
            samples: list[Sample] = []
            try:
                samples.extend(collector.collect())
                success = 1
            except Exception as error:  # noqa: BLE001 - whatever a collector's library raises
                success = 0
                self._say(f"collector {collector.name} failed: {error!r}")
            yield from samples
            yield Sample(self._catalog.family("telemetry_collector_success"), labels, success)
            seconds = time.perf_counter() - started
            yield Sample(self._catalog.family("telemetry_collector_duration_seconds"), labels, seconds)

    def _own_samples(self, shown: list[_Shown]) -> Iterator[Sample]:
        family = self._catalog.family
        yield Sample(family("telemetry_build_info"), (("version", __version__),), 1)
        yield Sample(family("telemetry_read_errors"), (), self._read_errors)
        statuses = Counter(status for _, of_run in shown for status in of_run)
        for status, count in sorted(statuses.items()):
            yield Sample(family("telemetry_runs"), (("status", status),), count)
        for scraper, last in self._scrapers.items():
            labels = (("scraper", scraper),)
            yield Sample(family("telemetry_scrapes"), labels, self._scrapes[scraper])
            yield Sample(family("telemetry_page_samples"), labels, last.samples)
            yield Sample(family("telemetry_page_render_seconds"), labels, last.render_seconds)
            yield Sample(family("telemetry_backlog_bytes"), labels, last.backlog_bytes)

    def _say(self, message: str) -> None:
        """One line per kind of trouble."""
        if message not in self._said and len(self._said) < 1000:
            self._said.add(message)
            print(f"telemetry: {message}", file=sys.stderr)
