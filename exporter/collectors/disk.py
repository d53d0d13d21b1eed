"""Space on the file systems that hold the runs and their checkpoints."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from exporter.catalog import Catalog
from exporter.collectors.processes import Processes, RunProcess
from exporter.records import Sample

__all__ = ["DiskCollector"]


class DiskCollector:
    """Samples the file system of the runs' folder, and each other one that holds a run's last checkpoint.

    The runs' folder is shown under its own path, any other file system under the path where it is mounted: a
    checkpoint often has a folder of its own, and would be a new series each time.
    """

    name = "disk"

    def __init__(
        self, catalog: Catalog, folder: Path, runs: Callable[[], Iterable[RunProcess]] = tuple, root: Path = Path("/")
    ) -> None:
        """Watch ``folder``; ``runs`` gives the runs' processes as of now, ``root`` holds their ``proc``."""
        self._catalog = catalog
        self._folder = folder
        self._runs = runs
        self._processes = Processes(root / "proc")

    def collect(self) -> Iterator[Sample]:
        """Current values, by path."""
        shown = {os.stat(self._folder).st_dev}
        yield from self._samples(self._folder)
        for run in self._runs():
            with contextlib.suppress(OSError):
                place = self._place(run)
                if place and (device := os.stat(place).st_dev) not in shown:
                    shown.add(device)
                    yield from self._samples(_mount_point(place))

    def _place(self, run: RunProcess) -> Path | None:
        """What is left of the path of a run's last checkpoint; None where that is no path here."""
        if not run.checkpoint or "://" in run.checkpoint:
            return None
        folder = self._processes.folder(run.pid)
        path = Path(run.checkpoint)
        if folder is None and not path.is_absolute():
            return None
        path = Path(os.path.abspath((folder or Path()) / path))
        return next(place for place in (path, *path.parents) if place.exists())

    def _samples(self, path: Path) -> Iterator[Sample]:
        usage, labels = shutil.disk_usage(path), (("path", str(path)),)
        yield Sample(self._catalog.family("host_disk_size_bytes"), labels, usage.total)
        yield Sample(self._catalog.family("host_disk_free_bytes"), labels, usage.free)


def _mount_point(path: Path) -> Path:
    """Where the file system of a path is mounted."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if os.path.ismount(place))
