"""Every alert rule in the situations for which it was made, judged by promtool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journals import CATALOG
from tests.support.promtool import PROMTOOLS, find_promtool, judge
from tests.support.rule_cases import CASES


@pytest.fixture(params=PROMTOOLS)
def promtool(request: pytest.FixtureRequest) -> str:
    """Each promtool that there is."""
    return find_promtool(request.param)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_must_and_only_then(promtool: str, tmp_path: Path, alert: str) -> None:
    """In each situation of the alert exactly the severity fires that must, at each time that is named."""
    judge(promtool, tmp_path, alert, CASES[alert])


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    """Each severity of each alert of the catalog fires somewhere, and each alert is silent throughout somewhere."""
    fired = {(alert, severity) for alert, cases in CASES.items() for case in cases for severity in case.fires.values()}
    silent = {alert for alert, cases in CASES.items() if any(not any(case.fires.values()) for case in cases)}
    shipped = {(alert.name, alert.severity) for alert in CATALOG.alerts}
    assert shipped <= fired
    assert {alert for alert, _ in shipped} == silent == CASES.keys()
