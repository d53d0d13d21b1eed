"""RLlib under Ray Tune: from the files that Tune writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporter.sources import Ended, Meta, Row
from tests.integrations.support import event_rows, read_items, read_rows, rows, tags
from tests.integrations.trainers import rllib_ppo

NO_METRICS = ["training_iteration", "timestamp", "pid"]
"""The step, the time and a name."""


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a trial, and the numbers of the results that Tune was told."""
    folder = tmp_path_factory.mktemp("own")
    results = rllib_ppo.train(folder)
    (path,) = folder.glob("PPO_*/PPO_*/result.json")
    return path.parent, [numbers({**result, "config": {}}) for result in results]


def numbers(result: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a result under their joined keys."""
    found: dict[str, float] = {}
    for key, value in result.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key}/")
        elif not isinstance(value, bool | str) and hasattr(value, "__float__"):
            found[f"{prefix}{key}"] = float(value)
    return found


def test_the_lines_of_json_have_every_result(trial):
    """result.json reads as the numbers of each iteration, the configuration and the end."""
    folder, results = trial
    items = read_items(folder / "result.json")
    found = [(item.step, item.metrics) for item in items if isinstance(item, Row)]
    assert rows(found) == rows(enumerate(results, 1), NO_METRICS)
    assert [item.time for item in items if isinstance(item, Row)] == [result["timestamp"] for result in results]
    assert [item.config["env"] for item in items if isinstance(item, Meta)] == ["CartPole-v1"]
    assert items[-1] == Ended("finished")
    assert "learners/default_policy/total_loss" in items[1].metrics


def test_the_table_has_the_columns_of_the_first_result(trial):
    """progress.csv reads as the numbers that the first result had, of every iteration."""
    folder, results = trial
    later = {key for result in results for key in result if key not in results[0]}
    found = [(item.step, item.metrics) for item in read_items(folder / "progress.csv") if isinstance(item, Row)]
    assert rows(found) == rows(enumerate(results, 1), [*NO_METRICS, *later])


def test_the_event_file_has_what_tensorboard_finds_in_it(trial):
    """The event file reads as TensorBoard itself reads it, tag by tag and step by step."""
    folder, _ = trial
    (path,) = folder.glob("events.out.tfevents.*")
    expected = tags(event_rows(path))
    assert tags(read_rows(path)) == expected
    assert "ray/tune/learners/default_policy/total_loss" in expected
