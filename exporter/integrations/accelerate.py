"""Accelerate: a tracker for ``Accelerator(log_with=...)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.integrations.base import TrainerRun, needs, never_raises
from exporter.run import Run

with needs("accelerate", extra="accelerate"):
    from accelerate.tracking import GeneralTracker, on_main_process

__all__ = ["TelemetryTracker"]


class TelemetryTracker(GeneralTracker):
    """``Accelerator(log_with=TelemetryTracker())``: what ``accelerator.log`` is given, under its own keys.

    Only the main process logs. The ``config`` of ``init_trackers`` becomes the run's; ``end_training`` ends it.
    """

    name = "telemetry"
    requires_logging_directory = False

    def __init__(self, run: Run | None = None, **settings: Any) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        Raises:
            ConfigError: both are given, or a setting is unknown or not usable.
        """
        super().__init__()
        self._telemetry = TrainerRun(run, settings)

    @property
    def tracker(self) -> Run | None:
        """The run while it is open, for events, timings and tables."""
        return self._telemetry.run

    @on_main_process
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Start the run with this configuration.

        Raises:
            RunError: the journal cannot be written, or another process writes it.
        """
        self._telemetry.add_config(values)
        self._telemetry.open("accelerate")

    @on_main_process
    @never_raises
    def log(self, values: Mapping[str, Any], step: int | None = None, **_others: Any) -> None:
        """Log the values of a step; ``epoch`` among them becomes the step's epoch, groups have keys ``group/name``."""
        metrics = {key: value for key, value in _flat(values).items() if key != "epoch"}
        self._telemetry.open("accelerate").log(metrics, step, values.get("epoch"))

    @on_main_process
    @never_raises
    def finish(self) -> None:
        """End the run."""
        self._telemetry.end()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(
            {f"{key}/{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat
