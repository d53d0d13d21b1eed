"""A loop of one's own with Accelerate, written by its TensorBoard tracker.

python accelerate_loop.py FOLDER [OPTIMIZER_STEPS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

CONFIG = {"learning_rate": 0.05, "batch_size": 8, "optimizer": "sgd"}


def train(
    folder: Path, steps: int = 30, tracker: GeneralTracker | str = "tensorboard"
) -> list[tuple[int, dict[str, Any]]]:
    """Train; returns what was given to ``accelerator.log``, by step."""
    torch.manual_seed(1)
    accelerator = Accelerator(log_with=tracker, project_dir=folder, cpu=True)
    accelerator.init_trackers("accelerated", config=CONFIG)
    layer = torch.nn.Linear(2, 1)
    model, optimizer = accelerator.prepare(layer, torch.optim.SGD(layer.parameters(), lr=CONFIG["learning_rate"]))
    said = []
    for step in range(steps):
        points = torch.randn(CONFIG["batch_size"], 2)
        loss = torch.nn.functional.mse_loss(model(points), points.sum(1, keepdim=True))
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        values = {"train_loss": loss.item(), "weight": layer.weight.norm().item(), "epoch": step // 10}
        accelerator.log(values, step=step)
        said.append((step, values))
    accelerator.end_training()
    return said


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "30")[2]))
