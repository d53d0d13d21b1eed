"""Linux control groups, version 1 and 2: what a process and those beside it may use, and do use.

A container, a Slurm job or a systemd unit is one. Limits may also be set on the groups around it, so the tightest of
them all counts. What a kernel or a group does not say, and a limit that is none, is None.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["ControlGroup", "MemoryLimit", "read_counter", "read_text"]

_NO_LIMIT = 1 << 62
"""Version 1 says by the highest number of pages that there is no limit."""

_FILE_CACHE = ("inactive_file", "active_file", "slab_reclaimable")
"""What the kernel drops before it kills anybody; version 1 calls the sums over inner groups ``total_...``."""


class MemoryLimit(NamedTuple):
    """The memory that a group may have, and what it has that cannot be dropped, both in bytes."""

    limit: int
    used: int


class ControlGroup:
    """The control group of a process, as this process sees it."""

    def __init__(self, root: Path = Path("/"), pid: int | str = "self") -> None:
        """Look at the kernel's files below ``root``."""
        mount = root / "sys/fs/cgroup"
        self._unified: list[Path] = []
        self._memory: list[Path] = []
        self._cpu: list[Path] = []
        for line in read_text(root / "proc" / str(pid) / "cgroup").splitlines():
            _, names, path = line.split(":", 2)
            controllers = names.split(",")
            if not names:
                self._unified = _levels(mount, path)
            elif "memory" in controllers:
                self._memory = _levels(mount / "memory", path)
            elif "cpu" in controllers:
                self._cpu = _levels(mount / "cpu", path)

    @property
    def exists(self) -> bool:
        """Whether the kernel still has it, whatever became of its processes."""
        folders = [folder for folder in self.place if folder]
        return bool(folders) and all(folder.is_dir() for folder in folders)

    @property
    def place(self) -> tuple[Path | None, ...]:
        """Tells groups apart."""
        return tuple(next(iter(levels), None) for levels in (self._unified, self._memory, self._cpu))

    def cpu_limit(self) -> float | None:
        """How many CPUs' time it may use."""
        quotas = [_cpus(read_text(folder / "cpu.max").split()) for folder in self._unified]
        quotas += [
            _cpus([read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])
            for folder in self._cpu
        ]
        return min((quota for quota in quotas if quota is not None), default=None)

    def memory_limit(self) -> MemoryLimit | None:
        """The tightest limit; of equal ones the outermost, as its use includes that of the inner ones."""
        limits = [*_limits(self._unified, "memory.max"), *_limits(self._memory, "memory.limit_in_bytes")]
        if not limits:
            return None
        limit, _, folder = min((limit, -depth, folder) for depth, (limit, folder) in enumerate(limits))
        used = _used(folder)
        return None if used is None else MemoryLimit(limit, used)

    def oom_kills(self) -> int | None:
        """How many of its processes the kernel has killed for want of memory."""
        files = [folder / "memory.events" for folder in _ends(self._unified)]
        files += [folder / "memory.oom_control" for folder in _ends(self._memory)]
        counts = (read_counter(file, "oom_kill") for file in files)
        return next((count for count in counts if count is not None), None)


def read_text(file: Path) -> str:
    """The text of a kernel's file; empty where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""


def read_counter(file: Path, name: str) -> int | None:
    """The number that stands behind a name in a kernel's file of names and numbers."""
    pairs = (line.split() for line in read_text(file).splitlines())
    return next((int(pair[1]) for pair in pairs if pair[0] == name), None)


def _levels(mount: Path, path: str) -> list[Path]:
    """The group's folder and those around it; in a container the path may be the host's, and the mount is the group.

    Only what exists: a group that is removed later must not be taken for the one around it.
    """
    parts = Path(path.lstrip("/")).parts
    if ".." in parts:  # outside of what we may see
        return []
    folders = (mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
    return [folder for folder in folders if folder.is_dir()]


def _ends(levels: list[Path]) -> list[Path]:
    return [*levels[:1], *levels[-1:]]


def _cpus(quota: list[str]) -> float | None:
    """CPUs of a quota and its period in microseconds; ``max`` and -1 are none."""
    if len(quota) < 2 or not (quota[0].isdecimal() and quota[1].isdecimal()):
        return None
    return int(quota[0]) / int(quota[1]) if int(quota[1]) else None


def _limits(levels: list[Path], name: str) -> Iterator[tuple[int, Path]]:
    for folder in levels:
        text = read_text(folder / name).strip()
        if text.isdecimal() and int(text) < _NO_LIMIT:
            yield int(text), folder


def _used(folder: Path) -> int | None:
    """Memory in use without the file cache, which grows up to any limit in a healthy group, too."""
    prefix = "total_" if (folder / "memory.usage_in_bytes").exists() else ""
    current = read_text(folder / ("memory.usage_in_bytes" if prefix else "memory.current")).strip()
    dropped = [read_counter(folder / "memory.stat", f"{prefix}{name}") or 0 for name in _FILE_CACHE]
    return max(int(current) - sum(dropped), 0) if current.isdecimal() else None
