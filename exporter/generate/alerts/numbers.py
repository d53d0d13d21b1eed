"""The PromQL of a condition: the number that a metric's recent updates make, beyond its bounds.

Everything is written in what Prometheus 2.42, 3.x and VictoriaMetrics all understand. Two properties of theirs are
worked around: no language has conditions, so each window is given up where it holds too few updates, and ``or``
takes the next; and Prometheus' median takes NaN for the smallest number.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import textwrap
from collections.abc import Sequence

from exporter.catalog import Catalog, Condition
from exporter.catalog.windows import RARE, Baseline, baselines, fraction, known, total, windows

__all__ = [
    "ON_RUN",
    "as_operand",
    "beyond",
    "bounded",
    "either",
    "increase",
    "not_restarted",
    "number",
    "quoted",
    "relative",
    "selected",
    "selector",
    "series",
    "slowest_pace",
    "still_deviating",
]

ON_RUN = "on (run_id, rank)"
"""A rank is a run of its own here; rank 0 has no such label."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_ANCIENT = "1d"
_MOMENTS = 60
_LEAST_MEDIAN = 3
_LIMITS = 4
"""How many limits are looked at of the time in which an alert is held."""


def beyond(condition: Condition, catalog: Catalog) -> str:
    """The number, where it is beyond its bounds."""
    if condition.against == "spread":
        return _deviating(condition, catalog)
    if condition.value == "worst":
        settled = dataclasses.replace(condition, value="median")
        spike = bounded(number(condition, catalog), condition)
        return f"{spike}\nunless\n{as_operand(beyond(settled, catalog))}"
    text = bounded(number(condition, catalog), condition)
    if not condition.from_nothing:
        return text
    # increase() does not see a counter that begins with its first increase.
    x, window = selected(condition, catalog), windows(condition, catalog)[0]
    new = f"(last_over_time({x}[{window}]) unless last_over_time({x}[{_ANCIENT}] offset {window}))"
    return either([text, bounded(new, condition)])


def bounded(text: str, condition: Condition) -> str:
    """A number beyond the bounds of a condition."""
    outside, within = (">", "<=") if condition.above is not None else ("<", ">=")
    limit = condition.up_to if condition.above is not None else condition.down_to
    bad = f"{as_operand(text)} {outside} {condition.bound:g}"
    return bad if limit is None else f"{as_operand(bad)} {within} {limit:g}"


def number(condition: Condition, catalog: Catalog) -> str:
    """The number itself."""
    if condition.expression:
        return condition.expression.strip()
    x, window = selected(condition, catalog), windows(condition, catalog)[0]
    if condition.value == "rate" and condition.against:
        return _pace(condition, x, catalog)
    if condition.value == "increase":
        return increase(x, window)
    if condition.value == "rate":
        return f"rate({x}[{window}])"
    if condition.value == "mean":
        per = catalog.metrics[condition.per].sample_name if condition.per else ""
        mean = f"avg_over_time({x}[{window}])"
        return f"{mean} / avg_over_time({per}[{window}])" if per else mean
    text = _changed(condition, x, catalog) if condition.against else _recent(condition, x, catalog)
    return f"abs{as_operand(text)}" if condition.absolute and condition.value != "worst" else text


def selected(condition: Condition, catalog: Catalog) -> str:
    """The selector of a condition's series."""
    matchers = [f"{label}=~{quoted(pattern)}" for label, pattern in condition.where.items()]
    return selector(series(condition, catalog), matchers)


def series(condition: Condition, catalog: Catalog) -> str:
    """The series that a condition is about: its metric's, and of a histogram the sum."""
    metric = catalog.metrics[condition.metric]
    return f"{metric.name}_sum" if metric.type == "histogram" else metric.sample_name


def selector(name: str, matchers: Sequence[str]) -> str:
    """A series selector."""
    return f"{name}{{{', '.join(matchers)}}}" if matchers else name


def quoted(text: str) -> str:
    """A string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def increase(x: str, span: str) -> str:
    """The increase of a counter, whose last value must be above: VictoriaMetrics takes a series' first for one."""
    return f"(increase({x}[{span}]) and last_over_time({x}[{span}]) > min_over_time({x}[{span}]))"


