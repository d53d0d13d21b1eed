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

    Whatever keeps it from that, such as a missing psutil or a file that cannot be written, is said once on stderr.
    """

    def __init__(self, path: str | os.PathLike[str], interval: float = 60.0, pid: int | None = None) -> None:
        """Watch this process alone, or the one with a pid and all that descends from it.

        ``interval`` is in seconds, at least 0.1.
        """
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
        self._stop = threading.Event()
        try:
            from exporter.collectors.system import SystemSampler  # only those who ask for it pay for it

            sampler = SystemSampler(self._pid, self._say)
            thread = threading.Thread(
                target=self._run, args=(sampler, self._stop), name="telemetry-system-metrics", daemon=True
            )
            thread.start()
        except Exception as error:  # noqa: BLE001 - telemetry never breaks training
            self._say(f"failed to start system metrics logger: {error}")
            return
        self._thread = thread
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop it; a thread that hangs in a driver or on a disk is left behind after a second."""
        atexit.unregister(self.stop)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def _run(self, sampler: SystemSampler, stop: threading.Event) -> None:
        while True:
            self._append_sample(sampler)
            if stop.wait(self._interval):
                break
        sampler.close()

    def _append_sample(self, sampler: SystemSampler) -> None:
        try:
            line = encode_line(sampler.sample())
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        except Exception as error:  # noqa: BLE001 - the thread lives on whatever a library or a disk does
            reason = getattr(error, "strerror", None) or error
            self._say(f"system metrics cannot be written to {self._path}: {reason}")

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
