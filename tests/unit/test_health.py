"""``telemetry-exporter health`` and what it is made of: counts against plain counting, severities against the rules."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.health import OUTSIDE_HEALTHY, Finding, find, read_run
from exporter.catalog import Catalog
from exporter.cli import main
from exporter.cli.health import health
from exporter.errors import ConfigError
from tests.support.journals import CATALOG, Journal
from tests.support.promtool import CRITICAL, INFO, WARNING, Case
from tests.support.rule_cases import CASES

DATA = Path(__file__).resolve().parents[3] / "shared/data"
KL, CLIP, VARIANCE, LOSS = "train/approx_kl", "train/clip_fraction", "train/explained_variance", "train/loss"
KEYS = ["rule", "severity", "metric", "labels", "first_step", "last_step", "count", "of", "worst"]
WARM_UP = 50
Row = Mapping[str, float | None]


def found(rows: Sequence[Row], catalog: Catalog = CATALOG, **start: Any) -> list[Finding]:
    """What is found in a run with these rows, a second apart."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start(**start)
        for number, row in enumerate(rows):
            journal.log(number, {key: value for key, value in row.items() if value is not None}, float(number))
        return find(catalog, read_run(journal.path, catalog, pytest.fail))


def column(key: str, values: Sequence[float | None]) -> list[Row]:
    """Rows of one metric."""
    return [{key: value} for value in values]


def told(findings: Sequence[Finding]) -> list[tuple[str, str, int]]:
    """Rule, severity and count."""
    return [(finding.rule, finding.severity, finding.count) for finding in findings]


# ------------------------------------------------------------------ thresholds


@pytest.mark.parametrize(
    ("value", "severity"),
    [(0.049, ""), (0.05, ""), (0.0501, WARNING), (0.1, WARNING), (0.1001, CRITICAL), (-0.07, WARNING), (-3, CRITICAL)],
)
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_a_value_that_stays_has_the_severity_of_its_band(value: float, severity: str, count: int) -> None:
    """A KL that stays at a value is what the bounds 0.05 and 0.1 make it, both exclusive, from one update on."""
    expected = [("KLDivergenceHigh", severity, count)] if severity else []
    assert told(found(column(KL, [value] * count))) == expected


def test_one_bad_update_among_good_ones_is_a_spike() -> None:
    """A single KL above the bound is told as info, with its step and its value."""
    (finding,) = found(column(KL, [0.01] * 20 + [3] + [0.01] * 20))
    assert told([finding]) == [("KLDivergenceSpike", INFO, 1)]
    assert (finding.first_step, finding.last_step, finding.of, finding.worst) == (20, 20, 41, 3)


def test_two_of_three_updates_last() -> None:
    """Two bad updates last where at most one good one is between them, and are a spike where two are."""
    for between, rule in ((0, "KLDivergenceHigh"), (1, "KLDivergenceHigh"), (2, "KLDivergenceSpike")):
        values = [0.01] * 9 + [0.07] + [0.01] * between + [0.07] + [0.01] * 9
        assert told(found(column(KL, values)))[0][0] == rule, between


def test_a_lone_worse_update_counts_in_the_severity_that_lasted() -> None:
    """One critical update among warnings is counted as a warning, and is the worst of them."""
    (finding,) = found(column(KL, [0.01] * 9 + [0.07, 0.3, 0.07] + [0.01] * 9))
    assert told([finding]) == [("KLDivergenceHigh", WARNING, 3)]
    assert finding.worst == 0.3


def test_the_worst_is_the_furthest_of_either_sign() -> None:
    """A KL estimate may be negative: the worst is the one furthest from 0, with its own sign."""
    assert [finding.worst for finding in found(column(KL, [0.06, -0.09, 0.07]))] == [-0.09]


def test_the_worst_below_a_bound_is_the_lowest() -> None:
    """Of what must not be low the worst is the lowest."""
    findings = found(column(VARIANCE, [0.4, -0.2, -0.7, -0.1] * 20))
    assert [(f.severity, f.worst, f.count) for f in findings] == [(CRITICAL, -0.7, 60), (WARNING, 0.4, 20)]


