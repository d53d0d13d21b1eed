"""PromQL of the dashboards: which series, and how a pixel sums up the steps in it.

A window as long as a pixel, not the last value: that would hide all other steps in the pixel, and draw the five minutes
which Prometheus looks back as if a finished run went on. Two pages that show the same run say the same, so it does not
matter which of them the outer operator takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from exporter.catalog import Metric

__all__ = [
    "CHOSEN",
    "MAIN_RANK",
    "highest",
    "kept_step",
    "last_step",
    "lowest",
    "mean",
    "of_runs",
    "on_gpus",
    "per_second",
    "quantile",
    "sparse_quantile",
    "started",
]

CHOSEN = "run_id=~`${run:regex}`, user_id=~`${user:regex}`"
"""Backticks, because a run's name may hold both kinds of quotes."""

MAIN_RANK = 'rank=""'

_PIXEL = "$__interval"


def of_runs(name: str, *matchers: str) -> str:
    """The series of the chosen runs."""
    return f"{name}{{{', '.join((CHOSEN, *matchers))}}}"


def mean(name: str, labels: Sequence[str] = (), *matchers: str, window: str = _PIXEL) -> str:
    """The mean of the steps in a window, which is a pixel, one curve per run and these labels."""
    return f"{_each('max', labels)} (avg_over_time({of_runs(name, MAIN_RANK, *matchers)}[{window}]))"


def highest(name: str, labels: Sequence[str] = ()) -> str:
    """The highest step in a pixel."""
    return f"{_each('max', labels)} (max_over_time({of_runs(name, MAIN_RANK)}[{_PIXEL}]))"


def lowest(name: str, labels: Sequence[str] = ()) -> str:
    """The lowest step in a pixel."""
    return f"{_each('min', labels)} (min_over_time({of_runs(name, MAIN_RANK)}[{_PIXEL}]))"


def last_step() -> str:
    """The position on the step axis at the end of a pixel."""
    return f"{_each('max')} (last_over_time({of_runs('training_step', MAIN_RANK)}[{_PIXEL}]))"


def kept_step() -> str:
    """The position on the step axis, of the pixels that no later one takes back.

    A run that was resumed from a checkpoint counts again from there; what it did beyond that is dropped, but for the
    pixel in which it went on. Where it went on later lies in a window that is moved into the future by its length.
    """
    step = last_step()
    resumed = f"{_each('min')} (min_over_time({of_runs('run_resume_step', MAIN_RANK)}[$__range] offset -$__range))"
    return f"{step} unless {step} >= on (run_id) {resumed}"


def started() -> str:
    """When each run started: the same at every time, because a log may have been imported after it was written.

    A window, because VictoriaMetrics takes the end of a subquery for its end, and that may lie some minutes ahead.
    """
    return f"{_each('max')} (last_over_time({of_runs('run_start_timestamp_seconds', MAIN_RANK)}[10m] @ end()))"


def per_second(name: str, labels: Sequence[str] = (), *matchers: str) -> str:
    """The increase of a run's counter per second, over all of its ranks unless ``rank`` is among the labels."""
    return f"{_each('sum', labels)} (rate({of_runs(name, *matchers)}[$__rate_interval]))"


def quantile(metric: Metric, share: float, labels: Sequence[str] = ()) -> str:
    """A quantile of a histogram, over all ranks of a run unless ``rank`` is among the labels.

    The comparison drops the NaN of a window without observations.
    """
    rates = f"rate({of_runs(f'{metric.name}_bucket')}[$__rate_interval])"
    return f"histogram_quantile({share}, {_each('sum', ('le', *labels))} ({rates})) >= 0"


def sparse_quantile(metric: Metric, share: float, labels: Sequence[str] = ()) -> str:
    """The same where :func:`quantile` has nothing: a query of its own, because each reads all the buckets.

    A histogram has the time of its last observation, so one that is observed once a minute has no rate over a short
    window. It is then drawn over the long one, by the minute, as every scrape of it would be many; and that must not go
    on behind the run's end.
    """
    rates = f"rate({of_runs(f'{metric.name}_bucket')}[{metric.sparse_window}:1m])"
    keys = ", ".join(("run_id", *labels))
    often = f"{_each('max', labels)} (count_over_time({of_runs(f'{metric.name}_sum')}[$__rate_interval])) >= 2"
    return (
        f"histogram_quantile({share}, {_each('sum', ('le', *labels))} ({rates}))"
        f' and on (run_id) (run_status{{status="running"}} == 1) unless on ({keys}) ({often})'
    )


def on_gpus(value: str, keys: Sequence[str], labels: Sequence[str] = ()) -> str:
    """A value of GPUs by run; ``keys`` tell one device from another, and ``labels`` the values of one device.

    A device may serve several runs. One with several values has them by device and not by run.
    """
    joined = f"on ({', '.join(keys)})"
    owners = f"max by ({', '.join(('run_id', 'gpu', *keys))}) ({of_runs('run_gpu_info')})"
    if labels:
        by_run = f"max by ({', '.join(('gpu', *keys, *labels))}) ({value}) and {joined} {owners}"
    else:
        by_run = f"max by ({', '.join(keys)}) ({value}) * {joined} group_right () {owners}"
    return f'label_replace({by_run}, "device", "$1", "uuid", "(?:GPU-)?(.{{1,8}}).*")'


def _each(operator: str, labels: Sequence[str] = ()) -> str:
    """One result per run and these labels."""
    return f"{operator} by ({', '.join(('run_id', *labels))})"
