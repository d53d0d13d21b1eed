"""The package's face: what it exports, its errors, its version, and where its shipped files lie."""

from __future__ import annotations

import importlib.metadata
from types import ModuleType

import pytest

import exporter
from exporter import errors, shipped
from exporter.shipped import shipped_folder

PUBLIC = [
    "ConfigError",
    "MissingDependencyError",
    "Run",
    "RunAlert",
    "RunError",
    "ServerError",
    "SystemMetricsLogger",
    "Table",
    "TelemetryError",
    "__version__",
    "start_run",
]


def test_the_facade_is_exact():
    """The public names are these, sorted; whoever adds one changes this list on purpose."""
    assert exporter.__all__ == PUBLIC == sorted(PUBLIC)


def test_the_facade_is_what_can_be_seen():
    """What the module holds besides its submodules and private names is what it exports."""
    seen = {
        name
        for name, value in vars(exporter).items()
        if not isinstance(value, ModuleType) and (not name.startswith("_") or name == "__version__")
    }
    assert seen == set(PUBLIC)


def test_the_version_is_the_distributions():
    """The version of the module is that of the installed distribution."""
    assert importlib.metadata.version("telemetry-exporter") == exporter.__version__


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "TelemetryError"])
def test_every_error_is_a_telemetry_error(name):
    """One except clause catches whatever the package raises on purpose."""
    assert issubclass(getattr(exporter, name), exporter.TelemetryError)
    assert getattr(exporter, name) is getattr(errors, name)


def test_every_error_is_public():
    """The facade exports the whole tree of errors."""
    assert set(errors.__all__) <= set(PUBLIC)


@pytest.mark.parametrize("name", ["prometheus", "alerts", "grafana"])
def test_the_shipped_folders_of_a_checkout(name):
    """In a checkout the shipped configuration lies at its top."""
    assert shipped_folder(name).is_dir()
    assert (shipped_folder(name).parent / "pyproject.toml").is_file()


def test_the_shipped_folders_of_an_installation(tmp_path, monkeypatch):
    """Installed, the shipped configuration lies inside the package."""
    folder = tmp_path / "exporter" / "_shipped" / "alerts"
    folder.mkdir(parents=True)
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "exporter" / "shipped.py"))
    assert shipped_folder("alerts") == folder
    assert shipped_folder("prometheus") == tmp_path / "prometheus"
