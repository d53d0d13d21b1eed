"""A step that all ranks of torch.distributed make together, each with a data loader and a model of its own."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from exporter import start_run

STEPS = 15


def train(rank: int, folder: Path, data_seconds: list[float]) -> None:
    """Train a model by DistributedDataParallel; no variable says which rank this is."""
    store = f"file://{folder / 'store'}"
    wait = timedelta(seconds=60)
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=len(data_seconds), timeout=wait
    )
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with start_run(run_id="ddp", directory=folder / "runs", ranks="all") as run:
        for _ in range(STEPS):
            with run.phase("data"):
                time.sleep(data_seconds[rank])
                batch = torch.ones(4, 8)
            with run.phase("forward", cuda=True):
                loss = model(batch).square().mean()
            with run.phase("backward", cuda=True):
                loss.backward()
            with run.phase("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            run.log({"train/loss": loss, "train/step_samples": len(batch)})
    torch.distributed.destroy_process_group()
