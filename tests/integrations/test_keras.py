"""Keras on torch: through the callback, and from its own table."""

from __future__ import annotations

import csv

import keras
import numpy as np
import pytest

from exporter import ConfigError
from exporter.integrations.keras import TelemetryCallback
from tests.integrations.support import BrokenRun, Journal, read_rows, rows
from tests.integrations.trainers import keras_fit

BATCHES = 4
"""Per epoch of the trainer."""


def rate(steps: int) -> float:
    """The learning rate after so many optimizer steps: 0.1, halved every four."""
    return 0.1 * 0.5 ** (steps / 4)


def test_every_epoch_is_a_step(tmp_path):
    """The journal has each epoch's row of the history and the learning rate, at its optimizer step."""
    history = keras_fit.train(tmp_path / "own", 4, [TelemetryCallback(run_id="r1", directory=tmp_path)])
    journal = Journal(tmp_path)
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae"}
    for number, (step, metrics) in enumerate(journal.rows):
        assert step == BATCHES * (number + 1)
        assert metrics.pop("learning_rate") == pytest.approx(rate(step), rel=1e-6)
        assert metrics == {key: values[number] for key, values in history.history.items()}
    assert [step.epoch for step in journal.steps] == [0, 1, 2, 3]
    assert journal.ends == [("finished", "")]


def test_the_run_says_what_trains(tmp_path):
    """Optimizer, loss, length and size of the model are the run's configuration."""
    keras_fit.train(tmp_path / "own", 1, [TelemetryCallback(run_id="r1", directory=tmp_path)])
    (start,) = Journal(tmp_path).starts
    assert start.framework == "keras"
    assert {key: start.config[key] for key in ("loss", "epochs", "steps", "parameters")} == {
        "loss": "mse",
        "epochs": 1,
        "steps": BATCHES,
        "parameters": 3,
    }
    assert start.config["optimizer"]["config"]["learning_rate"]["config"]["decay_rate"] == 0.5


@pytest.mark.parametrize(("update_freq", "within"), [("batch", [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), ("epoch", [])])
def test_batches_are_steps_where_wanted(tmp_path, capfd, update_freq, within):
    """Besides the epochs there is a row for every so many batches; the last batch's means are the epoch's."""
    telemetry = TelemetryCallback(run_id="r1", directory=tmp_path, update_freq=update_freq)
    history = keras_fit.train(tmp_path / "own", 2, [telemetry])
    journal = Journal(tmp_path)
    batches = [step for step in journal.steps if "val_loss" not in step.metrics]
    assert [step.step for step in batches] == [BATCHES * epoch + batch for epoch in (0, 1) for batch in within]
    assert [step.epoch for step in batches] == [epoch for epoch in (0, 1) for _ in within]
    assert "telemetry" not in capfd.readouterr().err
    if within[-1:] == [BATCHES]:
        last = [step.metrics["loss"] for step in batches if step.step % BATCHES == 0]
        assert last == history.history["loss"]


@pytest.mark.parametrize("update_freq", [0, -1, 1.5, "step", None])
def test_a_wrong_frequency_is_refused(update_freq):
    """What is neither a word of Keras' nor a number of batches is an error that says what would be one."""
    with pytest.raises(ConfigError, match="must be 'epoch', 'batch' or a number of batches"):
        TelemetryCallback(update_freq=update_freq)


def test_a_rate_that_keras_shows_is_not_read_again(tmp_path):
    """Where a callback puts the learning rate of an epoch into the logs, that value is logged."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    scheduler = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
    telemetry = TelemetryCallback(run_id="r1", directory=tmp_path)
    history = model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=3, callbacks=[scheduler, telemetry], verbose=0)
    assert [metrics["learning_rate"] for _, metrics in Journal(tmp_path).rows] == history.history["learning_rate"]
    assert history.history["learning_rate"] == [0.5, 0.5, 0.25]


def test_a_run_that_raises_stops_no_training(tmp_path, capfd):
    """Whatever breaks in the telemetry, the training ends as it would, and one line for each hook says so."""
    broken = BrokenRun()
    history = keras_fit.train(tmp_path, 2, [TelemetryCallback(broken, update_freq="batch")])
    assert len(history.history["loss"]) == 2
    assert broken.calls == 2 * (BATCHES + 1)
    assert capfd.readouterr().err.count("OSError: broken") == 2


def test_the_table_reads_as_it_was_written(tmp_path):
    """The CSVLogger's file reads as the history, numbered by epochs from 0."""
    history = keras_fit.train(tmp_path)
    expected = [(epoch, {key: values[epoch] for key, values in history.history.items()}) for epoch in range(4)]
    assert [(step, metrics) for step, metrics in read_rows(tmp_path / "training.csv")] == rows(expected)
    with (tmp_path / "training.csv").open() as file:
        assert [int(line["epoch"]) for line in csv.DictReader(file)] == [0, 1, 2, 3]
