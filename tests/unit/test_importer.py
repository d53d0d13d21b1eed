"""Foreign logs become journals: what trainers really do to their files, and what becomes of the sidecar meanwhile."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from exporter.errors import ConfigError
from exporter.importer import followed, journals_of
from exporter.importer import importer as module
from exporter.importer import output as output_module
from exporter.importer.followed import FollowedLog, Mark
from exporter.sidecar.log_collector import LogCollector
from exporter.sources import Item, Row, source_named
from tests.support.event_files import VERSION, event, simple
from tests.support.imports import Import, json_rows, replace_bytes, table
from tests.support.journals import CATALOG

NOW = float(int(time.time()) - 60)
Importing = Callable[..., Import]


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was rewritten is read at once."""
    monkeypatch.setattr(followed, "_QUIET_SECONDS", 0.0)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """The folder that is looked through."""
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def importing(tmp_path: Path) -> Iterator[Importing]:
    """An import of the folder ``logs``, which ends with its test."""
    started: list[Import] = []

    def begin(*paths: Path, **options: Any) -> Import:
        started.append(Import(*(paths or (tmp_path / "logs",)), folder=tmp_path / "journals", **options))
        return started[-1]

    yield begin
    for imported in started:
        imported.close()


def put(path: Path, content: str | bytes) -> Path:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def append(path: Path, content: str | bytes) -> None:
    """Append to a file."""
    with path.open("ab") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def rows(first: int, last: int) -> list[dict[str, Any]]:
    """One row for each step."""
    return [{"step": step, "train/loss": step + 0.5} for step in range(first, last + 1)]


def points(first: int, last: int) -> list[tuple[int, float]]:
    """What is stored of these rows."""
    return [(row["step"], row["train/loss"]) for row in rows(first, last)]


# ------------------------------------------------------------------ what trainers do to their files


