"""``telemetry-exporter run``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click

from exporter.errors import ConfigError

__all__ = ["run"]

_HELP = """Run COMMAND as if nothing stood in between, and record the metrics that it prints as a run.

Example: telemetry-exporter run --recipe sft --tag team=nlp -- python train.py --lr 1e-4

Its output is passed on unchanged and at once; its exit code, or the signal that kills it, is ours. Lines of Hugging
Face, TRL, Stable-Baselines3, nanoGPT, torchtitan, verl, CleanRL and the like become steps. The end is recorded:
finished, failed or crashed, with the exit code, what points at memory, and the last lines of stderr.

Signals are passed on; those that the whole process group got, as with Ctrl-C, are not sent twice. A process that
COMMAND leaves behind is heard for 5 s more. Where the journal cannot be written one line says so, and COMMAND runs all
the same. Where start_run does not log, as on ranks above 0 under torchrun and Slurm, COMMAND just runs.

A COMMAND that calls start_run itself has a run of its own. Let it have an id of its own, too: one journal has one
writer, and who comes second gets an error.

Example: telemetry-exporter run --system-metrics --system-metrics-interval 15 -- python train.py

TELEMETRY_* variables are settings here as everywhere. PYTHONUNBUFFERED=1 is set for COMMAND where its output goes into
a pipe, or metrics would come late; set the variable to nothing to prevent that.

Exit codes of our own: 2 wrong usage or setting, 126 COMMAND cannot be executed, 127 COMMAND not found.
"""


@click.command(context_settings={"allow_interspersed_args": False}, help=_HELP)
@click.option("--run-id", help="Name of the run; made from the recipe and the time if not given.")
@click.option("--user-id", help="Who runs it: a label of every series.")
@click.option("--recipe", help="What is trained, such as ppo.")
@click.option("--base-model", help="What training starts from.")
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="One more label of every series; repeatable.")
@click.option("--directory", metavar="DIR", help="Folder of runs.  [default: runs]")
@click.option("--port", type=int, help="Serve /metrics on this port of 127.0.0.1 meanwhile; 0 takes any free one.")
@click.option(
    "--system-metrics", metavar="[PATH|AUTO]", is_flag=False, flag_value="AUTO",
    help="Log CPU, memory, load and GPUs of the machine, and CPU and memory of COMMAND, as lines of JSON: to "
    "system_metrics.jsonl in the run's folder, or to PATH, which is below that folder where it is relative.",
)  # fmt: skip
@click.option("--system-metrics-interval", metavar="SECONDS", type=float, help="At least 0.1.  [default: 60]")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], tags: tuple[str, ...], **settings: Any) -> None:
    """Supervise a command."""
    if os.name != "posix":
        raise ConfigError(
            "run needs Unix: processes, signals and terminals are others here; log with start_run instead"
        )
    from exporter.supervisor import end_like, supervise  # not everywhere can this be imported

    end_like(supervise(command, {**settings, "tags": _tags(tags) or None}))


def _tags(texts: Iterable[str]) -> dict[str, str]:
    tags = {}
    for text in texts:
        name, separator, tags[name] = text.partition("=")
        if not separator:
            raise ConfigError(f"--tag {text!r} must be NAME=VALUE")
    return tags
