"""TensorBoard event files, read without TensorFlow: record frames, and the few protobuf fields a scalar needs."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from exporter.sources.base import Bad, Head, Item, Meta, Row, read_blocks
from exporter.sources.event_settings import settings
from exporter.sources.protobuf import fields, signed, text_field, varint

__all__ = ["TensorBoard"]

_MOST_TAGS = 10_000
_SAME_EVENT = 0.001
"""Values of one step written within this many seconds make one row."""

_VERSION = b"brain.Event:2"
_LENGTH = struct.Struct("<QI")
_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")
_wall_time = _DOUBLE.unpack_from
_TIME_KEY, _STEP_KEY, _SUMMARY_KEY = b"\x09", 0x10, 0x2A
_NO_STEP = b"?"
_SHORTEST_SCALAR = 16

_ELEMENTS = {
    dtype: struct.Struct("<" + code)
    for dtype, code in zip((1, 2, 3, 4, 5, 6, 9, 10, 17, 19, 22, 23), "fdiBhbq?HeIQ", strict=True)
}
"""How one element of a numeric DataType lies in ``tensor_content``."""

_HALF = 19
_FIXED_FIELDS = {5: _FLOAT, 6: _DOUBLE}
_VARINT_FIELDS = frozenset({7, 10, 11, 16, 17})
_HALF_FIELD, _CONTENT_FIELD, _STRING_FIELD = 13, 4, 8

_Scalars = Sequence[tuple[str, float]]
_Event = tuple[float, int, _Scalars, Meta | Bad | None]
"""What one record says: when, at which step, numbers by tag, the run's settings."""

_NO_EVENT = "the record is not an event"
_LOST = "the length of the record is damaged: nothing after it can be found"


class TensorBoard:
    """Scalars of any writer: ``simple_value`` and tensors of one number; everything else is passed over."""

    name = "tensorboard"

    def recognises(self, head: Head) -> bool:
        """The first record is the version of the format."""
        if len(head.data) < _LENGTH.size:
            return False
        size, check = _LENGTH.unpack_from(head.data)
        whole = size < 256 and check == _masked_crc(head.data[:8])
        return whole and _VERSION in head.data[_LENGTH.size : _LENGTH.size + size]

    def read(self, path: Path) -> Iterator[Item | None]:
        """Every scalar in the order of the file; a damaged length ends it, since nothing after that can be found.

        At the end of the file the values of its last step are a row; more values of that step will be another one.
        """
        frames, rows = _Frames(), _Rows()
        for block in read_blocks(path):
            if isinstance(block, bytes):
                yield from rows.items(frames.payloads(block))
                if not frames.sound:
                    yield from rows.rest()
                    yield Bad(rows.number + 1, _LOST)
                    return
            else:
                yield from rows.rest()
                yield block
        yield from rows.rest()


class _Frames:
    """TFRecord frames; one that is not complete waits for the rest of it."""

    def __init__(self) -> None:
        self.sound = True
        """Whether the next frame can be found: no length so far was damaged."""
        self._buffer = b""
        self._sizes: dict[bytes, int] = {}

    def payloads(self, block: bytes) -> Iterator[bytes]:
        """The payload of every frame that is now complete. Checksums of payloads would cost the speed."""
        buffer, sizes, at = self._buffer + block, self._sizes, 0
        while (begin := at + 12) <= len(buffer):
            head = buffer[at:begin]
            size = sizes.get(head)
            if size is None:
                size, check = _LENGTH.unpack(head)
                if check != _masked_crc(head[:8]):
                    self.sound = False
                    break
                sizes[head] = size
            end = begin + size
            if end + 4 > len(buffer):
                break
            yield buffer[begin:end]
            at = end + 4
        self._buffer = buffer[at:]


