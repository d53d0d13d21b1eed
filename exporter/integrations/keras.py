"""Keras 3: a callback that logs every epoch, and batches where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from exporter.errors import ConfigError
from exporter.integrations.base import TrainerRun, needs, never_raises
from exporter.run import Run

with needs("keras", extra="keras"):
    import keras

__all__ = ["TelemetryCallback"]


class TelemetryCallback(keras.callbacks.Callback):
    """``model.fit(..., callbacks=[TelemetryCallback()])``: every epoch's logs and learning rate, under their own keys.

    The step is the number of optimizer steps so far; epochs count from 0, as Keras counts.
    """

    def __init__(
        self, run: Run | None = None, update_freq: int | Literal["batch", "epoch"] = "epoch", **settings: Any
    ) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        Args:
            run: A run that has been started.
            update_freq: As in Keras' TensorBoard callback: ``epoch``, or also every ``batch``, or every that many
                batches. In the logs of a batch Keras gives means over the epoch so far.
            settings: Those of ``start_run``.

        Raises:
            ConfigError: a run and settings are given, or one of them is unknown or not usable.
        """
        super().__init__()
        self._telemetry = TrainerRun(run, settings)
        self._epoch = 0
        self._every = _batches(update_freq)
        if self._every:
            # Only where it is wanted: Keras waits for the device at every batch if a callback has it.
            self.on_train_batch_end = self._log_batch

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        """Start the run.

        Raises:
            RunError: the journal cannot be written, or another process writes it.
        """
        self._telemetry.add_config(_config(self.model, self.params) or {})
        self._telemetry.open("keras")
        self._telemetry.begin_training()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        """Remember the epoch, which the batches are not told."""
        self._epoch = epoch

    @never_raises
    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Log the epoch's row, validation included."""
        self._log({**_learning_rate(self.model), **(logs or {})}, epoch)

    @never_raises
    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - as Keras calls it
        """End the run."""
        self._telemetry.end()

    @never_raises
    def _log_batch(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if (batch + 1) % self._every == 0:
            self._log(logs or {}, self._epoch)

    def _log(self, metrics: Mapping[str, Any], epoch: int) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        step = None if optimizer is None else int(_number(optimizer.iterations))
        self._telemetry.open("keras").log(metrics, step, epoch)


def _batches(update_freq: Any) -> int:
    """From how many batches to how many there is a row; 0 where only epochs have one."""
    if update_freq in ("epoch", "batch"):
        return int(update_freq == "batch")
    if isinstance(update_freq, int) and update_freq >= 1:
        return update_freq
    raise ConfigError(f"update_freq={update_freq!r} must be 'epoch', 'batch' or a number of batches from 1")


def _learning_rate(model: Any) -> dict[str, float]:
    """The rate now, which Keras itself shows only where a schedule callback changes it."""
    optimizer = getattr(model, "optimizer", None)
    return {} if optimizer is None else {"learning_rate": _number(optimizer.learning_rate)}


def _number(variable: Any) -> float:
    return float(keras.ops.convert_to_numpy(variable))


@never_raises
def _config(model: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """The length of the training, and what ``compile`` was given."""
    return {**params, "model": model.name, "parameters": model.count_params(), **(model.get_compile_config() or {})}
