"""The rule file: every alert of the catalog with what it says."""

from __future__ import annotations

from typing import Any

import yaml

from exporter.catalog import Alert, Catalog
from exporter.catalog.windows import windows
from exporter.generate.alerts.numbers import selected, selector, series
from exporter.generate.alerts.promql import expression
from exporter.generate.text import GENERATED, wrap

__all__ = ["alert_rules", "filled"]

# A label that a series lacks is the empty text to Prometheus, and nil to vmalert unless it is asked for by index.
_RANK_LABEL = '(index $labels "rank")'
_RANK = f'$labels.run_id ({_RANK_LABEL} | reReplaceAll "^0?$" "0|") | query'
"""Rank 0 is named where each rank measures by itself, and not where it speaks for the run."""

_OF_SAME_RUN = "run_id=%[1]q, rank=%[2]q"
_OF_RANK = "run_id=%q, rank=~%q"
_LAST_STEP = (
    f"{{{{ range printf `last_over_time(training_step{{{_OF_RANK}}}[1d])` {_RANK} }}}}"
    " after step {{ .Value | printf `%.0f` }}{{ end }}"
)
_LAST_PHASE = (
    f"{{{{ with printf `run_phase_start_timestamp_seconds{{{_OF_RANK}}}` {_RANK} }}}}"
    ", last in phase {{ (. | first).Labels.phase }}{{ end }}"
)
_INFO = f'run_info{{{_OF_RANK}, host!=""}}'
_ON_HOST = f"{{{{ with printf `{_INFO}` {_RANK} }}}} on {{{{ (. | first).Labels.host }}}}{{{{ end }}}}"
_PLACE = _ON_HOST + (
    f"{{{{ with printf `run_gpu_info{{{_OF_RANK}}}` {_RANK} }}}}"
    "{{ if eq (len .) 1 }}, GPU {{ (. | first).Labels.gpu }}{{ end }}{{ end }}"
)
# What is not finite is no number once it is subtracted from itself. VictoriaMetrics stores none, so it finds no step.
_BY_STEP = (
    f"{{{{ range printf `min_over_time((training_step{{{_OF_SAME_RUN}}} and on (run_id, rank)"
    f" {{__name__=%[3]q, {_OF_SAME_RUN}}} - {{__name__=%[3]q, {_OF_SAME_RUN}}} != 0)[30m:1s])`"
    f" $labels.run_id {_RANK_LABEL} $labels.metric"
    " | query }} by step {{ .Value | printf `%.0f` }}{{ end }}"
)
_LOOKED_UP = {
    "{last_step}": _LAST_STEP,
    "{last_phase}": _LAST_PHASE,
    "{by_step}": _BY_STEP,
    "{on_host}": _ON_HOST,
    "{place}": _PLACE,
}
_RECENT = {"lowest": "min_over_time({})", "highest": "max_over_time({})", "rate": "rate({})"}


class _Dumper(yaml.SafeDumper):
    """YAML in which an expression of several lines keeps them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def alert_rules(catalog: Catalog) -> str:
    """The rule file: a group for each of the catalog, and one more for its rules that are evaluated less often."""
    groups = []
    for name in catalog.groups:
        own = [alert for alert in catalog.alerts if alert.group == name]
        for interval in sorted({alert.interval for alert in own}):
            rules = [_rule(alert, catalog) for alert in own if alert.interval == interval]
            pace = {"name": f"{name}, every {interval}", "interval": interval} if interval else {"name": name}
            groups.append({**pace, "rules": rules})
    return f"# {GENERATED}\n" + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=1000)


def filled(text: str, alert: Alert, catalog: Catalog) -> str:
    """A text of the catalog with the bound and the templates that look up a step, a phase or a place."""
    text = alert.told(wrap(text))
    for name, look_up in _LOOKED_UP_BY_METRIC.items():
        if name in text:
            text = text.replace(name, look_up(alert, catalog))
    for name, template in _LOOKED_UP.items():
        text = text.replace(name, template)
    return text


def _rule(alert: Alert, catalog: Catalog) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": expression(alert, catalog),
        **({"for": alert.lasting} if alert.lasting else {}),
        "labels": {"severity": alert.severity, **({"runs": said_runs(alert)} if alert.runs else {})},
        "annotations": {
            "summary": filled(alert.summary, alert, catalog) + _rank(alert),
            "description": filled(alert.meaning, alert, catalog),
            "action": filled(alert.action, alert, catalog),
            "watches": watched(alert, catalog),
            **({"runbook_url": f"{catalog.runbook_url}#{alert.name.lower()}"} if catalog.runbook_url else {}),
        },
    }


def _rank(alert: Alert) -> str:
    """Which rank it is, where the series has one: 64 ranks must not give 64 lines that read the same."""
    is_said = "$labels.rank" in alert.summary or alert.about not in ("run", "rank", "any run", "gpu")
    return "" if is_said else f"{{{{ with {_RANK_LABEL} }}}} (rank {{{{ . }}}}){{{{ end }}}}"


def said_runs(alert: Alert) -> str:
    """Which runs a rule is for. As a label it also tells rules of one name apart, which promtool's lint asks for."""
    return ", ".join(f"{label} {pattern}" for label, pattern in alert.runs.items())


def watched(alert: Alert, catalog: Catalog) -> str:
    """Which quantity a rule looks at: series and, where they tell kinds apart, which."""
    return selected(alert.condition, catalog) if alert.condition.metric else alert.watches


def _at_step(alert: Alert, catalog: Catalog) -> str:
    """Template that looks up the step of the update whose value the alert has.

    Values and steps have the same timestamps. A query of moments finds every update that stood for as long as two
    moments are apart: 20 ms in the last minute, half a second in the time before.
    """
    value, arguments = _own_series(alert, catalog)
    value = f"abs({value})" if alert.condition.absolute else value
    moment = f"training_step{{{_OF_SAME_RUN}}} and on (run_id, rank) {value} == %[{len(arguments) + 1}]v"
    queries = [f"last_over_time(({moment})[{span}])" for span in ("1m:20ms", "15m:500ms")]
    return (
        f"{{{{ range printf `{' or '.join(queries)}` {' '.join(arguments)} $value | query }}}}"
        " at step {{ .Value | printf `%.0f` }}{{ end }}"
    )


def _now(alert: Alert, catalog: Catalog) -> str:
    """Template that looks up the value of which the alert tells only how much it has changed."""
    x, arguments = _own_series(alert, catalog)
    value, window = alert.condition.value, windows(alert.condition, catalog)[0]
    recent = _RECENT.get(value, "quantile_over_time(0.5, {})").format(f"{x}[{window}]")
    query = recent if value == "rate" else f"{recent} or last_over_time({x}[1d])"
    return (
        f"{{{{ range printf `{query}` {' '.join(arguments)} | query }}}}"
        " to {{ .Value | printf `%.3g` }}{{ end }}"
    )


def _own_series(alert: Alert, catalog: Catalog) -> tuple[str, list[str]]:
    """The selector of the one series that an alert is about, for printf, and its arguments."""
    labels = ("run_id", "rank", *catalog.metrics[alert.condition.metric].labels)
    matchers = [f"{label}=%[{number}]q" for number, label in enumerate(labels, start=1)]
    return selector(series(alert.condition, catalog), matchers), [f'(index $labels "{label}")' for label in labels]


_LOOKED_UP_BY_METRIC = {"{at_step}": _at_step, "{now}": _now}
