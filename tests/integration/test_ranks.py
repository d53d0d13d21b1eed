"""Eight ranks, real processes: who holds up the others, who was killed and where, who hangs and in which phase."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.ranks import RankedRun, ended
from tests.support.servers import Prometheus, Sidecar, require, running, wait_until

pytestmark = pytest.mark.slow

RANKS = range(8)
SLOW, KILLED, STOPPED = 5, 3, 6
USUAL_SECONDS, SLOW_SECONDS = 0.005, 0.25
LOADING_SECONDS = 0.06
"""Long beside the rest of a step, so that a signal meets a rank in its data phase soon."""

STEPS_BEFORE = 20
STALLS_SECONDS = 120.0
"""The least age of the last step at which a rank stalls."""


class Scene(NamedTuple):
    """Three runs of eight ranks each, followed by one sidecar for one server with the shipped rules."""

    server: Prometheus
    slow: RankedRun
    killed: RankedRun
    stopped: RankedRun

    def alerts(self, name: str) -> list[dict[str, str]]:
        """The labels of every alert of a name that fires."""
        return [item["metric"] for item in self.server.query(f'ALERTS{{alertname="{name}", alertstate="firing"}}')]

    def summaries(self, name: str) -> dict[tuple[str, str], str]:
        """What the alerts of a name say, by run and rank."""
        return {
            (alert["labels"]["run_id"], alert["labels"].get("rank", "0")): alert["annotations"]["summary"]
            for alert in self.server.alerts()
            if alert["labels"]["alertname"] == name and alert["state"] == "firing"
        }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All three at once, because a rank counts as stalled only after two minutes."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = folder / "runs"
    runs.mkdir()
    sidecar = Sidecar(runs, folder / "sidecar.log")
    server = Prometheus(require("prometheus"), folder, [sidecar.address])
    slow = RankedRun(runs, "slow", [SLOW_SECONDS if rank == SLOW else USUAL_SECONDS for rank in RANKS])
    killed = RankedRun(runs, "killed", [LOADING_SECONDS for _ in RANKS])
    stopped = RankedRun(runs, "stopped", [LOADING_SECONDS for _ in RANKS])
    with ended(slow, killed, stopped), running(sidecar, server):
        for run in (slow, killed, stopped):
            wait_until(lambda r=run: len(r.steps(0)) > STEPS_BEFORE, 60, f"steps of {run.run_id}")
        statuses = 'count(run_status{status="running", run_id=~"killed|stopped"} == 1) == 16'
        wait_until(lambda: server.query(statuses), 30, "every rank seen running")
        killed.kill(KILLED)
        wait_until(lambda: stopped.is_stopped_in(STOPPED, "data"), 60, "a stop in the data phase")
        yield Scene(server, slow, killed, stopped)


def test_the_rank_that_was_killed_is_named_with_its_last_step(scene: Scene) -> None:
    """Of a run with a killed rank exactly that rank is crashed; the alert says which one and after which step."""
    wait_until(lambda: scene.alerts("RunCrashed"), 30, "the alert")
    crashed = scene.server.query('run_status{status="crashed"} == 1')
    assert [(item["metric"]["run_id"], item["metric"]["rank"]) for item in crashed] == [("killed", str(KILLED))]
    last = scene.killed.steps(KILLED)[-1]["step"]
    [(place, summary)] = scene.summaries("RunCrashed").items()
    assert place == ("killed", str(KILLED))
    assert summary.startswith(f"Rank {KILLED} of run killed crashed after step {last} on {socket.gethostname()}, ")


def test_the_rank_that_is_slow_in_its_data_loader_is_named(scene: Scene) -> None:
    """All ranks step equally fast; only the one with the slow loader has an alert, which names phase and host."""
    found = wait_until(lambda: scene.alerts("RankStraggling"), 90, "the alert")
    assert [(item["run_id"], item["rank"], item["phase"]) for item in found] == [("slow", str(SLOW), "data")]
    [summary] = scene.summaries("RankStraggling").values()
    assert summary.startswith(f"Rank {SLOW} of run slow on {socket.gethostname()} holds up the others")
    steps = {rank: len(scene.slow.steps(rank)) for rank in RANKS}
    assert max(steps.values()) - min(steps.values()) <= 1
    [value] = scene.server.query('run_straggler_ratio{run_id="slow", phase="data"} > 1.25')
    assert value["metric"]["rank"] == str(SLOW)
    # Roughly, because the busier this machine, the longer the others sleep; relative to the mean it would be below 8.
    assert float(value["value"][1]) == pytest.approx(_relative(scene.slow, SLOW, "data"), rel=0.5)


def _relative(run: RankedRun, rank: int, phase: str) -> float:
    """The time of a rank in a phase relative to the median of the ranks, by the journals alone."""
    spent = [
        sum(line["seconds"] for line in run.records(rank) if line.get("name") == f"phase/{phase}" and "seconds" in line)
        for rank in RANKS
    ]
    ordered = sorted(spent)
    return spent[rank] / ((ordered[3] + ordered[4]) / 2)


def test_the_rank_that_hangs_is_named_with_its_phase(scene: Scene) -> None:
    """All ranks of the run stall, because they wait for each other; the stopped one is told from those that wait."""
    last = scene.stopped.steps(STOPPED)[-1]
    left = STALLS_SECONDS - (time.time() - last["time"])
    hanging = wait_until(lambda: scene.alerts("RankHanging"), max(left, 0) + 75, "the alert")
    assert [(item["run_id"], item["rank"], item["phase"]) for item in hanging] == [("stopped", str(STOPPED), "data")]
    assert {(item["run_id"], item.get("rank", "0")) for item in scene.alerts("RunStalled")} == {
        *(("stopped", str(rank)) for rank in RANKS),
        *(("killed", str(rank)) for rank in RANKS if rank != KILLED),
    }
    summary = scene.summaries("RunStalled")["stopped", str(STOPPED)]
    assert summary.startswith(f"Rank {STOPPED} of run stopped has made no step for ")
    assert summary.endswith(f" after step {last['step']} on {socket.gethostname()}, last in phase data")
    summary = scene.summaries("RunStalled")["stopped", "0"]
    assert summary.endswith(", last in phase sync")


def test_the_other_ranks_lose_nothing(scene: Scene) -> None:
    """Every step of each of the 24 journals is stored with its time and value, under its own rank."""
    scene.slow.finish()
    for run in (scene.slow, scene.killed, scene.stopped):
        for rank in RANKS:
            selector = f'training_loss{{run_id="{run.run_id}", rank="{rank or ""}"}}'
            expected = {int(step["time"] * 1000 + 0.5): step["metrics"]["train/loss"] for step in run.steps(rank)}
            wait_until(
                lambda s=selector, e=expected: scene.server.samples(s).keys() >= e.keys(), 30, f"all of {selector}"
            )
            stored = scene.server.samples(selector)
            assert {ms: float(value) for ms, value in stored.items()} == expected
