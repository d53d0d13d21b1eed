"""Hugging Face Trainer and TRL: through the callback, and from what they write and print themselves."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerState, TrainingArguments

from exporter import ConfigError, start_run
from exporter.integrations.huggingface import TelemetryCallback
from exporter.records import Checkpoint
from tests.integrations.support import BrokenRun, Journal, Rows, event_rows, read_items, read_rows, rows, tags
from tests.integrations.trainers import hf_trainer, trl_grpo, trl_sft
from tests.support.journals import Journal as Page
from tests.support.servers import REPOSITORY

TRAINERS = {"trainer": hf_trainer, "sft": trl_sft, "grpo": trl_grpo}


def history(state: Any) -> Rows:
    """What the trainer says that it has logged."""
    return rows(((entry["step"], entry) for entry in state.log_history), leave_out=("step", "epoch"))


@pytest.fixture(scope="module", params=list(TRAINERS))
def followed(request, tmp_path_factory):
    """A training with the callback: its name, the folder with its runs, and what the trainer says."""
    runs = tmp_path_factory.mktemp("runs")
    callback = TelemetryCallback(run_id="r1", directory=runs)
    trainer = TRAINERS[request.param].train(runs / "own", callbacks=[callback])
    return request.param, runs, trainer


@pytest.fixture(scope="module", params=list(TRAINERS))
def own(request, tmp_path_factory):
    """A training without us: its folder with everything that it wrote and printed, and what the trainer says."""
    folder = tmp_path_factory.mktemp("own")
    with (folder / "console.log").open("w") as log, contextlib.redirect_stdout(log):
        trainer = TRAINERS[request.param].train(folder)
    return folder, trainer


def test_every_logged_row_is_a_step(followed):
    """The journal has each row of the trainer's own history: its values, its step and its epoch."""
    _, runs, trainer = followed
    journal = Journal(runs)
    assert journal.rows == history(trainer.state)
    assert [step.epoch for step in journal.steps] == [entry["epoch"] for entry in trainer.state.log_history]
    assert len(journal.rows) > trainer.state.max_steps
    assert journal.ends == [("finished", "")]


def test_the_run_says_what_trains(followed):
    """Framework, method, and what is set of training arguments and model configuration are the run's."""
    name, runs, _ = followed
    (start,) = Journal(runs).starts
    expected = {"trainer": ("transformers", ""), "sft": ("trl", "sft"), "grpo": ("trl", "grpo")}
    assert (start.framework, start.recipe) == expected[name]
    assert start.base_model == (str(runs / "own" / "model") if name == "grpo" else "")
    assert start.config["learning_rate"] == 0.01
    assert start.config["model"]["hidden_size"] == 16
    assert start.config["hub_token"] == "<HUB_TOKEN>"
    assert None not in {**start.config, **start.config["model"]}.values()


def test_checkpoints_are_recorded(tmp_path):
    """Each checkpoint that the Trainer saves is in the journal with its step and its folder, which exists."""
    hf_trainer.train(tmp_path / "own", 20, [TelemetryCallback(run_id="r1", directory=tmp_path)])
    saved = [record for record in Journal(tmp_path).records if isinstance(record, Checkpoint)]
    assert [record.step for record in saved] == [10, 20]
    assert [Path(record.path).is_dir() for record in saved] == [True, True]


def test_nan_that_the_trainer_hides_is_seen_in_the_gradient(tmp_path):
    """A diverged training whose shown loss stays finite has a NaN gradient in the journal, and it is counted."""
    callback = TelemetryCallback(run_id="r1", directory=tmp_path)
    trainer = hf_trainer.train(tmp_path / "own", 6, [callback], learning_rate=1e30, lr_scheduler_type="constant")
    shown = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    norms = [metrics["grad_norm"] for _, metrics in Journal(tmp_path).rows if "grad_norm" in metrics]
    assert all(math.isfinite(loss) for loss in shown)
    assert len(norms) == len(shown) == 6
    bad = sum(not math.isfinite(norm) for norm in norms)
    assert bad > 0
    assert Page(tmp_path).state().nonfinite["training_grad_norm"] == bad


def test_evaluations_around_the_training_belong_to_the_run(tmp_path):
    """An evaluation before the training is in its first attempt; one after it opens the run again and ends it."""
    callback = TelemetryCallback(run_id="r1", directory=tmp_path)
    trainer = hf_trainer.make_trainer(tmp_path / "own", 4, [callback], eval_strategy="no", save_strategy="no")
    before = trainer.evaluate()
    trainer.train()
    training = history(trainer.state)
    after = trainer.evaluate()
    journal = Journal(tmp_path)
    assert journal.rows == [*rows([(0, before)], ["epoch"]), *training, *rows([(4, after)], ["epoch"])]
    assert [start.attempt for start in journal.starts] == [1, 2]
    assert journal.ends == [("finished", "")] * 2


def test_a_given_run_is_ended_by_its_owner(tmp_path):
    """A run that was started outside goes on after the training, and fails with its block."""
    with contextlib.suppress(KeyError), start_run("r1", directory=tmp_path) as run:
        hf_trainer.train(tmp_path / "own", 2, [TelemetryCallback(run)], save_strategy="no")
        run.log({"after": 1.0})
        raise KeyError("later")
    journal = Journal(tmp_path)
    assert journal.rows[-1] == (3, {"after": 1.0})
    assert journal.ends == [("failed", "KeyError: 'later'")]


