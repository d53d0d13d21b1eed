"""What all integrations share: packages that are missing, hooks that never raise, the run behind a callback."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from exporter import ConfigError, MissingDependencyError, RunError, start_run
from exporter.integrations.base import TrainerRun, needs, never_raises, say_once
from exporter.records import RunEnd, RunStart

TRAINERS = {
    "huggingface": ("transformers", ["transformers"]),
    "lightning": ("lightning", ["lightning", "pytorch_lightning"]),
    "stable_baselines3": ("stable-baselines3", ["stable_baselines3"]),
    "keras": ("keras", ["keras"]),
    "accelerate": ("accelerate", ["accelerate"]),
}
"""Modules with the package that each names, and those that it imports."""


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """What is said once per process can be said once in each test."""
    monkeypatch.setattr("exporter.integrations.base._said", set())


@pytest.mark.parametrize("module", list(TRAINERS))
def test_a_missing_trainer_is_said_with_the_remedy(module, monkeypatch):
    """Without its trainer, importing an integration says which package is missing and how to install it."""
    package, imports = TRAINERS[module]
    for name in imports:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"exporter.integrations.{module}", raising=False)
    with pytest.raises(MissingDependencyError) as caught:
        importlib.import_module(f"exporter.integrations.{module}")
    assert str(caught.value).startswith(f"{package} cannot be imported")
    assert str(caught.value).endswith(f"pip install 'telemetry-exporter[{module.replace('_', '-')}]'")


def test_the_writer_needs_nothing():
    """The stand-in for TensorBoard's writer loads no package that logging itself does not load."""
    code = (
        "import exporter, sys; before = set(sys.modules); import exporter.integrations.summary_writer\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "{'exporter'}"


def test_other_errors_of_an_import_are_the_packages_own():
    """Only a failed import is about a missing package."""
    with pytest.raises(ZeroDivisionError), needs("x", extra="x"):
        raise ZeroDivisionError
    with pytest.raises(MissingDependencyError), needs("x", extra="x"):
        raise ImportError("no symbol")


def test_a_hook_never_raises_and_says_so_once_per_kind(capsys):
    """Whatever error a hook meets, its caller gets None; one line on stderr for each kind of error."""

    @never_raises
    def hook(error):
        if error is not None:
            raise error
        return "fine"

    assert [hook(ValueError(1)), hook(ValueError(2)), hook(OSError()), hook(None)] == [None, None, None, "fine"]
    said = capsys.readouterr().err.splitlines()
    assert ["hook: ValueError: 1" in said[0], "hook: OSError" in said[1], len(said)] == [True, True, 2]


def test_an_interrupt_is_no_trouble_of_a_hook():
    """Ctrl+C reaches the training."""

    @never_raises
    def hook():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hook()


def test_a_closed_stderr_stops_nothing(monkeypatch):
    """What cannot be said is not said."""
    monkeypatch.setattr(sys, "stderr", None)
    say_once("a test of a closed stderr", "nobody reads this")


def test_a_run_that_is_not_the_main_processes_is_nowhere(tmp_path, monkeypatch):
    """On a rank above 0 a callback's run does nothing, and ends."""
    monkeypatch.setenv("RANK", "1")
    telemetry = TrainerRun(None, {"directory": tmp_path})
    telemetry.open("mine").log({"a": 1.0})
    telemetry.end()
    assert not list(tmp_path.iterdir())


def test_two_callbacks_cannot_write_one_run(tmp_path):
    """A run that another callback writes is refused when it is opened, not while it trains."""
    first, second = (TrainerRun(None, {"run_id": "r1", "directory": tmp_path}) for _ in range(2))
    first.open("mine")
    with pytest.raises(RunError, match="is being written"):
        second.open("mine")
    first.end()


def test_hyper_parameters_of_a_run_that_has_begun_are_added(tmp_path, records):
    """What becomes known after the start amends the run, once; the attempt stays the same."""
    with start_run("r1", directory=tmp_path, config={"lr": 1}) as run:
        telemetry = TrainerRun(run, {})
        telemetry.add_config({"seed": 1})
        telemetry.add_config({"seed": 1})
    starts = [record for record in records(run.path) if isinstance(record, RunStart)]
    assert [(start.attempt, start.config) for start in starts] == [(1, {"lr": 1}), (1, {"lr": 1, "seed": 1})]


def test_texts_of_any_length_start_a_run(tmp_path, records):
    """What a trainer says about itself never makes a setting unusable."""
    telemetry = TrainerRun(None, {"run_id": "r1", "directory": tmp_path})
    telemetry.open("mine", base_model="x" * 1000)
    telemetry.end("failed", "why")
    found = records(tmp_path / "r1" / "metrics.jsonl")
    assert [record.base_model for record in found if isinstance(record, RunStart)] == ["x" * 256]
    assert [(record.status, record.reason) for record in found if isinstance(record, RunEnd)] == [("failed", "why")]


def test_a_settings_file_is_taken(tmp_path, records):
    """The YAML file of start_run's settings counts for a callback as well."""
    (tmp_path / "run.yaml").write_text("run_id: r1\nframework: mine\nconfig: {seed: 7}\n")
    telemetry = TrainerRun(None, {"directory": tmp_path, "settings": tmp_path / "run.yaml"})
    telemetry.add_config({"seed": 1, "lr": 2})
    telemetry.open("theirs")
    telemetry.end()
    (start, _) = records(tmp_path / "r1" / "metrics.jsonl")
    assert (start.framework, start.config) == ("mine", {"seed": 7, "lr": 2})


def test_settings_are_checked_where_they_are_written():
    """Unknown settings and unusable ids are refused by the constructor."""
    with pytest.raises(ConfigError, match="unknown setting"):
        TrainerRun(None, {"run": "r1"})
    with pytest.raises(ConfigError, match="is not usable"):
        TrainerRun(None, {"run_id": "../r1"})
