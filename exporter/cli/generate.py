"""``telemetry-exporter generate``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from exporter.catalog import Catalog, default_catalog, load_catalog
from exporter.errors import ConfigError, MissingDependencyError
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

    Rules of your own catalog are shown to promtool, where it is on the PATH, before anything is written: Prometheus
    refuses a whole file because of one expression.

    Example: telemetry-exporter generate alerts --catalog mine.yaml -o DIR
    """
    catalog = load_catalog(catalog_file) if catalog_file else default_catalog()
    files = _everything(catalog) if what == "all" else dict(GENERATORS[what](catalog))
    if catalog_file:
        _check_rules(files, catalog_file)
    changed = differing(files, output)
    for name in changed:
        click.echo(f"{'differs' if check else 'wrote'}: {name}")
    if not check:
        write({name: files[name] for name in changed}, output)
    sys.exit(1 if check and changed else 0)


def _check_rules(files: Mapping[str, str], catalog_file: Path) -> None:
    """Let promtool judge the rules among the files."""
    rules = {name: content for name, content in files.items() if name.endswith(".rules.yml")}
    promtool = shutil.which("promtool")
    if rules and not promtool:
        click.echo("not checked: promtool is not on the PATH, so Prometheus may still refuse these rules", err=True)
    if not rules or not promtool:
        return
    with tempfile.TemporaryDirectory() as folder:
        write(rules, Path(folder))
        command = [promtool, "check", "rules", *rules]
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ConfigError(
            f"{catalog_file}: promtool refuses its rules, so nothing was written:\n{answer.stderr.strip()}"
        )


def _everything(catalog: Catalog) -> dict[str, str]:
    """All files; those whose optional package is missing are left out, and that is said."""
    files: dict[str, str] = {}
    for make in GENERATORS.values():
        try:
            files.update(make(catalog))
        except MissingDependencyError as error:
            click.echo(f"left out: {error}", err=True)
    return files