def test_settings_come_before_what_the_trainer_says(tmp_path, monkeypatch):
    """What the user sets, in the call or the environment, is not overwritten by what the trainer knows."""
    monkeypatch.setenv("TELEMETRY_FRAMEWORK", "mine")
    monkeypatch.setenv("TELEMETRY_CONFIG", "seed=7")
    callback = TelemetryCallback(run_id="r1", directory=tmp_path, recipe="tuned")
    hf_trainer.train(tmp_path / "own", 1, [callback], save_strategy="no")
    (start,) = Journal(tmp_path).starts
    assert (start.framework, start.recipe, start.config["seed"]) == ("mine", "tuned", "7")
    assert start.config["learning_rate"] == 0.01


def test_wrong_settings_are_refused_before_the_training():
    """A setting that does not exist, or one beside a run that has been started, is an error where it is written."""
    with pytest.raises(ConfigError, match="unknown setting 'runid'"):
        TelemetryCallback(runid="r1")
    with pytest.raises(ConfigError, match="cannot take user_id"):
        TelemetryCallback(BrokenRun(), user_id="alice")


def test_a_run_that_raises_stops_no_training(tmp_path, capfd):
    """Whatever breaks in the telemetry, the training ends as it would, and one line for each hook says so."""
    broken = BrokenRun()
    trainer = hf_trainer.train(tmp_path, 10, [TelemetryCallback(broken)])
    assert trainer.state.global_step == 10
    assert broken.calls == len(trainer.state.log_history) + 1
    said = capfd.readouterr().err
    assert [said.count(f"TelemetryCallback.{hook}: OSError: broken") for hook in ("on_log", "on_save")] == [1, 1]


def test_other_processes_log_nothing(tmp_path):
    """Where the state says that this is not the main process, no run is started."""
    callback = TelemetryCallback(run_id="r1", directory=tmp_path / "runs")
    args, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState(is_world_process_zero=False)
    callback.on_train_begin(args, state, None)
    callback.on_log(args, state, None, logs={"loss": 1.0})
    callback.on_save(args, state, None)
    callback.on_train_end(args, state, None)
    assert not (tmp_path / "runs").exists()


def test_two_processes_log_once(tmp_path):
    """With torchrun and two processes the journal has every row of the main one, once."""
    code = (
        "import sys; sys.path.insert(0, 'tests/integrations/trainers')\n"
        "from pathlib import Path\n"
        "import hf_trainer\n"
        "from exporter.integrations.huggingface import TelemetryCallback\n"
        f"hf_trainer.train(Path({str(tmp_path / 'own')!r}), 4, [TelemetryCallback(directory={str(tmp_path)!r})])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    environment = {**os.environ, "TELEMETRY_RUN_ID": "r1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, timeout=120, capture_output=True)
    (start,) = Journal(tmp_path).starts
    assert start.world_size == 2
    assert Journal(tmp_path).rows == read_rows(tmp_path / "own" / "trainer_state.json")
    assert [path.name for path in (tmp_path / "r1").glob("*.jsonl")] == ["metrics.jsonl"]


def test_a_logged_row_costs_microseconds(tmp_path):
    """The hook that is called for every row takes less than a fifth of a millisecond."""
    callback = TelemetryCallback(run_id="r1", directory=tmp_path)
    args, state = TrainingArguments(str(tmp_path), use_cpu=True), TrainerState()
    callback.on_train_begin(args, state, None)
    logs = {"loss": 1.0, "grad_norm": 2.0, "learning_rate": 1e-3, "epoch": 0.5}
    durations = []
    for state.global_step in range(1000):
        begin = time.perf_counter()
        callback.on_log(args, state, None, logs=logs)
        durations.append(time.perf_counter() - begin)
    callback.on_train_end(args, state, None)
    assert sorted(durations)[500] < 200e-6


def test_the_saved_state_reads_as_the_history(own):
    """trainer_state.json reads as the rows of the trainer's history."""
    folder, trainer = own
    assert read_rows(folder / "trainer_state.json") == history(trainer.state)


def test_the_event_file_has_what_tensorboard_finds_in_it(own):
    """The event file reads as TensorBoard itself reads it, tag by tag and step by step."""
    folder, _ = own
    (path,) = (folder / "tensorboard").glob("events.out.tfevents.*")
    expected = tags(event_rows(path))
    assert tags(read_rows(path)) == expected
    assert "train/loss" in expected


def test_the_console_reads_as_the_history(own):
    """The printed rows read as the history with four significant digits; they are numbered, for no step is printed."""
    folder, trainer = own
    items = read_items(folder / "console.log")
    logged = [entry for entry in trainer.state.log_history if any(key.endswith("loss") for key in entry)]
    printed = [
        {key: float(f"{value:.4g}") for key, value in entry.items() if key not in ("step", "epoch", "total_flos")}
        for entry in logged
    ]
    assert [item.metrics for item in items] == printed
    assert [item.epoch for item in items] == [float(f"{entry['epoch']:.4g}") for entry in logged]
    assert [item.step for item in items] == list(range(1, len(items) + 1))
