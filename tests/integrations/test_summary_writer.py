"""A script in CleanRL's style: through the stand-in for its writer, and from torch's event file and the console."""

from __future__ import annotations

import contextlib
import inspect
import time
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter as TorchWriter

from exporter.integrations.summary_writer import SummaryWriter
from exporter.sources import Meta
from tests.integrations.support import Journal, event_rows, read_items, read_rows, rows, tags
from tests.integrations.trainers import cleanrl_style

SETTINGS = {key: str(value) for key, value in cleanrl_style.SETTINGS.items()}


def test_every_scalar_is_a_step(tmp_path):
    """With the import changed, the journal lies in the writer's folder and has every scalar and the settings."""
    added: list[tuple[int, dict[str, Any]]] = []

    class Witness(SummaryWriter):
        def add_scalar(self, tag: str, scalar_value: Any, global_step: int | None = None, *others: Any) -> None:
            added.append((global_step, {tag: scalar_value}))
            super().add_scalar(tag, scalar_value, global_step, *others)

    cleanrl_style.train(tmp_path / "runs" / "r1", make_writer=Witness)
    journal = Journal(tmp_path / "runs")
    assert journal.rows == rows(added)
    assert len(added) > 60
    (start,) = journal.starts
    assert (start.run_id, start.config) == ("r1", SETTINGS)
    assert journal.ends == [("finished", "")]


def test_what_torchs_writer_takes_ours_takes():
    """Every public method of torch's SummaryWriter is there and takes its arguments, by name and by place."""
    for name, method in inspect.getmembers(TorchWriter, inspect.isfunction):
        if name.startswith("_") and name not in ("__init__", "__enter__", "__exit__"):
            continue
        parameters = list(inspect.signature(method).parameters.values())[1:]
        signature = inspect.signature(getattr(SummaryWriter, name))
        signature.bind("self", *(parameter.name for parameter in parameters))
        if name != "__exit__":
            signature.bind("self", **{parameter.name: 0 for parameter in parameters})


def test_a_scalar_costs_microseconds(tmp_path):
    """A call takes less than a fifth of a millisecond."""
    durations = []
    with SummaryWriter(tmp_path / "r1") as writer:
        for step in range(1000):
            begin = time.perf_counter()
            writer.add_scalar("losses/policy_loss", 0.5, step)
            durations.append(time.perf_counter() - begin)
    assert sorted(durations)[500] < 200e-6


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The folder of a training without us: its event file and its output."""
    folder = tmp_path_factory.mktemp("own")
    with (folder / "console.log").open("w") as log, contextlib.redirect_stdout(log):
        cleanrl_style.train(folder)
    return folder


def test_the_event_file_has_what_tensorboard_finds_in_it(own):
    """The event file reads as TensorBoard itself reads it, and the table of settings as the configuration."""
    (path,) = own.glob("events.out.tfevents.*")
    expected = tags(event_rows(path))
    assert tags(read_rows(path)) == expected
    assert len(expected) == 6
    assert [item.config for item in read_items(path) if isinstance(item, Meta)] == [SETTINGS]


def test_the_console_has_every_episode(own):
    """The printed returns read as those in the event file."""
    (path,) = own.glob("events.out.tfevents.*")
    printed = tags(read_rows(own / "console.log"))
    assert printed == {"episodic_return": tags(event_rows(path))["charts/episodic_return"]}
