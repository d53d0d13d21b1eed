"""How a process ends: a run that is still open is closed at exit, as failed after an unhandled exception."""

from __future__ import annotations

import atexit
import sys
from types import TracebackType

from exporter.run.run import Run

__all__ = ["close_at_exit"]


class _Exit:
    """Installed once per process, at the first run."""

    def __init__(self) -> None:
        self.runs: set[Run] = set()
        self.failure = ""
        self._previous_hook = sys.excepthook
        sys.excepthook = self._note_failure
        atexit.register(self._close)

    def _note_failure(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self.failure = f"{kind.__name__}: {error}"
        self._previous_hook(kind, error, traceback)

    def _close(self) -> None:
        for run in list(self.runs):
            run.finish("failed" if self.failure else "finished", self.failure)


_installed: list[_Exit] = []


def close_at_exit(run: Run) -> None:
    """Finish the run when the process ends by itself; what kills it outright is the sidecar's to notice."""
    if not _installed:
        _installed.append(_Exit())
    _installed[0].runs = {other for other in _installed[0].runs if other.is_open} | {run}
