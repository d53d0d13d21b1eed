"""``telemetry-exporter serve``: the process beside the trainers."""

from exporter.sidecar.serve import Sidecar, remove_stale_targets

__all__ = ["Sidecar", "remove_stale_targets"]