def test_kinds_of_a_metric_are_judged_apart() -> None:
    """Each kind of KL has its own rule, its own count and its own labels."""
    rows = [{"rl/kl": 0.2, "rl/approx_kl": 0.01, "rollout_corr/kl": 0.2, "policy/approxkl_avg": 27.0}] * 30
    named = {(finding.rule, finding.labels["kind"]) for finding in found(rows)}
    assert named == {("KLDivergenceHigh", "reference"), ("TrainInferenceMismatch", "inference")}


def test_labels_are_those_that_a_server_has() -> None:
    """A finding has the run's labels and the series' own; an empty one is none."""
    (finding,) = found(column(KL, [0.2] * 3), user_id="", tags={"env": "prod"}, rank=2)
    assert finding.labels == {"kind": "update", "run_id": "r1", "env": "prod", "rank": "2"}


def test_clipping_that_never_happens_is_no_finding() -> None:
    """With one update per batch nothing is ever clipped, and nothing is said of it."""
    assert found(column(CLIP, [0.0] * 30)) == []
    assert told(found(column(CLIP, [0.2] * 5 + [0.02] * 30))) == [("ClipFractionLow", INFO, 30)]


def test_what_an_alert_counts_is_no_spike_as_well() -> None:
    """Where a poor explained variance lasts, one that is worse than nothing is counted with it, once."""
    assert told(found(column(VARIANCE, [0.4] * 60 + [-2.0] + [0.4] * 9))) == [("ExplainedVarianceLow", WARNING, 70)]


def test_a_dip_in_the_warm_up_is_none() -> None:
    """A dip is told after the warm-up; before, it is no more than an update that is not healthy."""
    assert told(found(column(VARIANCE, [0.9] * 3 + [-2.0] + [0.9] * 80))) == [(OUTSIDE_HEALTHY, INFO, 1)]
    assert told(found(column(VARIANCE, [0.9] * 70 + [-2.0] + [0.9] * 9))) == [("ExplainedVarianceDip", INFO, 1)]


def test_the_scale_of_a_trainer_is_applied() -> None:
    """A share in percent is judged, and told, as a share."""
    findings = found(column("time_metrics/data_loading(%)", [9.0] * 5 + [60.0] * 3))
    assert [(one.metric, one.severity, one.count, one.worst) for one in findings] == [
        ("performance_data_wait_ratio", WARNING, 3, pytest.approx(0.6))
    ]


# ------------------------------------------------------------------ warm-up, healthy range, NaN


def test_warm_up_decides_whether_a_rule_speaks_and_not_what_it_counts() -> None:
    """Bad updates in the first 50 steps are no alert by themselves, and are counted where the alert speaks."""
    early = found(column(VARIANCE, [-1.0] * (WARM_UP - 2) + [0.9] * 50))
    assert told(early) == [(OUTSIDE_HEALTHY, INFO, WARM_UP - 2)]
    last = found(column(VARIANCE, [-1.0] * WARM_UP + [0.9] * 50))
    assert "ExplainedVarianceLow" not in [finding.rule for finding in last]
    (late,) = found(column(VARIANCE, [-1.0] * (WARM_UP + 1) + [0.9] * 50))
    assert told([late]) == [("ExplainedVarianceLow", CRITICAL, WARM_UP + 1)]
    assert late.early == WARM_UP - 1


def test_a_rule_is_silent_where_it_has_nothing_to_say() -> None:
    """No value function is blamed where the value loss has fallen to a thirtieth, for then all returns are the same."""
    variance, losses = [0.9] * 150 + [-1.0] * 50, [100.0] * 100 + [1.0] * 100
    rows = [{VARIANCE: value, "train/value_loss": loss} for value, loss in zip(variance, losses, strict=True)]
    assert [finding.rule for finding in found(column(VARIANCE, variance))] == ["ExplainedVarianceLow"]
    assert "ExplainedVarianceLow" not in [finding.rule for finding in found(rows)]


def test_what_is_neither_healthy_nor_an_alert_is_info() -> None:
    """Between 0.5 and 0.7 the explained variance is no alert and not healthy; both bounds belong to the better side."""
    values = [0.5, 0.6, 0.7, 0.71, 0.49] * 20
    findings = found(column(VARIANCE, values))
    assert told(findings) == [(OUTSIDE_HEALTHY, INFO, 60)]
    values = [0.5, 0.6, 0.7, 0.49, 0.49] * 20
    assert told(found(column(VARIANCE, values))) == [
        ("ExplainedVarianceLow", WARNING, 40),
        (OUTSIDE_HEALTHY, INFO, 40),
    ]


