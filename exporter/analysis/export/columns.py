"""Samples of a journal as the series that remote write sends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from exporter.analysis.export.samples import Piece, RunSamples
from exporter.exposition import step_table
from exporter.records import Labels, Sample
from exporter.remote_write import TimeSeries

__all__ = ["time_series"]


def time_series(piece: Piece, run: RunSamples) -> list[TimeSeries]:
    """The samples of a piece, those of each series in the order of time."""
    return [*_steps(piece, run), *_summary(piece.summary)]


def _steps(piece: Piece, run: RunSamples) -> Iterator[TimeSeries]:
    times, columns = step_table(piece.steps, run.series, run.catalog)
    for series, (indices, values) in columns:
        name = series.name
        labels = _named(name.family.sample_name, run.series.labels + name.labels)
        when = times if len(indices) == len(times) else [times[index] for index in indices]
        yield TimeSeries(name.family, labels, when, _numbers(values, name.scale))


def _summary(samples: Iterable[Sample]) -> Iterator[TimeSeries]:
    points: dict[tuple[str, Labels], list[Sample]] = defaultdict(list)
    for sample in samples:
        points[sample.name, sample.labels].append(sample)
    for (name, labels), ones in points.items():
        times = [one.time_ms or 0 for one in ones]
        yield TimeSeries(ones[0].family, _named(name, labels), times, [one.value for one in ones])


def _named(name: str, labels: Labels) -> Labels:
    return tuple(sorted([("__name__", name), *(label for label in labels if label[1])]))


def _numbers(values: Sequence[Any], scale: float) -> Sequence[float]:
    """Native values in canonical units; a journal has non-finite ones as texts."""
    try:
        sum(values)
    except TypeError:
        values = list(map(float, values))
    return values if scale == 1.0 else [scale * value for value in values]
