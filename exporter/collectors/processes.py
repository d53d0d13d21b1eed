"""Processes by Linux' /proc: parents, environments, and what each has used; as far as this user may read it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.records import Labels

__all__ = ["Processes", "RunProcess", "Status", "tree"]

_MAX_GENERATIONS = 64
"""A process tree is not deeper; what seems to be is read while it changes."""

_DEAD = (b"Z", b"X")


class RunProcess(NamedTuple):
    """A process of a run on this host, the labels of that run's series, and the path of its last checkpoint."""

    labels: Labels
    pid: int
    checkpoint: str = ""


class Status(NamedTuple):
    """What the kernel says of a process; times in seconds, memory in bytes.

    CPU time includes that of children which have ended and were waited for, so that over a whole tree it does not
    fall when one ends. The same holds for what was read and written.
    """

    parent: int
    is_dead: bool
    """It has ended, and nobody has waited for it yet."""
    cpu_seconds: float
    threads: int
    resident_bytes: int
    started: int
    """Tells two processes with the same number apart."""


class Processes:
    """The processes of this host."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Read below ``proc``; where there is none, nothing is known of any process."""
        self._proc = proc
        self._ticks_per_second, self._page_bytes = (_system_value(name) for name in ("SC_CLK_TCK", "SC_PAGE_SIZE"))

    def environment(self, pid: int) -> dict[str, str]:
        """The environment a process was started with; empty if it is gone or another user's."""
        text = self._read(pid, "environ").decode("utf-8", "replace")
        return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)

    def lineage(self, pid: int) -> Iterator[int]:
        """The process, its parent, and so on up."""
        for _ in range(_MAX_GENERATIONS):
            if pid <= 0:
                return
            yield pid
            pid = self._parent(pid)

    def children(self) -> Mapping[int, Sequence[int]]:
        """The children of each process that has any."""
        found: dict[int, list[int]] = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(self._proc):
                status = self.status(int(name)) if name.isdecimal() else None
                if status:
                    found.setdefault(status.parent, []).append(int(name))
        return found

    def status(self, pid: int) -> Status | None:
        """What the kernel says of a process; None if it is gone."""
        text = self._read(pid, "stat")
        if not text:
            return None
        # The command's name stands in parentheses and may itself hold spaces and parentheses.
        state, *numbers = text.rpartition(b")")[2].split()
        parent, *fields = map(int, numbers)
        ticks = sum(fields[9:13])  # its own in user and system mode, then those of the children it waited for
        return Status(
            parent=parent,
            is_dead=state in _DEAD,
            cpu_seconds=ticks / self._ticks_per_second,
            threads=fields[15],
            resident_bytes=fields[19] * self._page_bytes,
            started=fields[17],
        )

    def open_files(self, pid: int) -> int | None:
        """How many file descriptors a process has; None if it is gone or another user's."""
        try:
            return len(os.listdir(self._proc / str(pid) / "fd"))
        except OSError:
            return None

    def storage(self, pid: int) -> tuple[int, int] | None:
        """Bytes that a process had read from storage and written to it; None if it is gone or another user's."""
        lines = self._read(pid, "io").splitlines()
        counts = {name: int(number) for name, _, number in (line.partition(b": ") for line in lines)}
        return (counts[b"read_bytes"], counts[b"write_bytes"]) if counts else None

    def folder(self, pid: int) -> Path | None:
        """The folder in which a process works; None if it is gone or another user's."""
        try:
            return Path(os.readlink(self._proc / str(pid) / "cwd"))
        except OSError:
            return None

    def _read(self, pid: int, name: str) -> bytes:
        """A file of a process; empty if the process is gone or another user's."""
        try:
            with open(f"{self._proc}/{pid}/{name}", "rb", buffering=0) as file:
                return file.read()
        except OSError:
            return b""

    def _parent(self, pid: int) -> int:
        status = self.status(pid)
        return status.parent if status else 0


def _system_value(name: str) -> int:
    """A constant of the system; 1 where there is none, and no /proc either."""
    return os.sysconf(name) if name in getattr(os, "sysconf_names", {}) else 1


def tree(pid: int, children: Mapping[int, Sequence[int]], others: Collection[int] = ()) -> Iterator[int]:
    """A process and those that descend from it, each after its parent; ``others`` are left out with all of theirs."""
    generation = [pid]
    for _ in range(_MAX_GENERATIONS):
        yield from generation
        generation = [child for parent in generation for child in children.get(parent, ()) if child not in others]