class _Rows:
    """One row for the values of a step that were written together; a tag that comes again begins a new one."""

    def __init__(self) -> None:
        self.number = 0
        """How many records there were."""
        self._decode = _Decoder().event
        self._metrics: dict[str, float] = {}
        self._step, self._time = 0, math.inf

    def items(self, records: Iterable[bytes]) -> Iterator[Item]:
        """What these records say, except the last row: more values may belong to it."""
        for record in records:
            self.number += 1
            try:
                time, step, values, other = self._decode(record)
            except (ValueError, IndexError, struct.error):
                time, step, values, other = 0.0, 0, (), Bad(self.number, _NO_EVENT)
            if other is not None:
                yield from self.rest()
                yield other
            for tag, value in values:
                same = step == self._step and -_SAME_EVENT < time - self._time < _SAME_EVENT
                if not same or tag in self._metrics:
                    yield from self.rest()
                    self._step, self._time = step, time
                self._metrics[tag] = value

    def rest(self) -> Iterator[Row]:
        """The row that is open."""
        if self._metrics:
            yield Row(self._step, self._metrics, self._time)
            self._metrics = {}


class _Decoder:
    """Decodes events; a writer repeats the bytes around a number at every step, so they are decoded once."""

    def __init__(self) -> None:
        self._step = self._at = 0
        """The last step, and where the length of its summary lies; 0 where fields are in no usual order."""
        self._step_bytes = _NO_STEP
        """What lies between the time and that place."""
        self._simple: dict[bytes, str] = {}
        """Tags by the bytes from that place to a number at the end."""
        self._inner: dict[int, tuple[int, int, Callable[[bytes, int], tuple[Any, ...]], dict[bytes, str]]] = {}
        """By the length from that place: where a number begins and ends, and tags by the bytes around it."""

    def event(self, data: bytes) -> _Event:
        """What one record says; most cost a look-up of their tag and none of their step."""
        if data[9 : self._at] != self._step_bytes or data[:1] != _TIME_KEY:
            self._find_step(data)
        at = self._at
        tag = self._simple.get(data[at:-4]) if at else None
        if tag is not None:
            return _wall_time(data, 1)[0], self._step, ((tag, _FLOAT.unpack_from(data, len(data) - 4)[0]),), None
        shape = self._inner.get(len(data) - at) if at else None
        if shape is not None:
            start, stop, unpack, tags = shape
            tag = tags.get(data[at : at + start] + data[at + stop :])
            if tag is not None:
                return _wall_time(data, 1)[0], self._step, ((tag, unpack(data, at + start)[0]),), None
        return self._decoded(data)

    def _find_step(self, data: bytes) -> None:
        """Where the step lies if time, step and summary follow each other, as writers put them."""
        self._at, self._step_bytes = 0, _NO_STEP
        if len(data) > _SHORTEST_SCALAR and data[:1] == _TIME_KEY:
            step, at = varint(data, 10) if data[9] == _STEP_KEY else (0, 9)
            if data[at] == _SUMMARY_KEY:
                self._step, self._at, self._step_bytes = signed(step), at + 1, data[9 : at + 1]

    def _decoded(self, data: bytes) -> _Event:
        time, step, summary, usual = _envelope(data)
        values = [
            _Value(data, start, stop) for field, wire, start, stop in fields(data, *summary) if (field, wire) == (1, 2)
        ]
        if len(values) == 1 and usual and self._at:
            self._remember(values[0], data)
        config = next(filter(None, (value.config() for value in values)), None)
        return time, step, [(value.tag, value.number) for value in values if value.number is not None], config

    def _remember(self, value: _Value, data: bytes) -> None:
        if value.number is None or value.kind is None:
            return
        at, start, stop = self._at, value.start, value.start + value.kind.size
        if value.kind is _FLOAT and stop == len(data):
            tags = self._simple
        else:
            shape = (start - at, stop - at, value.kind.unpack_from)
            known = self._inner.setdefault(len(data) - at, (*shape, {}))
            tags = known[3] if known[:2] == shape[:2] else {}
        if len(tags) < _MOST_TAGS:
            tags[data[at:start] + data[stop:]] = value.tag


