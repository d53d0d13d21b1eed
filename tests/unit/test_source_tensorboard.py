"""Reading event files: frames and protobuf fields written here byte by byte, and real files of several writers."""

from __future__ import annotations

import gzip
import math
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sources.base import Bad, Head, Meta, Row, read_all, read_head
from exporter.sources.tensorboard import TensorBoard
from tests.support.event_files import NOW, VERSION, event, field, fixed, frame, shape, simple, tensor, varint

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"


def read(folder, content):
    """Everything that an event file says."""
    path = folder / "events.out.tfevents.1.host"
    path.write_bytes(content)
    return list(read_all(TensorBoard(), path))


def points(items):
    """The numbers one by one."""
    return [(row.step, row.time, *pair) for row in items if isinstance(row, Row) for pair in row.metrics.items()]


def real(name):
    """A file that others wrote, where it is there."""
    found = sorted(DATA.glob(name))
    if not found:
        pytest.skip(f"no {name}")
    return found[0]


def test_values_of_one_moment_are_one_row(tmp_path):
    """Values of a step written within a millisecond are one row; another step, moment or the same tag begins one."""
    content = [
        VERSION,
        event(simple("a", 1.0), step=1),
        event(simple("b", 2.0), step=1, time=NOW + 0.0005),
        event(simple("b", 3.0), step=1, time=NOW + 0.0006),
        event(simple("a", 4.0), step=1, time=NOW + 1),
        event(simple("b", 5.0), step=300, time=NOW + 1),
    ]
    assert read(tmp_path, b"".join(content)) == [
        Row(1, {"a": 1.0, "b": 2.0}, NOW),
        Row(1, {"b": 3.0}, NOW + 0.0006),
        Row(1, {"a": 4.0}, NOW + 1),
        Row(300, {"b": 5.0}, NOW + 1),
    ]


@pytest.mark.parametrize("step", [0, 1, 127, 128, 16383, 16384, 1 << 40, -1])
@pytest.mark.parametrize("time", [NOW, 0.0])
def test_every_step_is_read_on_the_first_sight_and_on_the_next(tmp_path, step, time):
    """The bytes of a step, one or many, change nothing: the same event twice gives the same point twice."""
    content = VERSION + event(simple("a", 0.5), step=step, time=time) * 2
    assert points(read(tmp_path, content)) == [(step, time, "a", 0.5)] * 2


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ([field(1, 1), fixed(5, "f", 0.5)], 0.5),
        ([field(1, 1), field(5, struct.pack("<f", 0.5))], 0.5),
        ([field(1, 1), shape(), field(4, struct.pack("<f", 0.5))], 0.5),
        ([field(1, 1), shape(1), field(4, struct.pack("<f", math.inf))], math.inf),
        ([field(1, 2), fixed(6, "d", 1e-300)], 1e-300),
        ([field(1, 2), field(4, struct.pack("<d", 1e300))], 1e300),
        ([field(1, 3), field(7, -5)], -5.0),
        ([field(1, 3), field(4, struct.pack("<i", -5))], -5.0),
        ([field(1, 9), field(10, varint(1 << 40))], float(1 << 40)),
        ([field(1, 9), field(4, struct.pack("<q", -7))], -7.0),
        ([field(1, 4), field(4, b"\xff")], 255.0),
        ([field(1, 10), field(11, 1)], 1.0),
        ([field(1, 19), field(13, 0x3800)], 0.5),
        ([field(1, 19), field(4, struct.pack("<e", 0.5))], 0.5),
        ([field(1, 19), field(13, varint(0xC000))], -2.0),
    ],
)
@pytest.mark.parametrize("plugin", ["scalars", None])
def test_a_tensor_of_one_number_is_a_scalar(tmp_path, fields, number, plugin):
    """Every numeric type, in its own field or as raw bytes, with or without a plug-in's name, is its number."""
    content = VERSION + event(tensor("a", *fields, plugin=plugin), step=3) * 2
    assert points(read(tmp_path, content)) == [(3, NOW, "a", number)] * 2