def not_restarted(span: str) -> str:
    """The part of an expression that leaves out runs which were restarted in this time."""
    return f"unless {ON_RUN} (stddev_over_time(run_attempts[{span}]) > 0)"


def either(parts: Sequence[str]) -> str:
    """The first of several expressions that gives a series a value, as one operand."""
    if len(parts) == 1:
        return parts[0]
    return "(\n" + "\n  or\n".join(textwrap.indent(part, "  ") for part in parts) + "\n)"


def as_operand(text: str) -> str:
    """The text as one operand: a name, a call, or what stands in parentheses already."""
    bare = _STRING.sub("", text)
    depths = list(itertools.accumulate((letter == "(") - (letter == ")") for letter in bare))
    is_whole = re.match(r"\w*\(", bare) and 0 not in depths[bare.index("(") : -1] and depths[-1] == 0
    if is_whole or re.fullmatch(r"\w+", bare):
        return text
    return f"(\n{textwrap.indent(text, '  ')}\n)" if "\n" in text else f"({text})"


# ------------------------------------------------------------------ recent updates


def _recent(condition: Condition, x: str, catalog: Catalog) -> str:
    """The statistic of the shortest window that holds enough updates; where none does, the last update."""
    first, *longer = windows(condition, catalog)
    parts = [_tier(condition, x, first, catalog)]  # longer windows may hold updates of the attempt before
    parts += [f"{_tier(condition, x, span, catalog)}\n{not_restarted(span)}" for span in longer]
    if condition.value == "median":
        parts += [f"last_over_time({x}[{span}])\n{not_restarted(span)}" for span in reversed(longer or [first])]
        past = f"{x}[{known(condition, catalog)}]"
        is_rare = f"count_over_time({past}) <= {RARE}\n{not_restarted(known(condition, catalog))}"
        parts.append(f"last_over_time({past}) and {is_rare}")
    return either(parts)


def _tier(condition: Condition, x: str, span: str, catalog: Catalog) -> str:
    return f"{_statistic(condition, x, span, catalog)} and count_over_time({x}[{span}]) >= {condition.least_updates}"


def _statistic(condition: Condition, x: str, span: str, catalog: Catalog) -> str:
    if condition.value == "worst" and condition.absolute:
        return f"(max_over_time({x}[{span}]) > -min_over_time({x}[{span}]) or -min_over_time({x}[{span}]))"
    if condition.value == "lowest" or (condition.value == "worst" and condition.above is None):
        return f"min_over_time({x}[{span}])"
    if condition.value in ("worst", "highest"):
        return f"max_over_time({x}[{span}])"
    median = f"quantile_over_time(0.5, {x}[{span}])"
    if not catalog.metrics[condition.metric].nan_is_normal:
        return median
    # A window that holds a NaN has no sum: its median is that of the moments at which the last update was a number.
    has_sum = f"sum_over_time({x}[{span}]) == sum_over_time({x}[{span}])"
    return f"({median} and {has_sum} or quantile_over_time(0.5, ({x} == {x})[{span}:{fraction(span, _MOMENTS)}]))"


# ------------------------------------------------------------------ against the time before


def _changed(condition: Condition, x: str, catalog: Catalog) -> str:
    """How much the value has changed from the baseline, relative to it."""
    tiers = []
    for baseline in baselines(condition, catalog):
        span, past = baseline.span, _past(x, baseline)
        change = relative(_statistic(condition, x, span, catalog), _base(condition, past), condition, past)
        enough = f"count_over_time({x}[{span}]) >= {condition.least_updates}"
        tiers.append(f"{change}\nand {enough}\n{_is_comparable(condition, x, baseline)}")
    return either(tiers)


def relative(now: str, base: str, condition: Condition, past: str) -> str:
    """The change from a base, relative to it."""
    scale = f"abs({base})"
    if condition.least_scale:
        least = f"clamp_min({scale}, {condition.least_scale:g})"
        scale = f"(clamp_min({scale}, 1) and min_over_time({past}) < 0 or {least})"
    return f"({now} - {base})\n/ {scale}"


