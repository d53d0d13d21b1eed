"""``telemetry-exporter backfill``."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from exporter.analysis.export import (
    Backfill,
    EvenTimes,
    Outcome,
    RunSamples,
    new_file,
    objections,
    read_runs,
    unpacked,
    write_openmetrics,
)
from exporter.errors import ConfigError, ServerError
from exporter.importer import journals_of
from exporter.remote_write import Endpoint, Limits, RemoteWriter, StoredRun, read_limits

__all__ = ["backfill"]

_MAX_SHOWN = 10


@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--url", help="Address of the server, or its remote write URL.")
@click.option("--openmetrics", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Write files instead.")
@click.option("--start", metavar="TIME", help="When the first step was, such as 2026-11-01T00:00:00Z.")
@click.option("--step-seconds", type=click.FloatRange(min=0.001), help="Seconds from one logged step to the next.")
@click.option("--tenant", default="", help="The tenant to write to (X-Scope-OrgID).")
@click.option("--user", default="", help="User of basic authentication.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the user's password.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a bearer token.")
def backfill(
    paths: tuple[Path, ...],
    *,
    url: str | None,
    folder: Path | None,
    start: str | None,
    step_seconds: float | None,
    tenant: str,
    user: str,
    password_file: Path | None,
    token_file: Path | None,
) -> None:
    """Bring past runs into Prometheus or VictoriaMetrics, from journals or any trainer's logs.

    Each sample is stored once, also where this is done twice, and looked for afterwards: exit 1 if any is
    missing. What is too old for the server is told before anything is sent. A log without times gets some by
    --start and --step-seconds.

    Example: telemetry-exporter backfill progress.csv --url http://127.0.0.1:9090

    Example: telemetry-exporter backfill runs/*/metrics.jsonl --openmetrics blocks
    """
    times = _times(start, step_seconds)
    with TemporaryDirectory() as temporary:
        if url is not None and folder is None:
            endpoint = Endpoint(url, tenant=tenant, **_credentials(user, password_file, token_file))
            limits = read_limits(endpoint)
            complete = _send(_runs(paths, times, Path(temporary)), endpoint, limits)
        elif folder is not None and url is None:
            complete = _write_files(_runs(paths, times, Path(temporary)), folder)
        else:
            raise ConfigError("give either --url, to send samples to a server, or --openmetrics, to write files")
    sys.exit(0 if complete else 1)


def _times(start: str | None, step_seconds: float | None) -> EvenTimes | None:
    if start is None and step_seconds is None:
        return None
    if start is None or step_seconds is None:
        raise ConfigError("--start and --step-seconds belong together: give both or none")
    try:
        begin = datetime.fromisoformat(start.strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise ConfigError(f"--start {start!r} is no time such as 2026-11-01T00:00:00Z") from error
    utc = begin if begin.tzinfo else begin.replace(tzinfo=timezone.utc)
    if utc.timestamp() < 1:
        raise ConfigError(f"--start {start!r} must be later than 1970")
    return EvenTimes(round(utc.timestamp() * 1000), step_seconds)


def _runs(paths: Sequence[Path], times: EvenTimes | None, temporary: Path) -> list[RunSamples]:
    journals = []
    for number, path in enumerate(paths):
        for journal in journals_of(path, temporary / f"imported-{number}"):
            journals.append(unpacked(journal, temporary / f"unpacked-{number}"))
    runs = read_runs(journals, times)
    if not runs:
        raise ConfigError(f"no steps in {', '.join(map(str, paths))}")
    return runs


def _write_files(runs: Sequence[RunSamples], folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        path = folder / f"{run.name}.om"
        with new_file(path) as file:
            write_openmetrics([run], file)
        _warn_of_left_out(run)
        click.echo(f"promtool tsdb create-blocks-from openmetrics {shlex.quote(str(path))} DATA_DIRECTORY")
    days = math.ceil((time.time() - min(run.first_ms for run in runs) / 1000) / 86400)
    click.echo(
        "Run this where Prometheus keeps its data: DATA_DIRECTORY is its --storage.tsdb.path. It shows the blocks "
        f"within a minute, and keeps them if its --storage.tsdb.retention.time is more than {days}d.",
        err=True,
    )
    return True


def _send(runs: Sequence[RunSamples], endpoint: Endpoint, limits: Limits) -> bool:
    """Send and verify run by run; returns whether all is stored."""
    _check(runs, limits)
    writer = RemoteWriter(endpoint)
    is_complete = True
    for run in runs:
        labels = dict(run.labels)
        task = Backfill(run, writer, StoredRun(endpoint, labels["run_id"], labels.get("rank", "")))
        with _progress(run) as show:
            task.send(show)
        _warn_of_left_out(run)
        task.verify(limits.settling_seconds)
        for line in _report(run, task.outcome):
            click.echo(line)
        is_complete &= task.outcome.is_complete
    return is_complete


def _check(runs: Sequence[RunSamples], limits: Limits) -> None:
    if not limits.are_known:
        click.echo("warning: this server does not say how old samples may be", err=True)
    found = list(objections(runs, limits, time.time()))
    if found:
        raise ServerError("nothing was sent, because the server would not keep it:\n" + "\n".join(_some(found)))


@contextlib.contextmanager
def _progress(run: RunSamples) -> Iterator[Callable[[int], object]]:
    """Shows how many bytes of a run's journal are done, where somebody can look at it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=run.size, label=run.name, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _report(run: RunSamples, outcome: Outcome) -> Iterator[str]:
    before = f", {outcome.known:,} of them before" if outcome.known else ""
    yield f"{run.name}: stored {outcome.stored:,} of {outcome.total:,} samples{before}"
    if outcome.dropped_nan:
        yield f"  {outcome.dropped_nan:,} are NaN, of which this server stores none"
    if outcome.differing:
        yield (
            f"  {outcome.differing:,} are stored with another value at the same time: the run_id has been used "
            "before; delete those series, or give the run another id"
        )
    if not outcome.missing:
        return
    metrics = [f"{count:,} of {name}" for name, count in outcome.missing.most_common()]
    yield f"  missing are {', '.join(_some(metrics))}"
    for refusal in outcome.refusals:
        yield f"  the server says: {refusal}"
    if not outcome.refusals:
        yield (
            "  the server took them without objection and does not show them: was this run deleted there before, "
            "or does it drop or thin out samples?"
        )


def _warn_of_left_out(run: RunSamples) -> None:
    for line in _some(list(run.left_out())):
        click.echo(f"warning: {line}", err=True)


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_SHOWN
    return lines if more <= 0 else [*lines[:_MAX_SHOWN], f"and {more} more"]


def _credentials(user: str, password_file: Path | None, token_file: Path | None) -> dict[str, str]:
    if bool(user) != bool(password_file):
        raise ConfigError("--user and --password-file belong together: give both or none")
    if user and token_file:
        raise ConfigError("--user and --token-file exclude each other: a request is sent in one name")
    return {"user": user, "password": _secret(password_file), "token": _secret(token_file)}


def _secret(path: Path | None) -> str:
    try:
        return path.read_text("utf-8").rstrip("\r\n") if path else ""
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8, as a password or token has to be") from error
