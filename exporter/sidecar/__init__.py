"""``telemetry-exporter serve``: the process beside the trainers."""

from exporter.sidecar.serve import Runs, Sidecar, remove_stale_targets

__all__ = ["Runs", "Sidecar", "remove_stale_targets"]
