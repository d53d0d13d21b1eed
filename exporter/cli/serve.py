"""``telemetry-exporter serve``."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from exporter.server import parse_address
from exporter.sidecar import Sidecar

__all__ = ["serve"]


@click.command()
@click.argument("paths", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:9464", show_default=True, help="Port 0 takes any free one."
)
def serve(paths: tuple[Path, ...], listen: str) -> None:
    """Serve the runs below DIR... to Prometheus until Ctrl-C.

    Example: telemetry-exporter serve runs --listen 127.0.0.1:9464
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sidecar = Sidecar(paths, *parse_address(listen))
    click.echo(f"serving {' '.join(map(str, paths))} on {sidecar.url}/metrics")
    sidecar.run(stop)
