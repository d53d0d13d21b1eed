"""Real runs in real servers, held at one moment: what the dashboards are asked about."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.grafana import foreign_logs, trainer
from tests.grafana.gpus import GpuPage
from tests.support.journals import Journal
from tests.support.servers import Prometheus, Sidecar, get, running, wait_until

SECONDS = 65.0
CRASHES_AFTER = 40.0
STEADY, STEADY_TOO, DIVERGING, LONG = "steady", "steady: seed 7", "diverging", "long: 40 minutes"
LONG_STEPS = 1200
RESUMED = "resumed, seed=3"
RESUMED_AT, RESUMED_FROM, RESUMED_STEPS = 120, 62, 200
"""A step every two seconds until 120, and again from step 62, from a checkpoint, until 200."""

RUNS = {
    STEADY: "finished",
    STEADY_TOO: "finished",
    DIVERGING: "crashed",
    LONG: "finished",
    RESUMED: "finished",
    trainer.FINE_TUNING: "running",
    trainer.DIVERGED: "failed",
    trainer.SINGLE: "finished",
    foreign_logs.SB3: "stalled",
    foreign_logs.RLLIB: "stalled",
}
"""Every run, and how it stands at the moment of the questions."""


@dataclass
class Laboratory:
    """The servers and what is true of the runs in them."""

    servers: Mapping[str, Prometheus]
    """By the name of their binary; the first is the one that most questions go to."""
    now: float
    """The moment (seconds since 1970) up to which everything is stored."""
    sb3: list[dict[str, float]]
    rllib: list[dict[str, Any]]
    """The rows of the logs that other trainers wrote."""

    @property
    def prometheus(self) -> Prometheus:
        """The first server."""
        return next(iter(self.servers.values()))

    @property
    def newest(self) -> Prometheus:
        """The next Prometheus where there is one."""
        return list(self.servers.values())[-1]


@contextlib.contextmanager
def laboratory(folder: Path, binaries: Mapping[str, str]) -> Iterator[Laboratory]:
    """Train, scrape and alert for a minute; then nothing moves any more but the clock."""
    runs = folder / "runs"
    sb3 = foreign_logs.write_sb3(runs, time.time() - 300)
    rllib = foreign_logs.write_rllib(runs, time.time() - 600)
    _write_long(runs)
    _write_resumed(runs)
    gpus = GpuPage({0: STEADY, 1: trainer.FINE_TUNING})
    sidecar = Sidecar(runs, folder / "sidecar.log")
    servers = {}
    for name, binary in binaries.items():
        (folder / name).mkdir()
        servers[name] = Prometheus(binary, folder / name, [sidecar.address, gpus.address], scraper=name)
    with running(*servers.values()):
        with contextlib.closing(gpus), running(sidecar):
            now = _train(runs, folder, list(servers.values()))
        yield Laboratory(servers, now, sb3, rllib)


def counts_both_ends(server: Prometheus) -> bool:
    """Whether a sample at the beginning of a window is in it, as in Prometheus 2."""
    version = json.loads(get(f"{server.url}/api/v1/status/buildinfo"))["data"]["version"]
    return str(version).startswith("2.")


def long_loss(step: int) -> float:
    """The loss of the long run."""
    return 3 * math.exp(-step / 400) + 0.2 * math.sin(step * 1.7)


def _write_long(runs: Path) -> None:
    """A run of forty minutes that ended five minutes ago: a step every two seconds, an evaluation every fifty steps."""
    journal = Journal(runs, LONG)
    journal.begin = round(time.time() - 2 * LONG_STEPS - 300, 3)
    config = {"learning_rate": 1e-3, "max_steps": LONG_STEPS, "seed": 2, "lora": {"rank": 16}}
    journal.start(recipe="sft", user_id="alice", base_model="llama-7b", framework="hf", config=config)
    for step in range(LONG_STEPS):
        metrics = {"train/loss": long_loss(step), "train/grad_norm": 1 + 0.5 * math.cos(step)}
        if step % 50 == 49:
            metrics["val/loss"] = 3.2 * math.exp(-step / 300) + step / 2000
            journal.other("checkpoint", 2 * step + 0.5, step=step, path=f"{step}.pt")
        journal.log(step, metrics, 2 * step, epoch=step / 300)
    journal.other("event", 600, title="data loader restarted", alert_type="error")
    journal.other("event", 900, title="schedule changed", alert_type="warning")
    journal.end(2 * LONG_STEPS)


def resumed_loss(step: int, attempt: int) -> float:
    """The loss of the resumed run: that of the first attempt is a hundred higher."""
    return 1 / (step + 1) + 100 * (attempt == 1)


def _write_resumed(runs: Path) -> None:
    """A run that was killed and went on from its checkpoint, without a configuration."""
    journal = Journal(runs, RESUMED)
    seconds = 2 * (RESUMED_AT + RESUMED_STEPS - RESUMED_FROM)
    journal.begin = round(time.time() - seconds - 300, 3)
    journal.start(recipe="ppo", user_id="bob")
    for step in range(RESUMED_AT):
        journal.log(step, {"train/loss": resumed_loss(step, 1)}, 2 * step)
    journal.start(2 * RESUMED_AT - 0.5, recipe="ppo", user_id="bob")
    for step in range(RESUMED_FROM, RESUMED_STEPS):
        journal.log(step, {"train/loss": resumed_loss(step, 2)}, 2 * (RESUMED_AT + step - RESUMED_FROM))
    journal.end(seconds)


def _train(runs: Path, folder: Path, servers: Sequence[Prometheus]) -> float:
    """Train all the others, one of which is killed on the way; returns the moment when everything is stored."""
    trainers = _trainers(runs, folder)
    try:
        time.sleep(CRASHES_AFTER)
        trainers[DIVERGING].kill()
        time.sleep(SECONDS - CRASHES_AFTER)
        wait_until(lambda: all(map(_knows_all, servers)), 60, "every run in Prometheus with its status")
        return time.time()
    finally:
        for process in trainers.values():
            process.kill()
            process.wait(10)


def _trainers(runs: Path, folder: Path) -> dict[str, subprocess.Popen[bytes]]:
    demo = [sys.executable, "-m", "exporter.demo.ppo", "--directory", str(runs), "--updates-per-second", "4"]
    own = [sys.executable, str(Path(__file__).with_name("trainer.py"))]
    commands = {
        STEADY: [*demo, "--preset", "steady", "--run-id", STEADY, "--seconds", str(SECONDS - 15)],
        STEADY_TOO: [
            *demo,
            "--preset",
            "steady",
            "--run-id",
            STEADY_TOO,
            "--seconds",
            str(SECONDS - 20),
            "--seed",
            "7",
        ],
        DIVERGING: [*demo, "--preset", "diverging", "--run-id", DIVERGING, "--seconds", "600"],
        trainer.DIVERGED: [*own, "diverge", str(runs), "35"],
        trainer.SINGLE: [*own, "single_step", str(runs), "0"],
        trainer.FINE_TUNING: [*own, "fine_tune", str(runs), "600"],
        f"{trainer.FINE_TUNING} on rank 1": [*own, "fine_tune", str(runs), "600"],
    }
    ranks = {trainer.FINE_TUNING: "0", f"{trainer.FINE_TUNING} on rank 1": "1"}
    plain = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "trainers.log").open("ab") as log:
        return {
            name: subprocess.Popen(
                command,
                env={**plain, "RANK": ranks[name], "WORLD_SIZE": "2"} if name in ranks else plain,
                stdout=log,
                stderr=log,
            )
            for name, command in commands.items()
        }


def _knows_all(prometheus: Prometheus) -> bool:
    result = prometheus.query("max by (run_id, status) (run_status) == 1")
    known = {(item["metric"]["run_id"], item["metric"]["status"]) for item in result}
    return all((run, status) in known for run, status in RUNS.items())
