"""The command group, and what each error means to a shell.

Exit codes: 0 all is well; 1 a check found something; 2 wrong usage, setting, catalog or path; 3 a server
cannot listen or is missing; 4 an optional package is missing; 130 interrupted.
"""

from __future__ import annotations

import sys

import click

from exporter._version import __version__
from exporter.cli.backfill import backfill
from exporter.cli.check import check
from exporter.cli.demo import demo
from exporter.cli.doctor import doctor
from exporter.cli.explain import explain
from exporter.cli.export import export
from exporter.cli.generate import generate
from exporter.cli.grafana import grafana
from exporter.cli.health import health
from exporter.cli.inspect import inspect
from exporter.cli.run import run
from exporter.cli.serve import serve
from exporter.errors import MissingDependencyError, ServerError, TelemetryError

__all__ = ["cli", "main"]

_EXIT_CODES: tuple[tuple[type[TelemetryError], int], ...] = (
    (ServerError, 3),
    (MissingDependencyError, 4),
    (TelemetryError, 2),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="telemetry-exporter")
def cli() -> None:
    """Training telemetry on Prometheus: every step, alerts that say what to do, dashboards."""


for command in (serve, run, demo, check, inspect, health, export, backfill, explain, doctor, generate, grafana):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        code = cli.main(args=arguments, prog_name="telemetry-exporter", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except TelemetryError as error:
        click.echo(f"telemetry-exporter: {error}", err=True)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
    except OSError as error:
        click.echo(f"telemetry-exporter: {error}", err=True)
        sys.exit(2)
