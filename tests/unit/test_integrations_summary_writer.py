"""The stand-in for TensorBoard's writer: scalars are metrics, settings the configuration, everything else passes."""

from __future__ import annotations

import contextlib
import math

import pytest

from exporter import ConfigError, start_run
from exporter.integrations.summary_writer import SummaryWriter
from exporter.records import RunEnd, RunStart, Step

TABLE = "|param|value|\n|-|-|\n|learning_rate|0.01|\n|cmd|a b|c|"


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """What is said once per process can be said once in each test."""
    monkeypatch.setattr("exporter.integrations.base._said", set())


def steps(found):
    """Steps and metrics of a journal's records."""
    return [(record.step, dict(record.metrics)) for record in found if isinstance(record, Step)]


def start_of(found):
    """The first record, which says what the run is."""
    assert isinstance(found[0], RunStart)
    return found[0]


def ends(found):
    """How the run ended, each time."""
    return [(record.status, record.reason) for record in found if isinstance(record, RunEnd)]


def test_scalars_are_the_metrics_of_a_run_in_the_writers_folder(tmp_path, records):
    """The last part of the folder is the run's id; values lie at their steps, and without one at the next."""
    writer = SummaryWriter(tmp_path / "runs" / "ppo__1")
    writer.add_scalar("a", 1.5, 10)
    writer.add_scalar("b", math.nan, global_step=10)
    writer.add_scalar("a", 2)
    writer.add_scalars("loss", {"train": 1.0, "val": 2.0}, 12)
    writer.close()
    found = records(tmp_path / "runs" / "ppo__1" / "metrics.jsonl")
    expected = [(10, {"a": 1.5}), (10, {"b": "NaN"}), (11, {"a": 2}), (12, {"loss/train": 1.0, "loss/val": 2.0})]
    assert steps(found) == expected
    assert start_of(found).run_id == "ppo__1"
    assert ends(found) == [("finished", "")]


def test_a_value_is_on_disk_when_the_call_returns(tmp_path, records):
    """Nothing waits for a flush."""
    writer = SummaryWriter(tmp_path / "r1")
    writer.add_scalar("a", 1.0, 1)
    assert steps(records(tmp_path / "r1" / "metrics.jsonl")) == [(1, {"a": 1.0})]
    writer.flush()
    writer.close()


def test_what_is_known_before_the_first_value_is_the_configuration(tmp_path, records):
    """CleanRL's table, hyper-parameters and the comment are kept with the run; what config= says goes before them."""
    with SummaryWriter(tmp_path / "r1", comment="try 1", config={"seed": 1, "lr": 5}) as writer:
        writer.add_text("hyperparameters", TABLE)
        writer.add_hparams({"lr": 3, "batch": 2}, {"hparam/return": 7.0}, global_step=4)
    found = records(tmp_path / "r1" / "metrics.jsonl")
    expected = {"learning_rate": "0.01", "cmd": "a b|c", "lr": 5, "batch": 2, "seed": 1, "comment": "try 1"}
    assert start_of(found).config == expected
    assert steps(found) == [(4, {"hparam/return": 7.0})]


@pytest.mark.parametrize("text", ["", "no table", "|param|value|", "|param|value|\n|-|-|"])
def test_a_table_without_rows_is_no_configuration(tmp_path, records, text):
    """A text that holds no settings adds none."""
    with SummaryWriter(tmp_path / "r1") as writer:
        writer.add_text("hyperparameters", text)
        writer.add_scalar("a", 1.0)
    assert start_of(records(tmp_path / "r1" / "metrics.jsonl")).config == {}


def test_settings_come_before_the_folder(tmp_path, records):
    """Settings of start_run are taken, an id and a directory too."""
    with SummaryWriter("elsewhere/r0", run_id="r1", directory=tmp_path, user_id="alice") as writer:
        writer.add_scalar("a", 1.0)
        assert writer.get_logdir() == writer.log_dir == "elsewhere/r0"
    assert start_of(records(tmp_path / "r1" / "metrics.jsonl")).user_id == "alice"


def test_without_a_folder_the_run_has_an_id_of_its_own(tmp_path, monkeypatch, records):
    """A writer without a folder makes up an id, under ``runs`` as torch's does."""
    monkeypatch.chdir(tmp_path)
    with SummaryWriter() as writer:
        writer.add_scalar("a", 1.0)
    assert steps(records(tmp_path / writer.get_logdir() / "metrics.jsonl")) == [(0, {"a": 1.0})]
    assert writer.get_logdir().startswith("runs")


def test_media_and_texts_are_passed_over_and_said_once(tmp_path, capsys):
    """What is no number is accepted whatever its arguments, starts nothing, and is mentioned once in a process."""
    writer = SummaryWriter(tmp_path / "r1")
    writer.add_text("note", "hello", 1)
    writer.add_histogram("weights", [1, 2], 3, bins="auto")
    writer.add_video("play", object(), fps=30)
    writer.add_graph(object())
    writer.close()
    assert not (tmp_path / "r1").exists()
    assert capsys.readouterr().err.count("SummaryWriter exports scalars") == 1


def test_a_block_that_raises_leaves_a_failed_run(tmp_path, records):
    """As a context manager the writer ends its run with the error."""
    with contextlib.suppress(KeyError), SummaryWriter(tmp_path / "r1") as writer:
        writer.add_scalar("a", 1.0)
        raise KeyError("later")
    assert ends(records(tmp_path / "r1" / "metrics.jsonl")) == [("failed", "KeyError: 'later'")]


def test_a_closed_writer_goes_on_as_the_next_attempt(tmp_path, records):
    """As torch's, a writer can be used after its close; the run goes on where it was."""
    writer = SummaryWriter(tmp_path / "r1")
    for _ in range(2):
        writer.add_scalar("a", 1.0)
        writer.close()
    found = records(tmp_path / "r1" / "metrics.jsonl")
    assert steps(found) == [(0, {"a": 1.0}), (1, {"a": 1.0})]
    assert [record.attempt for record in found if isinstance(record, RunStart)] == [1, 2]
    assert ends(found) == [("finished", "")] * 2


def test_a_given_run_is_ended_by_its_owner(tmp_path, records):
    """A writer on a run of the user's closes without ending it, and takes no settings for it."""
    with start_run("r1", directory=tmp_path) as run:
        writer = SummaryWriter("ignored", run=run)
        writer.add_scalar("a", 1.0)
        writer.close()
        run.log({"b": 2.0})
    assert steps(records(tmp_path / "r1" / "metrics.jsonl")) == [(0, {"a": 1.0}), (1, {"b": 2.0})]
    with pytest.raises(ConfigError, match="cannot take user_id"):
        SummaryWriter(run=run, user_id="alice")


def test_wrong_settings_are_refused_at_once(tmp_path):
    """A folder that cannot name a run, or a setting that does not exist, is an error in the constructor."""
    with pytest.raises(ConfigError, match="is not usable"):
        SummaryWriter(tmp_path / "-x")
    with pytest.raises(ConfigError, match="unknown setting 'user'"):
        SummaryWriter(tmp_path / "r1", user="alice")


def test_a_folder_that_cannot_be_written_stops_no_script(tmp_path, capsys):
    """A run that cannot be started is said on stderr, and every call goes on returning."""
    (tmp_path / "file").write_text("")
    writer = SummaryWriter(tmp_path / "file" / "r1")
    for step in range(3):
        writer.add_scalar("a", 1.0, step)
    writer.close()
    assert capsys.readouterr().err.count("SummaryWriter.add_scalar: RunError: cannot read") == 1
