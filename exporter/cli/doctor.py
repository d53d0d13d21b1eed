"""``telemetry-exporter doctor``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exporter.doctor import examine

__all__ = ["doctor"]


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Runs folder.")
@click.option("--exporter", default="http://127.0.0.1:9464", show_default=True, help="Address of the exporter.")
@click.option("--prometheus", help="Address of Prometheus, such as http://127.0.0.1:9090.")
@click.option("--alertmanager", help="Address of Alertmanager, such as http://127.0.0.1:9093.")
def doctor(runs: Path, exporter: str, prometheus: str | None, alertmanager: str | None) -> None:
    """Look at an installation and say what is wrong and what to do; exit 1 if anything is.

    Example: telemetry-exporter doctor --prometheus http://127.0.0.1:9090
    """
    findings = list(examine(runs, exporter, prometheus, alertmanager))
    for finding in findings:
        click.echo(f"{'ok     ' if finding.is_ok else 'PROBLEM'}  {finding.text}")
    sys.exit(0 if all(finding.is_ok for finding in findings) else 1)
