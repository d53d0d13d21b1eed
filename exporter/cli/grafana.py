"""``telemetry-exporter grafana``."""

from __future__ import annotations

import click

from exporter.grafana_push import Grafana, made_for, push

__all__ = ["grafana"]


@click.group()
def grafana() -> None:
    """The dashboards in a Grafana that exists already.

    Example: telemetry-exporter grafana push --url https://grafana.example.com --dry-run
    """


@grafana.command("push")
@click.option(
    "--url",
    envvar="TELEMETRY_GRAFANA_URL",
    required=True,
    help="Address of Grafana, with the path below which it is served; or TELEMETRY_GRAFANA_URL.",
)
@click.option("--token", envvar="GRAFANA_TOKEN", required=True, help="Token of a service account; or GRAFANA_TOKEN.")
@click.option("--folder", default="Telemetry", show_default=True, help="Title of the folder; made if it is missing.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def push_command(url: str, token: str, folder: str, *, dry_run: bool) -> None:
    """Upload the dashboards; those that are there already stay as they are.

    Example: GRAFANA_TOKEN=glsa_... telemetry-exporter grafana push --url https://grafana.example.com
    """
    server = Grafana(url, token)
    if warning := made_for(server):
        click.echo(f"telemetry-exporter: {warning}", err=True)
    for pushed in push(server, folder, dry_run=dry_run):
        outcome = f"would be {pushed.outcome}" if dry_run and pushed.outcome != "unchanged" else pushed.outcome
        click.echo(f"{outcome}: {pushed.title} ({pushed.url})")
