"""When an alert's condition came true in what a run has logged, by the definition and without our own code."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Update", "became_true", "clipped_too_much", "entropy_collapsed", "is_no_number", "kl_too_high",
           "logged", "value_explains_little"]  # fmt: skip

WINDOW = 60.0
WARM_UP = 50
LEAST = 3


class Update(NamedTuple):
    """What a run logged at once."""

    time: float
    metrics: dict[str, float]


Condition = Callable[[Sequence[Update]], bool]
"""Whether it is true at the time of the last of these updates."""


def logged(journal: Path) -> list[Update]:
    """Every step of a journal; NaN and the infinities are written as strings there."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [record for record in records if record["_type"] == "step"]
    return [Update(step["time"], {key: float(value) for key, value in step["metrics"].items()}) for step in steps]


def became_true(condition: Condition, updates: Sequence[Update]) -> float:
    """The time of the first update at which a condition is true.

    Raises:
        StopIteration: it never is.
    """
    return next(updates[end - 1].time for end in range(1, len(updates) + 1) if condition(updates[:end]))


def kl_too_high(updates: Sequence[Update]) -> bool:
    """The median of a minute's updates is above 0.1; of less than three the last one."""
    return _median(updates, "train/approx_kl") > 0.1


def clipped_too_much(updates: Sequence[Update]) -> bool:
    """More than half of the samples."""
    return _median(updates, "rl/clip_fraction") > 0.5


def value_explains_little(updates: Sequence[Update]) -> bool:
    """Less than half of the variance, where all updates of the minute come after the warm-up."""
    own = len(list(_within(updates, 0.0, WINDOW)))
    return len(updates) - WARM_UP + 1 >= own and _median(updates, "rl/explained_variance") < 0.5


def entropy_collapsed(updates: Sequence[Update]) -> bool:
    """The minute's median is less than a tenth of the highest of the ten minutes before."""
    before = [update.metrics["rl/entropy"] for update in _within(updates, WINDOW, 11 * WINDOW)]
    return len(before) >= LEAST and _median(updates, "rl/entropy") < 0.1 * max(before)


def is_no_number(updates: Sequence[Update]) -> bool:
    """The loss is NaN."""
    return math.isnan(updates[-1].metrics["train/loss"])


def _median(updates: Sequence[Update], key: str) -> float:
    values = [update.metrics[key] for update in _within(updates, 0.0, WINDOW)]
    return statistics.median(values) if len(values) >= LEAST else values[-1]


def _within(updates: Sequence[Update], least_age: float, most_age: float) -> Iterator[Update]:
    """The updates whose age, at the time of the last one, lies between two times (s)."""
    now = updates[-1].time
    return (update for update in updates if least_age <= now - update.time < most_age)
