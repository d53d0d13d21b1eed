"""Which files are logs, which run each belongs to, and which of them are read."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import Namer
from exporter.importer import logs as module
from exporter.importer.logs import LogFinder, as_run_id, preferred, runs_of
from exporter.journal import validate_run_id
from exporter.sources import source_named
from tests.support.event_files import VERSION, event, simple
from tests.support.imports import json_rows, table
from tests.support.journals import CATALOG, Journal

ROWS = [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.25}]
EVENTS = VERSION + event(simple("train/loss", 0.5), step=1)
STATE = json.dumps({"best_metric": None, "log_history": [{"step": 1, "loss": 0.5, "epoch": 0.1}]})
SUMMARY = json.dumps({"_wandb": {}, "_step": 3, "_timestamp": 1.7e9, "train/loss": 0.5})
SETTINGS = "wandb_version: 1\nlr:\n  desc: null\n  value: 0.1\n"
TABLE = "-----\n| loss | 0.5 |\n| step | 3 |\n-----\n" * 2
CONTENTS = {
    "jsonl": json_rows(ROWS),
    "csv": table(ROWS),
    "tensorboard": EVENTS,
    "trainer_state": STATE,
    "wandb": SUMMARY,
    "settings": SETTINGS,
    "console": TABLE,
}


def finder(*roots: Path, form: str = "", run_id: str = "") -> LogFinder:
    """A finder with the real catalog."""
    return LogFinder(roots, Namer(CATALOG), source_named(form) if form else None, run_id)


def found(*roots: Path, form: str = "", run_id: str = "") -> dict[str, tuple[str, int, str]]:
    """Run, rank and format of each log below some paths, by file name."""
    _, logs = finder(*roots, form=form, run_id=run_id).find(0.0)
    return {log.path.name: (log.place.run_id, log.place.rank, log.source.name) for log in logs}


def put(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ------------------------------------------------------------------ names of runs


@pytest.mark.parametrize(
    ("path", "kind", "run_id", "rank"),
    [
        ("ppo/progress.csv", "csv", "ppo", 0),
        ("ppo/progress.csv.gz", "csv", "ppo", 0),
        ("progress.csv", "csv", "runs", 0),
        ("ppo-7.csv", "csv", "ppo-7", 0),
        ("sweep/lr 0.1/seed=3/metrics.csv", "csv", "sweep-lr_0.1-seed=3", 0),
        ("sweep/a/train_lr3.jsonl", "jsonl", "sweep-a-train_lr3", 0),
        ("ray/PPO_x_2024/result.json", "jsonl", "ray-PPO_x_2024", 0),
        ("dqn/tensorboard/events.out.tfevents.1.host", "tensorboard", "dqn", 0),
        ("CartPole__ppo__1__17/events.out.tfevents.1.host.2.0", "tensorboard", "CartPole__ppo__1__17", 0),
        ("logs/PPO_1/events.out.tfevents.17.host.1.0", "tensorboard", "logs-PPO_1", 0),
        ("bert/runs/Nov21_08-00-00_host/events.out.tfevents.1.host", "tensorboard", "bert", 0),
        ("runs/Nov21_08-00-00_host/events.out.tfevents.1.host", "tensorboard", "runs", 0),
        ("bert/checkpoint-500/trainer_state.json", "trainer_state", "bert", 0),
        ("checkpoint-500/trainer_state.json", "trainer_state", "runs", 0),
        ("bert/trainer_state.json", "trainer_state", "bert", 0),
        ("wandb/run-20240101_1-abc/files/wandb-summary.json", "wandb", "wandb-run-20240101_1-abc", 0),
        ("lightning_logs/version_0/metrics.csv", "csv", "lightning_logs-version_0", 0),
        ("a/rank_3/progress.csv", "csv", "a", 3),
        ("a/progress.rank2.csv", "csv", "a", 2),
        ("a/log_rank1.jsonl", "jsonl", "a", 1),
        ("a/rank0.jsonl", "jsonl", "a", 0),
        ("a/big_rank.csv", "csv", "a-big_rank", 0),
        ("a/frank2.csv", "csv", "a-frank2", 0),
        ("Übung/é.csv", "csv", "_bung-_", 0),
        ("-x/progress.csv", "csv", "_-x", 0),
    ],
)
def test_a_run_is_named_by_its_folders(tmp_path: Path, path: str, kind: str, run_id: str, rank: int) -> None:
    """Folders below the root name a run, and the file where its name says something; a rank is not part of a name."""
    content = CONTENTS[kind]
    data = content if isinstance(content, bytes) else content.encode()
    file = put(tmp_path / "runs" / path, gzip.compress(data) if path.endswith(".gz") else data)
    assert found(tmp_path / "runs") == {file.name: (run_id, rank, kind)}


@given(st.text(max_size=300))
def test_any_text_becomes_a_run_id(text: str) -> None:
    """Whatever folders and runs are called, a run's id can name a folder."""
    assert validate_run_id(as_run_id(text)) == as_run_id(text)


