"""The wide table of steps: one row a step, one column a native key, in the order in which they were logged.

Where a run was resumed, its attempts overlap: both are there, told apart by their time and their attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from exporter.analysis.export.journals import Warn, read_journal
from exporter.encoding import clean
from exporter.journal import journal_rank
from exporter.records import RunStart, Step

__all__ = ["LoggedStep", "Table", "logged_steps", "table_of"]

_FIXED = ("run_id", "rank", "time", "step", "epoch", "attempt")
"""The columns before the native keys; the first two only where there are several journals."""


class LoggedStep(NamedTuple):
    """One row."""

    run_id: str
    rank: int
    ms: int
    """Milliseconds since 1970."""
    attempt: int
    """Counts from 1."""
    step: Step
    texts: Mapping[str, str]
    """Properties by native key."""


class Table(NamedTuple):
    """The columns of a table: those of every row, then titles by native key."""

    fixed: Sequence[str]
    numbers: Mapping[str, str]
    texts: Mapping[str, str]


def table_of(journals: Sequence[Path], warn: Warn) -> Table:
    """Find out which columns there are.

    Raises:
        OSError: a journal cannot be read.
    """
    numbers: dict[str, None] = {}
    texts: dict[str, None] = {}
    previous: tuple[str, ...] = ()
    for row in logged_steps(journals, warn):
        keys = tuple(row.step.metrics)
        if keys != previous:  # most rows have the keys of the one before
            numbers.update(dict.fromkeys(keys))
            previous = keys
        texts.update(dict.fromkeys(row.texts))
    fixed = _FIXED if len(journals) > 1 else _FIXED[2:]
    return Table(fixed, _titles(numbers, fixed, "number"), _titles(texts, (*fixed, *numbers), "text"))


def logged_steps(journals: Iterable[Path], warn: Warn) -> Iterator[LoggedStep]:
    """Every step of journals.

    Raises:
        OSError: a journal cannot be read.
    """
    for journal in journals:
        run_id, rank = journal.resolve().parent.name, journal_rank(journal) or 0
        for ms, attempt, record in read_journal(journal, warn):
            if isinstance(record, RunStart):
                run_id, rank = record.run_id, record.rank
            elif isinstance(record, Step):
                yield LoggedStep(run_id, rank, ms, max(attempt, 1), record, _texts(record.properties))


def _texts(properties: Any) -> Mapping[str, str]:
    """Texts that can be encoded, whatever another tool wrote there."""
    if not properties or not isinstance(properties, Mapping):
        return {}
    return {key: clean(str(value)) for key, value in properties.items()}


def _titles(keys: Iterable[str], taken: Iterable[str], kind: str) -> dict[str, str]:
    """A key is its column's title, with its kind behind it where another column has that title."""
    others = set(taken)
    return {key: f"{clean(key)} ({kind})" if key in others else clean(key) for key in keys}
