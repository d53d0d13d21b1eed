"""The request messages against Google's protobuf library, which is given the fields of the two specifications."""

from __future__ import annotations

import math
import struct
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from exporter.records import Family
from exporter.remote_write import TimeSeries, encode_v1, encode_v2

FIELD = descriptor_pb2.FieldDescriptorProto
STRING, DOUBLE, INT64, UINT32 = FIELD.TYPE_STRING, FIELD.TYPE_DOUBLE, FIELD.TYPE_INT64, FIELD.TYPE_UINT32
REPEATED = FIELD.LABEL_REPEATED

V1 = {
    "Label": [("name", 1, STRING), ("value", 2, STRING)],
    "Sample": [("value", 1, DOUBLE), ("timestamp", 2, INT64)],
    "TimeSeries": [("labels", 1, "Label", REPEATED), ("samples", 2, "Sample", REPEATED)],
    "WriteRequest": [("timeseries", 1, "TimeSeries", REPEATED)],
}
V2 = {
    "Sample": [("value", 1, DOUBLE), ("timestamp", 2, INT64)],
    "Metadata": [("type", 1, INT64), ("help_ref", 3, UINT32), ("unit_ref", 4, UINT32)],
    "TimeSeries": [
        ("labels_refs", 1, UINT32, REPEATED),
        ("samples", 2, "Sample", REPEATED),
        ("metadata", 5, "Metadata"),
    ],
    "Request": [("symbols", 4, STRING, REPEATED), ("timeseries", 5, "TimeSeries", REPEATED)],
}
COUNTER, GAUGE, HISTOGRAM = 1, 2, 3

TIMES = st.lists(
    st.integers(0, 2**44) | st.integers(1_700_000_000_000, 1_800_000_000_000), min_size=1, max_size=20, unique=True
).map(sorted)
VALUES = st.floats() | st.integers(-(2**63), 2**63)
TEXTS = st.text(max_size=200)


@st.composite
def series(draw: st.DrawFn) -> TimeSeries:
    """Any series that a journal can give."""
    family = Family(draw(TEXTS), draw(st.sampled_from(["gauge", "counter", "histogram"])), draw(TEXTS))
    labels = {"__name__": draw(TEXTS), **draw(st.dictionaries(TEXTS, TEXTS, max_size=4))}
    times = draw(TIMES)
    values = draw(st.lists(VALUES, min_size=len(times), max_size=len(times)))
    return TimeSeries(family, tuple(sorted(labels.items())), times, values)


@cache
def message(version: str, name: str) -> Any:
    """A class of Google's library for one message of a version."""
    definitions = V1 if version == "v1" else V2
    file = descriptor_pb2.FileDescriptorProto(name=f"{version}.proto", package=version, syntax="proto3")
    for kind, fields in definitions.items():
        added = file.message_type.add(name=kind)
        for field, number, form, *label in fields:
            entry = added.field.add(name=field, number=number, label=label[0] if label else FIELD.LABEL_OPTIONAL)
            if isinstance(form, str):
                entry.type, entry.type_name = FIELD.TYPE_MESSAGE, f".{version}.{form}"
            else:
                entry.type = form
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{version}.{name}"))


def bits(value: float) -> bytes:
    """A double's eight bytes, so that NaN is equal to itself and 0.0 is not -0.0."""
    return struct.pack("<d", value)


def points(encoded: Any) -> list[tuple[int, bytes]]:
    """The samples of a decoded series."""
    return [(sample.timestamp, bits(sample.value)) for sample in encoded.samples]


def expected(one: TimeSeries) -> list[tuple[int, bytes]]:
    """What they must be."""
    return [(ms, bits(value)) for ms, value in zip(one.times_ms, one.values, strict=True)]


@given(st.lists(series(), max_size=4))
def test_version_1_says_what_the_series_say(several: list[TimeSeries]) -> None:
    """Labels, times and the bits of every value come back from a WriteRequest, in their order."""
    request = message("v1", "WriteRequest").FromString(encode_v1(several))
    assert len(request.timeseries) == len(several)
    for encoded, one in zip(request.timeseries, several, strict=True):
        assert tuple((label.name, label.value) for label in encoded.labels) == one.labels
        assert points(encoded) == expected(one)


@given(st.lists(series(), max_size=4))
def test_version_2_says_what_the_series_say(several: list[TimeSeries]) -> None:
    """Labels, times, values, types and help texts come back from a Request by way of its symbols."""
    request = message("v2", "Request").FromString(encode_v2(several))
    symbols = list(request.symbols)
    for encoded, one in zip(request.timeseries, several, strict=True):
        texts = [symbols[reference] for reference in encoded.labels_refs]
        assert tuple(zip(texts[::2], texts[1::2], strict=True)) == one.labels
        assert points(encoded) == expected(one)
        assert encoded.metadata.type == {"counter": COUNTER, "gauge": GAUGE, "histogram": HISTOGRAM}[one.family.type]
        assert symbols[encoded.metadata.help_ref] == one.family.help
        assert encoded.metadata.unit_ref == 0


@given(st.lists(series(), max_size=4))
def test_symbols_begin_empty_and_are_unique(several: list[TimeSeries]) -> None:
    """The first symbol is the empty text, and no text stands there twice."""
    symbols = list(message("v2", "Request").FromString(encode_v2(several)).symbols)
    assert symbols[0] == ""
    assert len(symbols) == len(set(symbols))


def test_a_value_that_is_no_number_keeps_its_bits() -> None:
    """A stale marker, which is one certain NaN, is still that NaN."""
    stale = struct.unpack("<d", (0x7FF0000000000002).to_bytes(8, "little"))[0]
    one = TimeSeries(Family("m", "gauge", ""), (("__name__", "m"),), [1], [stale])
    (encoded,) = message("v2", "Request").FromString(encode_v2([one])).timeseries
    assert math.isnan(encoded.samples[0].value)
    assert bits(encoded.samples[0].value) == (0x7FF0000000000002).to_bytes(8, "little")


def test_a_surrogate_does_not_stop_a_request() -> None:
    """Half a character, which some JSON holds, is replaced and everything else is sent."""
    one = TimeSeries(Family("m", "gauge", "\ud800"), (("__name__", "m"), ("tag", "a\ud800")), [1], [2.0])
    (first,) = message("v1", "WriteRequest").FromString(encode_v1([one])).timeseries
    assert [(label.name, label.value) for label in first.labels] == [("__name__", "m"), ("tag", "a?")]
    assert "a?" in message("v2", "Request").FromString(encode_v2([one])).symbols
