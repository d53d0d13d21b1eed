"""What the dashboards look like in Chromium; BENCH_PICTURES names a folder to keep the pictures in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.grafana import trainer
from tests.grafana.bench import NAMES, Answer, job, take_pictures
from tests.grafana.laboratory import DIVERGING, LONG, STEADY, STEADY_TOO, Laboratory
from tests.support.servers import require


class View(NamedTuple):
    """A dashboard over some seconds, in a window of a height, with some variables set."""

    dashboard: str
    height: int
    span: float = 90.0
    variables: Mapping[str, Any] = MappingProxyType({})


PPO = [STEADY, DIVERGING]
VIEWS = {
    "runs": View("runs", 900, 3600.0),
    "compare": View(
        *("compare", 1700, 90.0),
        {"run": [*PPO, STEADY_TOO], "metric": "rl_reward_mean", "smoothing": "gaussian", "width": "10s"},
    ),
    "compare-long": View("compare", 1700, 3600.0, {"run": [LONG, trainer.FINE_TUNING], "smoothing": "ema"}),
    "rl-health": View("rl-health", 1500, 90.0, {"run": PPO}),
    "training": View("training", 1900),
    "performance": View("performance", 3000),
    "exporter": View("exporter", 1900),
}


@pytest.fixture(scope="module")
def pictures(bench: None, lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """A picture of each view, and what its page said."""
    folder = Path(os.environ.get("BENCH_PICTURES") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        {
            **job(view.dashboard, lab.now, view.span, **view.variables),
            "height": view.height,
            "picture": str(folder / f"{name}.png"),
        }
        for name, view in VIEWS.items()
    ]
    chromium = shutil.which("chromium") or require("chromium-browser")
    return dict(zip(VIEWS, take_pictures(lab.prometheus.url, chromium, jobs), strict=True))


def test_every_dashboard_has_a_picture() -> None:
    """There is a view of each."""
    assert {view.dashboard for view in VIEWS.values()} == set(NAMES)


@pytest.mark.parametrize("view", VIEWS)
def test_pages_have_no_errors(pictures: dict[str, Answer], view: str) -> None:
    """Nothing is thrown and nothing is missing while a dashboard is drawn."""
    assert pictures[view]["problems"] == []
    assert "unexpected error" not in pictures[view]["text"]
    assert Path(pictures[view]["picture"]).stat().st_size > 20_000


@pytest.mark.parametrize("view", VIEWS)
def test_what_has_data_is_drawn(pictures: dict[str, Answer], view: str) -> None:
    """A graph with points has coloured pixels, a table with rows shows them, an empty panel says why it is empty."""
    panels = pictures[view]["panels"]
    assert panels
    for panel in panels:
        if panel["points"] == 0:
            assert len(panel["text"].split()) > len(panel["title"].split()) + 2, panel
            assert "No data" not in panel["text"], panel
        elif panel["type"] != "table":
            assert panel["colouredPixels"] > 20, panel
        else:
            assert len(panel["text"].splitlines()) > 3, panel
