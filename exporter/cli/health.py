"""``telemetry-exporter health``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from exporter.analysis.export import unpacked
from exporter.analysis.health import Finding, LoggedRun, find, judged_metrics, read_run
from exporter.catalog import Catalog, default_catalog, load_catalog
from exporter.encoding import number_token
from exporter.errors import ConfigError
from exporter.importer import journals_below
from exporter.sources import SOURCES, source_named

__all__ = ["health"]


@click.command()
@click.argument("path", metavar="FILE|RUN", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of findings.")
@click.option("--format", "format_name", type=click.Choice(list(SOURCES)), help="Read it as this format.")
@click.option(
    "--catalog", "catalog_file", type=click.Path(path_type=Path), help="What to add to the shipped catalog, or change."
)
def health(path: Path, *, as_json: bool, format_name: str | None, catalog_file: Path | None) -> None:
    """Judge a run by the alerts' thresholds, offline: a journal, any trainer's log, or a folder of them.

    A finding counts the single updates beyond a bound; it is a warning or critical where that lasted. Exit 1 if
    anything is critical.

    Example: telemetry-exporter health progress.csv --json
    """
    catalog = load_catalog(catalog_file) if catalog_file else default_catalog()
    try:
        runs = _runs(path, catalog, format_name)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    found = [find(catalog, run) for run in runs]
    if as_json:
        click.echo(json.dumps([_strict(finding.fields()) for findings in found for finding in findings]))
    else:
        for run, findings in zip(runs, found, strict=True):
            click.echo("\n".join(_lines(run, findings, catalog)))
    is_critical = any(finding.severity == "critical" for findings in found for finding in findings)
    sys.exit(1 if is_critical else 0)


def _runs(path: Path, catalog: Catalog, format_name: str | None) -> list[LoggedRun]:
    source = source_named(format_name) if format_name else None
    with TemporaryDirectory() as folder:
        journals = journals_below(path, Path(folder), source)
        runs = [read_run(unpacked(journal, Path(folder) / "unpacked"), catalog, _warn) for journal in journals]
    for run in runs:
        if not run.has_times:
            _warn(f"{_name(run)} has no times: rules that compare with the time before cannot judge it")
    if not any(run.logged for run in runs):
        _warn(f"{path}: no metrics in it")
    return runs


def _warn(line: str) -> None:
    click.echo(f"warning: {line}", err=True)


def _strict(fields: dict[str, Any]) -> dict[str, Any]:
    """Strict JSON has no NaN and no infinity."""
    return {**fields, "worst": number_token(fields["worst"])}


# ------------------------------------------------------------------ lines to read


def _lines(run: LoggedRun, findings: Sequence[Finding], catalog: Catalog) -> list[str]:
    judged = ", ".join(judged_metrics(catalog, run)) or "none of its metrics"
    lines = [f"{_name(run)}: {run.logged} steps, {len(findings)} finding(s); judged: {judged}"]
    for finding in findings:
        own = ",".join(f'{name}="{value}"' for name, value in finding.labels.items() if name not in run.labels)
        series = f"{finding.metric}{{{own}}}" if own else finding.metric
        lines.append(f"  {finding.severity:8} {finding.rule}: {series}: {_said(finding, catalog)}")
        if finding.alert and finding.severity != "info":
            lines.append(f"{'':11}{' '.join(finding.alert.told(finding.alert.action).split())}")
    return lines


def _name(run: LoggedRun) -> str:
    """The run's id, and its rank where that is not 0."""
    return run.labels["run_id"] + (f", rank {run.labels['rank']}" if "rank" in run.labels else "")


def _said(finding: Finding, catalog: Catalog) -> str:
    first, last = finding.first_step, finding.last_step
    steps = f"at step {first}" if first == last else f"steps {first} to {last}"
    early = ""
    if finding.alert and finding.early:
        early = f"; {finding.early} of them in the first {finding.alert.warm_up} steps, for which the alert waits"
    return f"{finding.count} of {finding.of} updates {_bad(finding, catalog)}, {steps}{early}"


def _bad(finding: Finding, catalog: Catalog) -> str:
    """What is bad about the updates, and the worst of them."""
    if finding.alert is None:
        healthy = next(item.healthy for item in catalog.metrics.values() if item.sample_name == finding.metric)
        sides = {"above": healthy and healthy.above, "below": healthy and healthy.below}
        bounds = " and ".join(f"{side} {bound:g}" for side, bound in sides.items() if bound is not None)
        return f"outside the healthy range ({bounds}), the furthest {finding.worst:.4g}"
    condition = finding.alert.condition
    side = "above" if condition.above is not None else "below"
    if condition.value == "increase":
        return "NaN or infinite"
    if condition.against == "spread":
        return f"{abs(condition.bound):g} standard deviations {side} the time before, up to {finding.worst:.4g}"
    if condition.against:
        return f"changed by {finding.worst:+.0%} against the time before, {side} {condition.bound:+.0%}"
    bound = f"beyond ±{condition.bound:g}" if condition.absolute else f"{side} {condition.bound:g}"
    return f"{bound}, the worst {finding.worst:.4g}"
