"""``telemetry-exporter demo``."""

from __future__ import annotations

import sys

import click

__all__ = ["demo"]


@click.command()
@click.option("--once", is_flag=True, help="End by itself once both runs are over and their alerts resolved.")
@click.option("--seconds", type=click.IntRange(min=10), default=60, show_default=True, help="How long each run trains.")
def demo(*, once: bool, seconds: int) -> None:
    """Train two real PPO runs, one healthy and one diverging, and watch them with the shipped configuration.

    Example: telemetry-exporter demo --once --seconds 45
    """
    from exporter.demo.show import run_demo  # only this command needs the servers' code

    sys.exit(run_demo(once=once, seconds=seconds))
