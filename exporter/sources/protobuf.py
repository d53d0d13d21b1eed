"""The wire format of Protocol Buffers, as far as reading a few fields needs it."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["fields", "signed", "text_field", "varint"]


def fields(data: bytes, at: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first and last offset of every field of a message.

    Raises:
        ValueError: it is no message.
        IndexError: it is cut.
    """
    end = len(data) if end is None else end
    while at < end:
        key, at = varint(data, at)
        wire, start = key & 7, at
        if wire == 0:
            _, at = varint(data, at)
        elif wire == 2:
            size, start = varint(data, at)
            at = start + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(wire)
        if at > end:
            raise ValueError(at)
        yield key >> 3, wire, start, at


def text_field(data: bytes, number: int, at: int = 0, end: int | None = None) -> bytes:
    """The first field of text, bytes or a message with a number; empty where there is none."""
    found = (data[start:stop] for field, wire, start, stop in fields(data, at, end) if (field, wire) == (number, 2))
    return next(found, b"")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    second = data[at + 1]
    if second < 128:
        return byte & 127 | second << 7, at + 2
    value = shift = 0
    while byte > 127:
        value |= (byte & 127) << shift
        shift += 7
        at += 1
        byte = data[at]
        if shift > 63:
            raise ValueError(shift)
    return value | byte << shift, at + 1


def signed(value: int) -> int:
    """A 64-bit number with its sign."""
    return value - (1 << 64) if value >> 63 else value
