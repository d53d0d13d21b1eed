"""Where the shipped configuration lies: inside an installed package, or at the top of a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_folder"]


def shipped_folder(name: str) -> Path:
    """The folder ``prometheus``, ``alerts`` or ``grafana``."""
    package = Path(__file__).parent
    installed = package / "_shipped" / name
    return installed if installed.is_dir() else package.parent / name
