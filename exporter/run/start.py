"""Start or resume a run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from exporter._version import __version__
from exporter.encoding import clean, encode_line
from exporter.errors import ConfigError, MissingDependencyError, RunError, ServerError
from exporter.journal import TARGETS_FOLDER, JournalWriter, find_journals, journal_name, read_chunks
from exporter.monitoring_link import monitoring_link
from exporter.pid_namespace import pid_namespace
from exporter.records import Step
from exporter.run.alerts import OnAlert
from exporter.run.exits import close_at_exit
from exporter.run.ranks import Rank, detect_rank
from exporter.run.run import Run
from exporter.run.settings import Settings, resolve_settings
from exporter.run.system_metrics import system_metrics_logger

__all__ = ["start_resolved", "start_run"]

_SCAN_BYTES = 4 * 1024 * 1024


def start_run(
    run_id: str | None = None,
    user_id: str | None = None,
    recipe: str | None = None,
    base_model: str | None = None,
    framework: str | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    port: int | None = None,
    ranks: str | None = None,
    grafana_url: str | None = None,
    system_metrics: str | os.PathLike[str] | None = None,
    system_metrics_interval: float | None = None,
    settings: str | os.PathLike[str] | None = None,
    on_alert: OnAlert | None = None,
) -> Run:
    """Start a run, or resume the one of that id with its next attempt and step.

    What is not given comes from TELEMETRY_RUN_ID and the like, then from the YAML file ``settings`` (or
    TELEMETRY_SETTINGS), then from the defaults in :class:`exporter.run.settings.Settings`. On ranks above
    0 the run does nothing unless ``ranks`` is ``"all"`` or the number of the rank that logs.

    ``on_alert`` is called with a :class:`exporter.RunAlert` when what is logged crosses a threshold of the catalog,
    after it was stored and in the same thread, so that a script can stop itself: let it set a flag, or call
    ``sys.exit()``. Other exceptions of it do not reach the training. :class:`exporter.run.watched.WatchedRun` says
    when an alert begins and ends.

    Raises:
        ConfigError: a setting is unknown or not usable.
        RunError: the journal cannot be written, or another process writes it.
        ServerError: a port was asked for, and none at all can be had.
    """
    arguments = {
        "run_id": run_id,
        "user_id": user_id,
        "recipe": recipe,
        "base_model": base_model,
        "framework": framework,
        "config": config,
        "tags": tags,
        "directory": _plain(directory),
        "port": port,
        "ranks": ranks,
        "system_metrics": _plain(system_metrics),
        "system_metrics_interval": system_metrics_interval,
        "grafana_url": grafana_url,
    }
    if on_alert is not None and not callable(on_alert):
        raise ConfigError(f"on_alert={on_alert!r:.80} must be a function that takes one exporter.RunAlert")
    resolved = resolve_settings(arguments, os.environ, settings)
    return start_resolved(resolved, os.getpid(), on_alert)


def _plain(path: str | os.PathLike[str] | None) -> str | None:
    """A path as text, and what is none as it is: the check of the settings says what is wrong with it."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def start_resolved(settings: Settings, pid: int, on_alert: OnAlert | None = None) -> Run:
    """Start a run, or resume it, whose processes are ``pid`` and those that descend from it.

    Raises:
        RunError: the journal cannot be written, or another process writes it.
        ServerError: a port was asked for, and none at all can be had.
    """
    rank = detect_rank(os.environ, sys.modules)
    if settings.ranks == "all":
        return _open_run(settings, rank, pid, on_alert)
    speaker = 0 if settings.ranks == "main" else int(settings.ranks)
    if rank.rank != speaker:
        return Run(settings.run_id, None)
    return _open_run(settings, rank._replace(rank=0), pid, on_alert)


class _Past(NamedTuple):
    """What an earlier attempt left."""

    attempts: int
    next_step: int
    started: float
    """When the first of them began, or now; in seconds since 1970."""


