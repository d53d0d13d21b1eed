"""Panels of what machines and exporters are scraped for: GPUs by the run that has them, the rest by address."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exporter.catalog import Catalog, Metric
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.explain import described, scaled, title, unit
from exporter.generate.dashboards.panels import SCRAPE, Line, graph
from exporter.generate.dashboards.run_panels import run_panel
from exporter.generate.dashboards.sdk import timeseries
from exporter.generate.text import wrap

__all__ = ["gpu_line", "gpu_panel", "instance_line", "instance_panel", "process_line", "together"]

_DEVICE_LABELS = ("gpu", "name", "uuid", "gpu_instance_id", "mig_profile")
_RATE_UNITS = {"bytes": "Bps", "joule": "watt"}


def gpu_panel(metric: Metric, catalog: Catalog) -> timeseries.Panel:
    """A metric of GPUs and MIG instances, and what trainers log of it themselves, which has no device."""
    if "pid" in metric.labels:  # of a run already
        return run_panel(metric, catalog)
    lines = [gpu_line(metric)]
    if metric.aliases:
        lines.append(Line("logged", promql.mean(metric.sample_name), "{{run_id}}"))
    return _panel(metric, catalog, lines).no_value(f"No {title(metric)} of a GPU of these runs in this time range")


def gpu_line(metric: Metric) -> Line:
    """By run and device; by device and not by run where one device has several values."""
    several = [label for label in metric.labels if label not in _DEVICE_LABELS]
    # A metric that trainers log, too, names no labels in the catalog.
    has_instances = "gpu_instance_id" in metric.labels or not metric.labels
    keys = ("uuid", "gpu_instance_id") if has_instances else ("uuid",)
    expression = promql.on_gpus(_value(metric, '{run_id=""}'), keys, several)
    words = [*([] if several else ["{{run_id}}"]), "GPU {{gpu}}", *(["{{gpu_instance_id}}"] if keys[1:] else [])]
    return Line(metric.name, expression, " ".join([*words, "({{device}})", *_braced(several)]))


def instance_panel(metric: Metric, catalog: Catalog) -> timeseries.Panel:
    """A metric of an address, or of a run that is told at an address."""
    return _panel(metric, catalog, [instance_line(metric)]).no_value(f"No {title(metric)} in this time range")


def instance_line(metric: Metric) -> Line:
    """By address, run and the metric's own labels."""
    kept = ("instance", "run_id", *metric.labels)
    return Line(metric.name, f"max by ({', '.join(kept)}) ({_value(metric)})", " ".join(_braced(kept)))


def process_line(metric: Metric) -> Line:
    """By run and rank, for what is measured of the chosen runs' processes."""
    value = _value(metric, f"{{{promql.CHOSEN}}}")
    return Line(metric.name, f"max by (run_id, rank) ({value})", "{{run_id}} {{rank}}")


def together(name: str, metrics: Iterable[Metric], line: Callable[[Metric], Line]) -> timeseries.Panel:
    """Several metrics of one unit in one graph, told apart by their titles where those are not the graph's."""
    shown = list(metrics)
    lines = [line(metric) for metric in shown]
    if len(shown) > 1:
        words = ["" if title(metric) == name else f" {title(metric)}" for metric in shown]
        lines = [one._replace(legend=f"{one.legend}{word}") for one, word in zip(lines, words, strict=True)]
    panel = graph(name, lines, _unit(shown[0]), SCRAPE).no_value(f"No {name} in this time range")
    return panel.description("\n\n".join(wrap(metric.help) for metric in shown))


def _panel(metric: Metric, catalog: Catalog, lines: list[Line]) -> timeseries.Panel:
    name = f"{title(metric)} per second" if metric.type == "counter" else title(metric)
    return scaled(described(graph(name, lines, _unit(metric), SCRAPE), metric, catalog), metric)


def _unit(metric: Metric) -> str:
    """That of the value below."""
    if metric.type == "counter":
        return _RATE_UNITS.get(unit(metric), unit(metric))
    return "percentunit" if unit(metric) == "bool" else unit(metric)


def _value(metric: Metric, selector: str = "") -> str:
    """A rate, a mean over a few scrapes (of what is true or not, its share of the time), or the last count."""
    series = f"{metric.sample_name}{selector}[$__rate_interval]"
    if metric.type == "counter":
        return f"rate({series})"
    return f"last_over_time({series})" if unit(metric) == "short" else f"avg_over_time({series})"


def _braced(labels: Iterable[str]) -> list[str]:
    return ["{{" + label + "}}" for label in labels]
