"""The command ``telemetry-exporter``: one file per command, errors to exit codes in one place."""

from exporter.cli.main import main

__all__ = ["main"]
