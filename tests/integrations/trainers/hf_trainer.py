"""Hugging Face Trainer: a small Llama learns sequences of random tokens, is evaluated, and saves checkpoints.

python hf_trainer.py FOLDER [OPTIMIZER_STEPS]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import llama
from transformers import Trainer, TrainerCallback, TrainingArguments


def train(folder: Path, steps: int = 20, callbacks: Sequence[TrainerCallback] = (), **arguments: Any) -> Trainer:
    """Train; trainer_state.json and event files under ``tensorboard`` lie in the folder, rows are printed."""
    trainer = make_trainer(folder, steps, callbacks, **arguments)
    trainer.train()
    trainer.save_state()
    return trainer


def make_trainer(folder: Path, steps: int, callbacks: Sequence[TrainerCallback], **arguments: Any) -> Trainer:
    """A trainer that has not begun."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    tokens = torch.randint(3, 19, (48, 8), generator=torch.Generator().manual_seed(1))
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_steps": 10,
        "report_to": ["tensorboard"],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        **arguments,
    }
    return Trainer(
        model=llama(),
        args=TrainingArguments(**options),
        train_dataset=examples,
        eval_dataset=examples[:8],
        callbacks=list(callbacks),
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "20")[2]))
