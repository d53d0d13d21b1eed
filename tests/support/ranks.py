"""Runs of several ranks for tests: processes that step together, each with a journal of its own."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from exporter import start_run
from exporter.journal import journal_name

__all__ = ["RankedRun", "ended"]

FORWARD_SECONDS = 0.01
SPAWN = multiprocessing.get_context("spawn")


class RankedRun:
    """A run whose ranks meet at a barrier in every step, as an all-reduce makes them do."""

    def __init__(self, runs: Path, run_id: str, data_seconds: Sequence[float]) -> None:
        """Start one rank for each of ``data_seconds``, the time that its data loader takes for a step."""
        self.run_id = run_id
        self.folder = runs / run_id
        self._barrier = SPAWN.Barrier(len(data_seconds))
        self.ranks: list[BaseProcess] = []
        for rank, seconds in enumerate(data_seconds):
            process = SPAWN.Process(target=_train, args=(runs, run_id, rank, self._barrier, seconds), daemon=True)
            process.start()
            self.ranks.append(process)

    def journal(self, rank: int) -> Path:
        """The journal of a rank."""
        return self.folder / journal_name(rank)

    def records(self, rank: int) -> list[dict[str, Any]]:
        """The whole lines of a rank's journal, read without the product's own reader."""
        text = self.journal(rank).read_text() if self.journal(rank).exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self, rank: int) -> list[dict[str, Any]]:
        """The steps that a rank has logged."""
        return [record for record in self.records(rank) if record["_type"] == "step"]

    def kill(self, rank: int) -> None:
        """SIGKILL a rank."""
        self.ranks[rank].kill()
        self.ranks[rank].join(10)

    def is_stopped_in(self, rank: int, phase: str) -> bool:
        """SIGSTOP a rank, and let it go on again unless it is in the phase."""
        pid = self.ranks[rank].pid or 0
        os.kill(pid, signal.SIGSTOP)
        last = self.records(rank)[-1]
        is_there = (last["_type"], last.get("name")) == ("phase", phase)
        if not is_there:
            os.kill(pid, signal.SIGCONT)
        return is_there

    def finish(self) -> None:
        """Let all ranks end by themselves."""
        self._barrier.abort()
        for process in self.ranks:
            process.join(20)

    def end(self) -> None:
        """End what is left, whatever state it is in."""
        for process in self.ranks:
            if process.is_alive():
                process.kill()
            process.join(10)


@contextlib.contextmanager
def ended(*runs: RankedRun) -> Iterator[None]:
    """End the ranks of runs at the end."""
    try:
        yield
    finally:
        for run in runs:
            run.end()


def _train(runs: Path, run_id: str, rank: int, barrier: Barrier, data_seconds: float) -> None:
    os.environ.update(_place(rank, barrier.parties))
    run = start_run(run_id=run_id, directory=runs, ranks="all")
    with run, contextlib.suppress(threading.BrokenBarrierError):
        while True:
            with run.phase("data"):
                time.sleep(data_seconds)
            with run.phase("forward"):
                time.sleep(FORWARD_SECONDS)
            with run.phase("sync"):
                barrier.wait()
            run.log({"train/loss": rank + time.monotonic() % 1})


def _place(rank: int, world_size: int) -> Mapping[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
