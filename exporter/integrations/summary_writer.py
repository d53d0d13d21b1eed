"""A stand-in for ``torch.utils.tensorboard.SummaryWriter``, which needs neither torch nor TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from exporter.integrations.base import TrainerRun, never_raises, say_once
from exporter.run import Run

__all__ = ["SummaryWriter"]

_HYPERPARAMETERS = "hyperparameters"
"""The tag under which CleanRL writes a Markdown table of its settings."""


class SummaryWriter:
    """``from exporter.integrations.summary_writer import SummaryWriter``: scalars become a run's metrics.

    The run begins with the first scalar, so that the hyper-parameters that come before it are kept with it.
    Histograms, texts and media are accepted and passed over.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,  # noqa: ARG002 - where steps repeat, the later value counts
        max_queue: int = 10,  # noqa: ARG002 - every value is written at once
        flush_secs: float = 120,  # noqa: ARG002
        filename_suffix: str = "",  # noqa: ARG002
        run: Run | None = None,
        **settings: Any,
    ) -> None:
        """Log to ``run``, which its owner ends, or to one started with ``settings``, those of ``start_run``.

        The journal lies in ``log_dir``, whose last part is the run's id; the comment is kept in the configuration.

        Raises:
            ConfigError: a run and settings are given, or a setting is unknown or not usable.
        """
        if log_dir and run is None:
            folder = Path(log_dir)
            settings = {"run_id": folder.name, "directory": folder.parent, **settings}
        self._telemetry = TrainerRun(run, settings)
        self.log_dir = str(log_dir or Path("runs") / self._telemetry.run_id)
        if comment:
            self._telemetry.add_config({"comment": comment})

    def get_logdir(self) -> str:
        """The folder that the writer was given."""
        return self.log_dir

    @never_raises
    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,  # noqa: ARG002 - as torch's
        double_precision: bool = False,  # noqa: ARG002
    ) -> None:
        """Log one value; its time is the time of the call."""
        self._log({tag: scalar_value}, global_step, walltime)

    @never_raises
    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Log several values, as ``main_tag/tag``."""
        self._log({f"{main_tag}/{tag}": value for tag, value in tag_scalar_dict.items()}, global_step, walltime)

    @never_raises
    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Any = None,  # noqa: ARG002 - as torch's
        run_name: str | None = None,  # noqa: ARG002
        global_step: int | None = None,
    ) -> None:
        """Keep hyper-parameters, and log the metrics that belong to them."""
        self._telemetry.add_config(hparam_dict)
        if metric_dict:
            self._log(metric_dict, global_step, None)

    @never_raises
    def add_text(self, tag: str, text_string: str, *_args: Any, **_others: Any) -> None:
        """Keep CleanRL's table of hyper-parameters; other texts are passed over."""
        if tag == _HYPERPARAMETERS:
            self._telemetry.add_config(_table(text_string))
        else:
            self._pass_over()

    def _pass_over(self, *_args: Any, **_others: Any) -> None:
        """What is no number is accepted, and not exported."""
        say_once("summary_writer", "SummaryWriter exports scalars; histograms, texts, media and graphs are passed over")

    add_histogram = add_histogram_raw = add_tensor = add_embedding = add_mesh = _pass_over
    add_image = add_images = add_image_with_boxes = add_figure = add_video = add_audio = _pass_over
    add_graph = add_onnx_graph = add_pr_curve = add_pr_curve_raw = _pass_over
    add_custom_scalars = add_custom_scalars_multilinechart = add_custom_scalars_marginchart = _pass_over

    def flush(self) -> None:
        """Nothing to do: every value is written at once."""

    @never_raises
    def close(self) -> None:
        """End the run; what is logged later opens it again."""
        self._telemetry.end()

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._telemetry.end("failed", f"{type(error).__name__}: {error}")
        self.close()

    def _log(self, metrics: Mapping[str, Any], step: int | None, walltime: float | None) -> None:
        if walltime is not None:
            say_once("walltime", "SummaryWriter: walltime is not kept, the time of a value is that of its call")
        self._telemetry.open("").log(metrics, step)


def _table(text: str) -> dict[str, str]:
    """The rows under a Markdown table's head."""
    rows = [line.strip().strip("|").partition("|") for line in text.splitlines() if "|" in line]
    return {key.strip(): value.strip() for key, _, value in rows[2:]}
