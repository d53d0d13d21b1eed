"""The API inside a training script."""

from exporter.run.alerts import RunAlert
from exporter.run.run import Run
from exporter.run.start import start_run
from exporter.run.system_metrics import SystemMetricsLogger
from exporter.run.table import Table

__all__ = ["Run", "RunAlert", "SystemMetricsLogger", "Table", "start_run"]
