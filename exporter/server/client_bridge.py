"""Samples that are neither steps nor a run's go out through prometheus_client, the reference for the formats."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from exporter.exposition import Format
from exporter.records import Labels, Sample

__all__ = ["render_samples"]


class _Families(Collector):
    """The least of a registry that prometheus_client renders."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render_samples(samples: Iterable[Sample], form: Format) -> bytes:
    """Render samples without timestamps; the page's end is not included."""
    metrics: dict[str, Metric] = {}
    for sample in samples:
        family = sample.family
        metric = metrics.setdefault(family.name, Metric(family.name, family.help, family.type))
        metric.add_sample(sample.name, _unicode(sample.labels), sample.value)
    families = _Families(metrics.values())
    if form is Format.OPENMETRICS:
        page: bytes = generate_openmetrics(families)  # type: ignore[no-untyped-call]
        return page.removesuffix(form.end)
    return generate_text(families)


def _unicode(labels: Labels) -> dict[str, str]:
    """Labels without lone surrogates, which a path may have and no page can hold."""
    return {name: value.encode("utf-8", "replace").decode() for name, value in labels}
