"""Accelerate: through the tracker, and from what its TensorBoard tracker writes."""

from __future__ import annotations

import pytest
from accelerate import Accelerator

from exporter import Run
from exporter.integrations.accelerate import TelemetryTracker
from tests.integrations.support import BrokenRun, Journal, event_rows, read_rows, rows, tags
from tests.integrations.trainers import accelerate_loop


def test_what_is_logged_is_in_the_run(tmp_path):
    """The journal has what ``accelerator.log`` was given, with its epochs, and the configuration of the trackers."""
    said = accelerate_loop.train(tmp_path / "own", tracker=TelemetryTracker(run_id="r1", directory=tmp_path))
    journal = Journal(tmp_path)
    (start,) = journal.starts
    assert (start.framework, start.config) == ("accelerate", accelerate_loop.CONFIG)
    assert journal.rows == rows(said, leave_out=["epoch"])
    assert [step.epoch for step in journal.steps] == [values["epoch"] for _, values in said]
    assert journal.ends == [("finished", "")]


def test_a_tracker_without_configuration_begins_with_the_first_values(tmp_path):
    """Without a configuration and steps the run is complete, too; its tracker is the run itself."""
    accelerator = Accelerator(log_with=TelemetryTracker(run_id="r1", directory=tmp_path), cpu=True)
    accelerator.init_trackers("mine")
    assert not list(tmp_path.iterdir())
    accelerator.log({"loss": 2.0, "note": "warm-up", "split": {"a": 1.0}})
    accelerator.log({"loss": 1.0})
    run = accelerator.get_tracker("telemetry", unwrap=True)
    assert isinstance(run, Run)
    run.event("half-time")
    accelerator.end_training()
    journal = Journal(tmp_path)
    assert journal.rows == [(0, {"loss": 2.0, "split/a": 1.0}), (1, {"loss": 1.0})]
    assert journal.steps[0].properties == {"note": "warm-up"}
    assert journal.ends == [("finished", "")]


def test_a_run_that_raises_stops_no_training(tmp_path, capfd):
    """Whatever breaks in the telemetry, the training ends as it would, and one line says so."""
    broken = BrokenRun()
    assert len(accelerate_loop.train(tmp_path, 10, TelemetryTracker(broken))) == 10
    assert broken.calls == 10
    assert capfd.readouterr().err.count("TelemetryTracker.log: OSError: broken") == 1


def test_the_event_file_has_what_was_logged(tmp_path):
    """The TensorBoard tracker's file reads as TensorBoard itself reads it, and has every value that was logged."""
    said = accelerate_loop.train(tmp_path)
    (path,) = (tmp_path / "accelerated").glob("events.out.tfevents.*")
    found = tags(read_rows(path))
    assert found == tags(event_rows(path))
    for key, values in tags(rows(said)).items():
        assert found[key] == [(step, pytest.approx(value, rel=1e-6)) for step, value in values]
