"""The logs of a trainer that knows nothing of us, followed live into a real server while the sidecar is killed."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import REPOSITORY, Prometheus, Sidecar, require, running, wait_until

WRITER = Path(__file__).parents[1] / "support/log_writer.py"
SECONDS = 45.0
CLOCK_ERROR_MS = 2500
"""Stable-Baselines3 counts whole seconds, and the first look sets its clock by a whole second."""


def written(folder: Path) -> list[dict[str, Any]]:
    """What the trainer wrote, by its own account."""
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def milliseconds(row: dict[str, Any]) -> int:
    """A row's time as Prometheus keeps it."""
    return int(row["time"] * 1000 + 0.5)


def single(value: float) -> float:
    """A number as an event file holds it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def stored(server: Prometheus, run_id: str, name: str = "training_loss") -> dict[int, float]:
    """All samples of a run's series in a server: milliseconds to value."""
    return {ms: float(value) for ms, value in server.samples(f'{name}{{run_id="{run_id}"}}').items()}


def is_complete(server: Prometheus, run_id: str, last_step: int) -> bool:
    """Whether a server has a run's last step."""
    return last_step in server_steps(server, run_id)


def server_steps(server: Prometheus, run_id: str) -> list[float]:
    """The step axis of a run, in the order of time; empty before the first one."""
    if not server.query(f'count_over_time(training_step{{run_id="{run_id}"}}[10m])'):
        return []
    return [value for _, value in sorted(stored(server, run_id, "training_step").items())]


@pytest.mark.slow
def test_every_row_of_foreign_logs_is_stored_once(tmp_path: Path) -> None:
    """A table, lines of JSON and an event file are in Prometheus row by row although the sidecar is SIGKILLed.

    The table is rewritten in place with a longer header and the lines are rotated meanwhile. Rows that say when they
    were are at that time; those of the table, which counts seconds, within a second or two of it.
    """
    folder = tmp_path / "logs"
    folder.mkdir()
    sidecar = Sidecar(folder, tmp_path / "sidecar.log")
    server = Prometheus(require("prometheus"), tmp_path, [sidecar.address])
    rng = random.Random(3)
    with running(sidecar, server):
        command = [sys.executable, str(WRITER), str(folder), str(SECONDS)]
        with subprocess.Popen(command, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}) as writer:
            while writer.poll() is None:
                time.sleep(rng.uniform(1, 5))
                sidecar.kill()
                time.sleep(rng.uniform(0, 2))
                sidecar.restart()
        rows = written(tmp_path)
        assert len(rows) > 300
        for run_id in ("ppo", "sft", "dqn"):
            wait_until(lambda r=run_id: is_complete(server, r, rows[-1]["step"]), 40, f"the last step of {run_id}")
            assert server_steps(server, run_id) == [row["step"] for row in rows]
        assert stored(server, "sft") == {milliseconds(row): row["loss"] for row in rows}
        assert stored(server, "dqn") == {milliseconds(row): single(row["loss"]) for row in rows}
        table = sorted(stored(server, "ppo").items())
        assert [value for _, value in table] == [row["loss"] for row in rows]
        assert max(abs(ms - milliseconds(row)) for (ms, _), row in zip(table, rows, strict=True)) < CLOCK_ERROR_MS
        divergences = stored(server, "ppo", "rl_kl_divergence").values()
        assert [*divergences] == [row["loss"] / 100 for row in rows if row["step"] > 150]
    assert "cannot" not in (tmp_path / "sidecar.log").read_text()
