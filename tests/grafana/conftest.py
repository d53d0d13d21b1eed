"""The laboratory, built once, and what all dashboards show of it, asked once."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.grafana import foreign_logs, trainer
from tests.grafana.bench import NAMES, Answer, ask, build, job
from tests.grafana.laboratory import STEADY, Laboratory, laboratory
from tests.support.servers import require

SMOOTHINGS = ("none", "sma", "ema", "gaussian")
SELECTIONS: dict[str, list[str]] = {
    "one": [trainer.FINE_TUNING],
    "several": [STEADY, trainer.DIVERGED, trainer.SINGLE, foreign_logs.SB3, foreign_logs.RLLIB],
    "all": ["$__all"],
}


@pytest.fixture(scope="session")
def bench() -> None:
    """The bench's programs, bundled."""
    for target in ("node", "browser"):
        build(target)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Runs of all kinds, in the installed Prometheus and in the next one where there is one."""
    binaries = {"prometheus": require("prometheus")}
    if "PROMETHEUS_NEXT" in os.environ:
        binaries["next"] = os.environ["PROMETHEUS_NEXT"]
    with laboratory(tmp_path_factory.mktemp("laboratory"), binaries) as result:
        yield result


@pytest.fixture(scope="session")
def answers(bench: None, lab: Laboratory) -> dict[tuple[str, str, str], Answer]:
    """Every dashboard for every selection of runs; Compare also with every smoothing, on which no other depends."""
    keys = [
        (name, selection, smoothing)
        for name, selection, smoothing in itertools.product(NAMES, SELECTIONS, SMOOTHINGS)
        if name == "compare" or smoothing == "none"
    ]
    jobs = [job(name, lab.now, run=SELECTIONS[selection], smoothing=smoothing) for name, selection, smoothing in keys]
    return dict(zip(keys, ask(lab.prometheus.url, jobs), strict=True))
