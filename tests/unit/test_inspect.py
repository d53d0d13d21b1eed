"""``telemetry-exporter inspect``: what is in a log, as text and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exporter.cli.inspect import inspect
from exporter.errors import ConfigError
from exporter.sources import SOURCES, find_source, source_named

DATA = Path(__file__).resolve().parents[3] / "shared/data"


def run(*arguments: str | Path) -> Result:
    """Call the command; its own errors come through."""
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments], catch_exceptions=True)


def summary(path: Path, *options: str) -> dict[str, Any]:
    """The command's JSON."""
    result = run(path, "--json", *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_metric_is_described_by_its_own_numbers(tmp_path: Path) -> None:
    """Count, first, last, range and non-finite values of a key are those of its rows, its name the catalog's."""
    values = [3.0, math.nan, -1.0, 2.0]
    path = lines(tmp_path / "log.jsonl", *({"step": n, "train/loss": v, "x": 1} for n, v in enumerate(values)))
    result = summary(path)
    assert result["metrics"]["train/loss"] == {
        "canonical": "training_loss",
        "count": 4,
        "first": 3.0,
        "last": 2.0,
        "min": -1.0,
        "max": 3.0,
        "nonfinite": 1,
    }
    assert result["metrics"]["x"]["canonical"] == "custom_x"
    assert result["steps"] == {"first": 0, "last": 3, "count": 4, "restarts": 0}
    assert (result["format"], result["framework"], result["records"]) == ("jsonl", None, 4)


def test_steps_that_go_back_are_restarts(tmp_path: Path) -> None:
    """Each step below the one before is a restart; a step that comes twice is one step."""
    path = lines(tmp_path / "log.jsonl", *({"step": n, "loss": 1.0} for n in (0, 1, 2, 1, 2, 2, 0)))
    assert summary(path)["steps"] == {"first": 0, "last": 0, "count": 3, "restarts": 2}


def test_bad_lines_are_named_with_their_number(tmp_path: Path) -> None:
    """A line that cannot be read is reported with its number, and the others are kept."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "loss": 1}\n{"step": 1, "lo\n{"step": 2, "loss": 3}\n')
    result = summary(path)
    assert [bad["line"] for bad in result["bad_lines"]] == [2]
    assert result["records"] == 2
    assert "line 2: " in run(path).output


def test_a_value_that_never_was_finite_has_no_range(tmp_path: Path) -> None:
    """Without a finite value there is no range, and the JSON stays strict."""
    path = lines(tmp_path / "log.jsonl", {"step": 0, "loss": math.inf})
    metric = summary(path)["metrics"]["loss"]
    assert (metric["min"], metric["max"], metric["last"], metric["nonfinite"]) == (None, None, "Infinity", 1)
    assert "- .. -" in run(path).stdout


def test_an_empty_file_is_a_warning(tmp_path: Path) -> None:
    """An empty file has 0 records, which is a warning and no error."""
    path = tmp_path / "empty.jsonl"
    path.touch()
    result = run(path, "--json")
    assert result.exit_code == 0
    assert "warning" in result.stderr
    assert json.loads(result.stdout)["records"] == 0


def test_what_is_missing_or_no_log_is_an_error(tmp_path: Path) -> None:
    """A missing file and a file that is no log are errors that name it; --format overrides the second."""
    prose = tmp_path / "prose.txt"
    prose.write_text("Dear reader,\nthis is no log.\n")
    for path in (tmp_path / "missing.csv", prose):
        error = run(path).exception
        assert isinstance(error, ConfigError)
        assert path.name in str(error)
    assert summary(prose, "--format", "jsonl")["records"] == 0


def test_every_format_can_be_had_by_its_name() -> None:
    """Each line of the table leads to a reader of that name, and another name is refused."""
    assert {name: source_named(name).name for name in SOURCES} == {name: name for name in SOURCES}
    with pytest.raises(ConfigError, match="'xml'"):
        source_named("xml")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real logs are not beside this checkout")
@pytest.mark.parametrize(
    ("file", "form", "framework", "records", "metric", "expected"),
    [
        ("bevos/progress.csv", "csv", "sb3", 123, "train/approx_kl", ('rl_kl_divergence{kind="update"}', 0.00416)),
        ("flow/trained_ring/result.json", "jsonl", "rllib", 200, "episode_reward_mean", ("rl_reward_mean", 2324.43)),
        ("trainer_state_viz/trainer_state.json", "trainer_state", None, 216, "loss", ("training_loss", None)),
    ],
)
def test_real_logs_are_recognised(
    file: str, form: str, framework: str | None, records: int, metric: str, expected: tuple[str, float | None]
) -> None:
    """Real logs give the documented format, framework, number of records and largest value."""
    result = summary(DATA / file)
    assert (result["format"], result["framework"], result["records"]) == (form, framework, records)
    described = result["metrics"][metric]
    assert described["canonical"] == expected[0]
    if expected[1] is not None:
        assert described["max"] >= expected[1] - 1e-2 * abs(expected[1])


@pytest.mark.skipif(not DATA.is_dir(), reason="the real logs are not beside this checkout")
def test_what_is_no_log_is_recognised_by_none() -> None:
    """Documents, rule files and expositions beside the logs are claimed by no reader."""
    for file in ("README.md", "prometheus/promtool/rules.yml", "llmprobe/vllm_metrics.txt"):
        assert find_source(DATA / file) is None, file
