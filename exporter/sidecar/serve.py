"""The sidecar: follow the logs of folders, serve their pages, tidy up after killed trainers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

from exporter.catalog import default_catalog
from exporter.collectors import GpuCollector, host_collectors, process_is_alive
from exporter.exposition import Format
from exporter.importer import Importer, ImportOptions
from exporter.journal import TARGETS_FOLDER
from exporter.pid_namespace import shares_pids
from exporter.server import Exporter, MetricsServer
from exporter.server.exporter import FOLLOW_BYTES
from exporter.sidecar.log_collector import LogCollector
from exporter.stopping import Stop

__all__ = ["Runs", "Sidecar", "remove_stale_targets"]

_TAKE_SECONDS = 1.0
"""How often foreign logs are looked at between two scrapes, and how long that may hold up a scrape."""

_TIDY_SECONDS = 10.0
_STATE_FOLDER = ".telemetry"


class Runs:
    """The runs at some paths: journals, and other logs taken over into journals."""

    def __init__(self, paths: Sequence[Path], port: int, options: ImportOptions, state: Path | None = None) -> None:
        """Nothing is read before the first call.

        Args:
            paths: Folders and logs.
            port: Tells the scrapers of two sidecars of one folder apart.
            options: For logs that are no journals.
            state: The folder in which to remember what was read and served; by default in the first of the paths.
        """
        for path in paths:
            if not path.exists():
                print(f"telemetry: {path} does not exist yet; its runs are shown once it does", file=sys.stderr)
        home = paths[0] if paths[0].is_dir() or not paths[0].exists() else paths[0].parent
        state = state or _state_folder(home)
        self._importer = Importer(paths, state / "imported", options)
        self._lock = threading.Lock()
        catalog = default_catalog()
        disk = home if home.exists() else Path.cwd()
        logs = LogCollector(catalog, self._importer)
        self.exporter = Exporter(self.journals, state / f"cursors-{port}.json", catalog, [logs])
        for collector in host_collectors(catalog, disk, self.exporter.processes):
            self.exporter.add_collector(collector)
        self._gpus = GpuCollector(catalog, self.exporter.processes)
        self.exporter.add_collector(self._gpus)

    @property
    def is_behind(self) -> bool:
        """Whether there was more to read than there was time for."""
        return self._importer.is_behind

    def journals(self) -> list[Path]:
        """All journals as of now: those found, and those that other logs were taken over into."""
        with self._lock:
            self._importer.find()
            self._importer.take(_TAKE_SECONDS)
            return self._importer.journals()

    def take(self) -> None:
        """Take over what is new in the logs that were found at the last scrape."""
        with self._lock:
            self._importer.take(_TAKE_SECONDS)

    def catch_up(self, stop: Stop) -> None:
        """Read everything that there is now."""
        while not stop.is_set():
            if self.exporter.refresh() < FOLLOW_BYTES and not self.is_behind:
                break

    def close(self) -> None:
        """Read no GPU any more."""
        self._gpus.close()

    def page(self) -> bytes:
        """The latest value of everything that there is now."""
        self.catch_up(Stop())
        return self.exporter.latest_page(Format.TEXT)


class Sidecar:
    """Serves the runs below some folders until it is told to stop."""

    def __init__(self, paths: Sequence[Path], host: str, port: int, options: ImportOptions | None = None) -> None:
        """Listen at once; pages wait until the logs have been read.

        Raises:
            ServerError: the address cannot be bound.
        """
        self._paths = paths
        self._runs = Runs(paths, port, options or ImportOptions())
        with ExitStack() as stack:
            stack.callback(self._runs.close)
            self._server = MetricsServer(self._runs.exporter, host, port)
            stack.pop_all()

    @property
    def url(self) -> str:
        """Where it serves."""
        return self._server.url

    def run(self, stop: Stop) -> None:
        """Read everything, then serve until told to stop."""
        self._runs.catch_up(stop)
        self._server.is_ready.set()
        tidied_at = -math.inf
        while not stop.is_set():
            self._runs.take()
            if time.monotonic() - tidied_at > _TIDY_SECONDS:
                tidied_at = time.monotonic()
                self._runs.journals()  # even when nobody scrapes, a new log is seen in time to know its times
                for path in self._paths:
                    remove_stale_targets(path / TARGETS_FOLDER)
            stop.wait(0.0 if self._runs.is_behind else _TAKE_SECONDS)
        self._server.close()
        self._runs.close()


def _state_folder(home: Path) -> Path:
    """Where the sidecar remembers: in the folder it serves or, where that is not its to write, in the user's own."""
    if not home.exists() or os.access(home, os.W_OK):
        return home / _STATE_FOLDER
    own = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return own / "telemetry-exporter" / sha256(bytes(home.resolve())).hexdigest()[:16]


def remove_stale_targets(folder: Path) -> list[Path]:
    """Remove discovery files of this host's processes that are gone; returns those removed."""
    removed = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            labels = json.loads(path.read_text())[0]["labels"]
            written = path.stat().st_mtime
            if not shares_pids(labels["__telemetry_host"], labels.get("__telemetry_pid_namespace", "")):
                continue
            pid = int(labels["__telemetry_pid"])
            if pid != os.getpid() and not process_is_alive(pid, written):
                path.unlink()
                removed.append(path)
    return removed
