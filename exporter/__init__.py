"""Training telemetry for Prometheus: every step, every run, with alerts that say what to do.

from exporter import start_run

with start_run(run_id="r1", user_id="alice") as run:
run.log({"train/loss": 0.5}, step=1)
"""

from exporter._version import __version__
from exporter.errors import ConfigError, MissingDependencyError, RunError, ServerError, TelemetryError
from exporter.run import Run, RunAlert, SystemMetricsLogger, Table, start_run

__all__ = [
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
