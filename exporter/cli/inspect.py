"""``telemetry-exporter inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from exporter.analysis import summarise
from exporter.catalog import Namer, default_catalog
from exporter.encoding import number_token
from exporter.errors import ConfigError
from exporter.sources import SOURCES, find_source, source_named

__all__ = ["inspect"]


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--format", "format_name", type=click.Choice(list(SOURCES)), help="Read it as this format.")
def inspect(path: Path, *, as_json: bool, format_name: str | None) -> None:
    """Say what is in a training log of any known format: steps, metrics and what they mean.

    Example: telemetry-exporter inspect progress.csv --json
    """
    try:
        result = _inspect(path, format_name)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if not result["records"]:
        click.echo(f"warning: {path}: no metrics in it", err=True)
    click.echo(json.dumps(_strict(result)) if as_json else _text(result))


def _inspect(path: Path, format_name: str | None) -> dict[str, Any]:
    source = source_named(format_name) if format_name else find_source(path)
    if source is None and path.stat().st_size:
        raise ConfigError(f"{path} is no training log of a known format; --format overrides the detection")
    return summarise(path, source, Namer(default_catalog()))


def _strict(value: Any) -> Any:
    """Strict JSON has no NaN: non-finite numbers are written as strings, as in a journal."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    return number_token(value) if isinstance(value, float) else value


def _text(result: dict[str, Any]) -> str:
    steps = result["steps"]
    title = f"{result['path']}: {result['format']}, framework {result['framework'] or 'unknown'}"
    counts = f"{result['records']} records, {result['config_keys']} configuration keys"
    span = f"steps {steps['first']} to {steps['last']}, {steps['count']} different, {steps['restarts']} restart(s)"
    lines = [f"{title}, {counts}", span]
    lines += [f"line {bad['line']}: {bad['reason']}" for bad in result["bad_lines"]]
    width = max(map(len, result["metrics"]), default=0)
    for key, metric in result["metrics"].items():
        span = f"{_short(metric['min'])} .. {_short(metric['max'])}, last {_short(metric['last'])}"
        broken = f", {metric['nonfinite']} not finite" if metric["nonfinite"] else ""
        lines.append(f"  {key:{width}}  {metric['count']:7} values  {span}{broken}  -> {metric['canonical']}")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
