"""Small helpers of the generators."""

from __future__ import annotations

__all__ = ["GENERATED", "wrap"]

GENERATED = "Generated from exporter/catalog by `telemetry-exporter generate`; do not edit."


def wrap(text: str) -> str:
    """One paragraph on one line, as Markdown likes it."""
    return " ".join(text.split())
