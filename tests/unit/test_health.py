"""``telemetry-exporter health`` and what it is made of: counts against plain counting, severities against the rules."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.health import OUTSIDE_HEALTHY, Finding, find, read_run
from exporter.catalog import Catalog, load_catalog
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


# ------------------------------------------------------------------ warm-up, healthy range, NaN


def test_warm_up_decides_whether_a_rule_speaks_and_not_what_it_counts() -> None:
    """Bad updates in the first 50 steps are no alert by themselves, and are counted where the alert speaks."""
    early = found(column(VARIANCE, [-1.0] * (WARM_UP - 2) + [0.9] * 50))
    assert told(early) == [(OUTSIDE_HEALTHY, INFO, WARM_UP - 2)]
    (late,) = found(column(VARIANCE, [-1.0] * WARM_UP + [0.9] * 50))
    assert told([late]) == [("ExplainedVarianceLow", CRITICAL, WARM_UP)]
    assert late.early == WARM_UP - 1


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
    assert all(finding.of == finite and 1 <= finding.count for finding in findings)
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
    assert rules - judged == {"ExplainedVarianceLow", "ExplainedVarianceDip"}  # these need a count of steps: see above
