"""Reading a journal: torn lines wait, bad lines are counted and passed, positions do not depend on chunks."""

from __future__ import annotations

import gzip
import json
import math
import re
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ConfigError
from exporter.journal import (
    START,
    BadLine,
    Position,
    find_journals,
    identity,
    journal_name,
    journal_rank,
    read_chunk,
    validate_run_id,
)
from exporter.journal.decode import decode_record
from exporter.records import (
    Check,
    Checkpoint,
    EpochEnd,
    Event,
    Lost,
    RunEnd,
    RunStart,
    Step,
    TableRows,
    Timing,
    Unknown,
)

BIG = 1 << 20


def step(number, time=1000.0, **metrics):
    """A step's line."""
    return json.dumps({"_type": "step", "time": time, "step": number, "metrics": metrics or {"loss": 0.5}}).encode()


def write(path, *lines, end=b"\n"):
    """Make a file of lines; returns its path."""
    path.write_bytes(b"\n".join(lines) + end)
    return path


@pytest.fixture
def journal(tmp_path):
    """Where a journal would lie."""
    return tmp_path / "metrics.jsonl"


# ---------------------------------------------------------------------------------------------- one line


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (
            {
                "_type": "run_start",
                "time": 1.5,
                "run_id": "r",
                "user_id": "u",
                "recipe": "ppo",
                "base_model": "m",
                "framework": "trl",
                "tags": {"env": "prod"},
                "config": {"lr": 0.1},
                "host": "h",
                "pid": 7,
                "rank": 1,
                "world_size": 2,
                "version": "9",
                "attempt": 3,
            },
            RunStart(1.5, "r", "u", "ppo", "m", "trl", {"env": "prod"}, {"lr": 0.1}, "h", 7, 1, 2, "9", 3),
        ),
        ({"_type": "run_start", "time": 1, "run_id": "r", "user_id": None}, RunStart(1, "r")),
        ({"_type": "run_start", "time": 1, "run_id": 5, "tags": {"n": 1}}, RunStart(1, "5", tags={"n": "1"})),
        ({"_type": "run_start", "time": 1, "run_id": "r", "user_id": 5}, RunStart(1, "r", "5")),
        ({"_type": "step", "time": 1, "step": 2, "metrics": {"a": 3}}, Step(1, 2, {"a": 3})),
        ({"_type": "step", "time": 1, "step": 2, "epoch": 0.5, "metrics": {}}, Step(1, 2, {}, 0.5)),
        ({"_type": "step", "time": 1, "step": 2, "epoch": "x", "metrics": {}}, Step(1, 2, {})),
        (
            {"_type": "step", "time": 1, "step": 2, "metrics": {}, "properties": {"a": "b"}},
            Step(1, 2, {}, None, {"a": "b"}),
        ),
        ({"_type": "timing", "time": 1, "name": "fb", "seconds": 0.25}, Timing(1, "fb", 0.25)),
        (
            {"_type": "table", "time": 1, "name": "t", "step": 2, "columns": ["a"], "rows": [[1]]},
            TableRows(1, "t", 2, ["a"], [[1]]),
        ),
        ({"_type": "event", "time": 1, "title": "t"}, Event(1, "t", "", "info", ())),
        (
            {"_type": "event", "time": 1, "title": "t", "text": "x", "alert_type": "error", "tags": ["a"]},
            Event(1, "t", "x", "error", ["a"]),
        ),
        ({"_type": "check", "time": 1, "name": "n", "status": "OK"}, Check(1, "n", "OK", "")),
        ({"_type": "checkpoint", "time": 1, "step": 2, "path": "p"}, Checkpoint(1, 2, "p", {})),
        (
            {"_type": "checkpoint", "time": 1, "step": 2, "path": "p", "metrics": {"a": 1}},
            Checkpoint(1, 2, "p", {"a": 1}),
        ),
        ({"_type": "epoch_end", "time": 1, "epoch": 1, "step": 2}, EpochEnd(1, 1, 2, {})),
        ({"_type": "lost", "time": 1, "reason": "disk_full", "count": 3}, Lost(1, "disk_full", 3)),
        ({"_type": "run_end", "time": 1, "status": "finished"}, RunEnd(1, "finished", "", None)),
        (
            {"_type": "run_end", "time": 1, "status": "failed", "reason": "x", "exit_code": 1},
            RunEnd(1, "failed", "x", 1),
        ),
        ({"_type": "hologram", "time": 1}, Unknown(1, "hologram")),
        ({"_type": None, "time": 1, "step": 1}, Unknown(1, "None")),
    ],
)
def test_every_type_of_the_contract(line, record):
    """Each record type of the journal format is read with all its fields; absent ones take their defaults."""
    assert decode_record(json.dumps(line).encode()) == record


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 3, "timestamp": 5.0, "loss": 0.5, "note": "text"}',
        b'{"global_step": 3, "time": 5.0, "metrics": {"loss": 0.5}}',
        b'{"_type": "metric", "iteration": 3, "time": 5.0, "metrics": {"loss": 0.5, "bad": null, "list": [1]}}',
        b'{"step": null, "global_step": 3, "time": 5.0, "loss": 0.5}',
        b'{"step": "3", "time": 5.0, "loss": 0.5}',
        b'{"step": 3.0, "time": 5.0, "epoch": "?", "properties": null, "loss": 0.5}',
    ],
)
def test_flat_metrics_and_other_names_of_the_step(line):
    """Metrics may lie flat beside the step, under any of its usual names; what is no number is left out."""
    assert decode_record(line) == Step(5.0, 3, {"loss": 0.5})


