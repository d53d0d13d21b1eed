"""Scenarios for the alert rules, judged by promtool's own unit tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from exporter.generate.alerts import alert_rules
from tests.support.journals import CATALOG
from tests.support.servers import require

__all__ = [
    "CRITICAL",
    "INFO",
    "PROMTOOLS",
    "RULES",
    "WARNING",
    "Case",
    "Scenario",
    "every",
    "find_promtool",
    "firing",
    "judge",
    "judge_texts",
]

PROMTOOLS = ("promtool", "PROMTOOL_NEXT")
"""The tool on the PATH, and the variable that names the one of the next major version."""

_SHIPPED_PACE = 5
"""How often the shipped Prometheus evaluates the rules without an interval of their own, in seconds."""
_PACES = {600: 15, 3600: 30, 4 * 3600: 60}
"""A case that goes on for longer than so many seconds is evaluated less often, where the times that it names allow."""
_METRICSQL = {"promql_expr_test": "metricsql_expr_test"}
INFO, WARNING, CRITICAL = "info", "warning", "critical"
RULES = alert_rules(CATALOG)
Values = str | Iterable[object]


def find_beside_promtool(name: str) -> str:
    """A program of the next Debian release, which lies beside its promtool."""
    path = Path(os.environ.get("PROMTOOL_NEXT", "")).with_name(name) if os.environ.get("PROMTOOL_NEXT") else None
    if path is None or not path.is_file():
        pytest.skip(f"PROMTOOL_NEXT has no {name} beside it")
    return str(path)


def find_promtool(name: str) -> str:
    """The promtool of the PATH, or of the next major version where PROMTOOL_NEXT names one."""
    if name == "promtool":
        return require("promtool")
    path = os.environ.get(name)
    if not path:
        pytest.skip(f"{name} names no promtool of version 3")
    return path


def selector(name: str, labels: Mapping[str, str]) -> str:
    """A series as PromQL writes it."""
    pairs = ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}}"


def firing(alert: str, severity: str, **labels: str) -> str:
    """The series that Prometheus keeps for an alert that fires."""
    return selector("ALERTS", {"alertname": alert, "alertstate": "firing", "severity": severity, **labels})


def every(number: int, values: Sequence[object]) -> list[object]:
    """Each value followed by nothing, so that it comes once in so many."""
    return [each for value in values for each in (value, *[None] * (number - 1))]


class Scenario:
    """Series over time, one value every ``interval`` seconds, and what must fire at which second."""

    def __init__(self, interval: int = 5, rules: str = RULES) -> None:
        self.interval = interval
        self.rules = rules
        self.evaluated_every = max(interval, _SHIPPED_PACE)
        self.series: list[dict[str, str]] = []
        self.expected: list[dict[str, Any]] = []

    def add(self, metric: str, values: Values, /, **labels: str) -> Scenario:
        """One series: a list of values, None where there is none, or promtool's notation."""
        text = values if isinstance(values, str) else " ".join("_" if v is None else str(v) for v in values)
        self.series.append({"series": selector(metric, labels), "values": text})
        return self

    def running(self, *runs: str, values: str = "1+0x2000") -> Scenario:
        """Runs that are running."""
        for run in runs:
            self.add("run_status", values, run_id=run, status="running")
        return self

    def expect(self, at: Iterable[float], alerts: Iterable[str] = (), of: str = "ALERTS") -> Scenario:
        """At these seconds exactly these alerts fire, over all rules and series, or those that ``of`` selects."""
        samples = [{"labels": alert, "value": 1} for alert in alerts]
        self.expected += [{"expr": of, "eval_time": f"{second:g}s", "exp_samples": samples} for second in at]
        return self

    def content(self, **more: Any) -> dict[str, Any]:
        """The test as the tools' files have it."""
        return {
            "interval": f"{self.interval}s",
            "input_series": self.series,
            "promql_expr_test": self.expected,
            **more,
        }

    def check(self, promtool: str, folder: Path, **more: Any) -> None:
        """Let promtool judge."""
        run_tests(promtool, folder, self.rules, [self.content(**more)], self.evaluated_every)

    def check_texts_with_vmalert(self, tool: str, folder: Path, test: Mapping[str, Any]) -> None:
        """Let vmalert-tool judge the texts of alerts."""
        series = {"interval": f"{self.interval}s", "input_series": self.series, "alert_rule_test": [test]}
        (folder / "rules.yml").write_text(self.rules)
        run_vmalert_tool(tool, folder, [written_tests(folder, [series], self.evaluated_every)])


def written_tests(folder: Path, tests: Sequence[Mapping[str, Any]], every: int) -> Path:
    """A file of tests of the rules beside it, which are evaluated every so many seconds."""
    content = {"rule_files": ["rules.yml"], "evaluation_interval": f"{every}s", "tests": list(tests)}
    path = folder / f"test-{every}.yml"
    path.write_text(yaml.safe_dump(content, width=1000))
    return path


