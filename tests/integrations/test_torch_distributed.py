"""Ranks of torch.distributed on the CPU: who they are, and which one the others wait for."""

from __future__ import annotations

import statistics
from functools import partial

import pytest
import torch.multiprocessing
from distributed import STEPS, train

from exporter.catalog import default_catalog
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import Scrape, judge

SLOW, USUAL_SECONDS, SLOW_SECONDS = 2, 0.002, 0.05
RANKS = range(4)
PHASES = "performance_phase_duration_seconds"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """The page of a run of four ranks, of which one has a slow data loader."""
    folder = tmp_path_factory.mktemp("ddp")
    seconds = [SLOW_SECONDS if rank == SLOW else USUAL_SECONDS for rank in RANKS]
    torch.multiprocessing.spawn(train, args=(folder, seconds), nprocs=len(RANKS))
    exporter = Exporter(partial(find_journals, folder / "runs"), folder / "cursors.json", default_catalog())
    return judge(exporter.latest_page(Format.TEXT), Format.TEXT)


def test_ranks_are_known_from_the_process_group(page: Scrape) -> None:
    """Without any variable each rank has a journal, a label and the size of the world."""
    infos = page.label_sets("run_info")
    assert sorted(info.get("rank", "0") for info in infos) == [str(rank) for rank in RANKS]
    assert {info["world_size"] for info in infos} == {"4"}
    for rank in RANKS:
        assert page.value(f"{PHASES}_count", rank=str(rank), phase="backward") == STEPS
        assert page.value("training_samples_total", rank=str(rank)) == 4 * STEPS


def test_an_all_reduce_hides_the_slow_rank_and_the_phases_show_it(page: Scrape) -> None:
    """The slow rank alone waits for its data; the others wait for it in their backward pass."""
    data = [page.value(f"{PHASES}_sum", rank=str(rank), phase="data") for rank in RANKS]
    backward = [page.value(f"{PHASES}_sum", rank=str(rank), phase="backward") for rank in RANKS]
    assert [rank for rank in RANKS if data[rank] > 1.25 * statistics.median(data)] == [SLOW]
    assert [rank for rank in RANKS if backward[rank] > 1.25 * statistics.median(backward)] == []
    assert backward[SLOW] == min(backward)
