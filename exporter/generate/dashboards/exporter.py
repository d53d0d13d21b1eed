"""Exporter: whether every step arrives, what was lost or refused and why, what it costs."""

from __future__ import annotations

from collections.abc import Mapping

from exporter.catalog import Catalog, Metric
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.board import Section, board
from exporter.generate.dashboards.catalog_panels import more
from exporter.generate.dashboards.machine_panels import instance_line, together
from exporter.generate.dashboards.panels import SCRAPE, Column, Line, graph, listing
from exporter.generate.dashboards.sdk import dashboard, table, timeseries
from exporter.generate.text import wrap

__all__ = ["exporter"]

_KNOWN = "and on (instance, job) last_over_time(telemetry_build_info[$__range])"
"""Prometheus scrapes other things, too; this leaves the addresses of exporters."""

_LOSSES = {
    "telemetry_lost_records": "not written",
    "telemetry_series_refused": "too many series",
    "telemetry_key_collisions": "same series as another key",
    "telemetry_bad_lines": "no record",
    "telemetry_unknown_records": "unknown type",
    "telemetry_log_bad_lines": "unreadable log line",
}
_SCRAPES = {
    "Step samples on a page": "telemetry_page_samples",
    "Time to make a page": "telemetry_page_render_seconds",
    "Backlog": "telemetry_backlog_bytes",
}
_SOURCES = {
    "Runs by status": "telemetry_runs",
    "Runs read from other trainers' logs": "telemetry_imported_runs",
    "Unreadable journals per second": "telemetry_read_errors",
}
_COLLECTORS = {
    "Collectors that work": "telemetry_collector_success",
    "Time that collectors take": "telemetry_collector_duration_seconds",
}
_PROCESS = {
    "CPU time per second": "process_cpu_seconds",
    "Memory": "process_resident_memory_bytes",
    "Threads": "process_threads",
    "Open files": "process_open_fds",
}


def exporter(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    scrapes = [
        _of_targets("Scrape duration", "scrape_duration_seconds", "s"),
        _of_targets("Samples per scrape", "scrape_samples_scraped", "short"),
    ]
    losses = [catalog.metrics[name] for name in _LOSSES]
    sections = [
        Section("", [[_exporters()]], height=6),
        Section("Scrapes", [scrapes, _row(_SCRAPES, catalog)]),
        Section("What was lost or refused", [[_lost_over_time(losses), _lost_by_run(losses)]]),
        Section("Sources and collectors", [_row(_SOURCES, catalog), _row(_COLLECTORS, catalog)]),
        Section("Process", [_row(_PROCESS, catalog)]),
    ]
    return board("exporter", "Exporter", [*sections, *more("More", catalog, ("process", "telemetry"), sections)])


def _row(panels: Mapping[str, str], catalog: Catalog) -> list[timeseries.Panel]:
    return [together(title, [catalog.metrics[name]], instance_line) for title, name in panels.items()]


def _exporters() -> table.Panel:
    answers = {"1": {"text": "yes", "index": 0}, "0": {"text": "no", "index": 1}}
    started = "process_start_time_seconds and on (instance, job) telemetry_build_info"
    columns = [
        Column("", "group by (instance, version) (last_over_time(telemetry_build_info[$__range]))"),
        Column("Answers", f"max by (instance) (up {_KNOWN})", {"mappings": [{"type": "value", "options": answers}]}),
        Column("Started", f"max by (instance) ({started}) * 1000", {"unit": "dateTimeAsIso"}),
        Column("Runs going on", 'sum by (instance) (telemetry_runs{status="running"})'),
    ]
    labels = {"instance": "Address", "version": "Version"}
    return listing("Exporters", columns, labels, "Prometheus scrapes no exporter: see prometheus/prometheus.yml")


def _of_targets(name: str, series: str, unit: str) -> timeseries.Panel:
    value = f"max by (instance) (avg_over_time({series}[$__rate_interval]) {_KNOWN})"
    panel = graph(name, [Line("scraped", value, "{{instance}}")], unit, SCRAPE)
    return panel.no_value("Prometheus scrapes no exporter")


def _lost_over_time(losses: list[Metric]) -> timeseries.Panel:
    """How much so far, of the chosen runs together."""
    lines = [
        Line(name, f"sum by (reason) ({promql.of_runs(metric.sample_name)})", f"{text} {{{{reason}}}}")
        for metric, (name, text) in zip(losses, _LOSSES.items(), strict=True)
    ]
    panel = graph("So far, by reason", lines, "none", SCRAPE).min(0).decimals(0)
    panel.description("\n\n".join(f"{_LOSSES[metric.name]}: {wrap(metric.help)}" for metric in losses))
    return panel.no_value("Nothing was lost or refused")


def _lost_by_run(losses: list[Metric]) -> table.Panel:
    parts = [
        f'label_replace(max by (run_id, reason) ({promql.of_runs(metric.sample_name)}) > 0, "what", "{text}", "", "")'
        for metric, text in zip(losses, _LOSSES.values(), strict=True)
    ]
    labels = {"run_id": "Run", "what": "What", "reason": "Reason"}
    column = Column("How many", " or ".join(parts))
    panel = listing("So far, by run", [column], labels, "Nothing was lost or refused in these runs")
    return panel.description("telemetry-exporter check RUN names the keys and lines.")
