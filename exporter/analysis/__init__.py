"""Looking at logs without any server."""

from exporter.analysis.summary import summarise

__all__ = ["summarise"]
