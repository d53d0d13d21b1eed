"""Everything that is derived from the catalog, as files with the content they must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from exporter.catalog import Catalog
from exporter.errors import MissingDependencyError
from exporter.generate.alerts import alert_rules, runbook
from exporter.generate.reference import metric_reference

__all__ = ["GENERATORS", "differing", "write"]


def _dashboards(catalog: Catalog) -> Mapping[str, str]:
    try:
        from exporter.generate.dashboards import dashboards
    except ImportError as error:
        raise MissingDependencyError(
            "dashboards are made with grafana-foundation-sdk, which needs Python 3.11: "
            "pip install 'telemetry-exporter[generate]'"
        ) from error
    return {f"grafana/dashboards/{name}": content for name, content in dashboards(catalog).items()}


GENERATORS: Mapping[str, Callable[[Catalog], Mapping[str, str]]] = {
    "alerts": lambda catalog: {
        "alerts/training.rules.yml": alert_rules(catalog),
        "alerts/RUNBOOK.md": runbook(catalog),
    },
    "dashboards": _dashboards,
    "reference": lambda catalog: {"docs/metrics.md": metric_reference(catalog)},
}
"""What can be generated: each gives files, named from the top of the project, and their content."""


def differing(files: Mapping[str, str], folder: Path) -> list[str]:
    """Names of the files that are missing or have another content."""
    return [name for name, content in files.items() if _read(folder / name) != content]


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write the files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")


def _read(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None
