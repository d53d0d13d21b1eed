"""What the sidecar follows beside journals, as samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from exporter.catalog import Catalog
from exporter.importer import Importer
from exporter.records import Sample

__all__ = ["LogCollector"]


class LogCollector:
    """Runs that are imported from foreign logs, by format, and the lines of them that could not be read."""

    name = "logs"

    def __init__(self, catalog: Catalog, importer: Importer) -> None:
        self._catalog = catalog
        self._importer = importer

    def collect(self) -> Iterator[Sample]:
        """One gauge a format, one counter a run and rank."""
        runs = self._importer.runs
        family = self._catalog.family("telemetry_imported_runs")
        for form, count in sorted(Counter(run.form for run in runs).items()):
            yield Sample(family, (("format", form),), count)
        for run in runs:
            yield Sample(self._catalog.family("telemetry_log_bad_lines"), run.labels, run.bad_lines)
