"""Being told by a signal to stop."""

from __future__ import annotations

import contextlib
import signal
import threading

__all__ = ["STOP_SIGNALS", "Stop", "stop_on_signals"]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Set by a signal handler, waited for by any thread.

    No ``threading.Event``: a handler runs in the main thread, and where that is about to wait it holds the lock which
    ``Event.set`` then waits for, for ever. Releasing a lock waits for nothing.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def set(self) -> None:
        """Tell everybody who waits, and whoever will."""
        self._is_set = True
        self._open()

    def is_set(self) -> bool:
        """Whether it is time to stop."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or ``timeout`` seconds; returns whether it is."""
        if not self._is_set and self._gate.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
            self._open()  # for the others
        return self._is_set

    def _open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open already
            self._gate.release()


def stop_on_signals() -> Stop:
    """A stop that SIGTERM and SIGINT set from now on, instead of ending the process."""
    stop = Stop()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    return stop
