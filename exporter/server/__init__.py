"""Pages over HTTP: the same code in the trainer's process and in the sidecar."""

from exporter.server.exporter import Exporter
from exporter.server.http import MetricsServer, parse_address

__all__ = ["Exporter", "MetricsServer", "parse_address"]
