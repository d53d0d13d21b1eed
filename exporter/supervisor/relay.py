"""Pass one output of the command on: byte for byte, at once, and never slower because somebody reads along."""

from __future__ import annotations

import errno
import os
import select
import threading
import time

from exporter.supervisor.lines import TEAR
from exporter.supervisor.streams import Stream

__all__ = ["DRAIN_SECONDS", "Relay", "Tap"]

DRAIN_SECONDS = 5.0
"""How long an output is read after the command's end, where a process that it left behind keeps it open."""

_PIECE_BYTES = 64 * 1024
_LATE_PIECES = 16
"""After that time what is already there is still passed on, but no more than this."""

_TAIL_BYTES = 16 * 1024
_READER_GONE = (errno.EPIPE, errno.ECONNRESET)


class Tap:
    """Copies an output to the recorder; what the recorder has no room for is left out in whole lines and counted."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.skipped_bytes = 0
        self._fd = fd
        self._is_torn = False
        self._is_line_start = True
        self._is_open = True

    def copy(self, piece: bytes) -> None:
        """Give the recorder a piece; never waits."""
        if not self._is_open:
            return
        data = self._whole_lines(piece) if self._is_torn else piece
        written = self._write(data) if data else 0
        self._is_torn = not data or written < len(data)
        self._is_line_start = piece.endswith(b"\n")
        self.skipped_bytes += max(len(piece) - written, 0)

    def close(self) -> None:
        """Say that this was all."""
        self._is_open = False
        os.close(self._fd)

    def _whole_lines(self, piece: bytes) -> bytes:
        """The mark that ends the torn line, and the lines that begin in this piece; nothing where none does."""
        start = 0 if self._is_line_start else piece.find(b"\n") + 1
        return TEAR + piece[start:] if start or self._is_line_start else b""

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._is_open = False
            return 0


class Relay(threading.Thread):
    """Reads what the command writes and writes it to our own output, which may make it wait as it would the command.

    Attributes:
        tail: The last bytes that passed.
    """

    def __init__(self, stream: Stream, tap: Tap, command_ended: int) -> None:
        """Pass a stream on; ``command_ended`` is a descriptor that becomes readable then."""
        super().__init__(daemon=True)
        self.tail = b""
        self._stream = stream
        self._tap = tap
        self._command_ended = command_ended
        self._poll = select.poll()
        self._poll.register(stream.read_end, select.POLLIN)
        self._poll.register(command_ended, select.POLLIN)
        self._deadline: float | None = None
        self._late_pieces = _LATE_PIECES

    def run(self) -> None:
        """Pass on until the output's end, or until nobody takes it: then the command meets a closed pipe, too."""
        try:
            while piece := self._read():
                self._tap.copy(piece)
                self.tail = (self.tail + piece)[-_TAIL_BYTES:]
                self._write(piece)
        except BrokenPipeError:
            pass
        finally:
            os.close(self._stream.read_end)
            self._tap.close()

    def _read(self) -> bytes:
        if not self._is_readable():
            return b""
        try:
            return os.read(self._stream.read_end, _PIECE_BYTES)
        except OSError:  # the way a terminal says that nobody has its other end
            return b""

    def _is_readable(self) -> bool:
        """Wait for output: for ever while the command lives, a while for those it left behind."""
        if self._deadline is None:
            ready = {fd for fd, _ in self._poll.poll()}
            if self._command_ended not in ready:
                return True
            self._poll.unregister(self._command_ended)
            self._deadline = time.monotonic() + DRAIN_SECONDS
        left = max(self._deadline - time.monotonic(), 0.0)
        if not left:
            self._late_pieces -= 1
        return self._late_pieces >= 0 and bool(self._poll.poll(left * 1000))

    def _write(self, piece: bytes) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: nobody reads our output any more.
        """
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self._stream.target, rest) :]
            except BlockingIOError:  # somebody who shares our output made it non-blocking
                _wait_until_writable(self._stream.target)
            except OSError as error:
                if error.errno in _READER_GONE or (error.errno == errno.EIO and self._stream.is_terminal):
                    raise BrokenPipeError from error
                return  # a full disk costs the output, and not the training


def _wait_until_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()
