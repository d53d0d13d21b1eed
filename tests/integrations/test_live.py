"""Trainers write their own logs, the sidecar follows them: every value is on the pages, once and in order."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from exporter.catalog import Namer, default_catalog
from exporter.exposition import Format
from tests.integrations.support import read_rows, tags
from tests.support.journals import judge
from tests.support.servers import Sidecar, get, running

TRAINERS = Path(__file__).parent / "trainers"
ROUND_SECONDS = 0.5
MAX_ROUNDS = 240

Points = dict[tuple[str, frozenset[tuple[str, str]]], dict[int, float]]
"""Values by series, without the labels of the run, and millisecond."""


@pytest.mark.parametrize(
    ("script", "steps", "log"),
    [
        ("sb3_ppo.py", 4096, "progress.json"),
        ("sb3_a2c.py", 3000, "progress.json"),
        ("hf_trainer.py", 40, "tensorboard/events.out.tfevents.*"),
        ("lightning_fit.py", 30, "csv/**/metrics.csv"),
        ("keras_fit.py", 40, "training.csv"),
        ("cleanrl_style.py", 4000, "events.out.tfevents.*"),
    ],
)
def test_every_value_of_a_live_log_is_shown_once(tmp_path: Path, script: str, steps: int, log: str) -> None:
    """What a scraper was given until the trainer ended is what the log holds, also when the sidecar is killed."""
    folder = tmp_path / "logs" / "run"
    served = folder / log.rpartition("/")[0].partition("/")[0]  # of two loggers' folders the one that is meant
    served.mkdir(parents=True)
    sidecar = Sidecar(served, tmp_path / "sidecar.log")
    points: Points = defaultdict(dict)
    command = [sys.executable, str(TRAINERS / script), str(folder), str(steps)]
    with running(sidecar), subprocess.Popen(command, stdout=subprocess.DEVNULL) as trainer:
        try:
            for number in range(MAX_ROUNDS):
                is_over = trainer.poll() is not None
                scrape(sidecar, points)
                if is_over:
                    break
                if number == 5:
                    sidecar.kill()
                    sidecar.restart()
                time.sleep(ROUND_SECONDS)
        finally:
            trainer.kill()
        time.sleep(1.5)  # longer than a rewritten table has to be left alone
        scrape(sidecar, points)
    assert trainer.returncode == 0
    assert {place: text(series.values()) for place, series in points.items()} == expected(folder, log)


def scrape(sidecar: Sidecar, points: Points) -> None:
    """Add what is new to the scraper; a value comes at a later time than those before it."""
    page = judge(get(f"{sidecar.url}/metrics?scraper=live").encode(), Format.TEXT)
    for (name, labels), samples in page.series.items():
        place = (name, frozenset(label for label in labels if label[0] not in ("run_id", "user_id")))
        for milliseconds, value in samples:
            if milliseconds is not None and is_metric(name):
                assert milliseconds > max(points[place], default=0)
                points[place][milliseconds] = value


def is_metric(name: str) -> bool:
    """Whether a series shows logged values, and neither steps nor what the exporter counts."""
    return not name.endswith(("_total", "_bucket", "_sum", "_count")) and name not in (
        "training_step",
        "training_epoch",
    )


def expected(folder: Path, log: str) -> dict[tuple[str, frozenset[tuple[str, str]]], str]:
    """The values of the log under their canonical names; of two keys that mean one series the first has it."""
    (path,) = folder.glob(log)
    namer = Namer(default_catalog())
    series: dict[tuple[str, frozenset[tuple[str, str]]], str] = {}
    for key, values in tags(read_rows(path)).items():
        name = namer.resolve(key)
        place = (name.family.name, frozenset(name.labels))
        series.setdefault(place, text(value * name.scale for _, value in values))
    return series


def text(values: Iterable[float]) -> str:
    """Values as text, in which one NaN is like another."""
    return " ".join(map(repr, values))
