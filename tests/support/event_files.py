"""TensorBoard event files, written byte by byte from the format's definition."""

from __future__ import annotations

import struct

NOW = 1_700_000_000.0


def _remainder(byte: int) -> int:
    """What the Castagnoli polynomial leaves of one byte."""
    for _ in range(8):
        byte = (byte >> 1) ^ 0x82F63B78 if byte & 1 else byte >> 1
    return byte


_REMAINDERS = [_remainder(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _REMAINDERS[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    """TFRecord's masked checksum."""
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(payload: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def varint(value: int) -> bytes:
    """A protobuf varint."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    """A field: bytes as length-delimited, int as varint, packed floats given as struct results of 4 or 8 bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def fixed(number: int, code: str, value: float) -> bytes:
    """A fixed field of 4 or 8 bytes."""
    data = struct.pack("<" + code, value)
    return varint(number << 3 | (5 if len(data) == 4 else 1)) + data


def event(*values: bytes, step: int = 0, time: float = NOW) -> bytes:
    """A record with a summary; like protobuf it leaves out a step of 0."""
    summary = b"".join(field(1, value) for value in values)
    return frame(fixed(1, "d", time) + (field(2, step) if step else b"") + field(5, summary))


def simple(tag: str, number: float) -> bytes:
    """A value of TensorBoard 1."""
    return field(1, tag.encode()) + fixed(2, "f", number)


def tensor(tag: str, *fields: bytes, plugin: str | None = "scalars") -> bytes:
    """A value of TensorBoard 2."""
    metadata = field(9, field(1, field(1, plugin.encode()))) if plugin is not None else b""
    return field(1, tag.encode()) + field(8, b"".join(fields)) + metadata


def shape(*sizes: int) -> bytes:
    """A tensor's shape."""
    return field(2, b"".join(field(2, field(1, size)) for size in sizes))


VERSION = frame(fixed(1, "d", NOW) + field(3, b"brain.Event:2"))
