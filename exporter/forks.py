"""What a forked child, such as a data loader's worker, must let go of: its parent's locks and ports.

The kernel frees them only when the last process that inherited them has closed them, and a worker may outlive a
trainer that was killed.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol

__all__ = ["ForkAware", "tell_in_child"]


class ForkAware(Protocol):
    """Holds what belongs to the process that opened it."""

    def after_fork_in_child(self) -> None:
        """Let go of it, in a child that inherited it."""


_holders: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def tell_in_child(holder: ForkAware) -> None:
    """Call it in every child that is forked while it lives."""
    _holders.add(holder)


def _after_fork_in_child() -> None:
    for holder in list(_holders):
        with contextlib.suppress(Exception):  # the child is the training's
            holder.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork either
    os.register_at_fork(after_in_child=_after_fork_in_child)
