"""What a rule must keep to, so that Prometheus takes it and no field of it is passed over in silence."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from exporter.catalog.decode import WINDOW, one_of, require
from exporter.catalog.model import Alert, Condition, Metric
from exporter.errors import ConfigError

__all__ = ["TEXTS", "check_alert", "check_condition", "check_pattern"]

TEXTS = ("summary", "meaning", "action")
"""The fields of an alert that people read."""

_OF_A_METRIC = ("{at_step}", "{now}")
"""Names in texts that are looked up in the alert's metric."""

_VALUES = ("median", "worst", "lowest", "highest", "mean", "increase", "rate")
_OF_UPDATES = ("median", "worst", "lowest", "highest")
_AGAINST = ("", "before", "highest", "spread")
_WINDOWS = ("window", "sparse_window", "rare_window", "baseline", "lag")
_COMPARED = ("baseline", "lag", "least_scale", "half_full", "rare_window", "rare_updates")
_ABOUT = ("run", "rank", "any run", "gpu", "host", "exporter")
_WITH_STEPS = ("run", "any run", "gpu")
_OF_AN_EXPRESSION = {"expression", "window", "sparse_window", "above", "below"}
_UNSET = Condition()

_UNLIKE_RE2 = re.compile(
    r"""
      (?P<look> \(\?<?[=!] )
    | (?P<back> \\[1-9] | \(\?P= | \(\?\( )
    | (?P<own> \\[ZuUN] | \(\?> | \(\?\# | \(\?[aiLmsux-]*[aLux][aiLmsux-]*[:)] | [*+?}]\+ | \{,\d* | \[\[: )
    | \\. | \[\^?\]?(?:\\.|[^\]\\])*\]
    """,
    re.VERBOSE | re.DOTALL,
)
"""What Python's regular expressions have beyond those of Prometheus, or read otherwise; the last line passes over
escaped letters and sets of letters."""

_KINDS_OF_UNLIKE = {"look": "look-around", "back": "a reference to a group", "own": "a form that only Python reads so"}


def check_alert(alert: Alert, metrics: Mapping[str, Metric], where: str) -> None:
    """A rule's fields are known, fit together, and can be written.

    Raises:
        ConfigError: one does not; the message has the value, the rule and the remedy.
    """
    one_of(alert.about, _ABOUT, where, "about")
    for window in (alert.lasting, alert.hold, alert.interval):
        require(not window or WINDOW.fullmatch(window), where, f"{window!r} must be a Prometheus duration such as 1m")
    for name in alert.without:
        one_of(name, tuple(metrics), where, "metric")
    check_condition(alert.condition, metrics, where)
    _check_gates(alert, where)
    for field in TEXTS:
        _check_text(alert, getattr(alert, field), f"{where}: {field}")


def check_condition(condition: Condition, metrics: Mapping[str, Metric], where: str) -> None:
    """A condition is about one known metric or an expression, and each of its fields has a meaning there.

    Raises:
        ConfigError: it is not.
    """
    require(bool(condition.metric) != bool(condition.expression), where, "give exactly one of metric, expression")
    require((condition.above is None) != (condition.below is None), where, "give exactly one of above, below")
    for name in filter(None, (condition.metric, condition.per)):
        one_of(name, tuple(metrics), where, "metric")
    one_of(condition.value, _VALUES, where, "value")
    one_of(condition.against, _AGAINST, where, "against")
    for window in filter(None, (getattr(condition, name) for name in _WINDOWS)):
        require(WINDOW.fullmatch(window), where, f"window {window!r} must be a Prometheus duration such as 1m")
    if condition.metric:
        _check_fields(condition, where)
        _check_metric(condition, metrics[condition.metric], where)
    else:
        lost = ", ".join(sorted(_given(condition) - _OF_AN_EXPRESSION))
        require(not lost, where, f"{lost}: that is for a metric; write it into the expression")


