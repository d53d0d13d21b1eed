"""The only place of metric names: what every metric is called, means, and is watched for."""

from exporter.catalog.gpu_peaks import peak_flops
from exporter.catalog.load import default_catalog, load_catalog, parse_catalog
from exporter.catalog.model import Alert, Alias, Catalog, Condition, Group, Metric, Panel, Range, Runs
from exporter.catalog.naming import Namer, SeriesName, sanitize

__all__ = [
    "Alert",
    "Alias",
    "Catalog",
    "Condition",
    "Group",
    "Metric",
    "Namer",
    "Panel",
    "Range",
    "Runs",
    "SeriesName",
    "default_catalog",
    "load_catalog",
    "parse_catalog",
    "peak_flops",
    "sanitize",
]
