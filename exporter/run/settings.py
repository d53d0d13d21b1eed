"""What a run is started with: arguments before TELEMETRY_* variables before a YAML file before defaults."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import ConfigError
from exporter.journal import validate_run_id
from exporter.records import RESERVED_LABELS, is_free_label

__all__ = ["Settings", "resolve_settings"]

_PREFIX = "TELEMETRY_"
_FILE_VARIABLE = "TELEMETRY_SETTINGS"
_MAX_TAGS = 10
_MAX_TEXT = 256
_MAX_LABEL = 64
_PATHS = {
    "directory": "the path of a folder, such as 'runs'",
    "system_metrics": "'AUTO' or the path of a file; leave it out for none",
}


@dataclass(frozen=True)
class Settings:
    """Everything a run can be started with."""

    run_id: str = ""
    """Names the run and its folder; made from the recipe and the time where it is not given."""
    user_id: str = ""
    """Who runs it: a label of every series."""
    recipe: str = ""
    base_model: str = ""
    framework: str = ""
    """The library that trains, such as ``trl`` or ``sb3``."""
    directory: str = "runs"
    """Folder that holds one folder per run."""
    port: int | None = None
    """Port of the in-process /metrics server on 127.0.0.1: None for no server, 0 for any free port."""
    ranks: str = "main"
    """``main``: only rank 0 logs; ``all``: every rank has a journal of its own; a number: that rank logs in the place
    of rank 0, as where the loss is known to the last stage of a pipeline."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """A few more labels of every series, with few different values."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters: kept with the run, never labels of its series."""
    system_metrics: str = ""
    """File for samples of the machine: a path, relative ones below the run's folder; AUTO for ``system_metrics.jsonl``
    there; empty for none."""
    system_metrics_interval: float = 60.0
    """Seconds between two of them, at least 0.1."""
    grafana_url: str = ""
    """Address of the Grafana that has the dashboards, for :attr:`exporter.Run.training_monitoring_link`."""


_FIELDS = {item.name: item for item in dataclasses.fields(Settings)}


def resolve_settings(
    arguments: Mapping[str, Any], environ: Mapping[str, str], file: str | os.PathLike[str] | None
) -> Settings:
    """Merge the sources and check the result; an argument that is None counts as not given.

    Raises:
        ConfigError: a setting is unknown or not usable; the message names it.
    """
    path = file or environ.get(_FILE_VARIABLE)
    if path and not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"settings={path!r:.80} must be the path of a YAML file")
    merged = {
        **(_from_file(Path(path)) if path else {}),
        **_from_environ(environ),
        **{name: value for name, value in arguments.items() if value is not None},
    }
    for name in merged:
        if name not in _FIELDS:
            raise ConfigError(f"unknown setting {name!r}; known are: {', '.join(_FIELDS)}")
    settings = Settings(**merged)
    _check_texts(settings)
    if not settings.run_id:
        if settings.ranks == "all":
            raise ConfigError("ranks='all' needs a run_id, or each rank would make up its own; set TELEMETRY_RUN_ID")
        settings = dataclasses.replace(settings, run_id=_new_run_id(settings.recipe))
    _check(settings)
    return settings


def _from_file(path: Path) -> dict[str, Any]:
    import yaml  # only where a file is given

    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"settings file {path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"settings file {path} must hold a mapping of settings; known are: {', '.join(_FIELDS)}")
    for name in data:
        if name not in _FIELDS:
            raise ConfigError(f"settings file {path}: unknown setting {name!r}; known are: {', '.join(_FIELDS)}")
    return data


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX).lower()
        if not variable.startswith(_PREFIX) or variable == _FILE_VARIABLE or not text:
            continue
        if name not in _FIELDS:
            known = ", ".join(_PREFIX + field.upper() for field in _FIELDS)
            raise ConfigError(f"unknown variable {variable}; known are: {known}, {_FILE_VARIABLE}")
        settings[name] = _parse(variable, name, text)
    return settings


def _parse(variable: str, name: str, text: str) -> Any:
    """A variable's text as its setting's type; tags and config are written KEY=VALUE,KEY=VALUE."""
    if name == "port":
        if not text.isdecimal():
            raise ConfigError(f"{variable}={text!r} must be a port number; 0 takes any free one")
        return int(text)
    if name == "system_metrics_interval":
        try:
            return float(text)
        except ValueError:
            raise ConfigError(f"{variable}={text!r} must be a number of seconds") from None
    if name in ("tags", "config"):
        pairs = [pair.partition("=") for pair in text.split(",")]
        if not all(separator for _, separator, _ in pairs):
            raise ConfigError(f"{variable}={text!r} must be KEY=VALUE,KEY=VALUE")
        return {key.strip(): value.strip() for key, _, value in pairs}
    return text


def _check_texts(settings: Settings) -> None:
    for name in ("run_id", "user_id", "recipe", "base_model", "framework", "ranks", "grafana_url"):
        value = getattr(settings, name)
        if not isinstance(value, str) or (len(value) > _MAX_TEXT and name != "grafana_url"):
            raise ConfigError(f"{name}={value!r:.80} must be a text of at most {_MAX_TEXT} characters")
    for name, what in _PATHS.items():
        value = getattr(settings, name)
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{name}={value!r:.80} must be {what}")
    if settings.system_metrics and not Path(settings.system_metrics).name:
        raise ConfigError(f"system_metrics={settings.system_metrics!r:.80} must be {_PATHS['system_metrics']}")


def _check(settings: Settings) -> None:
    validate_run_id(settings.run_id)
    if settings.ranks not in ("main", "all") and not re.fullmatch("[0-9]{1,9}", settings.ranks):
        raise ConfigError(
            f"ranks={settings.ranks!r} must be 'main' (rank 0 logs), 'all' (each has a journal) or the number of the "
            "one that logs, such as '7'"
        )
    port = settings.port
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535):
        raise ConfigError(f"port={port!r} must be None (no server) or a number from 0 (any free port) to 65535")
    interval = settings.system_metrics_interval
    if not isinstance(interval, (int, float)) or isinstance(interval, bool) or not math.isfinite(interval):
        raise ConfigError(f"system_metrics_interval={interval!r} must be a number of seconds; below 0.1 it is 0.1")
    if settings.grafana_url and not re.match(r"https?://[^/]", settings.grafana_url):
        raise ConfigError(
            f"grafana_url={settings.grafana_url!r:.80} must be an address such as https://grafana.example.com"
        )
    _check_mappings(settings)


def _check_mappings(settings: Settings) -> None:
    for name in ("tags", "config"):
        if not isinstance(getattr(settings, name), Mapping):
            raise ConfigError(f"{name}={getattr(settings, name)!r:.80} must be a mapping")
    if len(settings.tags) > _MAX_TAGS:
        raise ConfigError(
            f"{len(settings.tags)} tags: at most {_MAX_TAGS}, because each is a label of every series; use config="
        )
    for label, value in settings.tags.items():
        if not isinstance(label, str) or len(label) > _MAX_LABEL or not is_free_label(label):
            raise ConfigError(
                f"tag {label!r} cannot be a label: use letters, digits and _, not starting with a digit or __, "
                f"and none of {', '.join(sorted(RESERVED_LABELS))}"
            )
        if len(str(value)) > _MAX_TEXT:
            raise ConfigError(f"tag {label!r}: the value has more than {_MAX_TEXT} characters; use config=")


def _new_run_id(recipe: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", recipe).strip("-")[:64] or "run"
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