def test_long_names_stay_apart(tmp_path: Path) -> None:
    """Two names that differ only at their end are two runs, though an id is short."""
    for end in "ab":
        put(tmp_path / ("x" * 100) / ("y" * 100 + end) / "progress.csv", table(ROWS))
    _, logs = finder(tmp_path).find(0.0)
    assert len({log.place.run_id for log in logs}) == 2
    assert all(len(log.place.run_id) <= 128 for log in logs)


def test_the_given_id_is_that_of_all(tmp_path: Path) -> None:
    """What --run-id says holds whatever the folders are called; ranks stay apart."""
    put(tmp_path / "a/progress.csv", table(ROWS))
    put(tmp_path / "a/rank1/log.csv", table(ROWS))
    assert found(tmp_path, run_id="r") == {"progress.csv": ("r", 0, "csv"), "log.csv": ("r", 1, "csv")}


def test_runs_of_two_folders_are_not_mixed(tmp_path: Path) -> None:
    """Of two runs that would be called the same the first one is read, and it is said what helps."""
    for root in ("one", "two"):
        put(tmp_path / root / "ppo/progress.csv", table(ROWS))
    both = finder(tmp_path / "one", tmp_path / "two")
    assert [log.path for log in both.find(0.0)[1]] == [tmp_path / "one/ppo/progress.csv"]
    assert str(tmp_path / "two/ppo/progress.csv") in both.trouble
    assert "serve the folder above both" in both.trouble
    assert found(tmp_path) != {}
    assert len(finder(tmp_path).find(0.0)[1]) == 2
    assert len(finder(tmp_path / "one", tmp_path / "two", run_id="r").find(0.0)[1]) == 2


def test_a_file_that_is_named_twice_is_one_log(tmp_path: Path) -> None:
    """A folder and a file in it: the file is read once, under the folder's name for it."""
    path = put(tmp_path / "a/ppo.csv", table(ROWS))
    _, logs = finder(tmp_path, path).find(0.0)
    assert [log.place.run_id for log in logs] == ["a-ppo"]


# ------------------------------------------------------------------ which are logs


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model", b"\x00\x01\x02" * 40_000),
        ("weights.json", b"\xff\xfe" + bytes(range(130, 194))),
        ("._progress.csv", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"),
        ("page.txt", "<!doctype html><html><body>step,loss</body></html>"),
        ("iris.csv", table([{"sepal": 5.1, "petal": 1.4}, {"sepal": 4.9, "petal": 1.3}])),
        ("prompts.jsonl", json_rows([{"prompt": "hello", "answer": "4"}] * 3)),
        ("sizes.jsonl", json_rows([{"index": 1, "tokens_in_row": 12}] * 3)),
        ("config.json", json.dumps({"learning_rate": 0.1, "batch_size": 4})),
        ("notes.txt", "Loss went down, finally.\n\nNext: more data\n"),
        ("empty.csv", ""),
        ("package.yaml", "name: x\nversion: 1\n"),
        ("progress.csv.bak", table(ROWS)),
        ("train.py", "loss = 1\n"),
        ("numbers.txt", "1,2,3\n4,5,6\n"),
        ("broken.csv.gz", gzip.compress(table(ROWS).encode(), mtime=0)[:-9]),
        ("data.db", b"SQLite format 3\0" + b"CREATE TABLE other (x)" + bytes(200)),
    ],
)
def test_other_files_of_a_folder_are_no_logs(tmp_path: Path, name: str, content: str | bytes) -> None:
    """Programs, pages, weights, data sets and prompts beside the logs are left alone."""
    put(tmp_path / name, content)
    put(tmp_path / "ppo/progress.csv", table(ROWS))
    assert {*found(tmp_path)} - {"broken.csv.gz"} == {"progress.csv"}


