"""Whom the kernel killed for want of memory: counters, because its log is closed to users."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from exporter.cgroup import ControlGroup, read_counter

__all__ = ["OomKills", "count_oom_kills"]


class OomKills(NamedTuple):
    """Processes killed for want of memory; None where the kernel does not say."""

    cgroup: int | None
    """Those of our control group, which is the job's, the container's or the session's."""
    host: int | None
    """Those of the whole machine."""

    def since(self, earlier: OomKills) -> OomKills:
        """How many were killed since an earlier count."""
        return OomKills(_difference(self.cgroup, earlier.cgroup), _difference(self.host, earlier.host))


def count_oom_kills(root: Path = Path("/")) -> OomKills:
    """How many were killed up to now."""
    return OomKills(ControlGroup(root).oom_kills(), read_counter(root / "proc/vmstat", "oom_kill"))


def _difference(now: int | None, earlier: int | None) -> int | None:
    return None if now is None or earlier is None else now - earlier
