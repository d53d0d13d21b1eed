"""Lightning: through the logger, and from what its own loggers write."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import pytest
import pytorch_lightning
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from exporter.integrations.lightning import TelemetryLogger
from tests.integrations.support import BrokenRun, Journal, Rows, event_rows, read_rows, rows, tags
from tests.integrations.trainers import lightning_fit
from tests.integrations.trainers.lightning_fit import Regression, data


def written(folder: Path) -> Rows:
    """What Lightning's own CSV logger wrote, by the standard library's reader."""
    with (folder / "csv/version_0/metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    return rows(
        (int(line["step"]), {key: value for key, value in line.items() if value and key not in ("step", "epoch")})
        for line in lines
    )


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a training without us."""
    folder = tmp_path_factory.mktemp("own")
    lightning_fit.train(folder)
    return folder


def test_every_logged_metric_is_in_the_run(tmp_path):
    """The journal has the rows that Lightning's own logger writes, with their epochs, and the hyper-parameters."""
    lightning_fit.train(tmp_path / "own", loggers=[TelemetryLogger(run_id="r1", directory=tmp_path)])
    journal = Journal(tmp_path)
    (start,) = journal.starts
    assert start.framework == "lightning"
    assert start.config == {"learning_rate": 0.05, "fail_at": -1}
    assert journal.rows == written(tmp_path / "own")
    assert len(journal.rows) == 3 * (8 + 1)
    assert [step.epoch for step in journal.steps] == [epoch for epoch in (0, 1, 2) for _ in range(9)]
    assert journal.ends == [("finished", "")]


def test_the_other_package_has_the_same_logger(tmp_path):
    """A Trainer of ``pytorch_lightning`` takes the logger, too."""

    class Line(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch, batch_idx):
            self.log("loss", loss := self.layer(batch[0]).pow(2).mean())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    logger = TelemetryLogger(run_id="r1", directory=tmp_path)
    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", max_steps=5, log_every_n_steps=1, logger=logger, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), data())
    journal = Journal(tmp_path)
    assert [(step, list(metrics)) for step, metrics in journal.rows] == [(step, ["loss"]) for step in range(5)]
    assert journal.ends == [("finished", "")]
    assert list((tmp_path / "telemetry" / "r1" / "checkpoints").iterdir())


def test_a_test_after_the_training_belongs_to_the_run(tmp_path):
    """What is logged after the end opens the run again as its next attempt; a stage that logs nothing does not."""
    logger = TelemetryLogger(run_id="r1", directory=tmp_path)
    trainer, module = lightning_fit.train(tmp_path / "own", 1, [logger]), Regression()
    trainer.predict(module, [torch.ones(1, 2)])
    (tested,) = trainer.test(module, data(), verbose=False)
    journal = Journal(tmp_path)
    assert journal.rows[-1] == (8, tested)
    assert [start.attempt for start in journal.starts] == [1, 2]
    assert journal.ends == [("finished", "")] * 2


def test_a_training_that_raises_has_failed(tmp_path):
    """The run ends as failed with the error, after the steps that were logged."""
    logger = TelemetryLogger(run_id="r1", directory=tmp_path)
    with pytest.raises(FloatingPointError):
        lightning_fit.train(tmp_path / "own", 1, [logger], Regression(fail_at=5))
    journal = Journal(tmp_path)
    assert [step for step, _ in journal.rows] == [0, 1, 2, 3, 4]
    assert journal.ends == [("failed", "FloatingPointError: the loss is no number")]


def test_hyper_parameters_of_the_script_are_kept(tmp_path):
    """Mappings and namespaces that are logged before the training are in the configuration, beside the module's."""
    logger = TelemetryLogger(run_id="r1", directory=tmp_path)
    logger.log_hyperparams({"data": "points"})
    logger.log_hyperparams(Namespace(seed=1))
    lightning_fit.train(tmp_path / "own", 1, [logger])
    (start,) = Journal(tmp_path).starts
    assert start.config == {"data": "points", "seed": 1, "learning_rate": 0.05, "fail_at": -1}


def test_only_rank_zero_logs(tmp_path, monkeypatch):
    """On another rank of Lightning's no run is started."""
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TelemetryLogger(run_id="r1", directory=tmp_path)
    logger.log_hyperparams({"seed": 1})
    logger.log_graph(None)
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert not list(tmp_path.iterdir())


def test_a_run_that_raises_stops_no_training(tmp_path, capfd):
    """Whatever breaks in the telemetry, the training ends as it would, and one line says so."""
    broken = BrokenRun()
    trainer = lightning_fit.train(tmp_path, 2, [TelemetryLogger(broken)])
    assert trainer.global_step == 16
    assert broken.calls == len(written(tmp_path))
    assert capfd.readouterr().err.count("TelemetryLogger.log_metrics: OSError: broken") == 1


def test_the_table_reads_as_it_was_written(own):
    """metrics.csv reads as its rows, each with its own columns."""
    assert read_rows(own / "csv/version_0/metrics.csv") == written(own)


def test_the_event_file_has_what_tensorboard_finds_in_it(own):
    """The event file reads as TensorBoard itself reads it, tag by tag and step by step."""
    (path,) = own.glob("tensorboard/version_0/events.out.tfevents.*")
    expected = tags(event_rows(path))
    assert tags(read_rows(path)) == expected
    assert len(expected["train_loss"]) == 24
