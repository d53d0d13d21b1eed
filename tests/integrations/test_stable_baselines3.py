"""Stable-Baselines3: through the callback and the writer, and from its own outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure, HParam, KVWriter, Logger, Video

from exporter import start_run
from exporter.integrations.stable_baselines3 import TelemetryCallback, TelemetryWriter
from tests.integrations.support import BrokenRun, Journal, event_rows, read_rows, rows, tags
from tests.integrations.trainers import sb3_a2c, sb3_ppo


class Witness(KVWriter):
    """Keeps what the logger held at every dump."""

    def __init__(self) -> None:
        self.dumps: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """One dump."""
        self.dumps.append((step, dict(key_values)))

    def close(self) -> None:
        """Nothing is open."""


class StopAt(BaseCallback):
    """Breaks a training."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step:
            raise ValueError("the environment broke")
        return True


@pytest.fixture(scope="module", params=[sb3_ppo, sb3_a2c], ids=["ppo", "a2c"])
def own(request, tmp_path_factory):
    """A training without us: where its outputs lie, and what its logger held."""
    folder, witness = tmp_path_factory.mktemp("own"), Witness()
    request.param.train(folder, outputs=[witness])
    return folder, witness


@pytest.mark.parametrize("trainer", [sb3_ppo, sb3_a2c], ids=["ppo", "a2c"])
def test_every_dump_is_a_step(trainer, tmp_path):
    """The journal has what the logger held at every dump, at the number of environment steps."""
    witness = Witness()
    trainer.train(tmp_path / "own", callbacks=[TelemetryCallback(run_id="r1", directory=tmp_path)], outputs=[witness])
    journal = Journal(tmp_path)
    assert journal.rows == rows(witness.dumps)
    assert len(witness.dumps) > 3
    assert journal.ends == [("finished", "")]


def test_the_run_says_what_trains(tmp_path):
    """Algorithm, environment and the constructor's arguments are the run's configuration."""
    sb3_ppo.train(tmp_path / "own", 256, [TelemetryCallback(run_id="r1", directory=tmp_path)])
    (start,) = Journal(tmp_path).starts
    assert (start.framework, start.recipe) == ("sb3", "ppo")
    expected = {
        "policy": "ActorCriticPolicy", "env": "CartPole-v1", "n_envs": 1, "n_steps": 128, "batch_size": 64,
        "n_epochs": 4, "learning_rate": 0.0003, "gamma": 0.99, "seed": 1,
    }  # fmt: skip
    assert {key: start.config[key] for key in expected} == expected


def test_learning_on_is_the_next_attempt(tmp_path):
    """A second ``learn`` with the same callback goes on in the same run, and no dump is logged twice."""
    telemetry, witness = TelemetryCallback(run_id="r1", directory=tmp_path), Witness()
    model = sb3_ppo.train(tmp_path / "own", 256, [telemetry], [witness])
    model.set_logger(Logger(None, [witness]))
    model.learn(256, callback=telemetry, reset_num_timesteps=False)
    model.learn(256, callback=telemetry, reset_num_timesteps=False)
    journal = Journal(tmp_path)
    assert [start.attempt for start in journal.starts] == [1, 2, 3]
    assert journal.ends == [("finished", "")] * 3
    assert journal.rows == rows(witness.dumps)
    assert [step for step, _ in journal.rows] == [128, 256, 384, 512, 640, 768]


def test_a_training_after_a_broken_one_is_logged_once(tmp_path):
    """A callback that saw its training break goes on with the next, and leaves the model's logger as it was."""
    telemetry, witness = TelemetryCallback(run_id="r1", directory=tmp_path), Witness()
    model = sb3_ppo.train(tmp_path / "own", 128, outputs=[witness])
    model.set_logger(Logger(None, [witness]))
    witness.dumps.clear()
    with pytest.raises(ValueError, match="the environment broke"):
        model.learn(512, callback=[telemetry, StopAt(300)])
    model.learn(256, callback=telemetry)
    journal = Journal(tmp_path)
    assert [step for step, _ in journal.rows] == [128, 256, 128, 256]
    assert journal.rows == rows(witness.dumps)
    assert len(journal.starts) == len(journal.ends) == 1
    assert model.logger.output_formats == [witness]


def test_only_numbers_that_are_not_excluded_are_logged(tmp_path):
    """Text, media, histograms and keys excluded from ``telemetry`` stay out; what other outputs leave out does not."""
    with start_run("r1", directory=tmp_path) as run:
        logger = Logger(None, [TelemetryWriter(run)])
        logger.record("float", 1.5)
        logger.record("tensor", torch.tensor(2.5))
        logger.record("not in tensorboard", 3, exclude="tensorboard")
        logger.record("private", 4.0, exclude=("stdout", "telemetry"))
        logger.record("text", "5")
        logger.record("histogram", torch.ones(3))
        logger.record("video", Video(torch.ones(1, 1, 1, 1, 1), 1))
        logger.record("figure", Figure(None, False))
        logger.record("parameters", HParam({"a": 1}, {"b": 2}))
        logger.dump(7)
    assert run.lost == {}
    records = Journal(tmp_path).records
    assert [type(record).__name__ for record in records] == ["RunStart", "Step", "RunEnd"]
    assert Journal(tmp_path).rows == [(7, {"float": 1.5, "tensor": 2.5, "not in tensorboard": 3.0})]


def test_a_run_that_raises_stops_no_training(tmp_path, capfd):
    """Whatever breaks in the telemetry, the training ends as it would, and one line says so."""
    broken = BrokenRun()
    model = sb3_ppo.train(tmp_path, 512, [TelemetryCallback(broken)])
    assert model.num_timesteps == 512
    assert broken.calls == 4
    assert capfd.readouterr().err.count("TelemetryWriter.write: OSError: broken") == 1


def test_the_table_has_what_the_logger_held(own):
    """progress.csv, which is rewritten whenever a key appears, reads as the values that were printed into it."""
    folder, witness = own
    expected = [(step, {key: float(str(value)) for key, value in values.items()}) for step, values in witness.dumps]
    found = [
        (step, {**values, "time/total_timesteps": float(step)}) for step, values in read_rows(folder / "progress.csv")
    ]
    assert found == expected


def test_the_lines_of_json_have_what_the_logger_held(own):
    """progress.json reads as the logger's values."""
    folder, witness = own
    found = [
        (step, {**values, "time/total_timesteps": float(step)}) for step, values in read_rows(folder / "progress.json")
    ]
    assert found == rows(witness.dumps)


def test_the_console_table_has_what_the_logger_held(own):
    """log.txt reads as the logger's values: Python's floats with three significant digits, others as they print."""
    folder, witness = own
    found = [(step, {**values, "time/total_timesteps": float(step)}) for step, values in read_rows(folder / "log.txt")]
    assert [step for step, _ in found] == [step for step, _ in witness.dumps]
    for (_, values), (_, held) in zip(found, witness.dumps, strict=True):
        printed = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in held.items()}
        assert values == {key: float(text) for key, text in printed.items()}


def test_the_event_file_has_what_tensorboard_finds_in_it(own):
    """The event file reads as TensorBoard itself reads it, tag by tag and step by step."""
    folder, _ = own
    (path,) = folder.glob("events.out.tfevents.*")
    expected = tags(event_rows(path))
    assert tags(read_rows(path)) == expected
    assert "train/value_loss" in expected
