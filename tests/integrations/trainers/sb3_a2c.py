"""Stable-Baselines3 A2C on CartPole with every output that it has.

python sb3_a2c.py FOLDER [ENVIRONMENT_STEPS]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, configure


def train(
    folder: Path, steps: int = 1500, callbacks: Sequence[BaseCallback] = (), outputs: Sequence[KVWriter] = ()
) -> A2C:
    """Train; progress.csv, progress.json, log.txt and the event file lie in the folder."""
    model = A2C("MlpPolicy", "CartPole-v1", n_steps=5, seed=1, device="cpu")
    model.set_logger(configure(str(folder), ["csv", "json", "log", "tensorboard"]))
    model.logger.output_formats.extend(outputs)
    model.learn(steps, callback=list(callbacks), log_interval=20)
    model.logger.close()
    return model


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "1500")[2]))
