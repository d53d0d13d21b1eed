"""What happened to a run at a moment, as samples at that moment: events, checkpoints, and where it went on."""

from __future__ import annotations

from collections.abc import Iterable

from exporter.catalog import Catalog
from exporter.exposition.run_state import RunState
from exporter.journal import Stamped
from exporter.records import ALERT_TYPES, Checkpoint, Event, Labels, Sample, Step

__all__ = ["is_mark", "mark_samples"]


def is_mark(stamped: Stamped, state: RunState, until_ms: int) -> bool:
    """Whether a record that a state has taken in is a mark, of a time that is not still to come."""
    is_first_step = state.first_steps_ms.get(stamped.attempt) == stamped.ms
    return (is_first_step or isinstance(stamped.record, (Event, Checkpoint))) and stamped.ms <= until_ms


def mark_samples(stamped: Iterable[Stamped], state: RunState, catalog: Catalog) -> list[Sample]:
    """One sample for each event, under its title, the step of each checkpoint, and the first step of a later attempt.

    An event's text stays in the run. In the order of time; of two in one millisecond the later one is shown.
    """
    labels = state.series.labels
    samples: dict[tuple[int, str, Labels], Sample] = {}
    for item in stamped:
        record = item.record
        if isinstance(record, Event):
            named = (*labels, ("alert_type", _kind(record)), ("title", state.title(record)))
            samples[item.ms, "run_event", named] = Sample(catalog.family("run_event"), named, 1, time_ms=item.ms)
        elif isinstance(record, (Checkpoint, Step)):
            family = catalog.family("run_checkpoint_step" if isinstance(record, Checkpoint) else "run_resume_step")
            samples[item.ms, family.name, labels] = Sample(family, labels, record.step, time_ms=item.ms)
    return [samples[place] for place in sorted(samples)]


def _kind(event: Event) -> str:
    return event.alert_type if event.alert_type in ALERT_TYPES else "info"
