"""Keras on torch: a regression with validation, written by its CSVLogger.

python keras_fit.py FOLDER [EPOCHS]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np


def train(folder: Path, epochs: int = 4, callbacks: Sequence[keras.callbacks.Callback] = ()) -> keras.callbacks.History:
    """Train; training.csv lies in the folder. Sixty-four points make four batches."""
    keras.utils.set_random_seed(1)
    points = np.random.default_rng(1).normal(size=(64, 2)).astype("float32")
    targets = points.sum(axis=1, keepdims=True)
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=4, decay_rate=0.5)
    model.compile(optimizer=keras.optimizers.SGD(schedule), loss="mse", metrics=["mae"])
    folder.mkdir(parents=True, exist_ok=True)
    return model.fit(
        points,
        targets,
        batch_size=16,
        epochs=epochs,
        validation_data=(points[:16], targets[:16]),
        callbacks=[keras.callbacks.CSVLogger(str(folder / "training.csv")), *callbacks],
        verbose=0,
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "4")[2]))
