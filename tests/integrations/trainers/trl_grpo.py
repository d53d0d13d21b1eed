"""TRL's GRPO: a small Llama is rewarded for a word.

python trl_grpo.py FOLDER [OPTIMIZER_STEPS]
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from tiny_models import WORDS, llama, tokenizer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def count_cats(completions: list[str], **_others: Any) -> list[float]:
    """A reward: how often a completion says ``cat``."""
    return [float(completion.split().count("cat")) for completion in completions]


def train(folder: Path, steps: int = 6, callbacks: Sequence[TrainerCallback] = ()) -> GRPOTrainer:
    """Train; trainer_state.json and event files under ``tensorboard`` lie in the folder, rows are printed."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    words = random.Random(1)
    prompts = [" ".join(words.choices(WORDS, k=4)) for _ in range(32)]
    llama().save_pretrained(folder / "model")
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=count_cats,
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=8,
            learning_rate=1e-2,
            beta=0.05,
            logging_steps=1,
            save_strategy="no",
            report_to=["tensorboard"],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            seed=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.save_state()
    return trainer


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "6")[2]))
