"""Eight trainers on one host that know nothing of each other: ports, files and labels do not collide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import free_port, get

RANKS = range(8)
TRAINER = """
import sys, time
from exporter import start_run
from exporter.errors import TelemetryError
run_id, port, ranks = sys.argv[1:]
try:
    run = start_run(run_id=run_id, directory="runs", port=int(port), ranks=ranks)
except TelemetryError as error:
    print(f"refused: {error}", flush=True)
    sys.exit()
run.log({"train/loss": 0.5})
print(run.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path: Path) -> object:
    """Starts a trainer in the folder; all of them end with their input, after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(run_id: str, port: int = 0, ranks: str = "main", **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAINER, run_id, str(port), ranks]
        pipe = subprocess.PIPE
        own = {**os.environ, **environment}
        started.append(
            subprocess.Popen(command, cwd=tmp_path, env=own, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        )
        return started[-1]

    yield begin
    for process in started:
        process.communicate(timeout=30)


def said(trainers: list[subprocess.Popen[str]]) -> list[str]:
    """The first line of each."""
    return [trainer.stdout.readline().strip() for trainer in trainers]


@pytest.mark.parametrize("port", ["any", "the same"])
def test_runs_that_serve_themselves_have_ports_and_targets_of_their_own(tmp_path: Path, start, port: str) -> None:
    """Eight runs answer on eight ports, each with its own series, also where all were given one port."""
    wanted = 0 if port == "any" else free_port()
    urls = said([start(f"run-{rank}", wanted) for rank in RANKS])
    assert len(set(urls)) == len(RANKS)
    for rank, url in enumerate(urls):
        assert f'training_loss{{run_id="run-{rank}"}} 0.5' in get(f"{url}/metrics")
    targets = [json.loads(path.read_text())[0]["targets"] for path in (tmp_path / "runs/.targets").glob("*.json")]
    assert sorted(targets) == sorted([url.removeprefix("http://")] for url in urls)


def test_ranks_of_one_run_share_its_folder_and_one_port(tmp_path: Path, start) -> None:
    """Each rank has its own file; rank 0 serves all of them, under labels that differ."""
    ranks = [start("r", 0, "all", RANK=str(rank), WORLD_SIZE=str(len(RANKS))) for rank in RANKS]
    urls = said(ranks)
    assert urls[1:] == ["None"] * 7
    assert sorted(path.name for path in (tmp_path / "runs/r").glob("*.jsonl")) == sorted(
        ["metrics.jsonl", *(f"metrics.rank{rank}.jsonl" for rank in RANKS[1:])]
    )
    page = get(f"{urls[0]}/metrics")
    for labels in ['run_id="r"', *(f'rank="{rank}",run_id="r"' for rank in RANKS[1:])]:
        assert f"training_loss{{{labels}}} 0.5" in page


def test_one_run_id_by_mistake_is_a_clear_error(tmp_path: Path, start) -> None:
    """Of eight trainers with one run_id the first writes; the others are told why not, and what to do."""
    answers = said([start("r") for _ in RANKS])
    refused = [answer for answer in answers if answer.startswith("refused: ")]
    assert len(refused) == len(RANKS) - 1
    assert all("is being written by another process: a run has one writer per rank" in answer for answer in refused)
    lines = (tmp_path / "runs/r/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["_type"] for line in lines] == ["run_start", "step"]


def test_ranks_that_are_not_told_which_they_are_are_refused(start) -> None:
    """With ranks="all" and no variable that says the rank, all take themselves for rank 0: only one can."""
    answers = said([start("r", 0, "all") for _ in RANKS])
    assert sum(answer.startswith("refused: ") for answer in answers) == len(RANKS) - 1
