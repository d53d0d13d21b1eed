"""TRL's supervised fine-tuning of a small Llama.

python trl_sft.py FOLDER [OPTIMIZER_STEPS]
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from tiny_models import WORDS, llama, tokenizer
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer


def train(folder: Path, steps: int = 10, callbacks: Sequence[TrainerCallback] = ()) -> SFTTrainer:
    """Train; trainer_state.json and event files under ``tensorboard`` lie in the folder, rows are printed."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    words = random.Random(1)
    texts = [" ".join(words.choices(WORDS, k=8)) for _ in range(32)]
    trainer = SFTTrainer(
        model=llama(),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to=["tensorboard"],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            max_length=16,
            seed=1,
        ),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.train()
    trainer.save_state()
    return trainer


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "10")[2]))
