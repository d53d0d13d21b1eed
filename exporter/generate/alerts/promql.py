"""The whole expression of an alert: its conditions, and the gates that say which runs or machines it is about."""

from __future__ import annotations

import dataclasses

from exporter.catalog import Alert, Catalog, Runs
from exporter.catalog.windows import fraction, known, seconds, windows
from exporter.generate.alerts.numbers import (
    ON_RUN,
    as_operand,
    beyond,
    bounded,
    either,
    increase,
    not_restarted,
    number,
    quoted,
    relative,
    selected,
    selector,
    slowest_pace,
    still_deviating,
)

__all__ = ["condition", "expression"]

_AFTER_RESTART, _LONGEST_AFTER_RESTART = 6, "5m"
"""After a restart an increase must be one of the last sixth of the window, at most so long ago."""


def expression(alert: Alert, catalog: Catalog) -> str:
    """The expression of a rule."""
    lines = [condition(alert, catalog)]
    if alert.about in ("run", "gpu"):
        lines.append(f"and {ON_RUN} {_statuses(alert.runs, status='running')} == 1")
    elif alert.about == "rank":
        lines.append(f"and on (run_id) {_statuses(alert.runs, status='running')} == 1")
    elif alert.about == "any run" and alert.runs:
        lines.append(f"and {ON_RUN} {_statuses(alert.runs)}")
    elif alert.about == "host":
        lines.append('and on (instance, job) telemetry_runs{status="running"} > 0')
    lines += [f"unless {ON_RUN} {_statuses(runs)}" for runs in alert.excluded]
    if alert.warm_up:
        lines += _warmed_up(alert, catalog)
    return "\n".join(lines)


def condition(alert: Alert, catalog: Catalog) -> str:
    """What must be true of the numbers, without the gates."""
    lines = [_main(alert, catalog)] if alert.hold else [_main(alert, catalog), *_more(alert, catalog)]
    if alert.unless:
        excuses = [as_operand(beyond(other, catalog)) for other in alert.unless]
        lines.append(f"unless {ON_RUN}\n" + as_operand(f"\nand {ON_RUN}\n".join(excuses)))
    if alert.without:
        span = windows(alert.condition, catalog)[-1]
        present = [f"last_over_time({catalog.metrics[name].sample_name}[{span}])" for name in alert.without]
        lines.append(f"unless {ON_RUN}\n{either(present)}")
    return "\n".join(lines)


def _warmed_up(alert: Alert, catalog: Catalog) -> list[str]:
    """The warm-up is over, and all updates of the window came after it."""
    steps = f"last_over_time(training_steps_total[{known(alert.condition, catalog)}])"
    window = windows(alert.condition, catalog)[0]
    updates = f"max by (run_id, rank) (count_over_time({selected(alert.condition, catalog)}[{window}]))"
    return [
        f"and {ON_RUN} {steps} >= {alert.warm_up}",
        f"unless {ON_RUN} ({updates} > {ON_RUN} {steps} - {alert.warm_up - 1})",
    ]


def _main(alert: Alert, catalog: Catalog) -> str:
    if alert.about == "gpu":
        return _on_gpus(alert, catalog)
    if alert.about in ("run", "any run") and alert.increased and not alert.condition.from_nothing:
        return _increased(alert, catalog)
    if alert.hold and alert.condition.against == "spread":
        begins = "\n".join([beyond(alert.condition, catalog), *_more(alert, catalog)])
        return either([begins, f"{still_deviating(alert.condition, alert.hold, catalog)}\n{_fires(alert)}"])
    if alert.hold:  # other conditions need not go on
        begins = "\n".join([number(alert.condition, catalog), *_more(alert, catalog)])
        return bounded(either([_held(alert, catalog), begins]), alert.condition)
    return beyond(alert.condition, catalog)


def _more(alert: Alert, catalog: Catalog) -> list[str]:
    return [f"and {ON_RUN}\n{as_operand(beyond(other, catalog))}" for other in alert.also]


def _increased(alert: Alert, catalog: Catalog) -> str:
    """An increase, which after a restart must be one of the new attempt."""
    x, span = selected(alert.condition, catalog), windows(alert.condition, catalog)[0]
    recent = increase(x, min(fraction(span, _AFTER_RESTART), _LONGEST_AFTER_RESTART, key=seconds))
    return bounded(either([f"{increase(x, span)} {not_restarted(span)}", recent]), alert.condition)


def _held(alert: Alert, catalog: Catalog) -> str:
    """The change from the extreme of a long time, for a run of which the alert fires already."""
    if alert.condition.value == "rate":
        return f"{slowest_pace(alert.condition, alert.hold, catalog)}\n{_fires(alert)}"
    past = f"{selected(alert.condition, catalog)}[{alert.hold}]"
    extreme = f"{'max' if alert.condition.above is None else 'min'}_over_time({past})"
    recent = number(dataclasses.replace(alert.condition, against=""), catalog)
    change = relative(recent, extreme, alert.condition, past)
    return f"{change}\n{_fires(alert)}"


def _fires(alert: Alert) -> str:
    """The part of an expression that leaves only the runs of which the alert fires already."""
    fires = selector("ALERTS", [f'alertname="{alert.name}"', 'alertstate="firing"'])
    return f"and {ON_RUN} {fires}"


def _on_gpus(alert: Alert, catalog: Catalog) -> str:
    """A GPU's number for each run that uses the GPU; what a trainer logged is its run's already."""
    text = number(alert.condition, catalog)
    metric = catalog.metrics[alert.condition.metric]
    by = "uuid" if metric.labels and "gpu_instance_id" not in metric.labels else "uuid, gpu_instance_id"
    joined = f"run_gpu_info * on ({by}) group_left () max by ({by}) ({text})"
    if not metric.aliases or alert.condition.per:
        return bounded(joined, alert.condition)
    logged = text.replace(metric.sample_name, selector(metric.sample_name, ['run_id!=""']))
    return bounded(either([joined, logged]), alert.condition)


def _statuses(runs: Runs, **labels: str) -> str:
    equal = [f"{label}={quoted(value)}" for label, value in labels.items()]
    return selector("run_status", equal + [f"{label}=~{quoted(pattern)}" for label, pattern in runs.items()])
