"""Supervise any command: pass its output on, record the metrics in it, say how and why it ended."""

from exporter.supervisor.signals import end_like
from exporter.supervisor.supervise import supervise

__all__ = ["end_like", "supervise"]
