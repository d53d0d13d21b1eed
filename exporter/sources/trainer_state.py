"""Hugging Face's ``trainer_state.json``: one document with every logged row, rewritten in place at checkpoints."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporter.encoding import decode
from exporter.sources.base import Bad, Head, Item, Row, open_log
from exporter.sources.objects import numeric_leaves, step_number

__all__ = ["TrainerState"]

_HISTORY = re.compile(rb'\s*\{.*?"log_history"\s*:\s*\[', re.S)


class TrainerState:
    """The log history of a Trainer: steps repeat where several data sets are evaluated, and have no time."""

    name = "trainer_state"

    def recognises(self, head: Head) -> bool:
        """Whether it is an object with a log history."""
        return _HISTORY.match(head.data) is not None

    def read(self, path: Path) -> Iterator[Item | None]:
        """A row for each entry; a document that is not completely written is one bad item and nothing else.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            history = _history(path)
        except (ValueError, EOFError, zlib.error) as error:
            yield Bad(1, str(error))
            return
        for number, entry in enumerate(history, 1):
            yield _item(number, entry)


def _history(path: Path) -> list[Any]:
    with open_log(path) as file:
        state = decode(file.read())
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise ValueError("no log_history")
    return history


def _item(number: int, entry: Any) -> Item:
    try:
        return _row(entry)
    except (AttributeError, RecursionError, ValueError) as error:
        return Bad(number, f"log_history entry {number}: {error}")


def _row(entry: Any) -> Row:
    step = step_number(entry.get("step"))
    epoch = entry.get("epoch")
    metrics = {key: value for key, value in entry.items() if key not in ("step", "epoch")}
    return Row(step, numeric_leaves(metrics), None, epoch if isinstance(epoch, (int, float)) else None)