@pytest.mark.parametrize(
    "token",
    ["NaN", '"NaN"'],
)
def test_nan_is_one_string(token):
    """A bare NaN and the string stand for the same value, and the other values stay."""
    line = f'{{"time": 1, "step": 1, "metrics": {{"a": {token}, "b": 2, "c": null}}}}'
    assert decode_record(line.encode()).metrics == {"a": "NaN", "b": 2}


@pytest.mark.parametrize(
    ("text", "value"), [("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("1e999", "Infinity")]
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_infinities_are_strings(text, value, quote):
    """A bare infinity, also one by overflow, is the journal's string for it; other texts are no numbers."""
    line = f'{{"time": 1, "step": 1, "metrics": {{"a": {quote}{text}{quote}}}}}'
    expected = {} if quote and text == "1e999" else {"a": value}
    assert decode_record(line.encode()).metrics == expected


@pytest.mark.parametrize("others", ["", ', "b": 0.5'])
def test_integers_beyond_floats_are_infinite(others):
    """An integer beyond the largest float is infinite and costs the record none of its other values."""
    line = f'{{"time": 1, "step": 1, "metrics": {{"a": {10**400}{others}}}}}'
    metrics = decode_record(line.encode()).metrics
    assert metrics["a"] == "Infinity"
    assert metrics.get("b", 0.5) == 0.5


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"step": 1, "loss": 1}', "time None"),
        (b'{"time": "now", "step": 1}', "time 'now'"),
        (b'{"time": true, "step": 1}', "time True"),
        (b'{"time": NaN, "step": 1}', "time nan"),
        (b'{"time": -1, "step": 1}', "time -1"),
        (b'{"time": 1700000000000, "step": 1}', "time 1700000000000 is no number of seconds since 1970"),
        (b'{"time": 1}', "'step'"),
        (b'{"time": 1, "step": "x"}', "'x'"),
        (b'{"time": 1, "step": [1]}', "step record"),
        (b'{"_type": "timing", "time": 1, "name": "x"}', "timing record: field 'seconds'"),
        (b'{"_type": "timing", "time": 1, "name": "x", "seconds": null}', "timing record"),
        (b'{"_type": "run_start", "time": 1}', "run_start record: field 'run_id'"),
        (b'{"_type": "run_start", "time": 1, "run_id": "r", "tags": ["ab"]}', "run_start record"),
        (b'{"_type": "run_start", "time": 1, "run_id": "r", "config": "lr=1"}', "run_start record"),
        (b'{"_type": "run_start", "time": 1, "run_id": "r", "rank": "first"}', "first"),
        (b'{"_type": "hologram"}', "time None"),
        (b'{"_type": ["step"]}', "time None"),
    ],
)
def test_what_is_no_record_says_why(line, reason):
    """A line without what its record needs is a ValueError that names the field or value."""
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode_record(line)


