"""The series of one run beside its steps: counters and histograms at their journal's time, and plain gauges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from exporter.catalog import Catalog
from exporter.exposition.formats import value_text
from exporter.exposition.page import Page
from exporter.exposition.run_state import RunState
from exporter.records import Labels, RunStart, Sample

__all__ = ["STATUSES", "add_latest", "counter_samples", "gauge_samples"]

STATUSES = ("running", "stalled", "finished", "failed", "crashed")
CHECK_VALUES = {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}
"""Statuses of checks as numbers, as Nagios and Datadog number them."""

_MAX_CONFIG_KEYS = 200
_MAX_CONFIG_VALUE = 200


def add_latest(page: Page, state: RunState, catalog: Catalog) -> None:
    """The latest value of every step series, without timestamps."""
    if state.last_step is None:
        return
    step = state.last_step
    page.add([Sample(catalog.family("training_step"), state.series.labels, step.step)])
    if step.epoch is not None:
        page.add([Sample(catalog.family("training_epoch"), state.series.labels, step.epoch)])
    for series, value in state.current():
        text = value_text(float(value) * series.name.scale)
        page.add_block(series.name.family, series.prefix, series.prefix + text + b"\n")


def counter_samples(
    state: RunState, catalog: Catalog, time_ms: int | None = None, zeros_after_ms: float = math.inf
) -> Iterator[Sample]:
    """Counters and histograms: functions of the journal, so two pages say the same at the same time.

    A non-finite counter that begins after ``zeros_after_ms`` gets a zero just before its first step, so
    that a first increase is one to ``increase()``.
    """
    labels = state.series.labels
    yield Sample(catalog.family("training_steps"), labels, state.steps, time_ms=time_ms)
    family = catalog.family("training_nonfinite")
    for name, first_ms in state.first_seen_ms.items():
        named = (*labels, ("metric", name))
        if first_ms > zeros_after_ms:
            yield Sample(family, named, 0, time_ms=first_ms - 1)
        yield Sample(family, named, state.nonfinite[name], time_ms=time_ms)
    for histogram in state.histograms.values():
        yield from histogram.samples(state.rank_labels, time_ms)
    for name, count in (
        ("telemetry_bad_lines", state.bad_lines),
        ("telemetry_unknown_records", state.unknown),
        ("telemetry_key_collisions", state.series.refused["collision"]),
    ):
        yield Sample(catalog.family(name), labels, count, time_ms=time_ms)
    for name, counts in (
        ("telemetry_lost_records", state.lost),
        ("telemetry_series_refused", _budget_refusals(state)),
    ):
        for reason, count in counts.items():
            yield Sample(catalog.family(name), (*labels, ("reason", reason)), count, time_ms=time_ms)


def gauge_samples(state: RunState, catalog: Catalog, statuses: set[str]) -> Iterator[Sample]:
    """What the run is and how it stands, at the time of the scrape: a stalled run stays visible."""
    labels = state.series.labels
    for status in STATUSES:
        yield Sample(catalog.family("run_status"), (*labels, ("status", status)), float(status in statuses))
    if state.start is not None:
        yield Sample(catalog.family("run_info"), (*labels, *_info_labels(state.start)), 1)
        for key, value in _config_items(state.start.config):
            yield Sample(catalog.family("run_config_info"), (*labels, ("key", key), ("value", value)), 1)
    gauges: dict[str, float | None] = {
        "run_start_timestamp_seconds": state.first_time,
        "run_last_step": state.last_step.step if state.last_step else None,
        "run_last_step_timestamp_seconds": state.last_step.time if state.last_step else None,
        "run_end_timestamp_seconds": state.end.time if state.end else None,
        "run_attempts": max(state.attempts, 1),
        "run_world_size": state.start.world_size if state.start else None,
        "training_parameters": _parameters(state.start.config) if state.start else None,
    }
    for name, number in gauges.items():
        if number is not None:
            yield Sample(catalog.family(name), labels, number)
    if state.phase is not None:
        named = (*state.rank_labels, ("phase", state.phase.name[:_MAX_CONFIG_VALUE]))
        yield Sample(catalog.family("run_phase_start_timestamp_seconds"), named, state.phase.time)
    for name, status in state.checks.items():
        number = CHECK_VALUES.get(status, CHECK_VALUES["UNKNOWN"])
        yield Sample(catalog.family("run_check_status"), (*labels, ("check", name)), number)
    yield from _headlines(state, catalog)


def _headlines(state: RunState, catalog: Catalog) -> Iterator[Sample]:
    for name, best in state.bests.items():
        labels = (*state.series.labels, ("metric", name))
        yield Sample(catalog.family("run_last_value"), labels, best.last)
        yield Sample(catalog.family("run_best_value"), labels, best.best)
        yield Sample(catalog.family("run_best_step"), labels, best.step)


def _info_labels(start: RunStart) -> Labels:
    named = {
        "recipe": start.recipe,
        "base_model": start.base_model,
        "framework": start.framework,
        "host": start.host,
    }
    return tuple({**named, "world_size": str(start.world_size), "version": start.version}.items())


def _parameters(config: Mapping[str, Any]) -> float | None:
    """The size of the model, where the configuration says it."""
    number = config.get("parameters", config.get("num_parameters"))
    return float(number) if isinstance(number, (int, float)) and 0 < number < math.inf else None


def _budget_refusals(state: RunState) -> Mapping[str, int]:
    return {reason: count for reason, count in state.series.refused.items() if reason != "collision"}


def _config_items(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flattened configuration, at most 200 keys and 200 characters a value; none where it is nested beyond reason."""
    try:
        return sorted(set(_flatten(config, "")))[:_MAX_CONFIG_KEYS]
    except RecursionError:
        return []


def _flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}.")
        else:
            yield path[:_MAX_CONFIG_VALUE], str(value)[:_MAX_CONFIG_VALUE]
