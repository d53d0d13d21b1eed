"""The alert rules, judged by promtool's own unit tests: when they fire, when they are silent, what they say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.generate.alerts import alert_rules
from tests.support.journals import CATALOG
from tests.support.servers import require

RULES = alert_rules(CATALOG)
ANNOTATIONS = {
    (rule["alert"], rule["labels"]["severity"]): rule["annotations"]
    for group in yaml.safe_load(RULES)["groups"]
    for rule in group["rules"]
}
WARNING, CRITICAL, INFO = "warning", "critical", "info"
Labels = Mapping[str, str]


@pytest.fixture(params=["promtool", "PROMTOOL_NEXT"])
def promtool(request: pytest.FixtureRequest) -> str:
    """The promtool of the PATH, and of the next major version where PROMTOOL_NEXT names one."""
    if request.param == "promtool":
        return require("promtool")
    path = os.environ.get("PROMTOOL_NEXT")
    if not path:
        pytest.skip("PROMTOOL_NEXT names no promtool of version 3")
    return path


def selector(name: str, labels: Labels) -> str:
    """A series as PromQL writes it."""
    pairs = ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}}"


def firing(alert: str, severity: str, **labels: str) -> str:
    """The series that Prometheus keeps for an alert that fires."""
    return selector("ALERTS", {"alertname": alert, "alertstate": "firing", "severity": severity, **labels})


class Scenario:
    """Series over time, one value every ``interval`` seconds, and what must fire at which second."""

    def __init__(self, interval: int = 5) -> None:
        self.interval = interval
        self.series: list[dict[str, str]] = []
        self.expected: list[dict[str, Any]] = []

    def add(self, name: str, values: str | Iterable[object], **labels: str) -> Scenario:
        """One series: a list of values, None where there is none, or promtool's notation."""
        text = values if isinstance(values, str) else " ".join("_" if v is None else str(v) for v in values)
        self.series.append({"series": selector(name, labels), "values": text})
        return self

    def running(self, *runs: str, values: str = "1+0x2000") -> Scenario:
        """Runs that are running."""
        for run in runs:
            self.add("run_status", values, run_id=run, status="running")
        return self

    def expect(self, at: Sequence[float], alerts: Iterable[str] = ()) -> Scenario:
        """At these seconds exactly these alerts fire, over all rules and series."""
        samples = [{"labels": alert, "value": 1} for alert in alerts]
        self.expected += [{"expr": "ALERTS", "eval_time": f"{second:g}s", "exp_samples": samples} for second in at]
        return self

    def check(self, promtool: str, folder: Path, **more: Any) -> None:
        """Let promtool judge."""
        test = {"interval": f"{self.interval}s", "input_series": self.series, "promql_expr_test": self.expected, **more}
        content = {"rule_files": ["rules.yml"], "evaluation_interval": f"{max(self.interval, 5)}s", "tests": [test]}
        (folder / "rules.yml").write_text(RULES)
        (folder / "test.yml").write_text(yaml.safe_dump(content, width=1000))
        command = [promtool, "test", "rules", "test.yml"]
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_rules_are_valid(promtool: str, tmp_path: Path) -> None:
    """The tool finds every rule and nothing to complain about."""
    (tmp_path / "rules.yml").write_text(RULES)
    command = [promtool, "check", "rules", str(tmp_path / "rules.yml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"SUCCESS: {sum(len(m.alerts) for m in CATALOG.metrics.values())} rules found" in answer.stdout


def test_a_scenario_can_fail(promtool: str, tmp_path: Path) -> None:
    """An expectation that is not met is seen: the tests below are no tautologies."""
    scenario = Scenario().running("r").add("rl_kl_divergence", "1+0x100", run_id="r", kind="update").expect([60])
    with pytest.raises(AssertionError, match="KLDivergenceHigh"):
        scenario.check(promtool, tmp_path)


# ------------------------------------------------------------------ KL divergence

KL = "rl_kl_divergence"


@pytest.mark.parametrize("kind", ["update", "reference"])
def test_kl_is_watched_in_two_bands(promtool: str, tmp_path: Path, kind: str) -> None:
    """Above 0.05 up to 0.1 is a warning, above 0.1 critical, 0.05 and less nothing; never two at once.

    NaN has no median: it is the business of TrainingNonFinite. (So is infinity, whose median Prometheus
    calls NaN or infinity, as the number of samples is odd or even.)
    """
    bands = {
        "-1": "", "0": "", "0.049": "", "0.05": "", "0.0501": WARNING, "0.075": WARNING, "0.0999": WARNING,
        "0.1": WARNING, "0.1001": CRITICAL, "7": CRITICAL, "NaN": "",
    }  # fmt: skip
    scenario = Scenario().running(*bands)
    for value in bands:
        scenario.add(KL, [value] * 60, run_id=value, kind=kind)
    alerts = [firing("KLDivergenceHigh", band, run_id=value, kind=kind) for value, band in bands.items() if band]
    scenario.expect([0, 5, 60, 295], alerts).check(promtool, tmp_path)


def test_kl_against_the_inference_engine_is_not_watched(promtool: str, tmp_path: Path) -> None:
    """The kind inference has other healthy values: its rule is nobody's yet."""
    scenario = Scenario().running("r").add(KL, "5+0x100", run_id="r", kind="inference")
    scenario.expect([0, 60, 300]).check(promtool, tmp_path)


def test_an_isolated_bad_update_is_silent(promtool: str, tmp_path: Path) -> None:
    """One spike among good updates, however high, pages nobody at any time."""
    values = [0.01] * 20 + [3.0] + [0.01] * 40
    scenario = Scenario().running("r").add(KL, values, run_id="r", kind="update")
    scenario.expect(range(0, 300, 5)).check(promtool, tmp_path)


def test_a_rise_that_stays_is_told_and_taken_back(promtool: str, tmp_path: Path) -> None:
    """Bad updates for a minute fire, and good ones for a minute resolve."""
    values = [0.01] * 20 + [0.2] * 20 + [0.01] * 30
    scenario = Scenario().running("r").add(KL, values, run_id="r", kind="update")
    high = [firing("KLDivergenceHigh", CRITICAL, run_id="r", kind="update")]
    scenario.expect([95, 105]).expect([160, 195, 200], high).expect([260, 300]).check(promtool, tmp_path)


def test_sparse_updates_fire_and_keep_firing(promtool: str, tmp_path: Path) -> None:
    """With one update in ten minutes the last one decides until the next comes, and a good one resolves."""
    bad, good = [0.2] + [None] * 119, [0.01] + [None] * 119
    scenario = Scenario().running("r", "mild").add(KL, [*bad, *bad, *good], run_id="r", kind="update")
    scenario.add(KL, [0.07, *bad[1:], 0.07, *bad[1:], 0.07], run_id="mild", kind="update")
    mild = firing("KLDivergenceHigh", WARNING, run_id="mild", kind="update")
    times = [0, 30, 60, 65, 300, 595, 600, 665, 900, 1195]
    scenario.expect(times, [firing("KLDivergenceHigh", CRITICAL, run_id="r", kind="update"), mild])
    scenario.expect([1200, 1260, 1500], [mild]).check(promtool, tmp_path)


def test_a_run_without_updates_is_not_accused_for_ever(promtool: str, tmp_path: Path) -> None:
    """A quarter of an hour after the last update nothing is known any more."""
    scenario = Scenario().running("r").add(KL, [0.2], run_id="r", kind="update")
    scenario.expect([895], [firing("KLDivergenceHigh", CRITICAL, run_id="r", kind="update")])
    scenario.expect([905, 1200]).check(promtool, tmp_path)


def test_kinds_and_runs_are_judged_apart(promtool: str, tmp_path: Path) -> None:
    """Each run and kind has its own alert, with the run's labels on it."""
    scenario = Scenario().running("a", "b")
    scenario.add(KL, "0.07+0x50", run_id="a", kind="update", user_id="u", team="t")
    scenario.add(KL, "0.2+0x50", run_id="a", kind="reference", user_id="u", team="t")
    scenario.add(KL, "0.2+0x50", run_id="b", kind="update")
    scenario.expect(
        [60],
        [
            firing("KLDivergenceHigh", WARNING, run_id="a", kind="update", user_id="u", team="t"),
            firing("KLDivergenceHigh", CRITICAL, run_id="a", kind="reference", user_id="u", team="t"),
            firing("KLDivergenceHigh", CRITICAL, run_id="b", kind="update"),
        ],
    ).check(promtool, tmp_path)


# ------------------------------------------------------------------ clip fraction


def test_clip_fraction_is_watched_on_both_sides(promtool: str, tmp_path: Path) -> None:
    """Above 0.5 is a warning, below 0.1 an information, between them all is well."""
    sides = {
        "0": ("ClipFractionLow", INFO), "0.0999": ("ClipFractionLow", INFO), "0.1": None, "0.3": None, "0.5": None,
        "0.5001": ("ClipFractionHigh", WARNING), "1": ("ClipFractionHigh", WARNING), "NaN": None,
    }  # fmt: skip
    scenario = Scenario().running(*sides)
    for value in sides:
        scenario.add("rl_clip_fraction", [value] * 60, run_id=value)
    alerts = [firing(*side, run_id=value) for value, side in sides.items() if side]
    scenario.expect([0, 60, 295], alerts).check(promtool, tmp_path)


# ------------------------------------------------------------------ explained variance

VARIANCE = "rl_explained_variance"


def test_explained_variance_is_watched_after_fifty_steps(promtool: str, tmp_path: Path) -> None:
    """Low values count from the fiftieth logged step on, and 0.5 is not low."""
    cases = {("0.4999", 50): True, ("0.4999", 49): False, ("-30", 51): True, ("-30", 1): False, ("0.5", 99): False,
             ("0.9", 99): False, ("NaN", 99): False}  # fmt: skip
    scenario, alerts = Scenario(), []
    for (value, steps), is_low in cases.items():
        run = f"{value} at {steps}"
        scenario.running(run).add(VARIANCE, [value] * 60, run_id=run)
        scenario.add("training_steps_total", [steps] * 60, run_id=run)
        alerts += [firing("ExplainedVarianceLow", WARNING, run_id=run)] * is_low
    scenario.expect([0, 60, 295], alerts).check(promtool, tmp_path)


def test_the_warm_up_ends_with_the_fiftieth_step(promtool: str, tmp_path: Path) -> None:
    """A run that logs on is judged from its fiftieth step on, also if that is long ago and steps are rare."""
    scenario = Scenario().running("r").add(VARIANCE, "0.1+0x300", run_id="r")
    scenario.add("training_steps_total", [*range(60), *[None] * 170], run_id="r")
    low = [firing("ExplainedVarianceLow", WARNING, run_id="r")]
    scenario.expect([0, 100, 245]).expect([250, 255, 295, 700, 1100], low).check(promtool, tmp_path)


def test_a_variance_that_is_no_number_is_ignored(promtool: str, tmp_path: Path) -> None:
    """NaN, which constant returns give, neither fires among good values nor hides low ones."""
    scenario = Scenario().running("good", "low", "never")
    for run, values in {"good": [0.9, 0.9, 0.9, "NaN"], "low": [0.1, 0.1, 0.1, "NaN"], "never": ["NaN"] * 4}.items():
        scenario.add(VARIANCE, values * 20, run_id=run).add("training_steps_total", "99+0x90", run_id=run)
    scenario.expect([120, 240, 300], [firing("ExplainedVarianceLow", WARNING, run_id="low")]).check(promtool, tmp_path)


def test_without_a_count_of_steps_the_warm_up_does_not_end(promtool: str, tmp_path: Path) -> None:
    """The count must be that of the same run."""
    scenario = Scenario().running("r", "other").add(VARIANCE, "0.1+0x60", run_id="r")
    scenario.add("training_steps_total", "99+0x60", run_id="other").expect([60, 300]).check(promtool, tmp_path)


# ------------------------------------------------------------------ non-finite values

NONFINITE = "training_nonfinite_total"
BROKEN = firing("TrainingNonFinite", CRITICAL, run_id="r", metric="training_loss")


@pytest.mark.parametrize("before", [0, 1, 600])
def test_the_first_nan_fires_at_once(promtool: str, tmp_path: Path, before: int) -> None:
    """An increase fires at the evaluation that sees it, also where the series has only just begun with its zero."""
    values = [None] * (600 - before) + [0] * before + [0, 1] + [1] * 100
    scenario = Scenario(1).running("r").add(NONFINITE, values, run_id="r", metric="training_loss")
    scenario.expect([595, 600]).expect([605, 700], [BROKEN]).check(promtool, tmp_path)


def test_nan_that_goes_on_keeps_firing(promtool: str, tmp_path: Path) -> None:
    """As long as NaN comes the alert stays, and half an hour after the last one it goes."""
    minutes = [0] * 10 + list(range(1, 120)) + [119] * 60
    scenario = Scenario(60).running("r").add(NONFINITE, minutes, run_id="r", metric="training_loss")
    scenario.expect([0, 540]).expect([600, 1800, 3600, 7200, 7680 + 1680], [BROKEN])
    scenario.expect([7680 + 1860, 10_800]).check(promtool, tmp_path)


def test_a_counter_without_its_zero_would_be_silent(promtool: str, tmp_path: Path) -> None:
    """A series that begins with 1 shows no increase: this is why the exporter gives it a zero."""
    scenario = Scenario().running("r").add(NONFINITE, [None] * 9 + [1] * 60, run_id="r", metric="training_loss")
    scenario.expect([45, 60, 300]).check(promtool, tmp_path)


@pytest.mark.parametrize(
    ("metric", "is_watched"),
    [
        ("training_loss", True),
        ("training_grad_norm", True),
        ("rl_policy_loss", True),
        ("rl_value_loss", True),
        ("rl_kl_divergence", True),
        ("rl_explained_variance", False),
        ("custom_training_loss", False),
        ("training_loss_2", False),
    ],
)
def test_losses_and_gradients_must_be_numbers(promtool: str, tmp_path: Path, metric: str, is_watched: bool) -> None:
    """NaN is an alarm in a loss, a gradient or the KL; other metrics may be undefined."""
    scenario = Scenario().running("r").add(NONFINITE, [0] * 5 + [1] * 60, run_id="r", metric=metric)
    alerts = [firing("TrainingNonFinite", CRITICAL, run_id="r", metric=metric)] * is_watched
    scenario.expect([20]).expect([30, 300], alerts).check(promtool, tmp_path)


# ------------------------------------------------------------------ which runs

BAD: dict[str, tuple[str, dict[str, str]]] = {
    KL: ("0.2+0x100", {"kind": "update"}),
    "rl_clip_fraction": ("0.9+0x100", {}),
    VARIANCE: ("0.1+0x100", {}),
    "training_steps_total": ("99+0x100", {}),
    NONFINITE: ("0+1x100", {"metric": "training_loss"}),
}


def everything_bad(scenario: Scenario, run: str) -> list[str]:
    """Add a run in which all goes wrong; returns the alerts that it must raise while it runs."""
    for name, (values, labels) in BAD.items():
        scenario.add(name, values, run_id=run, **labels)
    return [
        firing("KLDivergenceHigh", CRITICAL, run_id=run, kind="update"),
        firing("ClipFractionHigh", WARNING, run_id=run),
        firing("ExplainedVarianceLow", WARNING, run_id=run),
        firing("TrainingNonFinite", CRITICAL, run_id=run, metric="training_loss"),
    ]


def test_only_running_runs_are_watched(promtool: str, tmp_path: Path) -> None:
    """A run that ended, or whose status nobody knows, raises nothing; one that is stalled besides running does."""
    scenario = Scenario()
    alerts = everything_bad(scenario.running("on"), "on")
    alerts += everything_bad(scenario.running("stalled"), "stalled")
    scenario.add("run_status", "1+0x100", run_id="stalled", status="stalled")
    everything_bad(scenario.running("over", values="0+0x100"), "over")
    scenario.add("run_status", "1+0x100", run_id="over", status="finished")
    everything_bad(scenario, "unknown")
    scenario.expect([60, 300], alerts).check(promtool, tmp_path)


def test_the_end_of_a_run_resolves_its_alerts(promtool: str, tmp_path: Path) -> None:
    """At the first evaluation after the status has changed nothing fires, and resuming brings it back."""
    scenario = Scenario()
    alerts = everything_bad(scenario.running("r", values="1+0x19 0+0x19 1+0x40"), "r")
    scenario.expect([60, 95], alerts).expect([100, 195]).expect([200, 300], alerts).check(promtool, tmp_path)


# ------------------------------------------------------------------ what they say

SAID = [
    ("KLDivergenceHigh", WARNING, {"kind": "update"}, 'KL (update) of run r 1 is 0.0765, above 0.05',
     {KL: ("0.07654321+0x90", {"kind": "update"})}),
    ("KLDivergenceHigh", CRITICAL, {"kind": "reference"}, 'KL (reference) of run r 1 is 12.3, above 0.1',
     {KL: ("12.345+0x90", {"kind": "reference"})}),
    ("ClipFractionHigh", WARNING, {}, "75% of the samples of run r 1 are clipped",
     {"rl_clip_fraction": ("0.75+0x90", {})}),
    ("ClipFractionLow", INFO, {}, "Only 2.5% of the samples of run r 1 are clipped",
     {"rl_clip_fraction": ("0.025+0x90", {})}),
    ("ExplainedVarianceLow", WARNING, {}, "Explained variance of run r 1 is -0.25, below 0.5",
     {VARIANCE: ("-0.25+0x90", {}), "training_steps_total": ("99+0x90", {})}),
    ("TrainingNonFinite", CRITICAL, {"metric": "rl_value_loss"}, "rl_value_loss of run r 1 became NaN or infinite",
     {NONFINITE: ("0+1x90", {"metric": "rl_value_loss"})}),
]  # fmt: skip


@pytest.mark.parametrize(("alert", "severity", "labels", "summary", "series"), SAID)
def test_an_alert_says_what_is_wrong_and_what_to_do(
    promtool: str, tmp_path: Path, alert: str, severity: str, labels: Labels, summary: str, series: Mapping[str, Any]
) -> None:
    """Each alert carries the run's labels, the value in its summary, and meaning, remedy and link of the catalog."""
    scenario = Scenario().running("r 1")
    for name, (values, own) in series.items():
        scenario.add(name, values, run_id="r 1", user_id="u", **own)
    expected = {
        "exp_labels": {"severity": severity, "run_id": "r 1", "user_id": "u", **labels},
        "exp_annotations": {**ANNOTATIONS[alert, severity], "summary": summary},
    }
    test = {"eval_time": "5m", "alertname": alert, "exp_alerts": [expected]}
    scenario.check(promtool, tmp_path, alert_rule_test=[test])


def test_every_alert_is_shown_saying_it() -> None:
    """The table above has each alert and severity of the catalog."""
    assert {(alert, severity) for alert, severity, *_ in SAID} == set(ANNOTATIONS)