def test_nan_is_one_rules_and_counts_for_no_other() -> None:
    """A NaN loss is critical at once; a NaN explained variance is nothing, and no update either."""
    (finding,) = found(column(LOSS, [1.0] * 8 + [math.nan, math.inf]))
    assert told([finding]) == [("TrainingNonFinite", CRITICAL, 2)]
    assert (finding.metric, finding.of, finding.first_step, finding.last_step) == ("training_loss", 10, 8, 9)
    assert math.isnan(finding.worst)
    (low,) = found(column(VARIANCE, [0.1, math.nan] * 50))
    assert (low.count, low.of) == (50, 50)
    assert found(column(VARIANCE, [math.nan] * 60)) == []


numbers = st.one_of(
    st.sampled_from([0.049, 0.05, 0.0501, 0.1, 0.1001, 0.5, 0.7, -0.2, 0.0, math.nan, math.inf, -math.inf]),
    st.floats(-1, 1),
)


@given(st.lists(numbers, max_size=120), st.sampled_from([KL, CLIP, VARIANCE]))
def test_no_update_counts_twice(values: list[float], key: str) -> None:
    """The counts of all findings about a series' own values add up to at most its finite values."""
    findings = [finding for finding in found(column(key, values)) if finding.rule != "TrainingNonFinite"]
    finite = sum(map(math.isfinite, values))
    assert sum(finding.count for finding in findings) <= finite
    assert all(finding.of == finite and finding.count >= 1 for finding in findings)
    assert all(finding.first_step <= finding.last_step for finding in findings)


@given(st.lists(numbers, min_size=1, max_size=80))
def test_counts_are_those_of_plain_counting(values: list[float]) -> None:
    """However severe it is called: what is told of a KL are exactly its updates beyond 0.05, unless none lasts."""
    findings = [finding for finding in found(column(KL, values)) if finding.rule != "TrainingNonFinite"]
    finite = [value for value in values if math.isfinite(value)]
    assert sum(finding.count for finding in findings) == sum(abs(value) > 0.05 for value in finite)
    critical = [finding.count for finding in findings if finding.severity == CRITICAL]
    assert critical in ([], [sum(abs(value) > 0.1 for value in finite)])


