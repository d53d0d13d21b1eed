"""What importing the package costs: a training process loads nothing that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import sys
before = set(sys.modules)
{}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""

HEAVY = [
    "numpy", "pandas", "torch", "wandb", "mlflow", "tensorboard", "sqlite3", "sqlalchemy", "psycopg", "psutil",
    "pynvml", "yaml", "requests", "flask", "fastapi", "prometheus_client", "http.server", "http", "click",
    "grafana_foundation_sdk", "asyncio", "multiprocessing",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Modules that some statements load in a fresh interpreter."""

    def load(statements):
        folder = tmp_path_factory.mktemp("imports")
        command = [sys.executable, "-c", SCRIPT.format(statements)]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
        return set(json.loads(result.stdout))

    return load


@pytest.fixture(scope="module")
def imported(loaded):
    """Modules that importing the package loads."""
    return loaded("import exporter")


def test_import_loads_one_foreign_package(imported):
    """``import exporter`` loads itself, orjson and the standard library, nothing else."""
    foreign = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == {"exporter", "orjson"}


@pytest.mark.parametrize("module", HEAVY)
def test_import_loads_nothing_heavy(imported, module):
    """``import exporter`` loads no numerical, SQL, web or command line package."""
    assert module not in imported


def test_import_loads_no_reader(imported):
    """Catalog, pages, server and command line are loaded by those who serve."""
    readers = ("catalog", "exposition", "server", "sidecar", "cli", "collectors", "generate", "demo", "doctor")
    assert [name for name in imported if name.startswith(tuple(f"exporter.{part}" for part in readers))] == []


def test_logging_without_a_server_loads_nothing_more(loaded, imported):
    """A run without a server logs, times and finishes on what the import has loaded."""
    used = loaded(
        "import exporter\n"
        "with exporter.start_run('r') as run:\n"
        "    run.log({'a': 1.5, 'b': float('nan'), 't': exporter.Table(['x'], [[1]])})\n"
        "    with run.time_operation('x'): pass"
    )
    assert {name for name in used - imported if name.partition(".")[0] not in sys.stdlib_module_names} == set()
