"""JSON for journals: strict on disk, exact for every float."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.encoding import (
    NON_FINITE,
    decode,
    encode_line,
    encode_numbers,
    is_finite_sum,
    number_token,
)

TOKENS = [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]


@given(st.floats())
def test_float_token_round_trip(value):
    """Every float survives a line of strict JSON bit for bit, non-finite ones as text."""
    line = encode_line({"v": number_token(value)})
    token = json.loads(line, parse_constant=pytest.fail)["v"]
    again = float(token)
    assert math.isnan(again) if math.isnan(value) else again == value
    assert math.copysign(1, again) == math.copysign(1, value) or math.isnan(value)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(("value", "token"), TOKENS)
def test_non_finite_tokens_are_the_contract(value, token):
    """The three non-finite values have exactly the names that the journal format gives them."""
    assert number_token(value) == token
    assert {token for _, token in TOKENS} == NON_FINITE


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_numbers_read_back_as_the_same_floats(values):
    """Each of several numbers is a token that reads back as the same float, without brackets around them."""
    text = encode_numbers(values)
    assert [float(token) for token in text.split(b",") if token] == values


def test_numbers_of_any_sequence():
    """A sequence that is no list is encoded like one."""
    assert encode_numbers(range(3)) == b"0,1,2"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": -9007199254740993}', {"a": -9007199254740993}),
        (b'{"a": Infinity, "b": -Infinity}', {"a": math.inf, "b": -math.inf}),
        (b"[Infinity, 999999999999999999]", [math.inf, 999999999999999999]),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_decode_reads_json_and_bare_tokens(line, value):
    """JSON is read exactly, and so are the bare tokens that Python's own encoder writes."""
    assert decode(line) == value


def test_decode_reads_bare_nan():
    """A bare NaN is not a number."""
    assert math.isnan(decode(b'{"a": NaN}')["a"])


@pytest.mark.parametrize("digits", [20, 400, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_decode_never_gives_an_integer_that_no_float_holds(digits, sign):
    """A whole number beyond 64 bits is the nearest float, infinite beyond the largest one, and costs no time."""
    text = sign + "9" * digits
    (value,) = decode(f"[{text}]".encode())
    assert type(value) is float
    assert value == float(text)


@pytest.mark.parametrize("line", [b"", b"{", b'{"a": 1', b"\xff\xfe", b"\x00\x00\x00", b"nan", b"[" * 100_000])
def test_decode_has_one_error(line):
    """Whatever is no JSON is a ValueError, however deep it is nested."""
    with pytest.raises(ValueError):  # noqa: PT011 - a torn line has no message worth a match
        decode(line)


def test_encode_line_converts_or_refuses():
    """A foreign type goes through ``default``; without one it is a TypeError."""
    with pytest.raises(TypeError):
        encode_line({"v": object()})
    assert encode_line({"v": 1j}, lambda value: value.imag) == b'{"v":1.0}\n'


@pytest.mark.parametrize(
    ("total", "proof"),
    [(0, True), (1e308, True), (math.inf, False), (-math.inf, False), (math.nan, False)],
)
def test_finite_sum(total, proof):
    """A sum proves finite numbers exactly when it is a finite number."""
    assert is_finite_sum(total) is proof
