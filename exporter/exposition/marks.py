"""What happened to a run at a moment, as samples at that moment: events and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.catalog import Catalog
from exporter.exposition.run_state import RunState
from exporter.journal import Stamped
from exporter.records import Checkpoint, Event, Sample

__all__ = ["mark_samples"]


def mark_samples(stamped: Iterable[Stamped], state: RunState, catalog: Catalog) -> Iterator[Sample]:
    """One sample for each event, under its title, and the step of each checkpoint; an event's text stays in the run."""
    labels = state.series.labels
    for item in stamped:
        record = item.record
        if isinstance(record, Event):
            named = (*labels, ("alert_type", record.alert_type), ("title", state.title(record)))
            yield Sample(catalog.family("run_event"), named, 1, time_ms=item.ms)
        elif isinstance(record, Checkpoint):
            yield Sample(catalog.family("run_checkpoint_step"), labels, record.step, time_ms=item.ms)
