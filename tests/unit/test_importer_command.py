"""``telemetry-exporter serve`` over the logs of other trainers, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.exposition import Format
from tests.support.event_files import VERSION, event, simple
from tests.support.imports import json_rows, table
from tests.support.journals import Scrape, judge
from tests.support.servers import get, wait_until

ROWS = [{"step": step, "train/loss": step / 4} for step in (1, 2, 3)]


@contextlib.contextmanager
def served(*arguments: object) -> Iterator[str]:
    """The address of a sidecar that was started with these arguments, ready."""
    command = [sys.executable, "-m", "exporter", "serve", "--listen", "127.0.0.1:0", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].removesuffix("/metrics")
            wait_until(lambda: get(f"{url}/-/ready"), 20, "readiness")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def page(url: str, query: str = "") -> Scrape:
    """A page of a sidecar."""
    return judge(get(f"{url}/metrics{query}").encode(), Format.TEXT)


def once(*arguments: object) -> Scrape:
    """What ``serve --once`` prints."""
    command = [sys.executable, "-m", "exporter", "serve", "--once", *map(str, arguments)]
    return judge(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout, Format.TEXT)


def put(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def append(path: Path, content: str | bytes) -> None:
    """Append to a file."""
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def test_a_line_is_on_the_next_page(tmp_path: Path) -> None:
    """What is in a log when a scrape begins is on its page, and on no later one; new logs are found, too."""
    path = put(tmp_path / "ppo/progress.csv", table(ROWS))
    events = put(tmp_path / "dqn/events.out.tfevents.1", VERSION)
    lines = put(tmp_path / "sft/metrics.jsonl", "")
    with served(tmp_path) as url:
        assert page(url, "?scraper=p").values("training_loss", run_id="ppo") == [0.25, 0.5, 0.75]
        for step in range(4, 9):
            append(path, f"{step},{step / 4}\n")
            append(events, event(simple("train/loss", step / 4), step=step, time=time.time()))
            append(lines, json_rows([{"step": step, "train/loss": step / 4}]))
            shown = page(url, "?scraper=p")
            for run_id in ("ppo", "dqn", "sft"):
                assert shown.values("training_loss", run_id=run_id) == [step / 4]
                assert shown.values("training_step", run_id=run_id) == [step]
        put(tmp_path / "late/progress.csv", table(ROWS))
        assert page(url, "?scraper=p").values("training_step", run_id="late") == [1, 2, 3]
        assert page(url).value("telemetry_imported_runs", format="csv") == 2


def test_a_page_can_be_had_without_a_server(tmp_path: Path) -> None:
    """``--once`` prints the latest values, with the labels that were given, and leaves nothing behind."""
    put(tmp_path / "ppo/progress.csv", table(ROWS))
    shown = once(tmp_path, "--user-id", "alice", "--tag", "env=prod", "--tag", "team=a")
    assert shown.label_sets("training_loss") == [{"run_id": "ppo", "user_id": "alice", "env": "prod", "team": "a"}]
    assert shown.values("training_loss") == [0.75]
    assert shown.values("run_status", status="running") == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["ppo"]


def test_a_file_can_be_served_by_itself(tmp_path: Path) -> None:
    """A file is taken whatever it is called, named by --run-id, and read as --format says."""
    path = put(tmp_path / "odd.weird", "step:3 - actor/kl:0.5\nstep:4 - actor/kl:0.25\n")
    put(tmp_path / "other/progress.csv", table(ROWS))
    shown = once(path, "--run-id", "grpo-7", "--format", "console")
    assert [labels["run_id"] for labels in shown.label_sets("run_info")] == ["grpo-7"]
    assert shown.value("training_step", run_id="grpo-7") == 4


def test_from_now_serves_what_comes(tmp_path: Path) -> None:
    """With --from-now the steps that are there at the start are on no page."""
    path = put(tmp_path / "ppo/progress.csv", table(ROWS))
    with served(tmp_path, "--from-now") as url:
        assert page(url, "?scraper=p").label_sets("training_step") == []
        append(path, "4,1.0\n")
        assert page(url, "?scraper=p").values("training_step") == [4]


@pytest.mark.parametrize(
    ("ended", "silent", "status"),
    [(False, 0.0, "running"), (True, 0.0, "finished"), (False, 2 * 3600.0, "finished")],
)
def test_the_status_of_an_imported_run(tmp_path: Path, ended: bool, silent: float, status: str) -> None:
    """It runs until its log says that it is over, or has been silent for an hour; nobody calls it crashed."""
    moment = time.time() - silent
    row = {"training_iteration": 1, "timestamp": int(moment), "episode_reward_mean": 1.5, "done": ended}
    path = put(tmp_path / "ray/result.json", json_rows([{**row, "config": {"lr": 0.1}}]))
    os.utime(path, (moment, moment))
    shown = once(tmp_path)
    assert [labels["status"] for labels in shown.label_sets("run_status") if shown.value("run_status", **labels)] == [
        status
    ]
    assert {"key": "lr", "value": "0.1", "run_id": "ray"} in shown.label_sets("run_config_info")
    (info,) = shown.label_sets("run_info")
    assert info["framework"] == "rllib"


def test_a_folder_of_other_things_is_served(tmp_path: Path) -> None:
    """Data sets, prompts, weights and pages are no runs, and nothing of their text is on the page."""
    put(tmp_path / "prompts.jsonl", json_rows([{"prompt": "SECRET", "completion": "SECRET", "id": 7}] * 3))
    put(tmp_path / "iris.csv", table([{"sepal": 5.1, "petal": 1.4}] * 3))
    put(tmp_path / "model.bin", os.urandom(4096))
    put(tmp_path / "._progress.csv", b"\0\5\26\7")
    put(tmp_path / "index.html", "<html>SECRET</html>")
    put(tmp_path / "README", "# SECRET\n")
    put(tmp_path / "ppo/progress.csv", table(ROWS))
    put(tmp_path / "rollouts.jsonl", json_rows([{"step": 1, "train/loss": 0.5, "text": "SECRET"}] * 3))
    with served(tmp_path) as url:
        for query in ("", "?scraper=p"):
            shown = get(f"{url}/metrics{query}")
            assert "SECRET" not in shown
            runs = {labels["run_id"] for labels in judge(shown.encode(), Format.TEXT).label_sets("run_info")}
            assert runs == {"ppo", "rollouts"}
    assert "SECRET" not in (tmp_path / ".telemetry/imported/rollouts/metrics.jsonl").read_text()


def test_a_second_sidecar_shows_the_same(tmp_path: Path) -> None:
    """Two of them on one folder give the same page; one writes the journals, and each has its own cursors."""
    path = put(tmp_path / "ppo/progress.csv", table(ROWS))
    with served(tmp_path) as one, served(tmp_path) as other:
        for url in (one, other):
            assert page(url, "?scraper=p").values("training_step") == [1, 2, 3]
        append(path, "4,1.0\n")
        assert page(one, "?scraper=p").values("training_step") == [4]
        assert page(other, "?scraper=p").values("training_step") == [4]
    lines = (tmp_path / ".telemetry/imported/ppo/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("step") for line in lines] == [None, 1, 2, 3, 4]
