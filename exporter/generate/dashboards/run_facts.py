"""What is known of each run, one value per run, as PromQL: status, times, headline metric.

A run that is on no page any more is known by what was said of it last in the time range.
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.generate.dashboards import promql

__all__ = [
    "STATUSES",
    "attempts",
    "duration",
    "end",
    "firing",
    "headline",
    "identity",
    "seconds_per_step",
    "start",
    "status",
    "step",
    "target",
    "world_size",
]

STATUSES = ("running", "stalled", "finished", "failed", "crashed")
"""Numbered from 1; 0 stands for a run that was going on when it was seen last, and is not seen now."""

_GOING_ON = 2
_PACE = "1h"
_TARGETS = (
    "(.*[._/])?(max_steps|max_train_steps|num_train_steps|num_training_steps|total_training_steps|total_steps|train_steps"
    "|total_timesteps|max_iters)"
)
"""Configuration keys under which trainers name the number of steps that a run is going to take, in any section..."""
_NO_TARGETS = "(?i).*(eval|valid|test|warm|decay).*"
"""... that is about training."""


def identity(labels: Sequence[str]) -> str:
    """1, with these labels of the run."""
    return f"topk by (run_id) (1, group by ({', '.join(labels)}) ({_seen(_main('run_info'))}))"


def status() -> str:
    """The number of the status; the worst where two hold, as with a stalled run."""
    numbered = [f"({_has_status(name)} == 1) * {number}" for number, name in enumerate(STATUSES, start=1)]
    now = f"max by (run_id) ({' or '.join(numbered)})"
    before = f"last_over_time(({now})[$__range:5m])"
    return f"{now} or {before} > {_GOING_ON} or {before} * 0"


def start() -> str:
    """When the run started, in seconds since 1970."""
    return f"max by (run_id) ({_seen(_main('run_start_timestamp_seconds'))})"


def duration() -> str:
    """Seconds until now, where a run is going on; else until it ended or made its last step."""
    return f"({end()}) - on (run_id) {start()}"


def end() -> str:
    """When a run ended or made its last step; now, where it is going on."""
    now = f"max by (run_id) ({_has_status('running')} == 1) * time()"
    ends = ("run_end_timestamp_seconds", "run_last_step_timestamp_seconds")
    return " or on (run_id) ".join([now, *(f"max by (run_id) ({_seen(_main(name))})" for name in ends)])


def seconds_per_step() -> str:
    """Of a run that is going on, by its last hour: what it did before, and how long it stood still, says nothing."""
    pace = f"max by (run_id) (deriv({_main('training_step')}[{_PACE}]))"
    return f"1 / ({pace} > 0 and on (run_id) {_has_status('running')} == 1)"


def step() -> str:
    """The last step."""
    return f"max by (run_id) ({_seen(_main('run_last_step'))})"


def attempts() -> str:
    """How often the run was started."""
    return f"max by (run_id) ({_seen(_main('run_attempts'))})"


def world_size() -> str:
    """How many ranks the newest attempt has."""
    return f"max by (run_id) ({_seen(_main('run_world_size'))})"


def target() -> str:
    """1, with the number of steps that the run is going to take as label ``value``."""
    configured = _main("run_config_info", f'key=~"{_TARGETS}"', f'key!~"{_NO_TARGETS}"', 'value=~"[1-9][0-9]*"')
    return f"topk by (run_id) (1, group by (run_id, value) ({configured}))"


def headline(series: str, metrics: Sequence[str], *labels: str) -> str:
    """A value of the first of these metrics that the run has."""
    values = [f"max by (run_id, metric) ({_metric(series, name)})" for name in metrics]
    return f"max by ({', '.join(('run_id', *labels))}) ({' or on (run_id) '.join(values)})"


def firing() -> str:
    """The alerts that are firing for the chosen runs."""
    alerts = 'ALERTS{alertstate="firing", run_id=~`${run:regex}`, run_id!=""}'
    return f"{alerts} and on (run_id) ({_seen(_main('run_info'))})"


def _main(name: str, *matchers: str) -> str:
    return promql.of_runs(name, promql.MAIN_RANK, *matchers)


def _has_status(name: str) -> str:
    matcher = f'status="{name}"'
    return _main("run_status", matcher)


def _metric(series: str, name: str) -> str:
    matcher = f'metric="{name}"'
    return _main(series, matcher)


def _seen(series: str) -> str:
    return f"{series} or last_over_time({series}[$__range:5m])"
