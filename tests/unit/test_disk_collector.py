"""Space where the runs are, and where their checkpoints are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from exporter.collectors.disk import DiskCollector
from exporter.collectors.processes import RunProcess
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, judge

OTHER = Path("/dev/shm")
RUN = (("run_id", "r"),)


def collect(folder: Path, *checkpoints: object, root: Path = Path("/")) -> dict[tuple[str, str], float]:
    """Values by name and path; each may stand once."""
    runs = [RunProcess(RUN, os.getpid(), str(checkpoint)) for checkpoint in checkpoints]
    samples = list(DiskCollector(CATALOG, folder, lambda: runs, root).collect())
    values = {(sample.family.name, dict(sample.labels)["path"]): sample.value for sample in samples}
    assert len(values) == len(samples)
    return values


def paths(values: Iterable[tuple[str, str]]) -> set[str]:
    """Which file systems are shown."""
    return {path for _, path in values}


@pytest.fixture
def other_folder() -> Iterable[Path]:
    """A folder on another file system than temporary folders."""
    folder = OTHER / f"telemetry-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_the_space_is_as_the_system_says(tmp_path: Path) -> None:
    """Size and free space equal those of the standard library."""
    values, usage = collect(tmp_path), shutil.disk_usage(tmp_path)
    assert values["host_disk_size_bytes", str(tmp_path)] == usage.total
    assert values["host_disk_free_bytes", str(tmp_path)] == pytest.approx(usage.free, rel=0.05)
    assert len(values) == 2


def test_checkpoints_elsewhere_are_watched_where_they_are_mounted(tmp_path: Path, other_folder: Path) -> None:
    """Another file system is shown once and under its mount point, however many checkpoints lie on it."""
    values = collect(tmp_path, other_folder / "1.pt", other_folder / "step-2" / "model.pt", other_folder)
    assert paths(values) == {str(tmp_path), str(OTHER)}
    assert values["host_disk_size_bytes", str(OTHER)] == shutil.disk_usage(OTHER).total


def test_checkpoints_beside_the_runs_are_watched_already(tmp_path: Path) -> None:
    """A file system that holds the runs, too, is shown under their folder only."""
    assert paths(collect(tmp_path, tmp_path / "checkpoints" / "1.pt")) == {str(tmp_path)}


def test_a_relative_checkpoint_is_where_its_process_works(tmp_path: Path, other_folder: Path) -> None:
    """A relative path is that of the run's process; without one it says nothing."""
    process = tmp_path / "proc" / str(os.getpid())
    process.mkdir(parents=True)
    assert paths(collect(tmp_path, "1.pt", root=tmp_path)) == {str(tmp_path)}
    (process / "cwd").symlink_to(other_folder)
    assert paths(collect(tmp_path, "1.pt", root=tmp_path)) == {str(tmp_path), str(OTHER)}


@pytest.mark.parametrize("checkpoint", ["", "s3://bucket/1.pt", "hub://x", "a\0b"])
def test_what_is_no_path_here_is_left_out(tmp_path: Path, checkpoint: str) -> None:
    """No checkpoint yet, one in an object store, and a text that cannot be a path cost nothing."""
    assert paths(collect(tmp_path, checkpoint)) == {str(tmp_path)}


def test_everything_collected_is_in_the_catalog_with_its_label(tmp_path: Path) -> None:
    """Each family is the catalog's, and has the path that is watched."""
    for sample in DiskCollector(CATALOG, tmp_path).collect():
        metric = CATALOG.metrics[sample.family.name]
        assert sample.family is metric.family
        assert tuple(name for name, _ in sample.labels) == metric.labels


def test_a_folder_whose_name_is_no_unicode_can_be_watched(tmp_path: Path) -> None:
    """A path of bytes that are no UTF-8 is shown with question marks, not as a page that cannot be made."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    for form in Format:
        page = judge(exporter(folder, tmp_path).latest_page(form), form)
        assert page.label_sets("host_disk_size_bytes") == [{"path": f"{tmp_path}/?"}]


def test_a_folder_that_vanishes_is_a_failed_collector(tmp_path: Path) -> None:
    """Without the folder the disk cannot be measured: success is 0 and the page is there."""
    page = judge(exporter(tmp_path / "gone", tmp_path).latest_page(Format.TEXT), Format.TEXT)
    assert page.value("telemetry_collector_success", collector="disk") == 0


def exporter(folder: Path, state: Path) -> Exporter:
    """An exporter that shows the disk of a folder."""
    return Exporter(partial(find_journals, folder), state / "state.json", CATALOG, [DiskCollector(CATALOG, folder)])
