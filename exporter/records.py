"""What a run can say: one immutable record per journal line, and the neutral sample readers make of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "ALERT_TYPES",
    "PHASE_PREFIX",
    "RESERVED_LABELS",
    "Check",
    "Checkpoint",
    "EpochEnd",
    "Event",
    "Family",
    "Labels",
    "Lost",
    "Phase",
    "Record",
    "RunEnd",
    "RunStart",
    "Sample",
    "Step",
    "TableRows",
    "Timing",
    "Unknown",
    "is_free_label",
]

Labels = tuple[tuple[str, str], ...]
"""Label names and values, sorted by name."""

RESERVED_LABELS = frozenset({
    "run_id", "user_id", "rank", "kind", "metric", "status", "key", "value", "reason", "le", "quantile",
    "recipe", "base_model", "framework", "host", "world_size", "version", "job", "instance",
    "format", "gpu", "uuid", "name", "gpu_instance_id", "mig_profile", "pid",
    "alert_type", "title", "check", "phase",
})  # fmt: skip
"""Labels that the exporter or the server sets: a tag of that name would give a series one label twice."""

PHASE_PREFIX = "phase/"
"""Begins the name of a timing that is a phase of the training step."""

ALERT_TYPES = ("info", "warning", "error", "success")
"""What an event may be."""

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def is_free_label(name: str) -> bool:
    """Whether a user's tag can be a label under its own name."""
    return bool(_LABEL.fullmatch(name)) and name not in RESERVED_LABELS


class RunStart(NamedTuple):
    """The run, or another attempt of it, begins; one with the number of the present attempt amends what is known."""

    time: float
    run_id: str
    user_id: str = ""
    recipe: str = ""
    base_model: str = ""
    framework: str = ""
    tags: Mapping[str, str] = {}
    config: Mapping[str, Any] = {}
    host: str = ""
    pid: int = 0
    rank: int = 0
    world_size: int = 1
    version: str = ""
    attempt: int = 0
    """Counts from 1; 0 where it is not said, which means the next one."""
    pid_namespace: str = ""
    """Where ``pid`` counts; empty where it is not said."""


class Step(NamedTuple):
    """The metrics of one training step under their native keys; values are numbers or NON_FINITE strings."""

    time: float
    step: int
    metrics: Mapping[str, Any]
    epoch: float | None = None
    properties: Mapping[str, str] = {}


class Timing(NamedTuple):
    """One timed operation, in seconds."""

    time: float
    name: str
    seconds: float


class Phase(NamedTuple):
    """A phase of the training step begins; its end is a timing called ``phase/NAME``."""

    time: float
    name: str


class TableRows(NamedTuple):
    """Rows logged under a name at a step."""

    time: float
    name: str
    step: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Event(NamedTuple):
    """Something worth a mark on a time line; alert_type is info, warning, error or success."""

    time: float
    title: str
    text: str = ""
    alert_type: str = "info"
    tags: Sequence[str] = ()


class Check(NamedTuple):
    """The status of a named check: OK, WARNING, CRITICAL or UNKNOWN."""

    time: float
    name: str
    status: str
    message: str = ""


class Checkpoint(NamedTuple):
    """A checkpoint was saved."""

    time: float
    step: int
    path: str
    metrics: Mapping[str, float] = {}


class EpochEnd(NamedTuple):
    """An epoch ended, with its summary."""

    time: float
    epoch: float
    step: int
    summary: Mapping[str, Any] = {}


class Lost(NamedTuple):
    """The writer could not store this many records (``count`` in the journal) before this line."""

    time: float
    reason: str
    records: int


class RunEnd(NamedTuple):
    """The run ended: finished, failed or crashed."""

    time: float
    status: str
    reason: str = ""
    exit_code: int | None = None


class Unknown(NamedTuple):
    """A line of a type this version does not know: counted, otherwise ignored."""

    time: float
    type: str


Record = RunStart | Step | Timing | Phase | TableRows | Event | Check | Checkpoint | EpochEnd | Lost | RunEnd | Unknown


class Family(NamedTuple):
    """A metric family: ``name`` has no type suffix, so a counter's samples are called ``name_total``."""

    name: str
    type: str
    help: str

    @property
    def sample_name(self) -> str:
        """Name of the family's main series."""
        return f"{self.name}_total" if self.type == "counter" else self.name


class Sample(NamedTuple):
    """One value of one series now, or at a time in milliseconds since the epoch."""

    family: Family
    labels: Labels
    value: float
    suffix: str = ""
    time_ms: int | None = None

    @property
    def name(self) -> str:
        """Name of the series: that of a histogram's parts has a suffix of its own."""
        return self.family.name + self.suffix if self.suffix else self.family.sample_name
