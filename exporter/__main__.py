"""``python -m exporter`` is the command ``telemetry-exporter``."""

from exporter.cli import main

main()
