"""The alert rules as one pack, judged by promtool: which runs they watch, and that they leave healthy ones alone."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest

from tests.support.journals import CATALOG
from tests.support.promtool import CRITICAL, PROMTOOLS, RULES, WARNING, Scenario, find_promtool, firing


@pytest.fixture(params=PROMTOOLS)
def promtool(request: pytest.FixtureRequest) -> str:
    """Each promtool that there is."""
    return find_promtool(request.param)


def test_rules_are_valid(promtool: str, tmp_path: Path) -> None:
    """The tool finds every rule and nothing to complain about."""
    (tmp_path / "rules.yml").write_text(RULES)
    command = [promtool, "check", "rules", str(tmp_path / "rules.yml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert f"SUCCESS: {len(CATALOG.alerts)} rules found" in answer.stdout


def test_a_scenario_can_fail(promtool: str, tmp_path: Path) -> None:
    """An expectation that is not met is seen: the tests below are no tautologies."""
    scenario = Scenario().running("r").add(KL, "1+0x100", run_id="r", kind="update").expect([60])
    with pytest.raises(AssertionError, match="KLDivergenceHigh"):
        scenario.check(promtool, tmp_path)


# ------------------------------------------------------------------ which runs

KL = "rl_kl_divergence"
BAD: dict[str, tuple[str, dict[str, str]]] = {
    KL: ("0.2+0x100", {"kind": "update"}),
    "rl_clip_fraction": ("0.9+0x100", {}),
    "rl_explained_variance": ("0.1+0x100", {}),
    "rl_entropy": ("0.5x20 0.01x80", {}),
    "training_steps_total": ("99+0x100", {}),
    "training_nonfinite_total": ("0+1x100", {"metric": "training_loss"}),
}


def everything_bad(scenario: Scenario, run: str, **labels: str) -> list[str]:
    """Add a run in which all goes wrong; returns the alerts that it must raise while it runs."""
    for name, (values, own) in BAD.items():
        scenario.add(name, values, run_id=run, **labels, **own)
    return [
        firing("KLDivergenceHigh", CRITICAL, run_id=run, kind="update", **labels),
        firing("ClipFractionHigh", WARNING, run_id=run, **labels),
        firing("ExplainedVarianceLow", WARNING, run_id=run, **labels),
        firing("EntropyCollapse", CRITICAL, run_id=run, **labels),
        firing("TrainingNonFinite", CRITICAL, run_id=run, metric="training_loss", **labels),
    ]


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


def test_only_running_runs_are_watched(promtool: str, tmp_path: Path) -> None:
    """A run that ended, or whose status nobody knows, raises nothing; one that is stalled besides running does."""
    scenario = Scenario()
    alerts = everything_bad(scenario.running("on"), "on")
    alerts += everything_bad(scenario.running("stalled"), "stalled")
    scenario.add("run_status", "1+0x100", run_id="stalled", status="stalled")
    everything_bad(scenario.running("over", values="0+0x100"), "over")
    scenario.add("run_status", "1+0x100", run_id="over", status="finished")
    everything_bad(scenario, "unknown")
    scenario.expect([300], alerts).check(promtool, tmp_path)


def test_the_end_of_a_run_resolves_its_alerts(promtool: str, tmp_path: Path) -> None:
    """At the first evaluation after the status has changed nothing fires, and resuming brings it back."""
    scenario = Scenario()
    alerts = everything_bad(scenario.running("r", values="1+0x59 0+0x9 1+0x40"), "r")
    scenario.expect([295], alerts).expect([300, 345]).expect([350], alerts).check(promtool, tmp_path)


def test_a_rank_is_judged_by_its_own_status(promtool: str, tmp_path: Path) -> None:
    """The last values of a rank that has ended raise nothing while other ranks go on, and hide nothing."""
    scenario = Scenario().running("r")
    alerts = everything_bad(scenario, "r")
    scenario.add("run_status", "0+0x100", run_id="r", rank="1", status="running")
    everything_bad(scenario, "r", rank="1")
    scenario.add("run_status", "1+0x100", run_id="r", rank="2", status="running")
    alerts += everything_bad(scenario, "r", rank="2")
    scenario.expect([300], alerts).check(promtool, tmp_path)


def test_a_gpu_that_two_exporters_see_is_joined_to_its_run_once(promtool: str, tmp_path: Path) -> None:
    """Two pages that show one host give one alert, and no many-to-many error."""
    scenario = Scenario(60).running("r")
    scenario.add("run_gpu_info", "1+0x40", run_id="r", gpu="0", uuid="GPU-1", name="H200")
    for instance in ("a:1", "b:1"):
        scenario.add("gpu_utilization_ratio", "0+0x40", instance=instance, gpu="0", uuid="GPU-1", name="H200")
    idle = firing("GPUIdle", WARNING, run_id="r", gpu="0", uuid="GPU-1", name="H200")
    scenario.expect([1200], [idle], 'ALERTS{alertname="GPUIdle", alertstate="firing"}').check(promtool, tmp_path)


# ------------------------------------------------------------------ healthy runs


def waves(level: float, share: float, count: int, drift: float = 0.0) -> list[float]:
    """Values that go up and down around a level that changes by the drift in all."""
    return [level * (1 + share * math.sin(1.7 * n) + 0.3 * share * math.sin(0.11 * n)) + drift * n / count
            for n in range(count)]  # fmt: skip


@pytest.mark.parametrize("seconds", [5, 30, 600])
def test_a_healthy_run_raises_nothing(promtool: str, tmp_path: Path, seconds: int) -> None:
    """Whether it updates every five seconds or every ten minutes, no alert of any severity fires at any time."""
    count = max(3000 // seconds, 40)
    scenario = Scenario(seconds).running("r")
    scenario.add("run_status", "0+0x2000", run_id="r", status="stalled")
    scenario.add("run_status", "0+0x2000", run_id="r", status="crashed")
    healthy = {
        "training_loss": waves(2, 0.1, count, -1), "training_grad_norm": waves(1, 0.3, count),
        "validation_loss": waves(2, 0.005, count, -1), "rl_clip_fraction": waves(0.2, 0.3, count),
        "rl_explained_variance": waves(0.8, 0.1, count), "rl_entropy": waves(0.6, 0.1, count, -0.3),
        "rl_reward_mean": waves(50, 0.3, count, 100), "rl_reward_std": waves(1, 0.2, count),
        "rl_advantage_std": waves(1, 0.2, count), "rl_reward_zero_std_ratio": waves(0.3, 0.5, count),
        "rl_response_truncated_ratio": waves(0.1, 0.5, count), "performance_queue_depth": waves(8, 0.2, count),
        "performance_data_wait_ratio": waves(0.03, 0.5, count), "training_steps_total": range(count),
        "telemetry_bad_lines_total": [0] * count, "run_attempts": [1] * count,
        "run_start_timestamp_seconds": [0] * count,
        "run_last_step_timestamp_seconds": range(0, count * seconds, seconds),
    }  # fmt: skip
    for name, values in healthy.items():
        scenario.add(name, values, run_id="r")
    for kind, level in (("update", 0.01), ("reference", 0.03), ("inference", 0.001)):
        scenario.add(KL, waves(level, 0.4, count), run_id="r", kind=kind)
    scenario.expect(range(0, count * seconds, max(seconds, 300)))
    scenario.check(promtool, tmp_path)