@pytest.mark.parametrize("kind", ["[]", "{}", "5"])
def test_a_type_that_is_no_text_is_unknown(kind):
    """A ``_type`` of any JSON kind is an unknown type, no crash."""
    assert type(decode_record(f'{{"_type": {kind}, "time": 1}}'.encode())) is Unknown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
field_names = st.sampled_from(
    ["time", "step", "metrics", "tags", "config", "name", "seconds", "rank", "run_id", "columns", "rows", "count",
     "status", "reason", "title", "path", "epoch", "properties"]
)  # fmt: skip
kinds = st.sampled_from(
    ["step", "run_start", "timing", "table", "event", "check", "checkpoint", "epoch_end", "lost", "run_end", "?"]
)


@given(st.dictionaries(field_names, json_values), kinds | json_values)
def test_no_line_of_json_stops_a_reader(fields, kind):
    """Any JSON object is a record or a bad line: nothing else is raised."""
    line = json.dumps({"time": 1.0, **fields, "_type": kind}).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "metrics.jsonl", line)
        chunk = read_chunk(path, START, BIG)
    assert len(chunk.records) + len(chunk.bad_lines) == 1
    assert chunk.end.offset == len(line) + 1


@given(st.binary(max_size=60))
def test_no_bytes_stop_a_reader(data):
    """Any bytes are passed: every line is a record, a bad line, or blank."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "metrics.jsonl", data, step(1))
        chunk = read_chunk(path, START, BIG)
    assert chunk.records[-1].record.step == 1
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(chunk.records) - 1 + len(chunk.bad_lines) == len(lines)
    assert chunk.end.line == data.count(b"\n") + 2


# ---------------------------------------------------------------------------------------------- many lines


def test_torn_last_line_waits(journal):
    """A last line without its newline is not read, and read whole once it is complete."""
    write(journal, step(1), step(2)[:10], end=b"")
    first = read_chunk(journal, START, BIG)
    assert [item.record.step for item in first.records] == [1]
    assert not first.bad_lines
    assert read_chunk(journal, first.end, BIG) == ([], [], first.end)

    write(journal, step(1), step(2))
    second = read_chunk(journal, first.end, BIG)
    assert [item.record.step for item in second.records] == [2]
    assert second.end == Position(journal.stat().st_size, 2, 1_000_001, 0)


def test_torn_line_in_mid_file_is_passed_with_its_number(journal):
    """A torn line in mid-file is skipped and reported by number; every other record is kept."""
    write(journal, step(1), step(2)[:12], b"", step(3), b"\xff\x00", step(4))
    chunk = read_chunk(journal, START, BIG)
    assert [item.record.step for item in chunk.records] == [1, 3, 4]
    assert [bad.line for bad in chunk.bad_lines] == [2, 5]
    assert all(bad.reason and len(bad.reason) <= 200 for bad in chunk.bad_lines)
    assert chunk.end.line == 6


def test_bad_line_numbers_continue_over_chunks(journal):
    """A line's number counts from the start of the file, not of the chunk."""
    write(journal, step(1), step(2), b"torn", step(3))
    position, bad = START, []
    while (chunk := read_chunk(journal, position, 1)).end != position:
        bad += chunk.bad_lines
        position = chunk.end
    assert [item.line for item in bad] == [3]
    assert isinstance(bad[0], BadLine)


