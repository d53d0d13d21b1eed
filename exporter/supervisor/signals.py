"""Signals as bytes in a pipe: one loop waits for them and for everything else."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import NoReturn

from exporter.supervisor.ending import exit_code

__all__ = [
    "FORWARDED",
    "end_like",
    "listen",
    "restore_for_command",
    "stop_like_others",
    "until_interrupted",
]

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCONT,
)
"""What a terminal, a scheduler or a person sends to a command."""


def listen(fd: int, numbers: Iterable[int]) -> None:
    """From now on these signals do nothing but write their number, as a byte, to a descriptor.

    What is ignored stays ignored, as under nohup; but not the end of a child, or its exit code would be lost.
    """
    os.set_blocking(fd, False)
    signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    for number in numbers:
        if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """A block that ends early when we are asked to end; later requests are ignored, because we are ending."""
    try:
        _handle_requests_to_end(signal.default_int_handler)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        _handle_requests_to_end(signal.SIG_IGN)


def stop_like_others() -> None:
    """Stop as SIGTSTP stops a process without a handler; returns once we are continued."""
    ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, ours)


def restore_for_command() -> None:
    """Undo what Python ignores for itself, before this process becomes another program."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def end_like(returncode: int) -> NoReturn:
    """End as the command did: by its exit code, or by the signal that killed it (a negative code).

    Whoever waits for us, a shell, a scheduler, torchrun, then sees what it would have seen of the command. Where
    that signal cannot kill us (process 1 of a container) the exit code is 128 + N.
    """
    if returncode < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # or our core file would replace the command's
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    sys.exit(exit_code(returncode))


def _handle_requests_to_end(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The number is already in the pipe."""
