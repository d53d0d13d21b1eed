"""Samples of the machine and of one process beside a run's journal, as lines of JSON."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.encoding import encode_line
from exporter.errors import MissingDependencyError
from exporter.run.ranks import Rank
from exporter.run.settings import Settings

if TYPE_CHECKING:
    from exporter.collectors.system import SystemSampler

__all__ = ["SystemMetricsLogger", "system_metrics_logger"]

_AUTO = "AUTO"
_FILE = "system_metrics.jsonl"
_LEAST_SECONDS = 0.1
_STOP_SECONDS = 1.0


class SystemMetricsLogger:
    """Appends a line to a file at once and then at an interval, from a thread of its own; nothing here raises.

    Where psutil is missing, or the file cannot be written, that is said once on stderr.
    """

    def __init__(self, path: str | os.PathLike[str], interval: float = 60.0, pid: int | None = None) -> None:
        """Watch a process, by default this one; ``interval`` is in seconds, at least 0.1."""
        self._path = Path(path)
        self._interval = min(max(_LEAST_SECONDS, interval), threading.TIMEOUT_MAX)
        self._pid = pid
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: set[str] = set()

    def start(self) -> None:
        """Start to sample; nothing where it has been started already."""
        if self._thread is not None and self._thread.is_alive():
            return
        from exporter.collectors.system import SystemSampler  # only those who ask for it pay for it

        try:
            sampler = SystemSampler(self._pid)
        except MissingDependencyError as error:
            self._say(f"failed to start system metrics logger: {error}")
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(sampler, self._stop), name="telemetry-system-metrics", daemon=True
        )
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop it; a thread that hangs in a driver or on a disk is left behind after a second."""
        atexit.unregister(self.stop)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self, sampler: SystemSampler, stop: threading.Event) -> None:
        while True:
            self._write(encode_line(sampler.sample()))
            if stop.wait(self._interval):
                break
        sampler.close()

    def _write(self, line: bytes) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            self._say(f"system metrics cannot be written to {self._path}: {error.strerror or error}")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            with contextlib.suppress(Exception):  # stderr may lie on a full disk, or be closed
                print(f"[monitoring-error] {message}", file=sys.stderr)


def system_metrics_logger(settings: Settings, rank: Rank, pid: int | None = None) -> SystemMetricsLogger | None:
    """The logger that the settings ask for, if they do; each rank above 0 has a file of its own."""
    if not settings.system_metrics:
        return None
    is_auto = settings.system_metrics.upper() == _AUTO
    path = Path(settings.directory) / settings.run_id / (_FILE if is_auto else settings.system_metrics)
    if rank.rank:
        path = path.with_name(f"{path.stem}.rank{rank.rank}{path.suffix}")
    return SystemMetricsLogger(path, settings.system_metrics_interval, pid)
