"""A collector in a thread of its own: quick to ask, honest about what hangs or fails, gone when nobody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from exporter.collectors import background
from exporter.collectors.background import BackgroundCollector
from exporter.records import Family, Sample
from tests.support.servers import wait_until

FAMILY = Family("x", "gauge", "X.")


class Counting:
    """Gives how often it was asked."""

    name = "counting"

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.asked = 0
        self._before = before

    def collect(self) -> Iterator[Sample]:
        """One sample."""
        self._before()
        self.asked += 1
        yield Sample(FAMILY, (), self.asked)


def test_the_first_page_has_samples_and_later_ones_do_not_wait() -> None:
    """The first call waits for a sample; between two samples all calls give the last one."""
    inner = Counting()
    collector = BackgroundCollector(inner, interval_seconds=3600)
    assert [[sample.value for sample in collector.collect()] for _ in range(3)] == [[1], [1], [1]]
    assert (collector.name, inner.asked) == ("counting", 1)


def test_samples_are_taken_again() -> None:
    """Without being asked in between, the collector is sampled at its interval."""
    inner = Counting()
    collector = BackgroundCollector(inner, interval_seconds=0.01)
    collector.collect()
    wait_until(lambda: inner.asked >= 3, 10, "the third sample")


def test_one_that_hangs_delays_no_page_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is an error after a moment, and is not started a second time."""
    monkeypatch.setattr(background, "_FIRST_SECONDS", 0.05)
    go_on = threading.Event()
    inner = Counting(lambda: go_on.wait(30))
    collector = BackgroundCollector(inner)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="hangs"):
            collector.collect()
        assert time.monotonic() - started < 1
    go_on.set()
    wait_until(lambda: inner.asked == 1, 10, "the sample")
    assert [sample.value for sample in collector.collect()] == [1]


def test_one_that_hangs_from_the_start_delays_one_page_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages together wait for the first sample no longer than one would."""
    monkeypatch.setattr(background, "_FIRST_SECONDS", 1.0)
    go_on = threading.Event()
    collector = BackgroundCollector(Counting(lambda: go_on.wait(30)))
    started = time.monotonic()
    for _ in range(5):
        with pytest.raises(TimeoutError, match="hangs"):
            collector.collect()
    waited = time.monotonic() - started
    go_on.set()
    assert 1 <= waited < 2


def test_old_samples_are_not_shown() -> None:
    """A collector that worked once and hangs now has no value, rather than one of long ago."""
    go_on = threading.Event()
    inner = Counting(lambda: inner.asked and go_on.wait(30))
    collector = BackgroundCollector(inner, interval_seconds=0.01, max_age_seconds=0.1)
    assert collector.collect()

    def is_refused() -> bool:
        try:
            collector.collect()
        except TimeoutError:
            return True
        return False

    wait_until(is_refused, 10, "the end of the old sample")
    go_on.set()


def test_a_failure_is_the_collector_s_until_it_works_again() -> None:
    """An exception is raised to whoever asks, and forgotten with the next sample."""
    failures = iter([OSError("gone")])
    inner = Counting(lambda: _fail(next(failures, None)))
    collector = BackgroundCollector(inner, interval_seconds=0.05)
    with pytest.raises(OSError, match="gone"):
        collector.collect()
    wait_until(lambda: inner.asked, 10, "a sample")
    wait_until(lambda: bool(_collected(collector)), 10, "a page with it")


def _fail(error: Exception | None) -> None:
    if error:
        raise error


def _collected(collector: BackgroundCollector) -> list[Sample]:
    try:
        return collector.collect()
    except OSError:
        return []


def test_nobody_asks_and_nothing_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread ends when nobody has asked for a while, and the next to ask gets a fresh sample."""
    monkeypatch.setattr(background, "_IDLE_SECONDS", 0.05)
    inner = Counting()
    inner.name = "idle"
    collector = BackgroundCollector(inner, interval_seconds=0.02)
    collector.collect()

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    wait_until(lambda: "telemetry-idle" not in names(), 10, "the thread's end")
    asked = inner.asked
    assert [sample.value for sample in collector.collect()] > [asked]
