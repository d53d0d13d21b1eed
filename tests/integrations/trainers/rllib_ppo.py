"""RLlib PPO on CartPole as a trial of Ray Tune, with the files that Tune writes for every trial.

python rllib_ppo.py FOLDER [ITERATIONS]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig


class Witness(tune.Callback):
    """Keeps the results that Tune was told."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One result."""
        self.results.append(result)


def train(folder: Path, iterations: int = 3) -> list[dict[str, Any]]:
    """Train; result.json, progress.csv and the event file lie below the folder. Returns what the iterations gave."""
    witness = Witness()
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .training(train_batch_size=256, minibatch_size=64, num_epochs=2)
        .debugging(seed=1)
    )
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        run_config = tune.RunConfig(
            storage_path=str(folder), stop={"training_iteration": iterations}, callbacks=[witness], verbose=0
        )
        tune.Tuner("PPO", param_space=config, run_config=run_config).fit()
    finally:
        ray.shutdown()
    return witness.results


if __name__ == "__main__":
    train(Path(sys.argv[1]).resolve(), int((*sys.argv, "3")[2]))
