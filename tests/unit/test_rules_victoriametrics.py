"""The same rules and cases with VictoriaMetrics' engine, which never stores a NaN and counts increases otherwise."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.promtool import RULES, find_beside_promtool, judge_with_vmalert
from tests.support.rule_cases import CASES


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_with_victoriametrics_when_it_does_with_prometheus(tmp_path: Path, alert: str) -> None:
    """Every case of every alert has the same outcome in both."""
    judge_with_vmalert(find_beside_promtool("vmalert-tool"), tmp_path, alert, CASES[alert])


def test_vmalert_accepts_the_rules(tmp_path: Path) -> None:
    """Expressions and templates are valid to vmalert, which checks both."""
    (tmp_path / "rules.yml").write_text(RULES)
    command = [find_beside_promtool("vmalert"), "-dryRun", f"-rule={tmp_path}/rules.yml"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
