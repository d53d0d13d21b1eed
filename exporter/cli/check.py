"""``telemetry-exporter check``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from exporter.catalog import Namer, default_catalog
from exporter.errors import ConfigError
from exporter.exposition import Budget, RunSeries, RunState, default_labels
from exporter.journal import find_journals, journal_rank, read_chunks
from exporter.records import Check, Event, Record, RunEnd

__all__ = ["check"]

_CHUNK_BYTES = 4 * 1024 * 1024
_SHOWN = 20


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def check(paths: tuple[Path, ...]) -> None:
    """Read journals and say what in them is not exported, and why; exit 1 if there is anything.

    What the run itself said is shown with it: why it failed, checks that are not OK, events of type error.

    Example: telemetry-exporter check runs
    """
    journals = [journal for path in paths for journal in find_journals(path)]
    if not journals:
        raise ConfigError(f"no journal (metrics.jsonl) at {', '.join(map(str, paths))}")
    findings = 0
    for journal in journals:
        state, problems, said = _read(journal)
        click.echo(f"{journal}: {state.steps} steps, {state.attempts} attempt(s), {len(problems)} finding(s)")
        for problem in problems[:_SHOWN]:
            click.echo(f"  {problem}")
        if len(problems) > _SHOWN:
            click.echo(f"  and {len(problems) - _SHOWN} more")
        for line in said[-_SHOWN:]:
            click.echo(f"  {line}")
        findings += len(problems)
    sys.exit(1 if findings else 0)


def _read(journal: Path) -> tuple[RunState, list[str], list[str]]:
    catalog = default_catalog()
    namer = Namer(catalog)
    series = RunSeries(namer, Budget(), default_labels(journal.resolve().parent.name, journal_rank(journal) or 0))
    state = RunState(catalog, namer, series)
    problems: list[str] = []
    said: list[str] = []
    line = 0
    try:
        for chunk in read_chunks(journal, _CHUNK_BYTES):
            state.add(chunk)
            problems += [f"line {bad.line}: {bad.reason}" for bad in chunk.bad_lines]
            said += filter(None, (_said(stamped.record) for stamped in chunk.records))
            line = chunk.end.line
    except OSError as error:
        problems.append(f"cannot be read beyond line {line}: {error.strerror or error}")
    return state, problems + list(_refusals(state)), said


def _said(record: Record) -> str:
    """What the run itself said of a trouble, on one line."""
    if isinstance(record, Check) and record.status != "OK":
        return _line(f"said: check {record.name} is {record.status}", record.message)
    if isinstance(record, Event) and record.alert_type == "error":
        return _line(f"said: error {record.title}", record.text)
    if isinstance(record, RunEnd) and record.status != "finished":
        return _line(f"said: {record.status}", record.reason)
    return ""


def _line(title: str, text: str) -> str:
    return " ".join(f"{title}: {text}".split()) if text else title


def _refusals(state: RunState) -> Iterator[str]:
    for refusal in state.series.refusals:
        if refusal.reason == "collision":
            yield f"key {refusal.key[:100]!r} is not exported: {refusal.owner[:100]!r} has the same series"
        else:
            yield f"key {refusal.key[:100]!r} is not exported: too many series ({refusal.reason})"
    unlisted = sum(state.series.refused.values()) - len(state.series.refusals)
    if unlisted:
        yield f"{unlisted} more keys are not exported"
    for reason, count in state.lost.items():
        yield f"{count} value(s) or record(s) could not be stored: {reason}"
