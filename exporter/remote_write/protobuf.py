"""The two request messages of remote write as protobuf bytes.

Written by hand: they need four kinds of fields, and a sample is then one entry of a ``struct`` format
instead of an object.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from exporter.records import Family, Labels

__all__ = ["TimeSeries", "encode_v1", "encode_v2"]

_UINT64 = (1 << 64) - 1
_TYPES = {"counter": 1, "gauge": 2, "histogram": 3, "gaugehistogram": 4, "summary": 5, "info": 6, "stateset": 7}

# A field begins with its number and its wire type: 0 is a varint, 1 eight bytes, 2 a length and so many bytes.
_V1_SERIES = b"\x0a"
_V1_LABEL = b"\x0a"
_V1_LABEL_NAME = b"\x0a"
_V1_LABEL_VALUE = b"\x12"
_V2_SYMBOL = b"\x22"
_V2_SERIES = b"\x2a"
_V2_LABEL_REFERENCES = b"\x0a"
_V2_METADATA = b"\x2a"
_V2_METADATA_TYPE = b"\x08"
_V2_METADATA_HELP = b"\x18"
_SAMPLE = b"\x12"
_SAMPLE_VALUE = b"\x09"
_SAMPLE_TIME = b"\x10"


class TimeSeries(NamedTuple):
    """Samples of one series; their times, in milliseconds since 1970, strictly increase."""

    family: Family
    labels: Labels
    """With the name as ``__name__``, sorted by label name; no value is empty."""
    times_ms: Sequence[int]
    values: Sequence[float]


def encode_v1(series: Iterable[TimeSeries]) -> bytes:
    """A ``prometheus.WriteRequest``."""
    encode = _SampleEncoder()
    return b"".join([_field(_V1_SERIES, _labels(one.labels) + encode(one.times_ms, one.values)) for one in series])


def encode_v2(series: Iterable[TimeSeries]) -> bytes:
    """An ``io.prometheus.write.v2.Request``: each text stands in it once, types and help texts included."""
    symbols = {"": 0}
    encode = _SampleEncoder()
    encoded = [_field(_V2_SERIES, _v2_series(one, symbols, encode(one.times_ms, one.values))) for one in series]
    return b"".join([_field(_V2_SYMBOL, _utf8(text)) for text in symbols] + encoded)


def _v2_series(one: TimeSeries, symbols: dict[str, int], samples: bytes) -> bytes:
    references = [symbols.setdefault(text, len(symbols)) for label in one.labels for text in label]
    help_reference = symbols.setdefault(one.family.help, len(symbols))
    metadata = _V2_METADATA_TYPE + _varint(_TYPES.get(one.family.type, 0))
    metadata += _V2_METADATA_HELP + _varint(help_reference)
    labels = _field(_V2_LABEL_REFERENCES, b"".join(map(_varint, references)))
    return labels + samples + _field(_V2_METADATA, metadata)


@lru_cache(maxsize=8192)
def _labels(labels: Labels) -> bytes:
    pairs = [_field(_V1_LABEL_NAME, _utf8(name)) + _field(_V1_LABEL_VALUE, _utf8(value)) for name, value in labels]
    return b"".join([_field(_V1_LABEL, pair) for pair in pairs])


class _SampleEncoder:
    """Encodes the samples of a series by one ``struct`` call; the series of a run share their times."""

    def __init__(self) -> None:
        self._times_ms: Sequence[int] = ()
        self._times: list[bytes] = []
        self._widths: set[int] = {0}

    def __call__(self, times_ms: Sequence[int], values: Sequence[float]) -> bytes:
        if times_ms is not self._times_ms:
            self._times_ms = times_ms
            self._times = list(map(_time, times_ms))
            self._widths = set(map(len, self._times))
        if len(self._widths) > 1:  # years before 2004 or after 2109 among others
            return b"".join([_SampleEncoder()([ms], [value]) for ms, value in zip(times_ms, values, strict=True)])
        (width,) = self._widths
        parts: list[bytes | float] = [_SAMPLE + _varint(9 + width) + _SAMPLE_VALUE] * (3 * len(values))
        parts[1::3] = values
        parts[2::3] = self._times
        return _layout(len(values), width).pack(*parts)


@lru_cache(maxsize=65536)
def _time(ms: int) -> bytes:
    return _SAMPLE_TIME + _varint(ms & _UINT64)


@lru_cache(maxsize=64)
def _layout(samples: int, time_width: int) -> struct.Struct:
    return struct.Struct("<" + f"3sd{time_width}s" * samples)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have their highest bit set."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