@given(st.lists(numbers, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_metrics_does_not_matter(values: list[float], order: random.Random) -> None:
    """The same rows with their metrics in another order give the same findings."""
    rows = [{KL: value, CLIP: abs(value), VARIANCE: -value} for value in values]
    shuffled = [dict(order.sample(list(row.items()), len(row))) for row in rows]
    assert sorted(map(repr, told(found(rows)))) == sorted(map(repr, told(found(shuffled))))


# ------------------------------------------------------------------ rules that compare, by the cases of the real rules


def values_of(text: object) -> list[float | None]:
    """A series in promtool's notation as values, None where there is none."""
    values: list[float | None] = []
    for item in text.split() if isinstance(text, str) else list(text):  # type: ignore[call-overload]
        parts = re.fullmatch(r"(-?[\d.]+)([+-][\d.]+)x(\d+)", str(item))
        if parts:
            begin, step, count = float(parts[1]), float(parts[2]), int(parts[3])
            values += [begin + step * number for number in range(count + 1)]
        else:
            values.append(None if item is None or item == "_" else float(item))
    return values


def key_of(series: str) -> str:
    """A native key of a series."""
    kind = re.fullmatch(r'rl_kl_divergence\{kind="(\w+)"\}', series)
    keys = {"update": KL, "reference": "rl/kl", "inference": "rollout_corr/kl", "update_padded": "policy/approxkl_avg"}
    return keys[kind[1]] if kind else series


def is_of_a_log(case: Case) -> bool:
    """Whether a case is about gauges of a run that goes on, as a log tells them."""
    return case.is_running and all(
        name.startswith("rl_kl_divergence{") or CATALOG.metrics.get(name) is not None for name in case.series
    )


OFFLINE = [
    pytest.param(alert, case, id=f"{alert}: {case.law}")
    for alert, cases in CASES.items()
    for case in cases
    if any(one.name == alert and one.about == "run" and one.condition.metric for one in CATALOG.alerts)
    and is_of_a_log(case)
    and case.law != "without a count of steps the warm-up does not end"  # a log always has that count
]


@pytest.mark.parametrize(("alert", "case"), OFFLINE)
def test_what_fires_in_prometheus_is_found_in_the_log(tmp_path: Path, alert: str, case: Case) -> None:
    """In the situations in which promtool judges a rule, the log tells the severities that fire, and no silent rule."""
    series = {key_of(name): values_of(values) for name, values in case.series.items()}
    attempts = series.pop("run_attempts", [])
    journal, attempt = Journal(tmp_path).start(), 1
    for number in range(max(map(len, series.values()))):
        row = {key: values[number] for key, values in series.items() if number < len(values)}
        row = {key: value for key, value in row.items() if value is not None}
        if number < len(attempts) and attempts[number] != attempt:
            attempt = attempts[number]
            journal.start(number * case.interval)
        if row:
            journal.log(number, row, number * case.interval)
    findings = find(CATALOG, read_run(journal.path, CATALOG, pytest.fail))
    severities = {finding.severity for finding in findings if finding.rule == alert}
    fires = set(filter(None, case.fires.values()))
    assert severities >= fires
    assert bool(severities) == bool(fires)


def test_the_cases_are_of_every_kind_of_rule() -> None:
    """There are cases for every rule about a gauge of a run."""
    judged = {parameter.values[0] for parameter in OFFLINE}
    rules = {
        alert.name
        for alert in CATALOG.alerts
        if alert.about == "run" and alert.condition.metric and CATALOG.metrics[alert.condition.metric].type == "gauge"
    }
    need_a_count_of_steps = {"ExplainedVarianceLow", "ExplainedVarianceDip"}  # see above
    assert rules - judged == {*need_a_count_of_steps, "ContainerMemoryNearlyFull"}  # no log tells the last one


def test_what_stays_high_is_a_spike_only_until_it_lasts() -> None:
    """Of a norm that jumps and stays, half a minute is told as spikes: then most of the last minute is as high."""
    norms = [1 + 0.1 * math.sin(2.4 * number) for number in range(600)] + [3.0] * 600
    (spike,) = (one for one in found(column("train/grad_norm", norms)) if one.rule == "GradientNormSpike")
    assert (spike.first_step, spike.count) == (600, pytest.approx(30, abs=15))  # it is evaluated every 15 s


def test_a_pace_that_drops_is_found() -> None:
    """An hour of a step a second, then one in four seconds: three quarters fewer steps, counted as they were logged."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        times = [*range(4200), *range(4200, 6000, 4)]
        for number, after in enumerate(times):
            journal.log(number, {LOSS: 1.0}, float(after))
        findings = find(CATALOG, read_run(journal.path, CATALOG, pytest.fail))
    (warning,) = (finding for finding in findings if finding.severity == WARNING)
    assert (warning.rule, warning.metric) == ("ThroughputDropped", "training_steps_total")
    assert warning.worst == pytest.approx(-0.75, abs=0.02)
    assert warning.last_step == len(times) - 1


def test_a_log_without_times_is_compared_with_nothing(tmp_path: Path) -> None:
    """Where rows have no times, a fall of the entropy cannot be told fast from slow, and the reader is told so."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": n, "rl/entropy": 2.0 if n < 60 else 0.01}) + "\n" for n in range(120)))
    result = run(path)
    assert (result.exit_code, json.loads(run(path, "--json").stdout)) == (0, [])
    assert "has no times" in result.stderr
    assert "judged: none of its metrics" in result.stdout


# ------------------------------------------------------------------ the command


def run(*arguments: str | Path) -> Result:
    """Call the command; its own errors come through."""
    return CliRunner().invoke(health, [str(argument) for argument in arguments])


