"""A collector that is sampled by a thread of its own: what is slow or may hang delays no page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from exporter.records import Sample

__all__ = ["BackgroundCollector"]

_FIRST_SECONDS = 1.0
"""How long pages wait for the first sample, all of them together."""

_IDLE_SECONDS = 60.0
"""The thread ends when nobody has asked for so long; the next to ask starts it again."""


class _Collector(Protocol):
    @property
    def name(self) -> str: ...

    def collect(self) -> Iterable[Sample]: ...


class _Answer(NamedTuple):
    """What the last sample was, when (monotonic seconds), or why there was none."""

    at: float
    samples: list[Sample]
    error: Exception | None = None


class BackgroundCollector:
    """Gives the last samples of another collector, which is sampled while somebody asks for them."""

    def __init__(self, collector: _Collector, interval_seconds: float = 5.0, max_age_seconds: float = 30.0) -> None:
        """Sample every ``interval_seconds``; samples older than ``max_age_seconds`` are not shown."""
        self.name = collector.name
        self._collector = collector
        self._interval = interval_seconds
        self._max_age = max_age_seconds
        self._answer: _Answer | None = None
        self._asked_at = 0.0
        self._started_at = 0.0
        self._is_sampled = threading.Event()
        self._thread: threading.Thread | None = None

    def collect(self) -> list[Sample]:
        """The last samples.

        Raises:
            TimeoutError: there is none, because the collector hangs.
        """
        self._asked_at = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._is_sampled.clear()
            self._started_at = self._asked_at
            self._thread = threading.Thread(target=self._run, name=f"telemetry-{self.name}", daemon=True)
            self._thread.start()
        self._is_sampled.wait(max(self._started_at + _FIRST_SECONDS - time.monotonic(), 0.0))
        answer = self._answer
        if answer is None or time.monotonic() - answer.at > self._max_age:
            raise TimeoutError("no sample in time: what is asked for hangs")
        if answer.error:
            raise answer.error
        return answer.samples

    def _run(self) -> None:
        while time.monotonic() - self._asked_at < _IDLE_SECONDS:
            self._answer = self._sample()
            self._is_sampled.set()
            time.sleep(self._interval)

    def _sample(self) -> _Answer:
        try:
            samples = list(self._collector.collect())
        except Exception as error:  # noqa: BLE001 - the thread lives on, and a page says what went wrong
            return _Answer(time.monotonic(), [], error)
        return _Answer(time.monotonic(), samples)