def run_tests(promtool: str, folder: Path, rules: str, tests: Sequence[Mapping[str, Any]], every: int) -> None:
    """Let promtool judge tests of rules that are evaluated every so many seconds."""
    (folder / "rules.yml").write_text(rules)
    command = [promtool, "test", "rules", written_tests(folder, tests, every).name]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


class Case(NamedTuple):
    """One situation of the run ``r`` and when an alert must fire in it."""

    law: str
    """What holds, as a sentence."""
    series: Mapping[str, Values]
    """Values by series, in PromQL's notation; the run's label and its status are added where they are not given."""
    fires: Mapping[int, str]
    """The severity that fires by second; empty where none does."""
    interval: int = 5
    """Seconds between two values."""
    is_running: bool = True


def judge(promtool: str, folder: Path, alert: str, cases: Sequence[Case]) -> None:
    """Let promtool judge all cases of one alert, by its own rules alone."""
    rules = rules_of(alert)
    for every, tests in _tests(alert, cases).items():
        run_tests(promtool, folder, rules, tests, every)


def judge_with_vmalert(tool: str, folder: Path, alert: str, cases: Sequence[Case]) -> None:
    """Let vmalert-tool judge the same cases with VictoriaMetrics' engine and store."""
    (folder / "rules.yml").write_text(rules_of(alert))
    files = []
    for every, tests in _tests(alert, cases).items():
        own = [{_METRICSQL.get(key, key): value for key, value in test.items()} for test in tests]
        files.append(written_tests(folder, own, every))
    run_vmalert_tool(tool, folder, files)


def _tests(alert: str, cases: Sequence[Case]) -> dict[int, list[dict[str, Any]]]:
    """The tests of an alert's cases by how often its rules are evaluated, in seconds."""
    tests: dict[int, list[dict[str, Any]]] = {}
    for case in cases:
        slower = [pace for length, pace in _PACES.items() if max(case.fires) > length]
        exact = [pace for pace in slower if all(second % pace == 0 for second in case.fires)]
        pace = max(case.interval, _SHIPPED_PACE, *exact)
        tests.setdefault(pace, []).append(_content(alert, case))
    return tests


def run_vmalert_tool(tool: str, folder: Path, files: Iterable[Path]) -> None:
    """Let vmalert-tool judge files of tests."""
    command = [tool, "unittest", "--disableAlertgroupLabel", *(f"--files={file}" for file in files)]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def judge_texts(
    promtool: str, folder: Path, alert: str, case: Case, at: int, labels: Mapping[str, str], summary: str
) -> None:
    """Let promtool compare the one alert that fires in a case: its labels, its summary, and its other texts."""
    length = at // case.interval + 10
    steps = {} if any("training_step{" in name for name in case.series) else {"training_step": f"0+1x{length}"}
    content = _content(alert, case._replace(series={**case.series, **steps}))
    rule = next(
        rule
        for group in yaml.safe_load(RULES)["groups"]
        for rule in group["rules"]
        if (rule["alert"], rule["labels"]["severity"]) == (alert, labels["severity"])
    )
    texts = {name: _rendered(text, labels) for name, text in rule["annotations"].items()}
    expected = {"exp_labels": dict(labels), "exp_annotations": {**texts, "summary": summary}}
    content["alert_rule_test"] = [{"eval_time": f"{at}s", "alertname": alert, "exp_alerts": [expected]}]
    every = max(case.interval, _SHIPPED_PACE)
    run_tests(promtool, folder, rules_of(alert), [{**content, "promql_expr_test": []}], every)


def _rendered(text: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        text = text.replace(f"{{{{ $labels.{label} }}}}", value)
    return text


def rules_of(alert: str) -> str:
    """The rule file with the rules of one alert: to judge all of them in every case would take minutes."""
    rules = [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"] if rule["alert"] == alert]
    return yaml.safe_dump({"groups": [{"name": "rules", "rules": rules}]}, width=1000)


def _content(alert: str, case: Case) -> dict[str, Any]:
    length = max(case.fires) // case.interval + 10
    series = {_of_run(name): _text(values) for name, values in case.series.items()}
    if case.is_running:
        series.setdefault('run_status{run_id="r", status="running"}', f"1+0x{length}")
    count = f'count by (severity) (ALERTS{{alertname="{alert}", alertstate="firing"}})'
    return {
        "name": f"{alert}: {case.law}",
        "interval": f"{case.interval}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": count,
                "eval_time": f"{second}s",
                "exp_samples": [{"labels": f'{{severity="{severity}"}}', "value": 1}] if severity else [],
            }
            for second, severity in case.fires.items()
        ],
    }


def _of_run(name: str) -> str:
    """The series with the run's label, unless it says whose it is."""
    if "run_id" in name or "instance" in name or name.startswith("gpu_"):
        return name
    return f'{name.removesuffix("}")}, run_id="r"}}' if "{" in name else f'{name}{{run_id="r"}}'


def _text(values: Values) -> str:
    return values if isinstance(values, str) else " ".join("_" if v is None else str(v) for v in values)
