"""Lightning, as ``lightning`` and as ``pytorch_lightning``: a logger beside its own."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from exporter.integrations.base import TrainerRun, needs, never_raises
from exporter.run import Run

with needs("lightning", extra="lightning"):
    try:
        from lightning.pytorch.loggers.logger import Logger
    except ModuleNotFoundError:
        from pytorch_lightning.loggers.logger import Logger
    from lightning_utilities.core.rank_zero import rank_zero_only

__all__ = ["TelemetryLogger"]


class TelemetryLogger(Logger):
    """``Trainer(..., logger=[CSVLogger("logs"), TelemetryLogger()])``: every logged metric, under its own key.

    Only rank zero logs. Hyper-parameters (``save_hyperparameters()``) become the run's configuration.
    """

    def __init__(self, run: Run | None = None, **settings: Any) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        Raises:
            ConfigError: both are given, or a setting is unknown or not usable.
        """
        super().__init__()
        self._telemetry = TrainerRun(run, settings)

    @property
    def name(self) -> str:
        """The logger's name, for Lightning's folders of checkpoints."""
        return "telemetry"

    @property
    def version(self) -> str:
        """The run's id, for Lightning's folders of checkpoints."""
        return self._telemetry.run_id

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_args: Any, **_others: Any) -> None:
        """Keep hyper-parameters, a mapping or a namespace, for the start of the run."""
        self._telemetry.add_config(vars(params) if isinstance(params, Namespace) else dict(params or {}))

    @rank_zero_only
    def log_graph(self, *_args: Any, **_others: Any) -> None:
        """Start the run: Lightning calls this when all hyper-parameters are known, before the first step.

        Raises:
            RunError: the journal cannot be written, or another process writes it.
        """
        if not self._telemetry.has_begun:
            self._telemetry.open("lightning")

    @rank_zero_only
    @never_raises
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics of a step; ``epoch``, which Lightning adds to them, becomes the step's epoch."""
        run = self._telemetry.open("lightning")
        run.log({key: value for key, value in metrics.items() if key != "epoch"}, step, metrics.get("epoch"))

    @rank_zero_only
    @never_raises
    def finalize(self, status: str) -> None:
        """End the run: as finished for the statuses ``success`` and ``finished``, else as failed."""
        if status in ("success", "finished"):
            self._telemetry.end()
        else:
            error = sys.exc_info()[1]
            self._telemetry.end("failed", f"{type(error).__name__}: {error}" if error else status)
