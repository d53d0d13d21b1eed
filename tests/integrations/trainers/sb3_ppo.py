"""Stable-Baselines3 PPO on CartPole with every output that it has.

python sb3_ppo.py FOLDER [ENVIRONMENT_STEPS]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, configure


def train(
    folder: Path, steps: int = 1024, callbacks: Sequence[BaseCallback] = (), outputs: Sequence[KVWriter] = ()
) -> PPO:
    """Train; progress.csv, progress.json, log.txt and the event file lie in the folder."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=128, batch_size=64, n_epochs=4, seed=1, device="cpu")
    model.set_logger(configure(str(folder), ["csv", "json", "log", "tensorboard"]))
    model.logger.output_formats.extend(outputs)
    model.learn(steps, callback=list(callbacks))
    model.logger.close()
    return model


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "1024")[2]))