def check_pattern(pattern: str, where: str) -> None:
    """A text is a regular expression that Python and Prometheus read alike.

    Raises:
        ConfigError: it is not.
    """
    for found in _UNLIKE_RE2.finditer(pattern):
        unlike = f"{_KINDS_OF_UNLIKE.get(found.lastgroup or '')}, {found[0]!r}"
        message = f"{pattern!r} has {unlike}, which Prometheus' regular expressions lack: name what must match"
        require(not found.lastgroup, where, message)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def _check_gates(alert: Alert, where: str) -> None:
    """What says which runs an alert is about, from when on, and how long."""
    condition, about = alert.condition, alert.about
    if condition.expression:
        require(alert.watches.strip(), where, "watches is missing: say which series the expression is about")
        require(about != "gpu", where, "about gpu needs a metric: join run_gpu_info in the expression, about any run")
        message = f"warm_up {alert.warm_up} needs a metric: compare training_steps_total in the expression"
        require(not alert.warm_up, where, message)
    if about == "gpu":
        is_plain = condition.value != "worst" and condition.against != "spread" and not alert.hold
        require(is_plain, where, "about gpu takes no value worst, no against spread and no hold")
    message = f"warm_up {alert.warm_up} is for what is about {', '.join(_WITH_STEPS)}, not about {about}"
    require(not alert.warm_up or about in _WITH_STEPS, where, message)
    is_change = condition.against and condition.value != "worst"
    require(not alert.hold or is_change, where, f"hold {alert.hold} is for a change: give against, and no value worst")


def _check_text(alert: Alert, text: str, where: str) -> None:
    require(text.strip(), where, "it is empty")
    is_closed = all("}}" in part for part in text.split("{{")[1:])
    require(is_closed, where, f"{text!r} has a {{{{ without its }}}}, so Prometheus would refuse all rules: close it")
    for name in _OF_A_METRIC:
        require(alert.condition.metric or name not in text, where, f"{name} is looked up in a metric: leave it out")
    is_of_run = "{now}" not in text or alert.about in ("run", "rank", "any run")
    require(
        is_of_run, where, f"{{now}} is for what is about run, rank or any run, not about {alert.about}: leave it out"
    )
    try:
        alert.told(text)
    except ValueError as error:
        require(
            False, where, f"{text!r} has a bound that cannot be written ({error}): write {{bound}} or {{bound:.0%}}"
        )


def _check_fields(condition: Condition, where: str) -> None:
    """No field is given that the value or the comparison passes over."""
    value, against, given = condition.value, condition.against, _given(condition)
    require(
        not against or value in _OF_UPDATES or (value, against) == ("rate", "before"),
        where,
        f"{value} cannot be compared against {against}: that is for {', '.join(_OF_UPDATES)}; a rate takes before",
    )
    needs = {
        "per": (value == "mean", "value: mean"),
        "absolute": (value in _OF_UPDATES and against != "spread", f"value: {', '.join(_OF_UPDATES)}, not of a spread"),
        "from_nothing": (value == "increase", "value: increase"),
        "sparse_window": (value in _OF_UPDATES, f"value: {', '.join(_OF_UPDATES)}"),
        **{name: (bool(against), f"against: {', '.join(_AGAINST[1:])}") for name in _COMPARED},
    }
    for name, (holds, need) in needs.items():
        require(holds or name not in given, where, f"{name} has no meaning here: it is for {need}")


def _check_metric(condition: Condition, metric: Metric, where: str) -> None:
    kinds = {"increase": ("counter",), "rate": ("counter", "histogram")}.get(condition.value, ("gauge",))
    require(metric.type in kinds, where, f"{condition.value} of {metric.name} needs a {' or '.join(kinds)}")
    for label, pattern in condition.where.items():
        one_of(label, metric.labels, f"{where}: where", "label")
        check_pattern(pattern, f"{where}: where")


def _given(condition: Condition) -> set[str]:
    """The fields that are not what they are where nothing is said."""
    names: Iterable[str] = (field.name for field in dataclasses.fields(Condition))
    return {name for name in names if getattr(condition, name) != getattr(_UNSET, name)}
