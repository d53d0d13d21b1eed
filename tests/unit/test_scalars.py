"""What counts as a number, and how anything else is made fit for a line of JSON."""

from __future__ import annotations

import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter import Table
from exporter.encoding import clean, encode_line
from exporter.run.scalars import sort_values, to_scalar


class Tensor:
    """Behaves like a torch tensor: ``size`` is a method, ``item`` works for one element only."""

    def __init__(self, *values):
        self.values = values

    def size(self):
        """The shape, as a method."""
        return (len(self.values),)

    def item(self):
        """The one element."""
        if len(self.values) != 1:
            raise RuntimeError(f"a Tensor with {len(self.values)} elements cannot be converted to Scalar")
        return self.values[0]

    def __str__(self):
        return "tensor"


class Level(enum.IntEnum):
    """A number with a name."""

    HIGH = 3


NUMBERS = [
    (0, 0.0),
    (True, 1.0),
    (False, 0.0),
    (-3, -3.0),
    (0.1, 0.1),
    (1e308, 1e308),
    (5e-324, 5e-324),
    (2**53 + 1, float(2**53 + 1)),
    (2**64, 2.0**64),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (10**400, "Infinity"),
    (-(10**400), "-Infinity"),
    (Level.HIGH, 3.0),
    (Decimal("0.1"), 0.1),
    (Decimal("NaN"), "NaN"),
    (Decimal("1e999"), "Infinity"),
    (Fraction(1, 4), 0.25),
    (np.float16(0.1), 0.0999755859375),
    (np.float32(0.1), 0.10000000149011612),
    (np.float64(0.1), 0.1),
    (np.float32("nan"), "NaN"),
    (np.float16("inf"), "Infinity"),
    *[(kind(7), 7.0) for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)],
    (np.uint64(2**64 - 1), 2.0**64),
    (np.int64(-(2**63)), -(2.0**63)),
    (np.bool_(True), 1.0),
    (np.array(0.5), 0.5),
    (np.array([0.5]), 0.5),
    (np.array([[3]], dtype=np.uint8), 3.0),
    (Tensor(0.25), 0.25),
    (Tensor(True), 1.0),
    (Tensor(math.nan), "NaN"),
    (Tensor(10**400), "Infinity"),
]

NO_NUMBERS = [
    object(),
    {},
    {"a": 1},
    [],
    [1],
    (1.0,),
    {1},
    1j,
    np.complex64(1),
    b"1.5",
    bytearray(b"2"),
    np.array([1.0, 2.0]),
    np.array([]),
    np.array("1.5"),
    np.array(None),
    np.datetime64("2024-01-01"),
    Tensor(),
    Tensor(1, 2),
    Tensor("1.5"),
    lambda: 1,
    float,
    type("Raises", (), {"__float__": lambda self: 1 / 0})(),
    type("Item", (), {"item": 5})(),
]


@pytest.mark.parametrize(("value", "token"), NUMBERS, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_every_kind_of_number_has_its_exact_value(value, token):
    """A number of any kind, or one element of an array or tensor, is the float nearest to it."""
    sorted_ = sort_values({"k": value})
    assert sorted_.metrics == {"k": token}
    assert type(sorted_.metrics["k"]) is type(token)
    assert (sorted_.properties, sorted_.tables, sorted_.refused) == ({}, {}, [])


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_what_is_no_number_is_refused_by_its_key(value):
    """Anything else is refused under its key, and the values beside it stay."""
    sorted_ = sort_values({"before": 1, "k": value, "after": 2})
    assert sorted_.refused == ["k"]
    assert sorted_.metrics == {"before": 1.0, "after": 2.0}


@pytest.mark.parametrize(
    ("value", "number"),
    [(np.float32(0.1), 0.10000000149011612), (Tensor(2), 2), (Decimal("0.5"), 0.5), (np.array([True]), True)],
)
def test_to_scalar_is_what_the_encoder_falls_back_to(value, number):
    """A scalar of a foreign kind becomes Python's own number, with its exact value."""
    assert to_scalar(value) == number
    assert encode_line({"v": value}, to_scalar) == b'{"v":%s}\n' % json.dumps(number).encode()


@pytest.mark.parametrize("value", [[1, 2], 1j, b"1.5", "1.5x", Tensor(1, 2), Tensor("x"), np.array([1, 2]), None])
def test_to_scalar_refuses_with_a_type_error(value):
    """What holds not exactly one number is a TypeError that names its type."""
    with pytest.raises(TypeError, match=type(value).__name__):
        to_scalar(value)


def test_values_are_sorted_by_what_becomes_of_them():
    """Numbers are metrics, texts properties, tables tables, and None is left out."""
    table = Table(["a"])
    values = {"n": 1, "s": "text", "e": "", "np": np.str_("x"), "t": table, "none": None, "bad": object()}
    sorted_ = sort_values(values)
    assert sorted_.metrics == {"n": 1.0}
    assert sorted_.properties == {"s": "text", "e": "", "np": "x"}
    assert sorted_.tables == {"t": table}
    assert sorted_.refused == ["bad"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a b", "a b"),
        ('"quoted"', '"quoted"'),
        ("line\nbreak", "line\nbreak"),
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("\ud800", "?"),
        ("", ""),
        (5, "5"),
        (None, "None"),
        (("a", 1), "('a', 1)"),
        (np.str_("x"), "x"),
        ("k" * 10_000, "k" * 10_000),
    ],
    ids=lambda value: f"{value!r:.12}",
)
def test_keys_are_text_that_json_can_hold(key, text):
    """A key is kept as it is, others as their text; only what UTF-8 cannot hold is replaced."""
    for value, part in ((1, "metrics"), ("s", "properties"), (Table(), "tables")):
        assert list(getattr(sort_values({key: value}), part)) == [text]
    assert sort_values({key: []}).refused == [text]