def _open_run(settings: Settings, rank: Rank, pid: int, on_alert: OnAlert | None) -> Run:
    # A script that changes its working directory goes on with the same files.
    settings = dataclasses.replace(settings, directory=os.path.abspath(settings.directory))
    path = Path(settings.directory) / settings.run_id / journal_name(rank.rank)
    past = _past(path)
    writer = JournalWriter(path, _header(settings, rank, pid, past.attempts + 1))
    writer.open()
    ends = contextlib.ExitStack()
    ends.callback(writer.close)
    try:
        url = _serve(settings, path, ends) if settings.port is not None and rank.rank == 0 else None
        logger = system_metrics_logger(settings, rank)
        if logger:
            logger.start()
            ends.callback(logger.stop)
        link = monitoring_link(settings.grafana_url, settings.run_id, past.started) if settings.grafana_url else None
        make = Run if on_alert is None else _watched(on_alert)
        run = make(settings.run_id, writer, past.next_step, ends.close, url, link)
        close_at_exit(run)
    except BaseException:
        ends.close()
        raise
    return run


def _watched(on_alert: OnAlert) -> Callable[..., Run]:
    from exporter.run.watched import WatchedRun  # only such runs pay for the catalog

    return partial(WatchedRun, on_alert=on_alert)


def _past(path: Path) -> _Past:
    """Attempts and steps of an existing journal.

    Raises:
        RunError: the journal was compressed, so it is closed for good, or cannot be read.
    """
    attempts, next_step, started = 0, 0, time.time()
    try:
        if path.with_name(path.name + ".gz").exists():
            raise RunError(f"{path}.gz exists: this run was closed and compressed; use another run_id")
        for chunk in read_chunks(path, _SCAN_BYTES):
            attempts = chunk.end.attempt
            started = min([started, *(item.record.time for item in chunk.records[:1])])
            steps = [item.record.step for item in chunk.records if isinstance(item.record, Step)]
            next_step = steps[-1] + 1 if steps else next_step
    except FileNotFoundError:
        return _Past(0, 0, started)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; choose another directory= or run_id=") from error
    return _Past(attempts, next_step, started)


def _header(settings: Settings, rank: Rank, pid: int, attempt: int) -> bytes:
    fields = {
        "run_id": settings.run_id,
        "user_id": settings.user_id,
        "recipe": settings.recipe,
        "base_model": settings.base_model,
        "framework": settings.framework,
        "tags": {name: str(value) for name, value in settings.tags.items()},
        "config": settings.config,
        "host": socket.gethostname(),
        "pid": pid,
        "pid_namespace": pid_namespace(),
        "rank": rank.rank,
        "world_size": rank.world_size,
        "version": __version__,
        "attempt": attempt,
    }
    return encode_line({"_type": "run_start", "time": time.time(), **clean(fields)})


def _serve(settings: Settings, journal: Path, ends: contextlib.ExitStack) -> str | None:
    """Serve this run from a daemon thread until the end, and register for Prometheus' file discovery.

    Returns the address; None without psutil, which tells the pages who is alive: that is one line on stderr.

    Raises:
        ServerError: there is no port to be had.
    """
    from exporter.catalog import default_catalog  # only runs with a server pay for it
    from exporter.collectors import host_collectors
    from exporter.server import Exporter, MetricsServer

    catalog = default_catalog()
    folder = journal.parent
    exporter = Exporter(partial(find_journals, folder), folder / ".cursors.json", catalog)
    try:
        collectors = host_collectors(catalog, folder, exporter.processes)
    except MissingDependencyError as error:
        print(f"telemetry: this run serves no pages: {error}", file=sys.stderr)
        return None
    for collector in collectors:
        exporter.add_collector(collector)
    try:
        server = MetricsServer(exporter, "127.0.0.1", settings.port or 0)
    except ServerError as error:
        server = MetricsServer(exporter, "127.0.0.1", 0)
        print(f"telemetry: {error} - serving on {server.url} instead", file=sys.stderr)
    ends.callback(server.close)
    server.is_ready.set()
    target = Path(settings.directory) / TARGETS_FOLDER / f"{settings.run_id}.json"
    ends.callback(_remove, target)
    _register(target, server.address)
    return server.url


def _remove(target: Path) -> None:
    with contextlib.suppress(OSError):
        target.unlink(missing_ok=True)


def _register(target: Path, address: tuple[str, int]) -> None:
    """Write the target file in one move; its pid lets a sidecar remove what a killed trainer left."""
    host, port = address
    labels = {"__telemetry_pid": str(os.getpid()), "__telemetry_host": socket.gethostname()}
    labels["__telemetry_pid_namespace"] = pid_namespace()
    content = [{"targets": [f"{host}:{port}"], "labels": labels}]
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(target)