def as_json(*arguments: str | Path) -> list[dict[str, Any]]:
    """The command's findings, which are strict JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(run(*arguments, "--json").stdout, parse_constant=refuse)


def table(path: Path, rows: Sequence[Row]) -> Path:
    """A table as a trainer writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def steps(key: str, values: Sequence[float], at: float = 1.7e9) -> list[dict[str, float]]:
    """Rows of one metric with their steps and times, a minute apart."""
    return [{"step": number, "timestamp": at + 60 * number, key: value} for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("value", "severity", "code"), [(0.2, CRITICAL, 1), (0.07, WARNING, 0), (0.01, None, 0), (math.nan, CRITICAL, 1)]
)
def test_only_what_is_critical_is_exit_1(tmp_path: Path, value: float, severity: str | None, code: int) -> None:
    """A shell is told of a critical finding, and of no other."""
    path = table(tmp_path / "ppo/progress.csv", steps(KL, [value] * 5))
    assert run(path).exit_code == run(path, "--json").exit_code == code
    assert [finding["severity"] for finding in as_json(path)] == ([severity] if severity else [])


def test_a_finding_has_exactly_its_fields(tmp_path: Path) -> None:
    """The JSON is a list of findings with the documented fields, and a NaN is a string in it."""
    path = table(tmp_path / "ppo/progress.csv", steps(KL, [0.06, 0.2, 0.3, 0.01, math.nan]))
    high, nan, warning = as_json(path)
    assert [list(finding) for finding in (high, nan, warning)] == [KEYS] * 3
    assert high == {
        "rule": "KLDivergenceHigh",
        "severity": CRITICAL,
        "metric": "rl_kl_divergence",
        "labels": {"kind": "update", "run_id": "ppo"},
        "first_step": 1,
        "last_step": 2,
        "count": 2,
        "of": 4,
        "worst": 0.3,
    }
    assert (nan["rule"], nan["worst"], nan["count"], nan["of"]) == ("TrainingNonFinite", "NaN", 1, 5)
    assert (warning["severity"], warning["count"], warning["worst"]) == (WARNING, 1, 0.06)


def test_the_same_run_in_any_form_has_the_same_findings(tmp_path: Path) -> None:
    """A table, lines of JSON, a journal, its packed form and its folder give the same findings."""
    rows = steps(KL, [0.01, 0.2, 0.3, 0.07] * 5)
    journal = Journal(tmp_path / "runs", "ppo").start()
    for row in rows:
        journal.log(int(row["step"]), {KL: row[KL]}, row["timestamp"] - 1.7e9)
    packed = tmp_path / "packed/ppo/metrics.jsonl.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(journal.path.read_bytes()))
    lines = tmp_path / "lines/ppo/metrics.jsonl"
    lines.parent.mkdir(parents=True)
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    progress = table(tmp_path / "csv/ppo/progress.csv", rows)
    expected = as_json(journal.path)
    assert [(finding["severity"], finding["count"]) for finding in expected] == [(CRITICAL, 10), (WARNING, 5)]
    for path in (journal.path.parent, journal.path.parent.parent, packed, lines, progress, progress.parent.parent):
        assert as_json(path) == expected, path


def test_every_run_below_a_folder_is_judged(tmp_path: Path) -> None:
    """A folder's runs are judged each by itself, journals and other logs, and told by their ids."""
    Journal(tmp_path, "own").start().log(0, {KL: 0.2}, 0.0)
    table(tmp_path / "sb3/progress.csv", steps(KL, [0.3] * 4))
    table(tmp_path / "good/progress.csv", steps(KL, [0.01] * 4))
    assert {(one["labels"]["run_id"], one["count"]) for one in as_json(tmp_path)} == {("own", 1), ("sb3", 4)}
    output = run(tmp_path).stdout
    assert "good: 4 steps, 0 finding(s); judged: rl_kl_divergence" in output


def test_lines_say_how_many_where_and_what_to_do(tmp_path: Path) -> None:
    """The text has the counts, the bound, the worst value and the steps; what is not info says what to do."""
    values = [0.1] * 49 + [0.2] * 11 + [0.6] * 5 + [0.9] * 20
    path = table(tmp_path / "ppo/progress.csv", steps(VARIANCE, values))
    first, finding, action, healthy = run(path).stdout.splitlines()
    assert first == "ppo: 85 steps, 2 finding(s); judged: rl_explained_variance"
    for text in ("warning", "ExplainedVarianceLow", "60 of 85 updates below 0.5", "the worst 0.1", "steps 0 to 59"):
        assert text in finding
    assert "49 of them in the first 50 steps" in finding
    (alert,) = (one for one in CATALOG.alerts if (one.name, one.severity) == ("ExplainedVarianceLow", WARNING))
    assert action.strip() == " ".join(alert.action.split())
    for text in ("info", "5 of 85 updates outside the healthy range (above 0.7)", "the furthest 0.6"):
        assert text in healthy