def test_windows_line_ends(journal):
    """A carriage return before the newline is no part of the record."""
    write(journal, step(1) + b"\r", b"\r", step(2) + b"\r")
    chunk = read_chunk(journal, START, BIG)
    assert [item.record.step for item in chunk.records] == [1, 2]
    assert not chunk.bad_lines


def test_step_times_strictly_increase(journal):
    """Equal and earlier times move to 1 ms after the step before; other records keep their own time."""
    timing = b'{"_type": "timing", "time": 900.0, "name": "x", "seconds": 1}'
    write(journal, step(1, 1000.0), step(2, 1000.0), timing, step(3, 999.0), step(4, 1000.0014), step(5, 2000.0))
    stamped = read_chunk(journal, START, BIG).records
    assert [item.ms for item in stamped] == [1_000_000, 1_000_001, 900_000, 1_000_002, 1_000_003, 2_000_000]


@pytest.mark.parametrize(("seconds", "ms"), [(0.0, 0), (0.0004, 0), (0.0006, 1), (1700000000.1234, 1700000000123)])
def test_milliseconds_are_rounded(journal, seconds, ms):
    """A record's timestamp is its time to the nearest millisecond."""
    write(journal, json.dumps({"_type": "event", "time": seconds, "title": "x"}).encode())
    assert read_chunk(journal, START, BIG).records[0].ms == ms


def test_attempt_counts_run_starts(journal):
    """Records belong to the attempt that the last run_start before them began."""
    begin = b'{"_type": "run_start", "time": 1, "run_id": "r"}'
    write(journal, step(1), begin, step(2), begin, step(1))
    chunk = read_chunk(journal, START, BIG)
    assert [item.attempt for item in chunk.records] == [0, 1, 1, 2, 2]
    assert chunk.end.attempt == 2


def test_a_line_longer_than_the_limit_is_read_whole(journal):
    """A limit below one line's length reads that line whole, and nothing behind it."""
    write(journal, step(1, note=1.0), step(2))
    chunk = read_chunk(journal, START, 5)
    assert [item.record.step for item in chunk.records] == [1]
    assert chunk.end.offset == len(step(1, note=1.0)) + 1


def test_a_torn_line_longer_than_the_limit_waits(journal):
    """A long line without its newline is not read either."""
    write(journal, step(1), end=b"")
    assert read_chunk(journal, START, 5) == ([], [], START)


@pytest.mark.parametrize("limit", [0, 10, 100, 1000])
def test_the_limit_bounds_a_chunk(journal, limit):
    """A chunk has at most ``limit`` bytes unless its only line is longer; a limit of 0 reads nothing."""
    write(journal, *[step(number) for number in range(20)])
    chunk = read_chunk(journal, START, limit)
    length = len(step(1)) + 1
    assert chunk.end.offset <= max(limit, length)
    assert (
        len(chunk.records) == {0: 0, 10: 1, 100: 100 // length, 1000: 10 + (1000 - 10 * length) // (length + 1)}[limit]
    )


def test_until_stops_before_a_later_step(journal):
    """Reading stops before the first step later than the bound, and goes on there with a later bound."""
    late = b'{"_type": "timing", "time": 99999.0, "name": "x", "seconds": 1}'
    write(journal, step(1, 10.0), late, b"torn", step(2, 20.0), step(3, 15.0))
    first = read_chunk(journal, START, BIG, until_ms=19_999)
    assert [type(item.record) for item in first.records] == [Step, Timing]
    assert [bad.line for bad in first.bad_lines] == [3]
    assert first.end == Position(len(step(1, 10.0)) + len(late) + 4 + 3, 3, 10_000, 0)

    same = read_chunk(journal, START, BIG, until_ms=20_000)
    assert [item.record.step for item in same.records if type(item.record) is Step] == [1, 2]
    rest = read_chunk(journal, first.end, BIG)
    assert [(item.record.step, item.ms) for item in rest.records] == [(2, 20_000), (3, 20_001)]


def test_gz_equals_plain(tmp_path):
    """A compressed journal gives the same records, bad lines and positions as the plain one."""
    plain = write(tmp_path / "metrics.jsonl", step(1), b"torn", step(2), step(3))
    packed = tmp_path / "metrics.rank1.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_chunk(packed, START, BIG) == read_chunk(plain, START, BIG)
    middle = read_chunk(plain, START, 70).end
    assert middle > START
    assert read_chunk(packed, middle, BIG) == read_chunk(plain, middle, BIG)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-6],
        lambda data: data[:20],
        lambda data: b"no gzip",
        lambda data: data[:30] + b"xxxx" + data[34:],
    ],
    ids=["cut", "cut early", "other content", "changed"],
)
def test_a_damaged_gz_is_an_os_error(tmp_path, damage):
    """A compressed journal that cannot be unpacked is the error that readers know."""
    path = tmp_path / "metrics.jsonl.gz"
    path.write_bytes(damage(gzip.compress(b"\n".join(step(n, float(n)) for n in range(50)) + b"\n")))
    with pytest.raises(OSError, match=r"damaged|gzip|CRC"):
        read_chunk(path, START, BIG)


