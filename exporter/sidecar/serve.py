"""The sidecar: follow the journals of folders, serve their pages, tidy up after killed trainers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from exporter.catalog import default_catalog
from exporter.collectors import HostCollector, process_is_alive
from exporter.journal import TARGETS_FOLDER
from exporter.server import Exporter, MetricsServer
from exporter.server.exporter import FOLLOW_BYTES

__all__ = ["Sidecar", "remove_stale_targets"]

_TIDY_SECONDS = 10.0
_STATE_FOLDER = ".telemetry"


class Sidecar:
    """Serves the runs below some folders until it is told to stop."""

    def __init__(self, paths: Sequence[Path], host: str, port: int) -> None:
        """Listen at once; pages wait until the journals have been read.

        Raises:
            ServerError: the address cannot be bound.
        """
        self._paths = paths
        for path in paths:
            if not path.exists():
                print(f"telemetry: {path} does not exist yet; its runs are shown once it does", file=sys.stderr)
        catalog = default_catalog()
        home = paths[0] if paths[0].is_dir() or not paths[0].exists() else paths[0].parent
        # The requested port names the file: two sidecars of one folder keep their scrapers apart.
        state_file = home / _STATE_FOLDER / f"cursors-{port}.json"
        disk = home if home.exists() else Path.cwd()
        self._exporter = Exporter(paths, state_file, catalog, [HostCollector(catalog, disk)])
        self._server = MetricsServer(self._exporter, host, port)

    @property
    def url(self) -> str:
        """Where it serves."""
        return self._server.url

    def run(self, stop: threading.Event) -> None:
        """Read the journals, then serve until the event is set."""
        while self._exporter.refresh() >= FOLLOW_BYTES and not stop.is_set():
            pass
        self._server.is_ready.set()
        while True:
            for path in self._paths:
                remove_stale_targets(path / TARGETS_FOLDER)
            if stop.wait(_TIDY_SECONDS):
                break
        self._server.close()


def remove_stale_targets(folder: Path) -> list[Path]:
    """Remove discovery files of this host's processes that are gone; returns those removed."""
    removed = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            labels = json.loads(path.read_text())[0]["labels"]
            written = path.stat().st_mtime
            if labels["__telemetry_host"] != socket.gethostname():
                continue
            pid = int(labels["__telemetry_pid"])
            if pid != os.getpid() and not process_is_alive(pid, written):
                path.unlink()
                removed.append(path)
    return removed