def test_rules_that_compare_say_what_has_changed(tmp_path: Path) -> None:
    """A change is told relative to the time before, a spike in standard deviations."""
    entropy = [{**row, "timestamp": 1.7e9 + 5 * number} for number, row in enumerate(steps("rl/entropy", [2.0] * 150))]
    for row in entropy[120:]:
        row["rl/entropy"] = 0.3
    path = table(tmp_path / "ppo/progress.csv", entropy)
    assert "EntropyCollapse: rl_entropy: " in (text := run(path).stdout)
    assert "changed by -85% against the time before, below -80%" in text
    norms = steps("train/grad_norm", [1 + 0.1 * math.sin(2.4 * number) for number in range(200)])
    norms[150]["train/grad_norm"] = 3.5
    path = table(tmp_path / "sft/progress.csv", norms)
    assert "1 of 200 updates 6 standard deviations above the time before, up to 3.5, at step 150" in run(path).stdout


def test_ones_own_thresholds_and_silences(tmp_path: Path) -> None:
    """A catalog file moves bounds for some runs, adds keys, and silences; another run keeps the shipped bounds."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "metrics:\n  rl_kl_divergence:\n    aliases: [{keys: [my/kl], labels: {kind: update}}]\n"
        "thresholds:\n  - {alert: KLDivergenceHigh, runs: {run_id: loose-.*}, warning: 0.3, critical: 0.6}\n"
        "silences:\n  - {alert: KLDivergenceHigh, runs: {run_id: quiet}}\n"
    )
    found = {}
    for name in ("loose-1", "strict", "quiet"):
        path = table(tmp_path / name / "progress.csv", steps("my/kl", [0.4] * 5))
        found[name] = [(finding["rule"], finding["severity"]) for finding in as_json(path, "--catalog", mine)]
        assert as_json(path) == []
    assert found == {
        "loose-1": [("KLDivergenceHigh", WARNING)],
        "strict": [("KLDivergenceHigh", CRITICAL)],
        "quiet": [],
    }


def test_every_kind_of_rule_of_ones_own_is_judged_or_left_out(tmp_path: Path) -> None:
    """Lowest, highest and mean of a window are found in a log; a rule that needs what no log tells finds nothing."""
    texts = "summary: s, meaning: m, action: a"
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "rules:\n"
        f"  Lowest: {{metric: rl_reward_mean, value: lowest, below: {{warning: 1}}, {texts}}}\n"
        f"  Highest: {{metric: rl_reward_mean, value: highest, above: {{critical: 9}}, {texts}}}\n"
        f"  Mean: {{metric: rl_reward_mean, value: mean, window: 1h, above: {{info: 4}}, {texts}}}\n"
        f"  Spike: {{metric: rl_reward_mean, value: worst, against: before, above: {{info: 0}}, {texts}}}\n"
        f"  Share: {{metric: rl_reward_mean, per: rl_reward_std, value: mean, above: {{info: 0}}, {texts}}}\n"
        f"  Steps: {{metric: training_steps, value: rate, above: {{info: 0}}, {texts}}}\n"
        f"  Also: {{metric: rl_reward_mean, above: {{info: 0}}, {texts},\n"
        "         also: [{metric: training_steps, value: increase, above: 0}]}\n"
    )
    path = table(tmp_path / "ppo/progress.csv", steps("rl/reward_mean", [5.0, 0.5, 10.0, 5.0] * 10))
    findings = {one["rule"]: (one["severity"], one["worst"]) for one in as_json(path, "--catalog", mine)}
    assert findings.keys() == {"Lowest", "Highest", "Mean"}
    assert findings["Lowest"] == (WARNING, 0.5)
    assert findings["Highest"] == (CRITICAL, 10.0)
    assert run(path, "--catalog", mine).exit_code == 1


def test_a_log_without_metrics_is_a_warning(tmp_path: Path) -> None:
    """Nothing to judge is no finding, and is said."""
    journal = Journal(tmp_path).start()
    result = run(journal.path)
    assert result.exit_code == 0
    assert "no metrics in it" in result.stderr


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """A line that cannot be read is said with its number, and the others are judged."""
    journal = Journal(tmp_path).start().log(0, {KL: 0.2}, 0.0).raw(b"{nonsense\n").log(1, {KL: 0.2}, 60.0)
    result = run(journal.path)
    assert result.exit_code == 1
    assert "line 3 is left out" in result.stderr
    assert "2 of 2 updates" in result.stdout


def test_what_cannot_be_judged_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is missing, no log, or a folder without one, and a bad catalog are exit 2 with a reason."""
    prose = tmp_path / "prose.txt"
    prose.write_text("Dear reader,\nthis is no log.\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text("thresholds: [{alert: Nonsense}]\n")
    for arguments, reason in (
        ([tmp_path / "missing"], "does not exist"),
        ([prose], "no training log"),
        ([tmp_path], "no training log"),
        ([prose, "--catalog", bad], "unknown alert 'Nonsense'"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["health", *map(str, arguments)])
        assert caught.value.code == 2
        assert reason in capsys.readouterr().err
    damaged = tmp_path / "runs/r1/metrics.jsonl.gz"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(gzip.compress(b'{"_type": "step", "time": 1.0, "step": 0, "metrics": {}}\n' * 99)[:-20])
    error = run(damaged).exception
    assert isinstance(error, ConfigError)
    assert "damaged" in str(error)


# ------------------------------------------------------------------ real logs


def cells(file: str, title: str) -> list[float]:
    """A column of a real table by the standard library."""
    csv.field_size_limit(1 << 28)
    with (DATA / file).open(newline="") as table:
        return [float(row[title]) for row in csv.DictReader(table) if row[title]]


real = pytest.mark.skipif(not DATA.is_dir(), reason="the real logs are not beside this checkout")
ATARI = "rl-experiments/atari-ppo-breakout-torch-{}/progress.csv"


@real
def test_the_ppo_run_of_others_has_a_poor_value_function_and_nothing_else() -> None:
    """85 of 122 updates are below 0.5 and 37 between 0.5 and 0.7, by plain counting too; KL and clipping are well."""
    values = cells("bevos/progress.csv", VARIANCE)
    poor, low = sum(value < 0.5 for value in values), sum(0.5 <= value < 0.7 for value in values)
    assert (poor, low, len(values)) == (85, 37, 122)
    warning, info = as_json(DATA / "bevos/progress.csv")
    assert (warning["rule"], warning["severity"], warning["count"]) == ("ExplainedVarianceLow", WARNING, poor)
    assert (info["rule"], info["severity"], info["count"]) == (OUTSIDE_HEALTHY, INFO, low)
    assert {warning["metric"], info["metric"]} == {"rl_explained_variance"}
    assert warning["of"] == info["of"] == len(values)
    assert warning["worst"] == min(values)
    assert info["worst"] == min(value for value in values if value >= 0.5)
    assert run(DATA / "bevos/progress.csv").exit_code == 0


@real
@pytest.mark.parametrize(
    ("version", "title", "rows"), [("True", "info/learner/kl", 0), ("False", "info/learner/default_policy/kl", 10)]
)
def test_the_kl_of_real_runs_is_counted(version: str, title: str, rows: int) -> None:
    """Of two real runs one has 10 updates with a KL above 0.1, two of them in a row, and the other none."""
    values = cells(ATARI.format(version), title)
    assert sum(value > 0.1 for value in values) == rows
    findings = [one for one in as_json(DATA / ATARI.format(version)) if one["metric"] == "rl_kl_divergence"]
    assert sum(one["count"] for one in findings if one["severity"] == CRITICAL) == rows
    assert sum(one["count"] for one in findings) == sum(value > 0.05 for value in values)
    assert run(DATA / ATARI.format(version)).exit_code == (1 if rows else 0)


@real
def test_two_forms_of_one_real_run_have_the_same_findings() -> None:
    """RLlib writes a run as JSON and as a table: what is found in both is the same."""
    assert as_json(DATA / "flow/trained_ring/result.json") == as_json(DATA / "flow/trained_ring/progress.csv") != []
