"""Output in pieces, made into lines for a parser."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["TEAR", "Lines"]

TEAR = b"\0\n"
"""Ends a line whose rest is missing: a line with a NUL is no text and is left out."""

_NO_TEXT = b"\0"
_LONGEST = 1 << 16


class Lines:
    """Collects pieces; what never ends in a newline takes no more than 64 KiB."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[str]:
        """The lines that this piece completes."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST:
            self._shorten()
        for line in lines:
            if _NO_TEXT not in line:
                yield line.decode("utf-8", "replace")

    def _shorten(self) -> None:
        """Forget the overwritten part of a progress bar; what is long without one is a dump."""
        shown = self._rest.rpartition(b"\r")[2]
        self._rest = shown if len(shown) <= _LONGEST else _NO_TEXT
