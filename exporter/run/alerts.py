"""What a script is told when something that it logs crosses a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["OnAlert", "RunAlert"]


@dataclass(frozen=True)
class RunAlert:
    """One severity of an alert rule that begins to hold for a metric of the run."""

    rule: str
    severity: str
    """``info``, ``warning`` or ``critical``."""
    metric: str
    """The metric's canonical name."""
    labels: Mapping[str, str]
    """What tells its series apart, such as the kind of a KL."""
    value: float
    """What was logged last, in canonical units."""
    bound: float
    step: int
    meaning: str
    action: str
    """What to do about it."""


OnAlert = Callable[[RunAlert], object]
"""Is called in the thread that logs, when an alert begins."""
