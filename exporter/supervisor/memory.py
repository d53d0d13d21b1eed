"""Whom the kernel killed for want of memory: counters, because its log is closed to users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
    counts = (_counter(file) for file in _cgroup_files(root))
    cgroup = next((count for count in counts if count is not None), None)
    return OomKills(cgroup, _counter(root / "proc/vmstat"))


def _cgroup_files(root: Path) -> Iterator[Path]:
    """Where our control group may say it: version 2, version 1, each also as a container sees itself."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder, name = mount, "memory.events"
        elif "memory" in controllers.split(","):
            folder, name = mount / "memory", "memory.oom_control"
        else:
            continue
        yield folder / path.lstrip("/") / name
        yield folder / name


def _counter(file: Path) -> int | None:
    pairs = (line.split() for line in _read(file).splitlines())
    return next((int(pair[1]) for pair in pairs if pair[0] == "oom_kill"), None)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _difference(now: int | None, earlier: int | None) -> int | None:
    return None if now is None or earlier is None else now - earlier
