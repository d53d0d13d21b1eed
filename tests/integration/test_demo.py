"""The demo as a newcomer runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from exporter.demo.receiver import Notification
from exporter.demo.show import outcome, progress
from tests.support.servers import require


def demo(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    command = [sys.executable, "-m", "exporter", "demo", "--once", *arguments]
    environment = {**os.environ, **environ}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_the_demo_delivers_the_diverging_run_and_nothing_else() -> None:
    """Two real PPO runs give a critical KL notification for the diverging one, its end, and none for the steady one."""
    require("prometheus"), require("prometheus-alertmanager")
    ended = demo("--seconds", "40")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "steady: step" in ended.stdout
    assert re.search(r"FIRING critical KLDivergenceHigh: .* run diverging", ended.stdout)
    assert re.search(r"RESOLVED critical KLDivergenceHigh: .* run diverging", ended.stdout)
    assert "run steady" not in ended.stdout


def test_without_servers_the_demo_goes_on_and_says_how_to_get_them(tmp_path) -> None:
    """Without Prometheus on the PATH the demo still trains and serves, and names the packages in one line."""
    ended = demo("--seconds", "10", PATH=str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "apt-get install prometheus prometheus-alertmanager" in ended.stdout
    assert "alerts came" not in ended.stdout
    assert "steady: step" in ended.stdout


def test_progress_says_whole_steps() -> None:
    """Steps stand in full, also beyond a thousand, and everything else with three digits."""
    page = 'training_step{run_id="a"} 12345.0\nrl_kl_divergence{kind="update",run_id="a"} 0.00123456\n'
    assert progress(page, "a") == "a: step 12345, KL 0.00123"
    assert progress(page, "b") == ""


def notification(status: str, run_id: str = "diverging", severity: str = "critical") -> Notification:
    """A KL notification."""
    return Notification(0.0, status, "KLDivergenceHigh", severity, run_id, "", "")


@pytest.mark.parametrize(
    ("notifications", "problem"),
    [
        ([notification("firing"), notification("resolved")], ""),
        ([], "no critical KL alert"),
        ([notification("firing", severity="warning")], "no critical KL alert"),
        ([notification("firing")], "was not resolved"),
        ([notification("resolved"), notification("firing")], "was not resolved"),
        ([notification("firing"), notification("resolved"), notification("firing", "steady")], "which is healthy"),
    ],
)
def test_the_demo_judges_what_was_delivered(notifications: list[Notification], problem: str) -> None:
    """The demo succeeds only when the critical alert came and went, and no healthy run was reported."""
    found = outcome(notifications)
    assert problem in found
    assert bool(problem) == bool(found)