@given(st.dictionaries(st.text() | st.integers() | st.none(), st.floats() | st.text() | st.integers() | st.booleans()))
def test_sorted_values_can_always_be_encoded(values):
    """Whatever the keys, numbers and texts, the result is a line of strict JSON."""
    sorted_ = sort_values(values)
    line = encode_line({"m": sorted_.metrics, "p": sorted_.properties})
    again = json.loads(line, parse_constant=pytest.fail)
    assert again == {"m": sorted_.metrics, "p": sorted_.properties}


# ---------------------------------------------------------------------------------------------- clean


class Bad:
    """Has no text."""

    def __str__(self):
        raise RuntimeError("no text")


class Selfish:
    """Its item is itself, without end."""

    def item(self):
        """Never a number."""
        return self

    def __str__(self):
        return "selfish"


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, None),
        (True, True),
        (5, 5),
        (Level.HIGH, 3),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        (2**63, "9223372036854775808"),
        (0.5, 0.5),
        (np.float64(0.5), 0.5),
        (np.float32(0.1), 0.10000000149011612),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (np.float32("inf"), "Infinity"),
        ("é", "é"),
        ("a\ud800b", "a?b"),
        (np.str_("x"), "x"),
        (Path("a/b"), "a/b"),
        (b"x", "b'x'"),
        (Decimal("0.10"), "0.10"),
        (1j, "1j"),
        ({1: {"a": (1, 2.5)}, None: {3}}, {"1": {"a": [1, 2.5]}, "None": [3]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (frozenset({"x"}), ["x"]),
        (np.int64(7), 7),
        (np.array([7]), 7),
        (np.array(math.nan), "NaN"),
        (np.array([1, 2]), "[1 2]"),
        (Tensor(0.5), 0.5),
        (Tensor(1, 2), "tensor"),
        (Selfish(), "selfish"),
    ],
    ids=lambda value: f"{type(value).__name__} {value!r:.20}",
)
def test_clean_gives_json_of_the_same_meaning(value, result):
    """Configurations, summaries and rows keep their numbers and texts; one element is its value; the rest is text."""
    assert clean(value) == result
    assert type(clean(value)) is type(result)


def test_clean_cuts_long_texts_and_deep_nests():
    """A text ends after 64 KiB; what is nested too deeply, even in itself, ends as text."""
    assert clean("x" * 100_000) == "x" * 65_536
    loop: list = []
    loop.append(loop)
    depth, value = 0, clean(loop)
    while isinstance(value, list):
        depth, value = depth + 1, value[0]
    assert (depth, value) == (12, "[[...]]")


def test_clean_leaves_errors_of_objects_to_its_caller():
    """An object without a text is an error for the caller to count."""
    with pytest.raises(RuntimeError, match="no text"):
        clean([Bad()])


python_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(python_values)
def test_clean_values_can_always_be_encoded(value):
    """Whatever Python's types hold, cleaned it is a line of strict JSON that reads back equal."""
    result = clean(value)
    assert json.loads(encode_line({"v": result}), parse_constant=pytest.fail) == {"v": result}
