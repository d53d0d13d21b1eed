"""Runs that others have logged, replayed through a real Prometheus: the shipped expressions find what is in them."""

from __future__ import annotations

import csv
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exporter.catalog import Alert
from exporter.generate.alerts import condition, expression
from tests.support.journals import CATALOG
from tests.support.replay import DATA, Replay, Row, blocks, count_series, rows_of
from tests.support.servers import Prometheus, require, running

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the runs of others are not part of the project")

RARE_SECONDS = 480.0
"""So far apart each update decides by itself: never three in a quarter of an hour."""
ROWS_PER_RUN = 250
"""A long log becomes several runs side by side, which keeps the time short."""
WARM_UP = 50
ALERTS = {(alert.name, alert.severity): alert for alert in CATALOG.alerts}
BEVOS = "bevos/progress.csv"
ATARI = "rl-experiments/atari-ppo-breakout-torch-{}/progress.csv"
FLOW = "flow/trained_ring/progress.csv"


@pytest.fixture(scope="module", params=["prometheus", "PROMETHEUS_NEXT"])
def binary(request: pytest.FixtureRequest) -> str:
    """The Prometheus of the PATH, and of the next major version where PROMETHEUS_NEXT names one."""
    if request.param == "prometheus":
        return require("prometheus")
    path = os.environ.get(request.param)
    if not path:
        pytest.skip(f"{request.param} names no Prometheus of version 3")
    return path


class Replayed:
    """A Prometheus that holds a run, and when its rows are."""

    def __init__(self, prometheus: Prometheus, times: Sequence[float], step: float) -> None:
        self.prometheus = prometheus
        self.times = times
        self.step = step

    def count(self, text: str) -> int:
        """At how many moments an expression gives a value."""
        return count_series(self.prometheus.url, text, self.times, self.step)

    def fired(self, name: str, severity: str) -> int:
        """At how many moments an alert's whole expression is true."""
        return self.count(expression(ALERTS[name, severity], CATALOG))


def replayed(binary: str, folder: Path, replays: Sequence[Replay], step: float) -> Iterator[Replayed]:
    """A Prometheus with these runs."""
    blocks(replays, folder, step)
    prometheus = Prometheus(binary, folder, [])
    with running(prometheus):
        yield Replayed(prometheus, replays[0].times, step)
    shutil.rmtree(folder / "data")


def one_by_one(rows: Sequence[Row]) -> list[Replay]:
    """The rows so far apart that each decides by itself, in runs of 250."""
    end = time.time() // RARE_SECONDS * RARE_SECONDS - 3600
    times = [end - RARE_SECONDS * (ROWS_PER_RUN - number) for number in range(ROWS_PER_RUN)]
    parts = [rows[start : start + ROWS_PER_RUN] for start in range(0, len(rows), ROWS_PER_RUN)]
    return [Replay(f"part-{number}", part, times[: len(part)]) for number, part in enumerate(parts)]


def at_its_own_pace(rows: Sequence[Row], step: float) -> list[Replay]:
    """The rows as far apart as they were logged, with the last one an hour ago."""
    shift = time.time() // step * step - 3600 - rows[-1].time
    return [Replay("run", rows, [round(row.time + shift, 3) for row in rows])]


def column(path: Path, name: str) -> list[float]:
    """A column of a CSV file by the standard library: what is expected comes from the file itself."""
    with path.open(newline="") as file:
        return [float(row[name]) if row[name] else math.nan for row in csv.DictReader(file)]


# ------------------------------------------------------------------ row by row


