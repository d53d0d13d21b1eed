"""In which world a process has its number: pids of two containers on one host, even of one pod, are two worlds."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

__all__ = ["pid_namespace", "shares_pids"]


@functools.cache
def pid_namespace() -> str:
    """The boot and the PID namespace of this process; empty where the system has none or does not tell them."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def shares_pids(host: str, namespace: str) -> bool:
    """Whether a pid noted on a host means the same process here; an empty namespace is one that was not noted."""
    return host == socket.gethostname() and namespace in ("", pid_namespace())
