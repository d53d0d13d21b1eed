"""``telemetry-exporter serve``."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from exporter.cli.options import parse_tags
from exporter.importer import ImportOptions
from exporter.journal import validate_run_id
from exporter.server import parse_address
from exporter.sidecar import Runs, Sidecar
from exporter.sources import SOURCES, source_named
from exporter.stopping import stop_on_signals

__all__ = ["serve"]


@click.command()
@click.argument("paths", metavar="DIR|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:9464", show_default=True, help="Port 0 takes any free one."
)
@click.option("--once", is_flag=True, help="Print the page with the latest values and exit.")
@click.option("--run-id", metavar="ID", default="", help="The run's id, where the logs are of one run.")
@click.option("--user-id", metavar="NAME", default="", help="Who runs them.")
@click.option("--tag", "tags", metavar="KEY=VALUE", multiple=True, help="One more label; may be repeated.")
@click.option("--format", "format_name", type=click.Choice(list(SOURCES)), help="Read every log as this format.")
@click.option(
    "--from-start/--from-now", default=True, help="Whether what the logs hold already is taken.  [default: from-start]"
)
def serve(
    paths: tuple[Path, ...],
    *,
    listen: str,
    once: bool,
    run_id: str,
    user_id: str,
    tags: tuple[str, ...],
    format_name: str | None,
    from_start: bool,
) -> None:
    """Serve the runs in DIR or FILE to Prometheus until Ctrl-C: journals, and the logs of any known trainer.

    What --run-id, --user-id and --tag say is for logs that are no journals; else a run is named after its folder.

    Example: telemetry-exporter serve runs

    Example: telemetry-exporter serve logs/progress.csv --run-id ppo-7 --user-id alice --tag env=prod

    Example: telemetry-exporter serve logs --once
    """
    options = ImportOptions(
        run_id=validate_run_id(run_id) if run_id else "",
        user_id=user_id,
        tags=parse_tags(tags),
        source=source_named(format_name) if format_name else None,
        from_now=not from_start,
    )
    host, port = parse_address(listen)
    if once:
        with TemporaryDirectory() as state, closing(Runs(paths, port, options, Path(state))) as runs:
            sys.stdout.buffer.write(runs.page())
        return
    stop = stop_on_signals()
    sidecar = Sidecar(paths, host, port, options)
    click.echo(f"serving {' '.join(map(str, paths))} on {sidecar.url}/metrics")
    sidecar.run(stop)