@pytest.fixture(scope="module")
def bevos(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    """A PPO run of Stable-Baselines3 whose 123 rows each decide by themselves."""
    folder = tmp_path_factory.mktemp("bevos")
    yield from replayed(binary, folder, one_by_one(rows_of(DATA / BEVOS, folder)), RARE_SECONDS)


def of(alert: Alert) -> str:
    """An alert's condition without its gates."""
    return condition(alert, CATALOG)


def test_a_small_kl_and_a_moderate_clip_fraction_raise_nothing(bevos: Replayed) -> None:
    """KL at most 0.00416 and clip fractions of 0.1019 to 0.1774: no alert on either, of any severity, at any row."""
    names = [key for key in ALERTS if key[0].startswith(("KL", "Clip"))]
    assert len(names) >= 6
    assert {key: bevos.fired(*key) for key in names} == dict.fromkeys(names, 0)
    logged = sum(not math.isnan(value) for value in column(DATA / BEVOS, "train/approx_kl"))
    assert bevos.count("rl_kl_divergence") == bevos.count("rl_clip_fraction") == logged == 122
    assert bevos.count("training_steps_total") == 123


def test_a_poor_value_function_is_counted_row_by_row(bevos: Replayed) -> None:
    """85 rows explain less than half of the variance, none less than nothing, and 37 are acceptable."""
    values = column(DATA / BEVOS, "train/explained_variance")
    poor = [value < 0.5 for value in values]
    assert bevos.count(of(ALERTS["ExplainedVarianceLow", "warning"])) == sum(poor) == 85
    assert bevos.count(of(ALERTS["ExplainedVarianceLow", "critical"])) == 0
    assert bevos.count("rl_explained_variance >= 0.5 < 0.7") == 37
    assert bevos.fired("ExplainedVarianceLow", "warning") == sum(poor[WARM_UP - 1 :])


@pytest.mark.parametrize(("torch", "key", "expected"), [
    ("True", "info/learner/kl", 0), ("False", "info/learner/default_policy/kl", 10)])  # fmt: skip
def test_atari_rows_with_a_high_kl_are_counted(
    binary: str, tmp_path: Path, torch: str, key: str, expected: int
) -> None:
    """In 5 241 and 4 690 rows of RLlib the update KL is critical 0 and 10 times, under the key that each run has."""
    path = DATA / ATARI.format(torch)
    values = column(path, key)
    assert len(values) == {"True": 5241, "False": 4690}[torch]
    for atari in replayed(binary, tmp_path, one_by_one(rows_of(path, tmp_path)), RARE_SECONDS):
        assert atari.fired("KLDivergenceHigh", "critical") == sum(value > 0.1 for value in values) == expected
        assert atari.fired("KLDivergenceHigh", "warning") == sum(0.05 < value <= 0.1 for value in values)


# ------------------------------------------------------------------ at their own pace

HEALTHY = [
    (ATARI.format("True"), 30.0),
    (ATARI.format("False"), 30.0),
    ("rl-experiments/halfcheetah-sac-2021/progress.csv", 30.0),
    ("rl-experiments/pong-impala-128/progress.csv", 15.0),
]


@pytest.mark.parametrize(("name", "step"), HEALTHY)
def test_runs_that_went_well_raise_no_warning(binary: str, tmp_path: Path, name: str, step: float) -> None:
    """The agents learned: no warning and no critical alert at any time; single spikes are info."""
    rules = [alert for alert in CATALOG.alerts if alert.about == "run" and alert.severity != "info"]
    for run in replayed(binary, tmp_path, at_its_own_pace(rows_of(DATA / name, tmp_path), step), step):
        fired = {(rule.name, rule.severity): run.fired(rule.name, rule.severity) for rule in rules}
        assert {key: count for key, count in fired.items() if count} == {}


def test_spikes_among_good_updates_are_told_as_such(binary: str, tmp_path: Path) -> None:
    """At its own pace the run with ten critical updates has no KL alert, but each of the ten shows as a spike."""
    path = DATA / ATARI.format("False")
    rows = rows_of(path, tmp_path)
    values = [(row.time, row.values.get('rl_kl_divergence{kind="update",', 0.0)) for row in rows]
    spikes = [at for at, value in values if value > 0.1]
    assert len(spikes) == 10
    for run in replayed(binary, tmp_path, at_its_own_pace(rows, 5.0), 5.0):
        assert run.fired("KLDivergenceHigh", "critical") == 0
        shift = run.times[0] - rows[0].time
        text = expression(ALERTS["KLDivergenceSpike", "info"], CATALOG)
        for spike in spikes:
            moment = (spike + shift) // 5 * 5 + 10
            assert count_series(run.prometheus.url, text, [moment, moment], 5.0) == 1


def test_a_value_function_that_explains_nothing_is_critical(binary: str, tmp_path: Path) -> None:
    """Flow's run has an explained variance of 0, or slightly less, throughout; its KL and entropy are healthy."""
    values = column(DATA / FLOW, "info/learner/default_policy/vf_explained_var")
    assert len(values) == 200
    assert all(abs(value) < 0.001 for value in values)
    for run in replayed(binary, tmp_path, at_its_own_pace(rows_of(DATA / FLOW, tmp_path), 60.0), 60.0):
        assert run.fired("ExplainedVarianceLow", "critical") > 0
        for name in ("KLDivergenceHigh", "EntropyCollapse", "EntropyDropped", "EntropyExplosion", "LossDivergence"):
            assert sum(run.fired(*key) for key in ALERTS if key[0] == name) == 0