@pytest.mark.parametrize(
    "value",
    [
        tensor("a", field(1, 1), shape(2), field(4, struct.pack("<ff", 1, 2))),
        tensor("a", field(1, 1), shape(2), fixed(5, "f", 1.0)),
        tensor("a", field(1, 1), shape(0)),
        tensor("a", field(1, 1), field(2, field(3, 1)), fixed(5, "f", 1.0)),
        tensor("a", field(1, 1), fixed(5, "f", 1.0), plugin="histograms"),
        tensor("a", field(1, 7), field(8, b"text"), plugin="text"),
        tensor("a", field(1, 14), field(4, b"\0\0")),
        field(1, b"a") + field(5, fixed(1, "d", 1.0)),
        field(1, b"a") + field(4, field(1, 28) + field(4, b"png")),
        field(1, b"a"),
    ],
)
def test_what_is_no_scalar_is_passed_over(tmp_path, value):
    """Vectors, texts, images and histograms are neither numbers nor faults."""
    assert read(tmp_path, VERSION + event(value, step=1) + event(simple("b", 1.0), step=1)) == [Row(1, {"b": 1.0}, NOW)]


def test_tags_of_one_length_are_not_confused(tmp_path):
    """What is remembered of one tag, type or number is never taken for another of the same length."""
    values = [simple("aa", 1.0), simple("ab", 2.0), tensor("a", fixed(5, "f", 3.0), plugin=None)]
    doubles = [tensor("x", field(1, 2), fixed(6, "d", 4.0)), tensor("y", field(1, 2), fixed(6, "d", 5.0))]
    content = [event(value, step=number) for number, value in enumerate([*values, *doubles] * 3, 1)]
    assert [value for *_, value in points(read(tmp_path, VERSION + b"".join(content)))] == [1.0, 2.0, 3.0, 4.0, 5.0] * 3


def test_many_values_in_one_event_are_one_row(tmp_path):
    """A summary of several values is a row of them all, however long it is."""
    metrics = {f"ray/tune/metric_{number}": float(number) for number in range(40)}
    content = event(*(simple(tag, number) for tag, number in metrics.items()), step=9)
    assert read(tmp_path, VERSION + content * 2) == [Row(9, metrics, NOW), Row(9, metrics, NOW)]


def test_fields_may_come_in_any_order(tmp_path):
    """Protobuf promises no order: a step after its summary is the same step."""
    summary = field(5, field(1, fixed(2, "f", 0.5) + field(1, b"a")))
    content = frame(summary + field(2, 300) + fixed(1, "d", NOW)) + frame(fixed(1, "d", NOW) + summary + field(2, 300))
    assert points(read(tmp_path, VERSION + content)) == [(300, NOW, "a", 0.5)] * 2


def test_hyperparameters_are_the_configuration(tmp_path):
    """CleanRL's markdown table of settings becomes the run's configuration, as text and unevaluated."""
    table = b"|param|value|\n|-|-|\n|seed|1|\n|env_id|a|b|\n|target_kl|None|"
    value = tensor("hyperparameters/text_summary", field(1, 7), field(8, table), plugin="text")
    items = read(tmp_path, VERSION + event(simple("a", 1.0)) + event(value) + event(simple("b", 2.0)))
    config = Meta({"seed": "1", "env_id": "a|b", "target_kl": "None"})
    assert items == [Row(0, {"a": 1.0}, NOW), config, Row(0, {"b": 2.0}, NOW)]
    assert read(tmp_path, VERSION + event(tensor("hyperparameters", field(8, b"")))) == []


def hparams(**values):
    """A value of TensorBoard's HParams plug-in: what a session is started with."""
    start = b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in values.items())
    plugin = field(1, b"hparams") + field(2, field(1, 0) + field(3, start))
    return field(1, b"_hparams_/session_start_info") + field(9, field(1, plugin))


def test_settings_of_other_writers_are_the_configuration(tmp_path):
    """Hugging Face's arguments, an object as text, and TensorBoard's HParams are the run's configuration."""
    arguments = tensor("args/text_summary", field(1, 7), field(8, b'{"lr": 0.1,\n "name": "x"}'), plugin="text")
    session = hparams(lr=fixed(2, "d", 0.25), name=field(3, b"adam"), amp=field(4, 1), none=field(1, 0))
    assert read(tmp_path, VERSION + event(arguments) + event(session)) == [
        Meta({"lr": 0.1, "name": "x"}),
        Meta({"lr": 0.25, "name": "adam", "amp": True, "none": None}),
    ]
    text = tensor("args/text_summary", field(1, 7), field(8, b"not an object"), plugin="text")
    assert read(tmp_path, VERSION + event(text) + event(hparams())) == []


