"""Hugging Face Trainer, and with it the trainers of TRL: a callback that logs every row that the trainer logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporter.integrations.base import TrainerRun, needs, never_raises
from exporter.run import Run

with needs("transformers", extra="huggingface"):
    from transformers import TrainerCallback

__all__ = ["TelemetryCallback"]


class TelemetryCallback(TrainerCallback):
    """``Trainer(..., callbacks=[TelemetryCallback()])``: every logged row, under the trainer's own keys.

    Only the main process logs. The training arguments and the model's configuration become the run's. A Trainer
    hides NaN losses, as ``logging_nan_inf_filter`` is on by default: there ``grad_norm`` is what turns NaN.
    """

    def __init__(self, run: Run | None = None, **settings: Any) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        Raises:
            ConfigError: both are given, or a setting is unknown or not usable.
        """
        self._telemetry = TrainerRun(run, settings)

    def on_train_begin(self, args: Any, state: Any, _control: Any, model: Any = None, **_others: Any) -> None:
        """Start the run.

        Raises:
            RunError: the journal cannot be written, or another process writes it.
        """
        if state.is_world_process_zero:
            self._open(args, model)
            self._telemetry.begin_training()

    @never_raises
    def on_log(self, args: Any, state: Any, _control: Any, logs: Any = None, model: Any = None, **_others: Any) -> None:
        """Log a row; one before or after the training, from an evaluation, opens the run, too."""
        if state.is_world_process_zero and logs:
            run = self._telemetry.run or self._open(args, model)
            metrics = {key: value for key, value in logs.items() if key != "epoch"}
            run.log(metrics, step=state.global_step, epoch=logs.get("epoch"))

    @never_raises
    def on_save(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        """Record the checkpoint."""
        if self._telemetry.run is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._telemetry.run.checkpoint(folder, step=state.global_step)

    @never_raises
    def on_evaluate(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        """End a run that was opened again by an evaluation after the training."""
        if state.global_step and not self._telemetry.is_training:
            self._telemetry.end()

    @never_raises
    def on_train_end(self, *_args: Any, **_others: Any) -> None:
        """End the run."""
        self._telemetry.end()

    def _open(self, args: Any, model: Any) -> Run:
        self._telemetry.add_config(_config(args, model) or {})
        recipe = _trl_recipe(args)
        return self._telemetry.open("transformers" if recipe is None else "trl", recipe or "", _name(model))


@never_raises
def _config(args: Any, model: Any) -> dict[str, Any]:
    """What is set among the training arguments, tokens masked, and in the model's configuration."""
    size = {"num_parameters": model.num_parameters()} if hasattr(model, "num_parameters") else {}
    return {**_set(args.to_dict()), **size, "model": _set(model.config.to_dict()) if hasattr(model, "config") else {}}


def _set(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _trl_recipe(args: Any) -> str | None:
    """``grpo`` for TRL's GRPOConfig and what derives from it; None for arguments that are not TRL's."""
    names = [kind.__name__ for kind in type(args).__mro__ if kind.__module__.partition(".")[0] == "trl"]
    return names[0].removesuffix("Config").lower() if names else None


def _name(model: Any) -> str:
    return str(getattr(getattr(model, "config", None), "name_or_path", None) or "")