def test_a_folder_with_anything_in_it_is_survived(tmp_path: Path) -> None:
    """Pipes, devices, dangling and circular links and random bytes end nothing and block nothing."""
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.log").symlink_to("/dev/zero")
    rng = random.Random(1)
    for number in range(40):
        put(tmp_path / f"random{number}.log", rng.randbytes(rng.randrange(2000)))
    put(tmp_path / "ppo.csv", table(ROWS))
    assert found(tmp_path) == {"ppo.csv": ("ppo", 0, "csv")}
    assert found(tmp_path / "pipe.log", tmp_path / "missing.csv", tmp_path / "dangling.csv") == {}


@given(st.binary(max_size=400), st.sampled_from(["x.log", "x.csv", "x.jsonl", "x.yaml", "x.json", "x.db", "x.txt.gz"]))
def test_no_bytes_end_the_search(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    """Whatever a file holds, it is judged."""
    folder = tmp_path_factory.mktemp("any")
    put(folder / name, content)
    finder(folder).find(0.0)


def test_a_reader_that_fails_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a reader is not the end of the sidecar: the file is no log, the others are."""

    def recognise(path: Path) -> object:
        if path.name == "a.csv":
            raise RuntimeError("a bug")
        return source_named("csv")

    monkeypatch.setattr(module, "find_source", recognise)
    for name in ("a.csv", "b.csv"):
        put(tmp_path / name, table(ROWS))
    assert [*found(tmp_path)] == ["b.csv"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    """A file argument needs neither a usual name nor a known metric, and may be old."""
    path = put(tmp_path / "output.7.weird", table([{"step": 1, "sepal": 5.1}, {"step": 2, "sepal": 5.2}]))
    os.utime(path, (1e9, 1e9))
    assert found(tmp_path) == {}
    _, logs = finder(path).find(time.time())
    assert [(log.source.name, log.place.run_id) for log in logs] == [("csv", "output.7")]


def test_format_overrides_the_detection(tmp_path: Path) -> None:
    """A named file is read as what is said; in a folder only logs are, not every file."""
    path = put(tmp_path / "a/odd.txt", "nothing known\n")
    put(tmp_path / "b/progress.csv", table(ROWS))
    assert found(path, form="console") == {"odd.txt": ("odd", 0, "console")}
    assert found(tmp_path, form="console") == {"progress.csv": ("b", 0, "console")}


def test_old_logs_are_not_followed(tmp_path: Path) -> None:
    """What was last written before a time is left out, and comes back when it is written to."""
    path, search = put(tmp_path / "a/progress.csv", table(ROWS)), finder(tmp_path)
    os.utime(path, (1e9, 1e9))
    assert search.find(1e9)[1] == []
    path.touch()
    assert len(search.find(1e9)[1]) == 1


def test_a_file_is_judged_anew_while_it_is_short(tmp_path: Path) -> None:
    """An empty file, a torn first line and a header alone tell nothing yet: what comes later does."""
    search, content = finder(tmp_path), json_rows(ROWS)
    path = put(tmp_path / "a/metrics.jsonl", "")
    for end in (0, 1, 15, len(content)):
        path.write_text(content[:end])
        journals, logs = search.find(0.0)
    assert journals == []
    assert [log.source.name for log in logs] == ["jsonl"]


def test_a_log_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is known what a file is, looking for new ones opens none of the old."""
    put(tmp_path / "a/progress.csv", table(ROWS))
    put(tmp_path / "a/notes.txt", "no log\n")
    Journal(tmp_path / "native").start().step(0, a=1)
    search = finder(tmp_path)
    first = search.find(0.0)
    monkeypatch.setattr(Path, "open", None)
    assert search.find(0.0) == first
    monkeypatch.undo()
    (tmp_path / "a/progress.csv").write_text(table([*ROWS, *ROWS]))
    monkeypatch.setattr(Path, "open", None)
    assert search.find(0.0) == first


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Files that come and go under ever new names leave nothing behind in memory."""
    search = finder(tmp_path)
    for number in range(50):
        path = put(tmp_path / f"{number}.csv", table(ROWS))
        search.find(0.0)
        path.unlink()
    search.find(0.0)
    assert not search._verdicts


# ------------------------------------------------------------------ which of a run's logs are read


@pytest.mark.parametrize(
    ("there", "form", "read"),
    [
        (["progress.csv", "progress.json", "events.out.tfevents.1", "log.txt"], "", ["progress.json"]),
        (["progress.csv", "events.out.tfevents.1", "log.txt"], "", ["progress.csv"]),
        (["progress.csv", "progress.json", "log.txt"], "csv", ["progress.csv"]),
        (["progress.csv"], "jsonl", ["progress.csv"]),
        (["events.out.tfevents.2", "events.out.tfevents.1"], "", ["events.out.tfevents.1", "events.out.tfevents.2"]),
        (["wandb-summary.json", "config.yaml"], "", ["config.yaml", "wandb-summary.json"]),
        (["events.out.tfevents.1", "wandb-summary.json", "config.yaml"], "", ["events.out.tfevents.1", "config.yaml"]),
        (["progress.csv", "progress.csv.gz"], "", ["progress.csv"]),
        (["progress.csv.gz"], "", ["progress.csv.gz"]),
        (["checkpoint-1/trainer_state.json", "checkpoint-2/trainer_state.json"], "", ["trainer_state.json"]),
    ],
)
def test_one_format_of_a_run_is_read(tmp_path: Path, there: list[str], form: str, read: list[str]) -> None:
    """A trainer writes a run in several formats: one is read, with W&B's settings, never two."""
    kinds = {"csv": "csv", "json": "jsonl", "txt": "console", "yaml": "settings"}
    names = {"trainer_state.json": "trainer_state", "wandb-summary.json": "wandb"}
    for number, name in enumerate(there):
        kind = names.get(Path(name).name) or kinds.get(name.removesuffix(".gz").rpartition(".")[2], "tensorboard")
        content = CONTENTS[kind]
        data = content if isinstance(content, bytes) else content.encode()
        path = put(tmp_path / "run" / name, gzip.compress(data) if name.endswith(".gz") else data)
        os.utime(path, (1.7e9 + number, 1.7e9 + number))
    ((_, logs),) = runs_of(finder(tmp_path).find(0.0)[1]).items()
    chosen = preferred(logs, form)
    assert [log.path.name for log in chosen] == read
    if "trainer_state.json" in read:
        assert chosen[0].path.parent.name == "checkpoint-2"


def test_a_checkpoint_that_is_removed_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    """Trainers keep their last checkpoints only: one may go between two looks at it."""
    paths = [put(tmp_path / f"bert/checkpoint-{number}/trainer_state.json", STATE) for number in (1, 2)]
    _, logs = finder(tmp_path).find(0.0)
    paths[0].unlink()
    assert [log.path for log in preferred(logs)] == [paths[1]]


def test_a_run_with_a_journal_is_left_to_it(tmp_path: Path) -> None:
    """Logs beside a native journal, or in a folder of the same run, would say everything twice."""
    journal = Journal(tmp_path, "r1").start().step(0, a=1).path
    put(tmp_path / "r1/progress.csv", table(ROWS))
    put(tmp_path / "r1/tensorboard/events.out.tfevents.1", EVENTS)
    put(tmp_path / "r2/progress.csv", table(ROWS))
    journals, logs = finder(tmp_path).find(0.0)
    assert journals == [journal]
    assert [log.path for log in logs] == [tmp_path / "r2/progress.csv"]
    packed = journal.with_name("metrics.jsonl.gz")
    packed.write_bytes(gzip.compress(journal.read_bytes()))
    assert finder(tmp_path).find(0.0)[0] == [journal]
    journal.unlink()
    assert finder(tmp_path).find(0.0)[0] == [packed]
