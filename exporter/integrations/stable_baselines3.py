"""Stable-Baselines3: an output format for its logger, and a callback that attaches it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from exporter.integrations.base import TrainerRun, needs, never_raises
from exporter.run import Run
from exporter.run.scalars import to_scalar

with needs("stable-baselines3", extra="stable-baselines3"):
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import KVWriter, filter_excluded_keys

__all__ = ["TelemetryCallback", "TelemetryWriter"]

_FORMAT = "telemetry"
"""This output's name in ``logger.record(..., exclude=...)``."""


class TelemetryWriter(KVWriter):
    """``model.logger.output_formats.append(TelemetryWriter(run))``: the numbers of every dump, under their own keys.

    Text, figures, videos and histograms are no numbers and stay with the other outputs, and so does what was
    recorded with ``exclude="telemetry"``.
    """

    def __init__(self, run: Run) -> None:
        """Log to a run, which its owner ends."""
        self._run = run

    @never_raises
    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Log one dump."""
        values = filter_excluded_keys(key_values, key_excluded, _FORMAT)
        self._run.log({key: value for key, value in values.items() if _is_number(value)}, step=step)

    def close(self) -> None:
        """Nothing to do: the run is its owner's."""


class TelemetryCallback(BaseCallback):
    """``model.learn(..., callback=TelemetryCallback())``: a run with every dump, the hyper-parameters and the end.

    The step is ``num_timesteps``.
    """

    def __init__(self, run: Run | None = None, **settings: Any) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        Raises:
            ConfigError: both are given, or a setting is unknown or not usable.
        """
        super().__init__()
        self._telemetry = TrainerRun(run, settings)
        self._writer: TelemetryWriter | None = None

    def _on_training_start(self) -> None:
        self._telemetry.add_config(_hyperparameters(self.model) or {})
        run = self._telemetry.open("sb3", recipe=type(self.model).__name__.lower())
        self._telemetry.begin_training()
        self._detach()
        self._writer = TelemetryWriter(run)
        self.logger.output_formats.append(self._writer)

    def _on_step(self) -> bool:
        return True

    @never_raises
    def _on_training_end(self) -> None:
        self._detach()
        self._telemetry.end()

    def _detach(self) -> None:
        """A logger that was set by ``set_logger`` outlives the training."""
        if self._writer in self.logger.output_formats:
            self.logger.output_formats.remove(self._writer)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return False
    try:
        to_scalar(value)
    except TypeError:
        return False
    return True


@never_raises
def _hyperparameters(model: Any) -> Mapping[str, Any]:
    """What the algorithm's constructor takes and the model still holds; a policy and an environment by their names."""
    names = inspect.signature(type(model).__init__).parameters
    values = {name: getattr(model, name) for name in names if hasattr(model, name)}
    return {**values, "policy": model.policy_class.__name__, "env": _environment(model), "n_envs": model.n_envs}


def _environment(model: Any) -> str:
    specs = model.get_env().get_attr("spec")
    return str(specs[0].id if specs and specs[0] else type(model.get_env()).__name__)
