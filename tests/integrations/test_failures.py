"""Trainings that break: the process ends without telling its callbacks, and yet the run says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integrations.support import Journal
from tests.support.servers import REPOSITORY

TRAINERS = {
    "sb3": """
import sb3_ppo
from stable_baselines3.common.callbacks import BaseCallback
from exporter.integrations.stable_baselines3 import TelemetryCallback
class Fail(BaseCallback):
    def _on_step(self):
        if self.num_timesteps > 300: raise FloatingPointError("no number")
        return True
def train(folder, telemetry): sb3_ppo.train(folder, 512, [telemetry, Fail()])
""",
    "huggingface": """
import hf_trainer
from transformers import TrainerCallback
from exporter.integrations.huggingface import TelemetryCallback
class Fail(TrainerCallback):
    def on_step_begin(self, args, state, control, **others):
        if state.global_step == 2: raise FloatingPointError("no number")
def train(folder, telemetry): hf_trainer.train(folder, 4, [telemetry, Fail()])
""",
    "keras": """
import keras_fit
from exporter.integrations.keras import TelemetryCallback
class Fail(keras_fit.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2: raise FloatingPointError("no number")
def train(folder, telemetry): keras_fit.train(folder, 4, [telemetry, Fail()])
""",
}
LOGGED = {"sb3": [128, 256], "huggingface": [1, 2], "keras": [4, 8]}
"""Steps before the error."""

ENDS = {
    "uncaught": ("train(folder, telemetry)", 1, "FloatingPointError: no number"),
    "caught": (
        "try: train(folder, telemetry)\nexcept FloatingPointError: pass",
        0,
        "the training did not reach its end",
    ),
}


@pytest.mark.parametrize("end", list(ENDS))
@pytest.mark.parametrize("trainer", list(TRAINERS))
def test_a_training_that_breaks_has_failed(tmp_path, trainer, end):
    """The run has every step before the error and ends as failed, also where the script hides the error."""
    call, exit_code, reason = ENDS[end]
    script = (
        "import sys; from pathlib import Path\nsys.path.insert(0, 'tests/integrations/trainers')\n"
        f"{TRAINERS[trainer]}\nfolder = Path(sys.argv[1])\n"
        f"telemetry = TelemetryCallback(run_id='r1', directory=folder)\n{call}\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert ended.returncode == exit_code, ended.stderr
    journal = Journal(tmp_path)
    assert [step for step, _ in journal.rows] == LOGGED[trainer]
    assert journal.ends == [("failed", reason)]