def test_a_missing_journal_is_an_os_error(journal):
    """Both ways to look at a journal say that it is not there."""
    with pytest.raises(FileNotFoundError):
        read_chunk(journal, START, BIG)
    with pytest.raises(FileNotFoundError):
        identity(journal)


def test_identity_tells_another_file(tmp_path, journal):
    """Identity is the inode and the size: appending keeps the one, replacing changes it."""
    write(journal, step(1))
    before = identity(journal)
    with journal.open("ab") as file:
        file.write(b"x")
    assert identity(journal) == (before[0], before[1] + 1)
    other = write(tmp_path / "other", step(1))
    other.replace(journal)
    assert identity(journal)[0] != before[0]


times = st.floats(0, 1e10) | st.sampled_from([5.0, 5.0004, 5.001])
journal_lines = st.lists(
    st.one_of(
        st.builds(step, st.integers(-5, 5), times),
        st.builds(step, st.integers(-5, 5), times, loss=st.floats()),
        st.builds(lambda time: json.dumps({"_type": "run_start", "time": time, "run_id": "r"}).encode(), times),
        st.builds(lambda time: json.dumps({"_type": "event", "time": time, "title": "é\n"}).encode(), times),
        st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
    ),
    max_size=25,
)


def read_all(path, limits):
    """Records, bad lines and the last position, read in pieces of the given sizes, which are repeated."""
    records, bad, position, turn = [], [], START, 0
    while True:
        chunk = read_chunk(path, position, limits[turn % len(limits)])
        if chunk.end == position:
            return [repr(item) for item in records], bad, position
        records += chunk.records
        bad += chunk.bad_lines
        position = chunk.end
        turn += 1