class BaselinesTable:
    """A table as Stable-Baselines3's CSV format writes it: a new metric makes it write all lines anew, in place."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+", encoding="utf-8")
        self._columns: list[str] = []

    def write(self, values: dict[str, float]) -> None:
        """Append a row; the header grows, and the columns come in the order of a set."""
        new = [key for key in values if key not in self._columns]
        if new:
            self._columns.extend(new)
            self._file.seek(0)
            lines = self._file.readlines()
            self._file.seek(0)
            self._file.write(",".join(self._columns) + "\n")
            for line in lines[1:]:
                self._file.write(line[:-1] + "," * len(new) + "\n")
        self._file.write(",".join(str(values.get(key, "")) for key in self._columns) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_table_that_is_rewritten_in_place_with_a_longer_header(
    logs: Path, importing: Importing, restarts: bool
) -> None:
    """Stable-Baselines3 pads all earlier rows when a metric comes: each row is taken once, with its values."""
    put(logs / "ppo/progress.csv", "")
    writer, imported = BaselinesTable(logs / "ppo/progress.csv"), importing()
    expected = []
    for number in range(1, 30):
        row = {"time/total_timesteps": number, "train/loss": number / 4}
        if number > 9:
            row["train/approx_kl"] = number / 100
        if number % 10 == 0:
            row[f"eval/score{number}"] = 1.0
        writer.write(row)
        expected.append((number, {key: value for key, value in row.items() if key != "time/total_timesteps"}))
        if number % 3 == 0:
            imported.poll()
        if restarts and number % 7 == 0:
            imported.restart()
    writer.close()
    imported.poll()
    assert [(line["step"], line["metrics"]) for line in imported.steps("ppo")] == expected
    assert set(imported.attempts("ppo")) == {1}


def test_a_table_that_is_rewritten_whole(logs: Path, importing: Importing) -> None:
    """Lightning reads its table and writes it anew, columns sorted, when a metric comes."""
    path, imported = logs / "version_0/metrics.csv", importing()
    columns, written = ["step", "train_loss"], []
    path.parent.mkdir()
    for step in range(12):
        written.append({"step": step, "train_loss": step / 8, **({"val_loss": 1.0} if step % 4 == 3 else {})})
        new = sorted({*columns, *written[-1]})
        with path.open("w" if new != columns or not step else "a", newline="") as file:
            writer = csv.DictWriter(file, new)
            if file.tell() == 0:
                writer.writeheader()
                writer.writerows(written)
            else:
                writer.writerow(written[-1])
        columns = new
        imported.poll()
    assert imported.column("version_0", "train_loss") == [(step, step / 8) for step in range(12)]
    assert imported.column("version_0", "val_loss") == [(3, 1.0), (7, 1.0), (11, 1.0)]


def state(*steps: int, offset: float = 0.0) -> str:
    """A ``trainer_state.json`` with a loss at each of these steps."""
    history = [{"step": step, "loss": step / 4 + offset, "epoch": step / 100} for step in steps]
    return json.dumps({"best_metric": None, "epoch": 1.0, "global_step": steps[-1], "log_history": history}, indent=2)


@pytest.mark.parametrize("restarts", [False, True])
def test_the_newest_checkpoint_goes_on_where_the_last_one_stood(
    logs: Path, importing: Importing, restarts: bool
) -> None:
    """Every ``trainer_state.json`` repeats the whole history: its new rows are taken, old checkpoints may go."""
    imported = importing()
    for number in (2, 4, 6, 8):
        path = put(logs / f"bert/checkpoint-{number}/trainer_state.json", state(*range(1, number + 1)))
        os.utime(path, (NOW + number, NOW + number))
        imported.poll()
        if number > 4:
            shutil.rmtree(logs / f"bert/checkpoint-{number - 4}")
        if restarts:
            imported.restart()
    path = put(logs / "bert/trainer_state.json", state(*range(1, 10)))
    imported.poll()
    assert imported.column("bert", "loss") == [(step, step / 4) for step in range(1, 10)]
    assert imported.steps("bert")[0]["epoch"] == 0.01
    assert [path.name for path in imported.folder.glob("*/[!.]*")] == ["metrics.jsonl"]


def test_a_run_that_is_resumed_from_an_earlier_checkpoint(logs: Path, importing: Importing) -> None:
    """Rows that differ from those of the same steps before are the next attempt, also while they are fewer."""
    imported = importing()
    put(logs / "bert/checkpoint-9/trainer_state.json", state(*range(1, 10)))
    imported.poll()
    resumed = json.loads(state(*range(1, 8)))
    for entry in resumed["log_history"][4:]:
        entry["loss"] += 100
    path = put(logs / "bert/checkpoint-7/trainer_state.json", json.dumps(resumed))
    os.utime(path, (time.time() + 1,) * 2)
    imported.poll()
    assert [step for step, _ in imported.column("bert", "loss")] == [*range(1, 10), 5, 6, 7]
    assert imported.attempts("bert")[-4:] == [1, 2, 2, 2]


def test_checkpoints_that_are_copied_in_any_order(logs: Path, importing: Importing) -> None:
    """An older checkpoint that gets a newer time takes nothing back: what it holds is known."""
    imported = importing()
    for number, age in ((6, 30), (3, 20), (9, 10)):
        path = put(logs / f"bert/checkpoint-{number}/trainer_state.json", state(*range(1, number + 1)))
        os.utime(path, (NOW - age,) * 2)
        imported.poll()
    assert imported.column("bert", "loss") == [(step, step / 4) for step in range(1, 10)]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_second_event_file_goes_on_with_the_run(logs: Path, importing: Importing, restarts: bool) -> None:
    """A resumed trainer begins another event file in the same folder: both are one run, in the order of time."""
    first = put(logs / "dqn/events.out.tfevents.1", VERSION)
    imported = importing()
    for step in range(5):
        append(first, event(simple("train/loss", step / 4), step=step, time=NOW + step))
        imported.poll()
    second = put(logs / "dqn/events.out.tfevents.2", VERSION)
    for step in range(5, 9):
        append(second, event(simple("train/loss", step / 4), step=step, time=NOW + step))
        if restarts:
            imported.restart()
        imported.poll()
    assert imported.column("dqn") == [(step, step / 4) for step in range(9)]
    assert [line["time"] for line in imported.steps("dqn")] == [NOW + step for step in range(9)]


def test_event_files_that_are_found_together_are_one_history(logs: Path, importing: Importing) -> None:
    """A backlog of several files is put into the order of time, whatever their names."""
    for number in range(6):
        content = event(simple("train/loss", number), step=number, time=NOW + number)
        put(logs / f"dqn/events.out.tfevents.{(number * 5) % 7}", VERSION + content)
    imported = importing()
    imported.poll()
    assert imported.column("dqn") == [(number, number) for number in range(6)]
    assert set(imported.attempts("dqn")) == {1}


def test_a_summary_that_is_rewritten(logs: Path, importing: Importing) -> None:
    """``wandb-summary.json`` holds one row: every new one is taken, the same one is not, settings are the config."""
    imported = importing()
    files = logs / "wandb/run-1/files"
    put(files / "config.yaml", "wandb_version: 1\nlr:\n  desc: null\n  value: 0.1\n")
    imported.poll()
    for step in (1, 1, 5, 9):
        content = {"_wandb": {"runtime": step}, "_step": step, "_timestamp": NOW + step, "train/loss": step / 4}
        put(files / "wandb-summary.json", json.dumps(content))
        imported.poll()
    (run_id,) = imported.run_ids()
    assert imported.column(run_id) == [(step, step / 4) for step in (1, 5, 9)]
    start = imported.lines(run_id)[0]
    assert (start["_type"], start["config"]) == ("run_start", {"lr": 0.1})


def test_settings_do_not_choose_the_format(logs: Path, importing: Importing) -> None:
    """Where W&B's settings are there first, the run is still read from the log that comes later."""
    imported = importing()
    put(logs / "run-1/files/config.yaml", "wandb_version: 1\nlr:\n  value: 0.1\n")
    imported.poll()
    put(logs / "run-1/files/events.out.tfevents.1", VERSION + event(simple("train/loss", 1.5), step=1, time=NOW))
    imported.poll()
    assert imported.column("run-1") == [(1, 1.5)]


