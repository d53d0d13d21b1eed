"""The promise of the product, against real servers: every step is stored once, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.servers import Prometheus, Sidecar, require, running, wait_until

TRAINER = Path(__file__).parents[1] / "support/trainer.py"
SECONDS = 60.0
STEPS_PER_SECOND = 25.0
STATUSES = {"steady run": "finished", "own page": "finished", "victim": "crashed"}
METRICS = {"train/loss": "training_loss", "train/approx_kl": "rl_kl_divergence", "train/metric_3": "training_metric_3"}


def train(runs: Path, run_id: str, *more: str) -> subprocess.Popen[str]:
    """Start a trainer; one that serves itself says where on its output."""
    command = [sys.executable, str(TRAINER), str(runs), run_id, str(SECONDS), str(STEPS_PER_SECOND), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE if more else subprocess.DEVNULL, text=True)


def logged(runs: Path, run_id: str) -> list[dict]:
    """The steps in a run's journal, read without the product's own reader."""
    lines = (runs / run_id / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["_type"] == "step"]


def milliseconds(record: dict) -> int:
    """A record's time as Prometheus keeps it."""
    return int(record["time"] * 1000 + 0.5)


def assert_all_stored(server: Prometheus, runs: Path, run_id: str) -> None:
    """Every step of a run is in a server, once, with the journal's time and value, and nothing else."""
    steps = logged(runs, run_id)
    for native, canonical in METRICS.items():
        expected = {milliseconds(step): step["metrics"][native] for step in steps}
        assert len(expected) == len(steps), "the trainer logged twice in a millisecond: the test needs another rate"
        stored = server.samples(f'{canonical}{{run_id="{run_id}"}}')
        missing, extra = expected.keys() - stored.keys(), stored.keys() - expected.keys()
        assert not missing, f"{len(missing)} of {len(expected)} steps of {run_id} are missing at {server.url}"
        assert not extra, f"{len(extra)} samples of {run_id} are in no journal"
        assert expected == {ms: float(value) for ms, value in stored.items()}
    positions = server.samples(f'training_step{{run_id="{run_id}"}}')
    assert [step["step"] for step in steps] == [float(positions[ms]) for ms in sorted(positions)]


def is_complete(server: Prometheus, runs: Path, run_id: str) -> bool:
    """Whether a server has a run's last step."""
    last = logged(runs, run_id)[-1]
    return milliseconds(last) in server.samples(f'training_loss{{run_id="{run_id}"}}')


def binaries() -> list[str]:
    """Prometheus on the PATH, and the next major version where PROMETHEUS_NEXT names one."""
    return [require("prometheus"), os.environ.get("PROMETHEUS_NEXT") or require("prometheus")]


@pytest.mark.slow
def test_every_step_is_stored_once_whatever_is_killed(tmp_path: Path) -> None:
    """Two servers get every step of three runs although a server, the sidecar and a trainer are SIGKILLed.

    One run is shown by two pages at once (its own and the sidecar's) and must still be stored once.
    """
    runs = tmp_path / "runs"
    runs.mkdir()
    sidecar = Sidecar(runs, tmp_path / "sidecar.log")
    trainers = {name: train(runs, name) for name in ("steady run", "victim")}
    trainers["own page"] = train(runs, "own page", "0")
    with trainers["own page"].stdout as output:
        own_page = output.readline().strip().removeprefix("http://")
    servers = []
    for number, binary in enumerate(binaries()):
        folder = tmp_path / f"server-{number}"
        folder.mkdir()
        servers.append(Prometheus(binary, folder, [sidecar.address, own_page], scraper=f"server-{number}"))
    with running(sidecar, *servers):
        _kill_and_restart(servers[0], after=12, down=8)
        _kill_and_restart(sidecar, after=6, down=4)
        trainers["victim"].send_signal(signal.SIGKILL)
        for trainer in trainers.values():
            trainer.wait(SECONDS + 30)
        for server in servers:
            for name in trainers:
                wait_until(
                    lambda s=server, n=name: is_complete(s, runs, n), 40, f"the last step of {name} at {server.url}"
                )
                assert_all_stored(server, runs, name)
        for server in servers:
            wait_until(lambda s=server: statuses(s) == STATUSES, 20, f"every status at {server.url}")
            totals = {
                item["metric"]["run_id"]: float(item["value"][1]) for item in server.query("training_steps_total")
            }
            assert totals == {name: len(logged(runs, name)) for name in trainers}


def statuses(server: Prometheus) -> dict[str, str]:
    """The status of each run as a server sees it now."""
    return {item["metric"]["run_id"]: item["metric"]["status"] for item in server.query("run_status == 1")}


def _kill_and_restart(server: Prometheus | Sidecar, after: float, down: float) -> None:
    time.sleep(after)
    server.kill()
    time.sleep(down)
    server.restart()
