"""The command's outputs: a terminal where ours is one, else a pipe; one where ours are one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
import tty
from typing import NamedTuple

__all__ = ["STDERR", "STDIN", "STDOUT", "Stream", "let_go_of", "occupy_standard_streams", "open_streams"]

STDIN, STDOUT, STDERR = 0, 1, 2

_WINDOW_SIZE = bytes(8)


class Stream(NamedTuple):
    """One output of the command on its way to ours."""

    target: int
    """Our own descriptor, which it goes to."""
    read_end: int
    write_end: int
    """What the command gets."""
    is_terminal: bool = False

    def copy_window_size(self) -> None:
        """Make the command's terminal as large as ours."""
        with contextlib.suppress(OSError):  # ours may just have been closed
            size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, _WINDOW_SIZE)
            fcntl.ioctl(self.read_end, termios.TIOCSWINSZ, size)


def occupy_standard_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, or the next file that is opened would be taken for it."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= STDERR:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def let_go_of(*fds: int) -> None:
    """Close what others at the other end may wait for, but keep the number taken."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(nowhere, fd)
    os.close(nowhere)


def open_streams() -> list[Stream]:
    """Stdout and stderr; where both of ours go to one file or terminal it is one stream, so that the order stays."""
    if os.path.sameopenfile(STDOUT, STDERR):
        return [_open_stream(STDOUT)]
    return [_open_stream(STDOUT), _open_stream(STDERR)]


def _open_stream(target: int) -> Stream:
    if os.isatty(target):
        with contextlib.suppress(OSError):  # a container may have no terminals to give
            return _open_terminal(target)
    return Stream(target, *os.pipe())


def _open_terminal(target: int) -> Stream:
    """A terminal that changes nothing on the way: ours does what a terminal does, and once is enough.

    Raises:
        OSError: the system has none to give.
    """
    read_end, write_end = os.openpty()
    tty.setraw(write_end)
    stream = Stream(target, read_end, write_end, is_terminal=True)
    stream.copy_window_size()
    return stream