def _envelope(data: bytes) -> tuple[float, int, tuple[int, int], bool]:
    """When, at which step, where the summary lies, and whether the fields are these alone in their usual order."""
    time, step, summary, order = 0.0, 0, (0, 0), []
    for field, wire, start, stop in fields(data):
        order.append(field)
        if (field, wire) == (1, 1):
            time = _DOUBLE.unpack_from(data, start)[0]
        elif (field, wire) == (2, 0):
            step = signed(varint(data, start)[0])
        elif (field, wire) == (5, 2):
            summary = (start, stop)
    return time, step, summary, order in ([1, 2, 5], [1, 5])


class _Value:
    """One value of a summary: its tag and, where it has one, its number and where that lies in the bytes."""

    def __init__(self, data: bytes, begin: int, end: int) -> None:
        self.tag = self._plugin = ""
        self.number: float | None = None
        self.start = 0
        self.kind: struct.Struct | None = None
        self._text = self._content = b""
        for field, wire, start, stop in fields(data, begin, end):
            if (field, wire) == (1, 2):
                self.tag = data[start:stop].decode("utf-8", "replace")
            elif (field, wire) == (2, 5):
                self._take(data, start, _FLOAT)
            elif (field, wire) == (8, 2):
                self._tensor(data, start, stop)
            elif (field, wire) == (9, 2):
                plugin = text_field(data, 1, start, stop)
                self._plugin = text_field(plugin, 1).decode("utf-8", "replace")
                self._content = text_field(plugin, 2)
        if self._plugin not in ("", "scalars"):
            self.number = None

    def _take(self, data: bytes, start: int, kind: struct.Struct) -> None:
        self.number, self.start, self.kind = float(kind.unpack_from(data, start)[0]), start, kind

    def _tensor(self, data: bytes, begin: int, end: int) -> None:
        parts = list(fields(data, begin, end))
        dtype = next((varint(data, start)[0] for field, wire, start, _ in parts if (field, wire) == (1, 0)), 0)
        if any(field == 2 and _elements(data[start:stop]) != 1 for field, _, start, stop in parts):
            return
        for field, wire, start, stop in parts:
            if field in _FIXED_FIELDS and stop - start == _FIXED_FIELDS[field].size:
                self._take(data, start, _FIXED_FIELDS[field])
            elif field == _CONTENT_FIELD and dtype in _ELEMENTS and stop - start == _ELEMENTS[dtype].size:
                self._take_content(data, start, dtype)
            elif field in _VARINT_FIELDS and wire in (0, 2) and stop > start:
                self.number, self.kind = float(signed(varint(data, start)[0])), None
            elif field == _HALF_FIELD and dtype == 19 and wire in (0, 2) and stop > start:
                bits = varint(data, start)[0] & 0xFFFF
                self.number, self.kind = float(struct.unpack("<e", bits.to_bytes(2, "little"))[0]), None
            elif field == _STRING_FIELD and wire == 2:
                self._text = data[start:stop]

    def _take_content(self, data: bytes, start: int, dtype: int) -> None:
        self._take(data, start, _ELEMENTS[dtype])
        if dtype not in (1, 2):
            self.kind = None  # the remembered bytes are for floats

    def config(self) -> Meta | None:
        """What it says about the run."""
        found = settings(self.tag, self._plugin, self._text, self._content)
        return None if found is None else Meta(found)


def _elements(shape: bytes) -> int:
    """How many elements a TensorShapeProto has; 0 where its rank is unknown."""
    count = 1
    for field, wire, start, stop in fields(shape):
        if (field, wire) == (2, 2):
            sizes = [varint(shape, a)[0] for f, w, a, _ in fields(shape, start, stop) if (f, w) == (1, 0)]
            count *= sizes[-1] if sizes else 0
        elif field == 3:
            return 0
    return count


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1))
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
