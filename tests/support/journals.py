"""Journals and pages for tests: written from the contract and read by the reference parsers, without our own code."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.catalog import Catalog, Namer, default_catalog
from exporter.exposition import Budget, Format, RunSeries, RunState
from exporter.journal import START, Chunk, read_chunk

CATALOG = default_catalog()

Series = tuple[str, frozenset[tuple[str, str]]]
"""A sample name and its labels."""


def token(value: Any) -> Any:
    """A number as a journal holds it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def line(kind: str, at: float, **fields: Any) -> bytes:
    """One journal line."""
    return json.dumps({"_type": kind, "time": at, **fields}).encode() + b"\n"


class Journal:
    """A journal that grows; times are seconds since 1970, by default those of the last minutes."""

    def __init__(self, folder: Path, run_id: str = "r1", name: str = "metrics.jsonl") -> None:
        self.run_id = run_id
        self.path = folder / run_id / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.begin = round(time.time() - 100, 3)
        self.raw(b"")

    def raw(self, data: bytes) -> Journal:
        """Append bytes."""
        with self.path.open("ab") as file:
            file.write(data)
        return self

    def start(self, after: float = 0.0, **fields: Any) -> Journal:
        """Append a run_start, some seconds after the beginning."""
        return self.raw(line("run_start", self.begin + after, **{"run_id": self.run_id, **fields}))

    def step(self, number: int, after: float | None = None, *, epoch: float | None = None, **metrics: Any) -> Journal:
        """Append a step; without a time its number is the tenths of a second after the beginning."""
        return self.log(number, metrics, after, epoch)

    def log(
        self, number: int, metrics: Mapping[str, Any], after: float | None = None, epoch: float | None = None
    ) -> Journal:
        """Append a step whose keys are no Python names."""
        at = self.begin + (number / 10 if after is None else after)
        values = {key: token(value) for key, value in metrics.items()}
        return self.raw(line("step", at, step=number, metrics=values, **({} if epoch is None else {"epoch": epoch})))

    def other(self, kind: str, after: float = 0.0, **fields: Any) -> Journal:
        """Append any other record."""
        return self.raw(line(kind, self.begin + after, **fields))

    def end(self, after: float = 0.0, status: str = "finished") -> Journal:
        """Append a run_end."""
        return self.other("run_end", after, status=status)

    def chunk(self) -> Chunk:
        """All of it, as the exposition is given it."""
        return read_chunk(self.path, START, self.path.stat().st_size + 1)

    def state(self, budget: Budget | None = None, catalog: Catalog = CATALOG) -> RunState:
        """What all of it adds up to."""
        namer = Namer(catalog)
        state = RunState(catalog, namer, RunSeries(namer, budget or Budget()))
        state.add(self.chunk())
        return state

    def expected_steps(self) -> list[tuple[int, dict[str, Any]]]:
        """Millisecond and record of each step, by the contract: rounded, and 1 ms later where it would not increase."""
        steps, previous = [], 0
        for text in self.path.read_bytes().split(b"\n"):
            record = json.loads(text) if text.startswith(b"{") else {}
            if record.get("_type") == "step":
                previous = max(math.floor(record["time"] * 1000 + 0.5), previous + 1)
                steps.append((previous, record))
        return steps


class Scrape(NamedTuple):
    """A page as the reference parser understands it."""

    series: dict[Series, list[tuple[int | None, float]]]
    """Samples in the order of the page: milliseconds, or None where a sample has no timestamp, and value."""
    types: dict[str, str]
    helps: dict[str, str]

    def points(self, name: str, **labels: str) -> list[tuple[int | None, float]]:
        """The samples of the one series with this name and at least these labels; none without such a series."""
        wanted = set(labels.items())
        found = [samples for (its, own), samples in self.series.items() if its == name and wanted <= own]
        assert len(found) <= 1, f"{len(found)} series match {name} {labels}"
        return found[0] if found else []

    def values(self, name: str, **labels: str) -> list[float]:
        """Their values."""
        return [value for _, value in self.points(name, **labels)]

    def value(self, name: str, **labels: str) -> float:
        """The value of the one sample."""
        (value,) = self.values(name, **labels)
        return value

    def label_sets(self, name: str) -> list[dict[str, str]]:
        """The labels of every series with this name."""
        return [dict(labels) for its, labels in self.series if its == name]


def judge(body: bytes, form: Format) -> Scrape:
    """Parse a page with the reference parser of its format; whatever the format forbids fails.

    Beyond what that parser checks: every family stands in one place, no sample stands twice, and the
    samples of a series strictly increase in time.
    """
    text = body.decode("utf-8")
    assert text.endswith("\n")
    families = list(parse_openmetrics(text) if form is Format.OPENMETRICS else parse_text(text))
    result = Scrape({}, {}, {})
    for family in families:
        assert family.type not in ("unknown", "untyped"), f"{family.name} has samples outside its family"
        assert family.name not in result.types, f"{family.name} stands in two places"
        result.types[family.name], result.helps[family.name] = family.type, family.documentation
        for sample in family.samples:
            time_ms = None if sample.timestamp is None else round(float(sample.timestamp) * 1000)
            series = (sample.name, frozenset(sample.labels.items()))
            result.series.setdefault(series, []).append((time_ms, float(sample.value)))
    for series, samples in result.series.items():
        times = [time_ms for time_ms, _ in samples]
        if times != [None]:
            assert None not in times, f"{series} is there with and without a timestamp, or twice"
            assert all(a < b for a, b in pairwise(times)), f"{series} does not increase: {times}"
    lines = [row for row in text.split("\n") if row and not row.startswith("#")]
    assert len(lines) == sum(map(len, result.series.values())), "the parser has dropped or merged samples"
    blocks = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(blocks) == len(set(blocks)), "a family is interrupted"
    return result


def same(one: float, other: float) -> bool:
    """Whether two floats are the same number, NaN included."""
    return one == other or (math.isnan(one) and math.isnan(other))


def same_points(one: Iterable[tuple[int | None, float]], other: Iterable[tuple[int | None, float]]) -> bool:
    """Whether two series hold the same numbers at the same times."""
    left, right = list(one), list(other)
    return len(left) == len(right) and all(a == c and same(b, d) for (a, b), (c, d) in zip(left, right, strict=True))
