"""Logs as other trainers write them, of half an hour ago."""

from __future__ import annotations

import csv
import json
import math
import os
import random
from pathlib import Path
from typing import Any

SB3 = "sb3-ppo"
RLLIB = "rllib-ppo"
ROWS = 60
PERIOD = 20.0
PIXEL = 5.0
"""Of a graph of an hour, in seconds."""


def write_sb3(runs: Path, last: float) -> list[dict[str, float]]:
    """Stable-Baselines3's progress.csv, whose last row is of ``last``; returns the rows."""
    rng = random.Random(3)
    rows = [
        {
            "time/time_elapsed": PERIOD * index,
            "time/total_timesteps": 2048.0 * (index + 1),
            "time/fps": 100 + rng.random(),
            "rollout/ep_rew_mean": 500 * (1 - math.exp(-index / 20)) + rng.gauss(0, 5),
            "rollout/ep_len_mean": 200 + index,
            "train/approx_kl": 0.01 + rng.random() / 100,
            "train/clip_fraction": 0.1 + rng.random() / 10,
            "train/entropy_loss": -0.69 * math.exp(-index / 60),
            "train/explained_variance": 1 - math.exp(-index / 10),
            "train/loss": 10 * math.exp(-index / 30) + rng.gauss(0, 0.2),
            "train/learning_rate": 3e-4,
        }
        for index in range(ROWS)
    ]
    path = runs / SB3 / "progress.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.utime(path, (last, last))
    return rows


def write_rllib(runs: Path, last: float) -> list[dict[str, Any]]:
    """RLlib's result.json, one document a line; returns the documents.

    Its times are whole seconds, and here they lie on the ends of the pixels of an hour, which
    Prometheus 2 counts twice.
    """
    rng = random.Random(4)
    last -= last % PIXEL
    documents = [
        {
            "training_iteration": index + 1,
            "timesteps_total": 4000 * (index + 1),
            "timestamp": int(last - PERIOD * (ROWS - 1 - index)),
            "episode_reward_mean": 20.0 + index + rng.gauss(0, 1),
            "info": {"learner": {"default_policy": {"learner_stats": _learner(index, rng)}}},
            "config": {"lr": 5e-5, "gamma": 0.99},
        }
        for index in range(ROWS)
    ]
    path = runs / RLLIB / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return documents


def _learner(index: int, rng: random.Random) -> dict[str, float]:
    return {"kl": 0.02 + rng.random() / 50, "entropy": 1.3 - index / 100, "cur_lr": 5e-5, "total_loss": 0.1}