@given(journal_lines, st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_positions_do_not_depend_on_chunks(lines, limits):
    """Read in chunks of any sizes, a journal gives the same stamped records, bad lines and position as at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "metrics.jsonl", *lines)
        at_once = read_all(path, [BIG])
        assert read_all(path, limits) == at_once
        steps = [item.ms for item in read_chunk(path, START, BIG).records if type(item.record) is Step]
    assert all(earlier < later for earlier, later in pairwise(steps))
    assert at_once[2].offset == sum(len(line) + 1 for line in lines) or not lines


@given(journal_lines, st.lists(st.integers(0, 2000), max_size=5), st.integers(1, 300))
def test_a_growing_journal_reads_like_a_whole_one(lines, cuts, limit):
    """Followed while it is cut at any bytes, a journal gives what it gives when it is complete."""
    data = b"".join(line + b"\n" for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        records, bad, position = [], [], START
        for cut in [*sorted(cuts), len(data)]:
            path.write_bytes(data[:cut])
            while (chunk := read_chunk(path, position, limit)).end != position:
                records += chunk.records
                bad += chunk.bad_lines
                position = chunk.end
        path.write_bytes(data)
        assert ([repr(item) for item in records], bad, position) == read_all(path, [BIG])


@given(journal_lines, st.lists(st.floats(0, 1e13), max_size=4))
def test_a_bound_in_time_delays_but_changes_nothing(lines, bounds):
    """Read up to any bounds in time and then to the end, a journal gives what it gives at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "metrics.jsonl", *lines)
        records, bad, position = [], [], START
        for bound in [*bounds, math.inf]:
            chunk = read_chunk(path, position, BIG, bound)
            assert all(item.ms <= bound for item in chunk.records if type(item.record) is Step)
            records += chunk.records
            bad += chunk.bad_lines
            position = chunk.end
        assert ([repr(item) for item in records], bad, position) == read_all(path, [BIG])


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("metrics.jsonl", 0),
        ("metrics.jsonl.gz", 0),
        ("metrics.rank12.jsonl", 12),
        ("metrics.rank1.jsonl.gz", 1),
        ("metrics.rank.jsonl", None),
        ("metrics.rankx.jsonl", None),
        ("metrics.jsonl.tmp", None),
        ("xmetrics.jsonl", None),
        ("metricsxjsonl", None),
    ],
)
def test_rank_of_a_file_name(name, rank):
    """A journal's name tells its rank, and other names are no journals."""
    assert journal_rank(Path("runs/r") / name) == rank


@pytest.mark.parametrize("rank", [0, 1, 1023])
def test_journal_name_and_rank_are_inverse(rank):
    """The name made for a rank tells that rank."""
    assert journal_rank(Path(journal_name(rank))) == rank


@pytest.mark.parametrize("run_id", ["r", "R1", "_x", "a.b", "ppo 2", "a:b=c@d+e'f\"g-h", "9", "x" * 128])
def test_usable_run_ids(run_id):
    """What names one visible folder is a run id."""
    assert validate_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/abs",
        "a\\b",
        ".hidden",
        "-rf",
        " a",
        "a ",
        "a.",
        "a\n",
        "a\x00b",
        "é",
        "x" * 129,
        "x" * 200,
    ],
)
def test_unusable_run_ids(run_id):
    """What could leave the runs folder, hide in it, or be no folder's name is refused, and the message shows it."""
    with pytest.raises(ConfigError, match="run_id") as caught:
        validate_run_id(run_id)
    assert repr(run_id[:140]) in str(caught.value)


def test_find_journals_at_every_level(tmp_path):
    """A path may be a journal, a run's folder or a runs folder; hidden folders and other files are left out."""
    for name in ("a/metrics.jsonl", "a/metrics.rank1.jsonl", "b/metrics.jsonl.gz", ".targets/metrics.jsonl",
                 "a/other.jsonl", "a/deep/metrics.jsonl", "notes.txt"):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.touch()
    a, b = tmp_path / "a", tmp_path / "b"
    assert list(find_journals(tmp_path)) == [a / "metrics.jsonl", a / "metrics.rank1.jsonl", b / "metrics.jsonl.gz"]
    assert list(find_journals(b)) == [b / "metrics.jsonl.gz"]
    assert list(find_journals(a / "other.jsonl")) == [a / "other.jsonl"]


def test_a_plain_journal_shadows_its_gz(tmp_path):
    """While a journal is being compressed its run is found once; another rank's file is another journal."""
    for name in ("metrics.jsonl", "metrics.jsonl.gz", "metrics.rank1.jsonl.gz"):
        (tmp_path / name).touch()
    assert [path.name for path in find_journals(tmp_path)] == ["metrics.jsonl", "metrics.rank1.jsonl.gz"]


def test_a_missing_folder_has_no_journals(tmp_path):
    """A folder that is not there yields nothing."""
    assert list(find_journals(tmp_path / "none")) == []