def test_a_run_that_is_written_in_four_formats_is_taken_once(logs: Path, importing: Importing) -> None:
    """Whichever of Stable-Baselines3's files is filled first, every step is stored once."""
    folder = logs / "ppo"
    names = ["events.out.tfevents.1", "log.txt", "progress.csv", "progress.json"]
    for name in names:
        put(folder / name, VERSION if "tfevents" in name else "")
    imported = importing()
    imported.poll()
    for step in range(1, 6):
        append(folder / names[0], event(simple("train/loss", step / 4), step=step, time=NOW + step))
        table_lines = f"| train/ | |\n|    loss | {step / 4} |\n| time/ | |\n|    total_timesteps | {step} |\n"
        append(folder / names[1], "-" * 9 + "\n" + table_lines + "-" * 9 + "\n")
        header = "time/total_timesteps,train/loss\n" if step == 1 else ""
        append(folder / names[2], f"{header}{step},{step / 4}\n")
        append(folder / names[3], json_rows([{"time/total_timesteps": step, "train/loss": step / 4}]))
        imported.poll()
        if step == 3:
            imported.restart()
    assert imported.run_ids() == ["ppo"]
    assert imported.column("ppo") == [(step, step / 4) for step in range(1, 6)]


def test_a_database_of_several_runs_gives_several_journals(logs: Path, importing: Importing) -> None:
    """The rows of trackio go to the journal of their run, each once, in any process."""
    path, imported = logs / "project.db", importing()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp, run_name, step, metrics)")
        for number in range(12):
            row = ("ab"[number // 3 % 2], number, json.dumps({"train/loss": number / 4}))
            with database:
                database.execute("INSERT INTO metrics (run_name, step, metrics) VALUES (?, ?, ?)", row)
            if number % 2:
                imported.poll()
                assert sum(len(imported.steps(f"project-{name}")) for name in "ab") == number + 1
            if number % 5 == 0:
                imported.restart()
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        imported.poll()
    assert imported.run_ids() == ["project-a", "project-b"]
    assert imported.column("project-a") == [(number, number / 4) for number in (0, 1, 2, 6, 7, 8)]
    assert imported.column("project-b") == [(number, number / 4) for number in (3, 4, 5, 9, 10, 11)]


def test_a_log_that_is_compressed_is_known(logs: Path, importing: Importing) -> None:
    """``gzip`` of a finished log takes nothing twice, and what was not read yet is read from the packed file."""
    path, imported = put(logs / "ppo/progress.csv", table(rows(1, 3))), importing()
    imported.poll()
    append(path, "4,4.5\n")
    put(logs / "ppo/progress.csv.gz", gzip.compress(path.read_bytes()))
    path.unlink()
    imported.poll()
    imported.restart()
    imported.poll()
    assert imported.column("ppo") == points(1, 4)


def test_copies_by_rsync_go_on(logs: Path, importing: Importing) -> None:
    """A log that is replaced by a longer copy of itself is the same log, also where its rows are split on reading."""
    path, imported = logs / "dqn/events.out.tfevents.1", importing()
    content, expected = VERSION, []
    for step in range(6):
        for tag in ("train/loss", "train/kl"):
            content += event(simple(tag, step / 4), step=step, time=NOW + step)
            put(logs / "dqn/.part", content).replace(path) if path.parent.exists() else put(path, content)
            imported.poll()
        expected.append((step, step / 4))
    assert imported.column("dqn") == imported.column("dqn", "train/kl") == expected


def test_rows_of_a_renamed_file_come_before_those_of_its_successor(logs: Path, importing: Importing) -> None:
    """Several rotations between two looks: as long as the files lie in the folder, nothing of the first is lost."""
    path, imported = put(logs / "ppo.jsonl", json_rows(rows(1, 2))), importing()
    imported.poll()
    append(path, json_rows(rows(3, 4)))
    path.rename(logs / "ppo.jsonl.1")
    put(path, json_rows(rows(5, 5)))
    imported.poll()
    assert imported.column("ppo") == points(1, 5)


def test_a_table_that_is_rotated_before_its_first_row_was_seen(logs: Path, importing: Importing) -> None:
    """Where only the header had been read, the file behind it begins alike and is still another one."""
    path, imported = put(logs / "ppo.csv", "step,train/loss\n"), importing(logs / "ppo.csv")
    imported.poll()
    append(path, "1,1.5\n")
    path.rename(logs / "ppo.csv.1")
    put(path, "step,train/loss\n2,2.5\n")
    imported.poll()
    assert imported.column("ppo") == points(1, 2)


def test_a_renamed_file_is_read_while_its_writer_still_writes_into_it(logs: Path, importing: Importing) -> None:
    """Tools that rotate make an empty file before the trainer knows: until it is used the renamed one is the log."""
    path, imported = put(logs / "ppo.jsonl", json_rows(rows(1, 2))), importing()
    imported.poll()
    path.rename(logs / "ppo.jsonl.1")
    put(path, "")
    imported.poll()
    append(logs / "ppo.jsonl.1", json_rows(rows(3, 4)))
    imported.poll()
    append(path, json_rows(rows(5, 6)))
    imported.poll()
    assert imported.column("ppo") == points(1, 6)


def test_another_file_that_got_the_inode_is_not_read(logs: Path, importing: Importing) -> None:
    """A log that was removed and whose inode another file got is not continued in that file."""
    path, imported = put(logs / "ppo.jsonl", json_rows(rows(1, 2))), importing()
    imported.poll()
    foreign = put(logs / "other.bin", json_rows(rows(90, 99)))
    real = followed._file_state

    def with_the_inode(name: str) -> Any:
        found = real(name)
        return found._replace(inode=foreign.stat().st_ino) if name == str(path) and found.size < 100 else found

    with mock.patch.object(followed, "_file_state", with_the_inode):
        append(path, " \n")
        imported.poll()
    path.unlink()
    put(path, json_rows(rows(11, 15)))
    imported.poll()
    assert imported.column("ppo") == points(1, 2) + points(11, 15)


def test_a_trainer_that_starts_alike(logs: Path, importing: Importing) -> None:
    """A log that begins anew with the same first row, as a first evaluation does, is another attempt behind it."""
    imported = importing()
    path = put(logs / "grpo.jsonl", json_rows([{"step": 0, "val/acc": 0.3}, *rows(1, 40)]))
    imported.poll()
    again = [{"step": step, "train/loss": step + 0.75} for step in range(1, 6)]
    replace_bytes(path, json_rows([{"step": 0, "val/acc": 0.3}, *again]))
    imported.poll()
    assert imported.column("grpo")[40:] == [(row["step"], row["train/loss"]) for row in again]
    assert imported.attempts("grpo")[-5:] == [2] * 5


# ------------------------------------------------------------------ a file that is being written anew


def test_a_file_that_is_being_rewritten_is_left_alone_for_a_moment(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a table is not taken for one that was cut: it is read when it has been quiet, or after five seconds."""
    path = put(logs / "a.csv", table(rows(1, 9)))
    log, clock = FollowedLog(path, source_named("csv")), [100.0]
    monkeypatch.setattr(followed, "_QUIET_SECONDS", 0.5)
    monkeypatch.setattr(followed.time, "monotonic", lambda: clock[0])

    def taken() -> list[int]:
        log.look()
        found = []
        while (item := log.peek()) is not None:
            found.append(item.step)  # type: ignore[union-attr]
            log.pop()
        return found

    assert taken() == [*range(1, 10)]
    content = table([{**row, "kl": ""} for row in rows(1, 9)] + [{"step": 10, "train/loss": 1, "kl": 2}])
    for part in (0, 30, 60):
        replace_bytes(path, content[:part])
        assert taken() == []
        clock[0] += 0.4
    replace_bytes(path, content)
    assert taken() == []
    clock[0] += 0.6
    assert taken() == [10]
    path.unlink()
    for number in range(20, 27):
        append(path, (table(rows(20, 20)) if number == 20 else f"{number},1\n"))
        assert taken() == []
        clock[0] += 0.8
    append(path, "27,1\n")
    assert taken() == [*range(20, 28)]


@pytest.mark.parametrize("how", ["replaced", "rewritten", "cut"])
def test_a_reader_does_not_go_on_in_another_content(tmp_path: Path, how: str) -> None:
    """Where the file is another one, or its bytes have changed, a reader says no more: its place means nothing there.

    What is appended to it later is nothing to that reader, either.
    """
    path = put(tmp_path / "a.csv", table(rows(1, 9)))
    reading = source_named("csv").read(path)
    assert len([*iter(lambda: next(reading), None)]) == 9
    if how == "replaced":
        put(tmp_path / "b.csv", table(rows(1, 9)) + "10,1\n").replace(path)
    else:
        replace_bytes(path, table([{**row, "kl": ""} for row in rows(1, 20)]) if how == "rewritten" else "step\n")
    assert next(reading) is None
    append(path, "21,1\n22,1\n")
    assert next(reading) is None


# ------------------------------------------------------------------ processes


def test_a_backlog_that_a_process_did_not_finish_is_finished_by_the_next(logs: Path, importing: Importing) -> None:
    """A log that does not change any more is read to its end, however often its reader is ended on the way."""
    put(logs / "ppo.jsonl", json_rows(rows(1, 1000)))
    imported = importing()
    for _ in range(4):
        imported.importer.find()
        imported.importer.take(-1.0)
        assert imported.importer.is_behind or len(imported.column("ppo")) == 1000
        imported.restart()
    imported.poll()
    assert imported.column("ppo") == points(1, 1000)


def test_one_of_two_sidecars_writes_and_the_other_takes_over(logs: Path, importing: Importing) -> None:
    """Two on one folder write every row once; both show it, and the second goes on when the first ends."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 2)))
    first, second = importing(), importing()
    for step in range(3, 9):
        first.poll()
        second.poll()
        append(path, json_rows(rows(step, step)))
        if step == 5:
            late = put(logs / "late.jsonl", json_rows(rows(1, 1)))
    first.poll()
    second.poll()
    assert sorted(second.importer.journals()) == sorted(first.importer.journals()) != []
    assert late.exists()
    assert second.run_ids() == ["late", "ppo"]
    append(path, json_rows(rows(9, 9)))
    first.close()
    second.poll()
    append(path, json_rows(rows(10, 10)))
    second.poll()
    assert second.column("ppo") == points(1, 10)


def test_one_that_does_not_write_leaves_the_journals_alone(logs: Path, importing: Importing) -> None:
    """What the writer has appended but not noted yet is not cut away by another process that looks."""
    put(logs / "ppo.jsonl", json_rows(rows(1, 2)))
    first, second = importing(), importing()
    first.poll()
    journal = first.folder / "ppo/metrics.jsonl"
    append(journal, b"in the middle of a write")
    before = journal.read_bytes()
    second.poll()
    assert journal.read_bytes() == before


def test_a_journal_that_is_shorter_than_noted_is_made_anew(logs: Path, importing: Importing) -> None:
    """Where a journal was removed or has lost its end, its logs are taken again from their beginning."""
    put(logs / "ppo.jsonl", json_rows(rows(1, 5)))
    imported = importing()
    imported.poll()
    journal = imported.folder / "ppo/metrics.jsonl"
    whole = journal.read_bytes()
    for spoil in (journal.unlink, lambda: os.truncate(journal, len(whole) - 7), imported.marks("ppo").unlink):
        spoil()
        imported.restart()
        imported.poll()
        assert imported.column("ppo") == points(1, 5)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "x", "journals": {"": 5}, "logs": {}}', "\xff"])
def test_spoilt_marks_begin_anew(logs: Path, importing: Importing, content: str) -> None:
    """A file of marks that makes no sense is as none: everything is taken from the beginning, once."""
    put(logs / "ppo.jsonl", json_rows(rows(1, 5)))
    imported = importing()
    imported.poll()
    put(imported.marks("ppo"), content.encode("latin-1"))
    imported.restart()
    imported.poll()
    assert imported.column("ppo") == points(1, 5)


def test_a_journal_that_is_removed_meanwhile_is_made_anew(
    logs: Path, importing: Importing, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody tidies up under a running sidecar: it says so and goes on with the whole run."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 5)))
    imported = importing()
    imported.poll()
    (imported.folder / "ppo/metrics.jsonl").unlink()
    append(path, json_rows(rows(6, 6)))
    imported.poll(2)
    assert imported.column("ppo") == points(1, 6)
    shutil.rmtree(imported.folder / "ppo")
    append(path, json_rows(rows(7, 7)))
    imported.poll(2)
    assert imported.column("ppo") == points(1, 7)
    assert "cannot import ppo" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["journal", "marks"])
def test_a_full_disk_loses_nothing(
    logs: Path, importing: Importing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """While nothing can be written the run stays on the page with what there is; then all rows come, once."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 3)))
    imported = importing()
    imported.poll()
    append(path, json_rows(rows(4, 6)))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(output_module.JournalOutput if part == "journal" else Path, *_write_of(part), full)
        for _ in range(3):
            imported.poll()
            assert imported.run_ids() == ["ppo"]
            assert imported.column("ppo")[:3] == points(1, 3)
    imported.poll()
    assert imported.column("ppo") == points(1, 6)
    assert capsys.readouterr().err.count("No space left") == 1


def _write_of(part: str) -> tuple[str]:
    return ("flush",) if part == "journal" else ("write_text",)


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, logs: Path, importing: Importing, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the journals cannot lie, the page goes without foreign logs, and one line says why."""
    put(logs / "ppo.jsonl", json_rows(rows(1, 3)))
    put(tmp_path / "journals", "a file")
    imported = importing()
    imported.poll(3)
    assert imported.importer.journals() == []
    assert capsys.readouterr().err.count("foreign logs are not imported") == 1


def test_a_marked_run_that_cannot_be_opened_ends_nothing(
    logs: Path, importing: Importing, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run whose journal is in the way of something does not end the import of the others."""
    for name in ("a", "b"):
        put(logs / f"{name}.jsonl", json_rows(rows(1, 2)))
    imported = importing()
    put(imported.folder / "a", "a file where a folder should be")
    imported.poll(2)
    assert imported.run_ids() == ["b"]
    assert capsys.readouterr().err.count("cannot import a") == 1
    (imported.folder / "a").unlink()
    imported.poll()
    assert imported.column("a") == points(1, 2)


class Stumbling:
    """A reader with a bug: it fails at the third row."""

    name = "jsonl"

    def read(self, path: Path) -> Iterator[Item | None]:
        """Two rows, then a failure."""
        for number, item in enumerate(source_named("jsonl").read(path)):
            if number == 2:
                raise RuntimeError("a bug")
            yield item


def test_a_reader_that_fails_costs_one_log(
    logs: Path, importing: Importing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that its reader cannot stand gives what was before, a line of trouble and a count; others go on."""
    put(logs / "a.jsonl", json_rows(rows(1, 5)))
    imported = importing(source=Stumbling())
    imported.poll(3)
    assert imported.column("a") == points(1, 2)
    assert capsys.readouterr().err.count("jsonl reader: RuntimeError('a bug')") == 1
    (sample,) = [item for item in LogCollector(CATALOG, imported.importer).collect() if "bad" in item.family.name]
    assert (sample.labels, sample.value) == ((("run_id", "a"), ("user_id", "")), 1)


class OutOfSight:
    """A file server that is away in the middle of the first reading."""

    name = "jsonl"
    fails = 1

    def read(self, path: Path) -> Iterator[Item | None]:
        """Two rows, then an error of the system, the first time."""
        for number, item in enumerate(source_named("jsonl").read(path)):
            if number == 2 and self.fails:
                self.fails -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            yield item


def test_a_log_that_is_out_of_sight_for_a_moment_is_read_to_its_end(logs: Path, importing: Importing) -> None:
    """After an error of the system the rest of the log is read although it did not change."""
    put(logs / "a.jsonl", json_rows([{**row, "time": NOW + row["step"]} for row in rows(1, 5)]))
    imported = importing(source=OutOfSight())
    imported.poll(2)
    assert imported.column("a") == points(1, 5)


def test_any_failure_of_a_run_is_its_own(
    logs: Path, importing: Importing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever goes wrong in one run, the others are imported."""
    for name in ("a", "b"):
        put(logs / f"{name}.jsonl", json_rows(rows(1, 2)))
    real = output_module.JournalOutput.add_row

    def fail(self: output_module.JournalOutput, row: Row, moment: float) -> None:
        if self.path.parent.name == "a":
            raise ZeroDivisionError
        real(self, row, moment)

    monkeypatch.setattr(output_module.JournalOutput, "add_row", fail)
    imported = importing()
    imported.poll(2)
    assert imported.run_ids() == ["b"]
    assert "cannot import a" in capsys.readouterr().err


# ------------------------------------------------------------------ what is taken, and what is said


def test_from_now_leaves_out_what_there_is(logs: Path, importing: Importing) -> None:
    """The history of the logs that are there at the start is left out, their settings and later logs are not."""
    path = put(logs / "ppo.jsonl", json_rows([{"config": {"lr": 0.1}}, *rows(1, 5)]))
    imported = importing(from_now=True)
    imported.poll()
    append(path, json_rows(rows(6, 6)))
    put(logs / "late.jsonl", json_rows(rows(1, 2)))
    imported.poll()
    assert (imported.column("ppo"), imported.column("late")) == (points(6, 6), points(1, 2))
    assert imported.lines("ppo")[0]["config"] == {"lr": 0.1}


def test_from_now_means_the_beginning_of_the_import(logs: Path, importing: Importing) -> None:
    """A sidecar that is started again with the same option takes what was written while it was down."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 5)))
    imported = importing(from_now=True)
    imported.poll()
    for step in (6, 7):
        imported.restart()
        append(path, json_rows(rows(step, step)))
        imported.poll()
    assert imported.column("ppo") == points(6, 7)


def test_from_now_holds_when_the_history_is_long(
    logs: Path, importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends before it has passed the history leaves nothing behind that would bring it back."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 600)))
    imported = importing(from_now=True)
    imported.importer.find()
    imported.importer.take(-1.0)
    assert imported.importer.is_behind
    imported.restart()
    imported.poll()
    append(path, json_rows(rows(601, 601)))
    imported.poll()
    assert imported.column("ppo") == points(601, 601)


def test_bad_lines_are_counted_once(logs: Path, importing: Importing, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that cannot be read are counted, not again in another process, and the first one is said."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 4)) + "no json\n{torn\n")
    imported = importing()
    for _ in range(3):
        imported.poll(2)
        (run,) = imported.importer.runs
        assert run.bad_lines == 2
        imported.restart()
    said = capsys.readouterr().err
    assert f"{path}, line " in said
    append(path, "more\n")
    imported.poll()
    assert [run.bad_lines for run in imported.importer.runs] == [3]


def test_the_collector_says_what_is_imported(logs: Path, importing: Importing) -> None:
    """Runs by format, and bad lines by run."""
    put(logs / "a.jsonl", json_rows(rows(1, 2)) + "bad\n")
    put(logs / "b.csv", table(rows(1, 2)))
    put(logs / "c.csv", table(rows(1, 2)))
    imported = importing(user_id="alice")
    imported.poll()
    samples = list(LogCollector(CATALOG, imported.importer).collect())
    found = {
        (item.family.name, dict(item.labels).get("format") or dict(item.labels)["run_id"]): item.value
        for item in samples
    }
    assert found == {
        ("telemetry_imported_runs", "jsonl"): 1,
        ("telemetry_imported_runs", "csv"): 2,
        ("telemetry_log_bad_lines", "a"): 1,
        ("telemetry_log_bad_lines", "b"): 0,
        ("telemetry_log_bad_lines", "c"): 0,
    }


def test_a_log_that_went_silent_is_looked_at_when_logs_are_looked_for(
    logs: Path, importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two searches only logs that changed lately are looked at; a search finds the change of any."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 2)))
    imported = importing()
    imported.poll()
    monkeypatch.setattr(module, "_ACTIVE_SECONDS", -1.0)
    imported.importer.take(1.0)
    append(path, json_rows(rows(3, 3)))
    imported.importer.take(1.0)
    assert imported.column("ppo") == points(1, 2)
    imported.poll()
    assert imported.column("ppo") == points(1, 3)
    monkeypatch.setattr(module, "_ACTIVE_SECONDS", 30.0)
    append(path, json_rows(rows(4, 4)))
    imported.importer.take(1.0)
    imported.importer.take(1.0)
    assert imported.column("ppo") == points(1, 4)


def test_a_run_that_is_over_for_a_week_is_let_go(
    logs: Path, importing: Importing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is no longer followed; when it is written to again it goes on where it stood."""
    path = put(logs / "ppo.jsonl", json_rows(rows(1, 2)))
    imported = importing()
    imported.poll()
    monkeypatch.setattr(module, "FOLLOW_SECONDS", -10.0)
    imported.poll()
    assert imported.importer.runs == []
    monkeypatch.undo()
    append(path, json_rows(rows(3, 3)))
    imported.poll(2)
    assert imported.column("ppo") == points(1, 3)


def test_an_old_file_of_a_run_stays_known(logs: Path, importing: Importing) -> None:
    """A file that is too old to be followed is not taken again when it is touched, by any process."""
    paths = [
        put(logs / f"dqn/events.out.tfevents.{step}", VERSION + event(simple("train/loss", step), step=step, time=NOW))
        for step in (1, 2)
    ]
    imported = importing()
    imported.poll()
    os.utime(paths[0], (1e9, 1e9))
    imported.restart()
    append(paths[1], event(simple("train/loss", 3), step=3, time=NOW + 3))
    imported.poll()
    imported.restart()
    paths[0].touch()
    imported.poll()
    assert imported.column("dqn") == [(1, 1), (2, 2), (3, 3)]


def test_any_log_can_be_had_as_journals(tmp_path: Path) -> None:
    """A journal is itself, another log is imported, and what is no log is an error that says what helps."""
    log = put(tmp_path / "progress.csv", table(rows(1, 3)))
    (journal,) = journals_of(log, tmp_path / "out")
    assert journals_of(journal, tmp_path / "other") == [journal]
    assert journal.parent.name == tmp_path.name
    odd = put(tmp_path / "x.txt", "prose\n")
    with pytest.raises(ConfigError, match="--format overrides"):
        journals_of(odd, tmp_path / "out")
    assert journals_of(odd, tmp_path / "out", source_named("console")) == []
    with pytest.raises(FileNotFoundError):
        journals_of(tmp_path / "missing", tmp_path / "out")


def test_marks_survive_their_file() -> None:
    """What is noted about a log is read back as it was."""
    mark = Mark(1, 2, 3, 4, followed.Taken(5, 6, 7), (followed.Taken(1, 1, 9),), "run", 8)
    assert Mark.parse(json.loads(json.dumps(mark))) == mark


# ------------------------------------------------------------------ what it costs


def open_descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def test_rotations_leave_nothing_open(logs: Path, importing: Importing) -> None:
    """After 10 000 rotations of a followed log no more files are open than before, and every row is there."""
    path = put(logs / "ppo.jsonl", json_rows(rows(0, 0)))
    imported = importing()
    imported.poll()
    before = open_descriptors()
    for step in range(1, 10_001):
        path.rename(logs / "ppo.jsonl.1")
        put(path, json_rows(rows(step, step)))
        imported.importer.take(60.0)
    assert open_descriptors() == before
    assert imported.column("ppo") == points(0, 10_000)


def test_memory_does_not_grow_with_the_log(logs: Path, importing: Importing) -> None:
    """What is remembered of a long log is bounded: 200 000 rows cost some places, not one each."""
    line = json_rows([{"step": 1, "train/loss": 0.5}]).encode()
    path = put(logs / "ppo.jsonl", line * 1000)
    imported = importing()
    imported.poll()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20):
        append(path, line * 10_000)
        imported.poll()
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert len(imported.steps("ppo")) == 201_000
    assert imported.marks("ppo").stat().st_size < 20_000
    assert grown_kib < 40_000