def test_a_damaged_length_ends_the_reading(tmp_path):
    """Where the checksum of a length is wrong, the record is reported and nothing after it is guessed."""
    good, bad = event(simple("a", 1.0), step=1), bytearray(event(simple("a", 2.0), step=2))
    bad[0] ^= 1
    assert read(tmp_path, VERSION + good + bad + good) == [
        Row(1, {"a": 1.0}, NOW),
        Bad(3, "the length of the record is damaged: nothing after it can be found"),
    ]


@pytest.mark.parametrize(
    "payload", [b"", b"\xff" * 20, b"\x0b" * 20, fixed(1, "d", NOW) + b"\x2a\x7f", fixed(1, "d", NOW) + b"\x10\x01\x2a"]
)
def test_a_record_that_is_no_event_costs_only_itself(tmp_path, payload):
    """A whole record with a senseless payload is reported by its number or empty; the next one is read."""
    items = read(tmp_path, VERSION + frame(payload) + event(simple("a", 1.0), step=1))
    assert items == [Bad(2, "the record is not an event")] * bool(payload) + [Row(1, {"a": 1.0}, NOW)]


def test_large_records_and_packed_files_are_read(tmp_path):
    """A record larger than any block is passed whole, and gzip changes nothing, cut or not."""
    image = event(field(1, b"i") + field(4, b"\0" * (5 << 20)), step=1)
    content = VERSION + image + event(simple("a", 1.0), step=2) + image
    assert read(tmp_path, content) == read(tmp_path, gzip.compress(content)) == [Row(2, {"a": 1.0}, NOW)]
    assert read(tmp_path, gzip.compress(content)[:-9]) in ([], [Row(2, {"a": 1.0}, NOW)])


def test_event_files_are_recognised_by_their_first_record():
    """The version in a sound frame decides, not the name."""
    assert TensorBoard().recognises(Head("x", VERSION))
    for other in (b"", b"step,loss\n1,2\n" * 5, VERSION[:11], b"\0" * 40, frame(b"brain.Event:1"), b"\1" + VERSION[1:]):
        assert not TensorBoard().recognises(Head("events.out.tfevents.1.host", other))


SAMPLE = b"".join(
    [VERSION]
    + [event(simple(tag, step), step=step, time=NOW + step) for step in range(1, 5) for tag in ("a", "b")]
    + [event(tensor("c", field(1, 1), fixed(5, "f", 1.0)), simple("d", 2.0), step=200)]
)


@given(st.integers(0, len(SAMPLE)))
def test_a_cut_file_says_a_beginning_of_the_whole(length):
    """Cut at any byte, a file says the first of its points and reports nothing."""
    with tempfile.TemporaryDirectory() as folder:
        every, some = read(Path(folder), SAMPLE), read(Path(folder), SAMPLE[:length])
    assert points(some) == points(every)[: len(points(some))]
    assert not any(isinstance(item, Bad) for item in some)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_without_a_crash(content, framed):
    """Whatever a file or a sound frame holds, reading it ends without an exception."""
    with tempfile.TemporaryDirectory() as folder:
        read(Path(folder), VERSION + (frame(content) if framed else content) + event(simple("a", 1.0)))
    TensorBoard().recognises(Head("x", content))


@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_does_not_crash(at, flip):
    """One damaged byte anywhere ends in points and reports, never in an exception."""
    content = bytearray(SAMPLE)
    content[at] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        read(Path(folder), bytes(content))


@pytest.mark.parametrize(
    ("name", "count", "step"),
    [
        ("dreamer-goal/logdir/fetch-reach-v1/dreamer/1/events*", 150, 5000),
        ("dreamer-goal/logdir/fetch-reach-v1/dreamer/2/events*", 258, 4300),
        ("rl-experiments/impala-breakout/events*", 5586, 23164000),
        ("rl-experiments/pong-impala-128/events*", 895, 6491500),
        ("conceptppo/*/files/events*", 6867, 25001984),
    ],
)
def test_real_files_have_the_points_that_tensorboard_reads(name, count, step):
    """As many scalars, ending at the same step, as TensorBoard's own EventAccumulator finds in the file."""
    path = real(name)
    found = points(read_all(TensorBoard(), path))
    assert TensorBoard().recognises(read_head(path))
    assert (len(found), max(point[0] for point in found)) == (count, step)


def test_real_files_without_events_say_nothing():
    """An event file that holds only its version is recognised and says nothing."""
    path = real("dreamer-goal/logdir/dmc_walker_walk/dreamer/1/events*1621804771*")
    assert TensorBoard().recognises(read_head(path))
    assert list(read_all(TensorBoard(), path)) == []