def _base(condition: Condition, past: str) -> str:
    if condition.against == "highest":
        return f"max_over_time({past})"
    return f"{'min' if condition.value == 'lowest' else 'avg'}_over_time({past})"


def _deviating(condition: Condition, catalog: Catalog) -> str:
    """The value, where it lies so many standard deviations above the baseline's mean, or below it."""
    x = selected(condition, catalog)
    tiers, shorter = [], ""
    for baseline in baselines(condition, catalog):
        value, enough = _statistic(condition, x, baseline.span, catalog), _is_comparable(condition, x, baseline)
        is_known = _is_known(x, baseline)
        if condition.value == "median":
            is_median = f"count_over_time({x}[{baseline.span}]) >= {_LEAST_MEDIAN}"
            enough, is_known = f"{enough}\nand {is_median}", f"({is_known} and {is_median})"
        tiers.append(f"{value} {_outside(condition)} {_limit(condition, x, baseline)}\n{enough}{shorter}")
        shorter += f"\nunless {is_known}"
    return either(tiers)


def still_deviating(condition: Condition, hold: str, catalog: Catalog) -> str:
    """The median, where it lies beyond the narrowest limit of so long a time."""
    x = selected(condition, catalog)
    tiers, shorter = [], ""
    for baseline in baselines(condition, catalog):
        limits = f"({_limit(condition, x, baseline)} and {_is_known(x, baseline)})[{hold}:{fraction(hold, _LIMITS)}]"
        narrowest = f"{'min' if condition.above is not None else 'max'}_over_time({limits})"
        enough = f"count_over_time({x}[{baseline.span}]) >= {_LEAST_MEDIAN}"
        value = _statistic(condition, x, baseline.span, catalog)
        tiers.append(f"{value} {_outside(condition)} {narrowest}\nand {enough}{shorter}")
        shorter += f"\nunless {enough}"
    return either(tiers)


def _outside(condition: Condition) -> str:
    return ">" if condition.above is not None else "<"


def _limit(condition: Condition, x: str, baseline: Baseline) -> str:
    """So many standard deviations from the baseline's mean."""
    past, sign = _past(x, baseline), "+" if condition.above is not None else "-"
    mean = f"avg_over_time({past})"
    least = f"{condition.least_scale:g} * abs({mean})"
    return f"{mean} {sign} {abs(condition.bound):g} * (stddev_over_time({past}) > {least} or {least})"


def _past(x: str, baseline: Baseline) -> str:
    return f"{x}[{baseline.length}] offset {baseline.lag}"


def _is_known(x: str, baseline: Baseline) -> str:
    return f"count_over_time({_past(x, baseline)}) >= {baseline.least_updates}"


def _is_comparable(condition: Condition, x: str, baseline: Baseline) -> str:
    """Whether the baseline holds enough to compare with, all of it of the same attempt."""
    parts = [f"and {_is_known(x, baseline)}"]
    if condition.half_full:
        half = fraction(baseline.length, 2)
        older = baseline._replace(length=half, lag=total(baseline.lag, half))
        parts.append(f"and count_over_time({_past(x, older)}) >= 1")
    return "\n".join([*parts, not_restarted(total(baseline.lag, baseline.length))])


def slowest_pace(condition: Condition, hold: str, catalog: Catalog) -> str:
    """How much a counter's rate has changed from its highest of so long a time."""
    x, baseline = selected(condition, catalog), baselines(condition, catalog)[0]
    highest = f"max_over_time(rate({x}[{baseline.length}])[{hold}:{fraction(hold, _LIMITS)}])"
    return f"rate({x}[{baseline.span}]) / {highest} - 1"


def _pace(condition: Condition, x: str, catalog: Catalog) -> str:
    """How much a counter's rate has changed."""
    baseline = baselines(condition, catalog)[0]
    past = _past(x, baseline)
    enough = f"increase({past}) >= {condition.least_updates}"
    change = f"rate({x}[{baseline.span}]) / rate({past}) - 1"
    return f"{change}\nand {enough}\n{not_restarted(total(baseline.lag, baseline.length))}"
