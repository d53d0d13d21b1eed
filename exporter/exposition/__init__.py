"""From records and samples to the bytes of a page; pure, without a clock, a thread or a socket."""

from exporter.exposition.formats import Format
from exporter.exposition.marks import is_mark, mark_samples
from exporter.exposition.page import Page
from exporter.exposition.run_page import (
    STATUSES,
    add_latest,
    counter_samples,
    gauge_samples,
)
from exporter.exposition.run_state import RunState, default_labels, run_labels
from exporter.exposition.series import MAX_SERIES_PER_RUN, Budget, Refusal, RunSeries
from exporter.exposition.steps import StepTable, add_steps, step_table
from exporter.exposition.totals import Totals

__all__ = [
    "MAX_SERIES_PER_RUN",
    "STATUSES",
    "Budget",
    "Format",
    "Page",
    "Refusal",
    "RunSeries",
    "RunState",
    "StepTable",
    "Totals",
    "add_latest",
    "add_steps",
    "counter_samples",
    "default_labels",
    "gauge_samples",
    "is_mark",
    "mark_samples",
    "run_labels",
    "step_table",
]
