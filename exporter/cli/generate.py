"""``telemetry-exporter generate``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from exporter.catalog import Catalog, default_catalog, load_catalog
from exporter.errors import MissingDependencyError
from exporter.generate import GENERATORS, differing, write

__all__ = ["generate"]


@click.command()
@click.argument("what", type=click.Choice(["all", *GENERATORS]), default="all")
@click.option(
    "--catalog", "catalog_file", type=click.Path(path_type=Path), help="What to add to the shipped catalog, or change."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Folder to write below.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file differs from what it must be.")
def generate(what: str, catalog_file: Path | None, output: Path, *, check: bool) -> None:
    """Generate alerts, dashboards and the metric reference from the catalog.

    Example: telemetry-exporter generate alerts --catalog mine.yaml -o DIR
    """
    catalog = load_catalog(catalog_file) if catalog_file else default_catalog()
    files = _everything(catalog) if what == "all" else dict(GENERATORS[what](catalog))
    changed = differing(files, output)
    for name in changed:
        click.echo(f"{'differs' if check else 'wrote'}: {name}")
    if not check:
        write({name: files[name] for name in changed}, output)
    sys.exit(1 if check and changed else 0)


def _everything(catalog: Catalog) -> dict[str, str]:
    """All files; those whose optional package is missing are left out, and that is said."""
    files: dict[str, str] = {}
    for make in GENERATORS.values():
        try:
            files.update(make(catalog))
        except MissingDependencyError as error:
            click.echo(f"left out: {error}", err=True)
    return files
