"""Lightning: a regression with validation after every epoch, written by its CSV and TensorBoard loggers.

python lightning_fit.py FOLDER [EPOCHS]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset


class Regression(lightning.LightningModule):
    """A line through points."""

    def __init__(self, learning_rate: float = 0.05, fail_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Squared error, logged."""
        if self.global_step == self.hparams["fail_at"]:
            raise FloatingPointError("the loss is no number")
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Squared error, logged."""
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Squared error, logged."""
        self.log("test_loss", self._loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """A point on the line, not logged."""
        return self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])

    def _loss(self, batch: Any) -> torch.Tensor:
        points, targets = batch
        return torch.nn.functional.mse_loss(self.layer(points), targets)


def data() -> DataLoader[Any]:
    """Sixty-four points in batches of eight, the same each time."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(64, 2, generator=generator)
    return DataLoader(TensorDataset(points, points.sum(1, keepdim=True)), batch_size=8)


def train(
    folder: Path, epochs: int = 3, loggers: Sequence[Logger] = (), module: Regression | None = None
) -> lightning.Trainer:
    """Train; ``csv/version_0/metrics.csv`` and the event file under ``tensorboard`` lie in the folder."""
    lightning.seed_everything(1, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        log_every_n_steps=1,
        logger=[CSVLogger(folder, name="csv"), TensorBoardLogger(folder, name="tensorboard"), *loggers],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or Regression(), data(), data())
    return trainer


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "3")[2]))
