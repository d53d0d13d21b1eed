"""Pieces of output made into lines again, also where pieces are missing."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.supervisor.lines import Lines
from exporter.supervisor.relay import Tap

LONG = 1 << 16


def feed(*pieces):
    """The lines that these pieces make."""
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)]


@given(st.lists(st.text(st.characters(exclude_characters="\0\n", codec="utf-8"))), st.data())
def test_pieces_do_not_matter(lines, data):
    """However an output is cut, its lines are the same, and what has no end yet waits."""
    output = "".join(f"{line}\n" for line in lines).encode() + b"unfinished"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=10)))
    pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]
    assert feed(*pieces) == lines


def test_what_is_no_text_is_left_out():
    """Lines with a NUL are no text; other bytes that are no UTF-8 are replaced."""
    assert feed(b"a\0b\nc\xffd\n") == ["c�d"]


def test_a_progress_bar_without_end_takes_little_room():
    """What a progress bar has overwritten is forgotten, and what is printed after it is found."""
    bar = b"\r 10%|###       |" * 1000
    lines = Lines()
    for _ in range(100):
        assert list(lines.feed(bar)) == []
        assert len(lines._rest) <= LONG + len(bar)
    (line,) = lines.feed(b"\rs:1 loss:2\n")
    assert line.endswith("\rs:1 loss:2")


@pytest.mark.parametrize("length", [LONG + 1, 10 * LONG])
def test_a_dump_is_left_out(length):
    """A line that grows beyond 64 KiB is left out as a whole, and the next one is read."""
    lines = Lines()
    for _ in range(0, length, 1000):
        assert list(lines.feed(b"x" * 1000)) == []
        assert len(lines._rest) <= LONG + 1000
    assert list(lines.feed(b"y\nnext\n")) == ["next"]


class Reader:
    """The other end of a tap, which reads when it is told to."""

    def __init__(self):
        self.fd, write_end = os.pipe()
        self.tap = Tap(write_end)
        self.lines = Lines()

    def read(self):
        """The lines that are there."""
        os.set_blocking(self.fd, False)
        try:
            return list(self.lines.feed(os.read(self.fd, 1 << 20)))
        except BlockingIOError:
            return []


@pytest.fixture
def reader():
    """A tap and its reader."""
    reader = Reader()
    yield reader
    reader.tap.close()
    os.close(reader.fd)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_tap_leaves_out_whole_lines(sizes, reads):
    """Whatever there is room for, a reader gets only lines that were written, in order, and the rest is counted."""
    reader = Reader()
    numbers = iter(range(10**6))
    waiting, written, got = b"", 0, []
    for size, read in zip(sizes, reads, strict=False):
        while len(waiting) < size:
            waiting += b"line %d of them\n" % next(numbers)
        piece, waiting = waiting[:size], waiting[size:]
        written += len(piece)
        reader.tap.copy(piece)
        got += reader.read() if read else []
    got += reader.read()
    reader.tap.copy(waiting or b"\n")
    reader.tap.copy(b"the last\n")
    got += reader.read()
    reader.tap.close()
    os.close(reader.fd)
    texts = [line for line in got if line and line != "the last"]
    assert texts == sorted({f"line {text.split()[1]} of them" for text in texts}, key=lambda text: int(text.split()[1]))
    assert got[-1] == "the last"
    missing = written + len(waiting) - sum(len(text) + 1 for text in texts)
    assert abs(reader.tap.skipped_bytes - missing) <= 40 * len(sizes)


def test_a_tap_without_a_reader_does_nothing():
    """When the recorder is gone the tap swallows what it is given."""
    read_end, write_end = os.pipe()
    tap = Tap(write_end)
    os.close(read_end)
    tap.copy(b"a\n")
    tap.copy(b"b\n")
    tap.close()
