"""``telemetry-exporter export``: each form against a reader of its own, which is never our code."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from itertools import groupby, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.analysis.export import FORMATS, objections, read_runs
from exporter.cli import main
from exporter.errors import ConfigError
from exporter.exposition import Format
from exporter.journal import START, read_chunk
from exporter.records import Record, Unknown
from exporter.remote_write import Limits
from tests.support.journals import Journal, Scrape, judge, line, same_points

Warnings = list[str]


class Result:
    """Exit code and what was said."""

    def __init__(self, code: object, out: bytes, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Result]:
    """Run the command in this process."""

    def call(*arguments: object) -> Result:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["export", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return Result(caught.value.code, out, err.decode())

    return call


Run = Callable[..., Result]


def exported(form: str, *journals: Journal) -> tuple[bytes, Warnings]:
    """What a form makes of journals."""
    output, warnings = io.BytesIO(), []
    FORMATS[form].write([journal.path for journal in journals], output, warnings.append)
    return output.getvalue(), warnings


def rows_of(data: bytes) -> list[dict[str, str]]:
    """CSV as the standard library reads it."""
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def parquet_of(data: bytes) -> dict[str, list[Any]]:
    """Columns as pyarrow reads them."""
    return pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict()


def resumed(folder: Path) -> Journal:
    """A run that was trained to step 3, and again from step 2."""
    journal = Journal(folder).start()
    for number, after in ((0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)):
        journal.log(number, {"train/loss": number / 10}, after)
    journal.start(10.0)
    for number, after in ((2, 11.0), (3, 12.0)):
        journal.log(number, {"train/loss": number / 100}, after)
    return journal


# ------------------------------------------------------------------ JSON lines


def strict(data: bytes) -> list[dict[str, Any]]:
    """Lines of JSON, in which a bare NaN is an error."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return [json.loads(text, parse_constant=refuse) for text in data.split(b"\n")[:-1]]


def records(path: Path) -> list[Record]:
    """The records of a journal."""
    return [stamped.record for stamped in read_chunk(path, START, 1 << 30).records]


def test_json_lines_read_back_as_the_same_records(tmp_path: Path) -> None:
    """Every kind of record that a journal can hold comes back equal from its export."""
    journal = Journal(tmp_path).start(tags={"env": "prod"}, config={"lr": 1e-3}, rank=2, attempt=1)
    journal.log(0, {"loss": math.nan, "big": -math.inf, "n": 3}, epoch=0.5)
    journal.raw(line("step", 5.0, step=1, metrics={"a": 1.5}, properties={"phase": "warm up"}))
    journal.other("timing", name="forward", seconds=0.25)
    journal.other("phase", name="rollout")
    journal.other("table", name="samples", step=1, columns=["prompt"], rows=[["hi", 1]])
    journal.other("event", title="t", text="x", alert_type="warning", tags=["a"])
    journal.other("check", name="disk", status="OK", message="fine")
    journal.other("checkpoint", step=1, path="p", metrics={"loss": 1.0})
    journal.other("epoch_end", epoch=1, step=1, summary={"mean": 2.0})
    journal.other("lost", reason="disk_full", count=3)
    journal.other("run_end", status="failed", reason="why", exit_code=2)
    data, warnings = exported("jsonl", journal)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(data)
    assert records(copy) == records(journal.path)
    assert {type(record) for record in records(copy)} == set(get_args(Record)) - {Unknown}
    assert len(strict(data)) == len(records(journal.path))
    assert warnings == []


def test_json_lines_are_strict_and_of_one_form(tmp_path: Path) -> None:
    """Flat records, bare NaN and dots become what the contract says; a torn line is named and left out."""
    journal = Journal(tmp_path).raw(
        b'{"time": 1.5, "step": 3, "train.loss": NaN, "note": "x", "ok": -Infinity}\n{"time": 2.5, "st\n'
        b'{"_type": "table", "time": 2, "name": "t", "step": 1, "columns": ["a"], "rows": [[Infinity]]}\n'
    )
    data, warnings = exported("jsonl", journal)
    step, table = strict(data)
    assert step == {"_type": "step", "time": 1.5, "step": 3, "metrics": {"train.loss": "NaN", "ok": "-Infinity"}}
    assert table["rows"] == [["Infinity"]]
    assert [warning.startswith(f"{journal.path}: line 2 is left out") for warning in warnings] == [True]


def test_unknown_records_are_counted(tmp_path: Path) -> None:
    """What this version does not know cannot be put into the contract's form, and that is said."""
    journal = Journal(tmp_path).other("hologram").other("hologram").step(1, loss=1.0)
    data, warnings = exported("jsonl", journal)
    assert [record["_type"] for record in strict(data)] == ["step"]
    assert warnings == ["2 record(s) of the unknown type 'hologram' are left out"]


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.text(max_size=8), st.floats() | st.integers(-(2**63), 2**63 - 1), max_size=5)))
def test_numbers_survive_every_form(steps: list[dict[str, float]]) -> None:
    """Any key and any number is the same in JSON lines, CSV and Parquet as in the journal."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for number, metrics in enumerate(steps):
            journal.log(number, metrics)
        lines = strict(exported("jsonl", journal)[0])
        table = rows_of(exported("csv", journal)[0])
        columns = parquet_of(exported("parquet", journal)[0])
    titles = {key: title(key) for metrics in steps for key in metrics}
    for number, metrics in enumerate(steps):
        assert {key: float(value) for key, value in lines[number]["metrics"].items()} == approximately(metrics)
        cells = {key: float(table[number][name]) for key, name in titles.items() if table[number][name]}
        assert cells == approximately(metrics)
        doubles = {key: columns[name][number] for key, name in titles.items() if columns[name][number] is not None}
        assert doubles == approximately({key: float(value) for key, value in metrics.items()})


def title(key: str) -> str:
    """The column of a native key."""
    return f"{key} (number)" if key in ("time", "step", "epoch", "attempt") else key


def approximately(metrics: dict[str, float]) -> object:
    """Equal to the last bit; NaN is equal to itself."""
    return pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


# ------------------------------------------------------------------ tables


def iso(ms: int) -> str:
    """ISO 8601 in UTC."""
    text = datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1000:03}Z"


def test_csv_has_a_row_for_each_step(tmp_path: Path) -> None:
    """Time, step, epoch and attempt stand before the native keys in the order of their first appearance."""
    journal = Journal(tmp_path).start().step(0, b=1.5, epoch=0.25).step(5, a=math.nan, b=2).step(6, a=-math.inf, b=True)
    data, warnings = exported("csv", journal)
    first, second, third = (iso(ms) for ms, _ in journal.expected_steps())
    assert data.decode().splitlines() == [
        "time,step,epoch,attempt,b,a",
        f"{first},0,0.25,1,1.5,",
        f"{second},5,,1,2,NaN",
        f"{third},6,,1,1,-Infinity",
    ]
    assert warnings == []


def test_both_attempts_of_a_resumed_run_are_in_a_table(tmp_path: Path) -> None:
    """Steps that were trained twice stand there twice, in the order of time, told apart by their attempt."""
    journal = resumed(tmp_path)
    table = rows_of(exported("csv", journal)[0])
    told = [(row["step"], row["attempt"], float(row["train/loss"])) for row in table]
    first = [("0", "1", 0.0), ("1", "1", 0.1), ("2", "1", 0.2), ("3", "1", 0.3)]
    assert told == [*first, ("2", "2", 0.02), ("3", "2", 0.03)]
    assert [row["time"] for row in table] == [iso(ms) for ms, _ in journal.expected_steps()]
    columns = parquet_of(exported("parquet", journal)[0])
    assert (
        list(zip(map(str, columns["step"]), map(str, columns["attempt"]), columns["train/loss"], strict=True)) == told
    )


def test_texts_are_escaped(tmp_path: Path) -> None:
    """Quotes, commas and line breaks of a text are read back as they were, in both tables."""
    text = 'a "quoted", text\nof two lines'
    journal = Journal(tmp_path).raw(line("step", 1.0, step=0, metrics={"x,y": 1}, properties={"note": text, "n": 2}))
    (row,) = rows_of(exported("csv", journal)[0])
    assert (row["note"], row["x,y"], row["n"]) == (text, "1", "2")
    assert parquet_of(exported("parquet", journal)[0])["note"] == [text]


def test_a_key_that_is_called_like_a_column_has_one_of_its_own(tmp_path: Path) -> None:
    """No column stands for two things: a metric named as the time, a text named as a metric."""
    journal = Journal(tmp_path).raw(
        line("step", 1.0, step=7, metrics={"step": 1.5, "phase": 2}, properties={"phase": "warm"})
    )
    data = exported("csv", journal)[0]
    assert data.decode().splitlines()[0] == "time,step,epoch,attempt,step (number),phase,phase (text)"
    (row,) = rows_of(data)
    assert (row["step"], row["step (number)"], row["phase"], row["phase (text)"]) == ("7", "1.5", "2", "warm")
    assert set(row) == set(parquet_of(exported("parquet", journal)[0]))


def test_rows_of_several_journals_name_their_run(tmp_path: Path) -> None:
    """With more than one journal, run and rank stand before the time."""
    one = Journal(tmp_path, "r1").start().step(0, a=1.0)
    other = Journal(tmp_path, "r2", "metrics.rank3.jsonl").step(0, a=2.0)
    table = rows_of(exported("csv", one, other)[0])
    assert [(row["run_id"], row["rank"], row["a"]) for row in table] == [("r1", "0", "1.0"), ("r2", "3", "2.0")]
    columns = parquet_of(exported("parquet", one, other)[0])
    assert (columns["run_id"], columns["rank"], columns["a"]) == (["r1", "r2"], [0, 3], [1.0, 2.0])


def test_parquet_has_types(tmp_path: Path) -> None:
    """Times are UTC milliseconds, steps whole numbers, metrics doubles, and what is not there is null."""
    journal = Journal(tmp_path).start().step(0, a=True, epoch=1).step(1, b=math.nan)
    data = exported("parquet", journal)[0]
    schema = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(io.BytesIO(data))}
    fixed = {"time": "timestamp[ms, tz=UTC]", "step": "int64", "epoch": "double", "attempt": "int64"}
    assert schema == {**fixed, "a": "double", "b": "double"}
    columns = parquet_of(data)
    assert [round(time.timestamp() * 1000) for time in columns["time"]] == [ms for ms, _ in journal.expected_steps()]
    assert (columns["a"], columns["epoch"], columns["b"][0]) == ([1.0, None], [1.0, None], None)
    assert math.isnan(columns["b"][1])


def test_a_step_beyond_64_bits_is_an_error_in_parquet(tmp_path: Path) -> None:
    """A number that no column holds is an error that names the way out."""
    journal = Journal(tmp_path).raw(line("step", 1.0, step=1e30, metrics={"a": 1}))
    with pytest.raises(ConfigError, match="csv has no such limit"):
        exported("parquet", journal)
    assert rows_of(exported("csv", journal)[0])[0]["step"] == str(int(1e30))


# ------------------------------------------------------------------ OpenMetrics


def judged(data: bytes) -> Scrape:
    """The page as the reference parser sees it.

    That parser drops all but one sample of a histogram's second point in time, so it is shown them one by one.
    """
    header = re.compile(rb"# HELP \S+ .*\n# TYPE \S+ histogram\n")
    blocks = re.split(rb"(?m)^(?=# HELP |# EOF)", data)
    pages = [b"".join(block for block in blocks if not header.match(block))]
    for block in blocks:
        if match := header.match(block):
            lines = block[match.end() :].splitlines(keepends=True)
            points = groupby(lines, lambda text: (re.search(rb'rank="\d+"', text), text.split()[-1]))
            pages += [match[0] + b"".join(point) + b"# EOF\n" for _, point in points]
    whole = Scrape({}, {}, {})
    for page in pages:
        scrape = judge(page, Format.OPENMETRICS)
        whole.types.update(scrape.types)
        for series, samples in scrape.series.items():
            whole.series.setdefault(series, []).extend(samples)
    for samples in whole.series.values():
        assert all(one[0] < other[0] for one, other in pairwise(samples))
    return whole


def test_openmetrics_has_every_step_with_its_time(tmp_path: Path) -> None:
    """Each step is a sample of its canonical series at the journal's millisecond, in both attempts of a run."""
    journal = resumed(tmp_path)
    scrape = judged(exported("openmetrics", journal)[0])
    expected = [(ms, step["metrics"]["train/loss"]) for ms, step in journal.expected_steps()]
    assert scrape.points("training_loss", run_id="r1") == expected
    assert scrape.points("training_step", run_id="r1") == [(ms, step["step"]) for ms, step in journal.expected_steps()]


def test_openmetrics_has_what_a_server_would_have_scraped(tmp_path: Path) -> None:
    """Counters, histograms, status and configuration go with the steps: at the start, every 15 s, at the end."""
    journal = Journal(tmp_path).start(config={"lr": 0.5})
    for number in range(10):
        journal.step(number, number * 5.0, loss=math.nan if number == 9 else 1.0)
        journal.other("timing", number * 5.0, name="forward_backward", seconds=0.25)
    journal.end(50.0)
    scrape = judged(exported("openmetrics", journal)[0])
    begin = math.floor(journal.begin * 1000 + 0.5)
    steps = [(ms - begin, value) for ms, value in scrape.points("training_steps_total")]
    assert [value for _, value in steps] == [0, 4, 7, 10, 10]
    assert [ms for ms, _ in steps] == [0, 15_000, 30_000, 45_000, 50_000]
    assert scrape.values("training_nonfinite_total", metric="training_loss")[-1] == 1
    assert scrape.values("performance_forward_backward_duration_seconds_count")[-1] == 10
    assert scrape.values("run_status", status="running") == [1, 0]
    assert scrape.values("run_status", status="finished") == [0, 1]
    assert scrape.values("run_config_info", key="lr", value="0.5") == [1, 1]


def test_events_and_checkpoints_are_samples_at_their_time(tmp_path: Path) -> None:
    """Each event and each checkpoint is there; where two would share a millisecond, the second is one later."""
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    for after in (1.0, 2.0, 2.0, 1.5):
        journal.other("event", after, title="eval", text="not for a server")
        journal.raw(b"{torn\n" * 20_000)  # so that they are not read at once
    journal.other("checkpoint", 3.0, step=7, path="p")
    data = exported("openmetrics", journal)[0]
    begin = math.floor(journal.begin * 1000 + 0.5)
    marks = [ms - begin for ms, _ in judged(data).points("run_event", title="eval")]
    assert marks == [1000, 2000, 2001, 2002]
    assert judged(data).points("run_checkpoint_step") == [(begin + 3000, 7)]
    assert b"not for a server" not in data


def test_each_attempt_has_the_labels_of_its_start(tmp_path: Path) -> None:
    """Tags that were changed on resuming are labels of what came after, and of nothing before."""
    journal = Journal(tmp_path).start(tags={"env": "test"}).step(0, loss=1.0)
    journal.start(1.0, tags={"env": "prod"}).step(1, 2.0, loss=2.0).end(3.0)
    scrape = judged(exported("openmetrics", journal)[0])
    assert scrape.values("training_loss", env="test") == [1.0]
    assert scrape.values("training_loss", env="prod") == [2.0]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 200_000), st.floats()), min_size=1, max_size=30))
def test_openmetrics_is_valid_whatever_a_clock_did(items: list[tuple[int, float, float]]) -> None:
    """Times that stand still, jump or go back still give series that strictly increase, none of them twice."""
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder)).start()
        for number, (kind, after, value) in enumerate(items):
            if kind == 0:
                journal.start(after)
            elif kind == 1:
                journal.other("timing", after, name="forward", seconds=abs(value))
                journal.other("event", after, title="e")
            else:
                journal.log(number, {"loss": value, "train/x": 1}, after)
        scrape = judged(exported("openmetrics", journal)[0])
        expected = [(ms, float(step["metrics"]["loss"])) for ms, step in journal.expected_steps()]
    assert same_points(scrape.points("training_loss"), expected)


def test_a_growing_journal_does_not_change_its_past(tmp_path: Path) -> None:
    """What was exported of a running run is part of what is exported later, except for its end."""
    journal = Journal(tmp_path).start()
    for number in range(100):
        journal.step(number, loss=number)
    before = judged(exported("openmetrics", journal)[0])
    for number in range(100, 400):
        journal.step(number, loss=number)
    after = judged(exported("openmetrics", journal)[0])
    last = max(ms or 0 for points in before.series.values() for ms, _ in points)
    for series, points in before.series.items():
        kept = [point for point in points if (point[0] or 0) < last]
        assert same_points(kept, after.series[series][: len(kept)])


def test_keys_that_have_no_series_are_named(tmp_path: Path) -> None:
    """Two keys with one meaning collide: the second is left out, and that is said with both names."""
    journal = Journal(tmp_path).start().log(0, {"train/loss": 1.0, "train.loss": 2.0}).raw(b"{torn\n")
    journal.start(1.0)
    data, warnings = exported("openmetrics", journal)
    assert judged(data).values("training_loss") == [1.0]
    assert len(warnings) == 2
    assert "'train.loss'" in warnings[0]
    assert "'train/loss'" in warnings[0]
    assert "1 bad line" in warnings[1]


def test_two_journals_of_one_run_are_refused(tmp_path: Path) -> None:
    """The same series cannot come from two files; two ranks of a run can."""
    one = Journal(tmp_path / "a").start().step(0, loss=1.0)
    same = Journal(tmp_path / "b").start().step(0, loss=2.0)
    rank = Journal(tmp_path / "b", "r1", "metrics.rank1.jsonl").start(rank=1).step(0, loss=3.0)
    with pytest.raises(ConfigError, match="both of run r1"):
        exported("openmetrics", one, same)
    scrape = judged(exported("openmetrics", one, rank)[0])
    assert scrape.values("training_loss", rank="1") == [3.0]


def test_a_run_is_behind_those_that_are_sent_before_it(tmp_path: Path) -> None:
    """A server without a window would refuse the beginning of a run that overlaps another one by more than it takes."""
    journals = [Journal(tmp_path, run_id).start() for run_id in ("r1", "r2", "r3")]
    for journal, (first, last) in zip(
        journals, [(-9000.0, -1000.0), (-8000.0, -900.0), (-2000.0, -800.0)], strict=True
    ):
        journal.step(0, first, loss=1.0).step(1, last, loss=1.0)
    empty_server = Limits(window_seconds=3600.0)
    found = list(objections(read_runs([journal.path for journal in journals]), empty_server, time.time()))
    assert [objection.split(":")[0] for objection in found] == ["r2"]


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize(
    ("name", "begin"), [("a.jsonl", b"{"), ("a.ndjson", b"{"), ("a.csv", b"time,"), ("a.pq", b"PAR1"), ("a.om", b"# ")]
)
def test_the_ending_says_the_form(tmp_path: Path, run: Run, name: str, begin: bytes) -> None:
    """Each form is known by the endings of its files, and nothing else is left in the folder."""
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    folder = tmp_path / "out"
    folder.mkdir()
    assert run(journal.path, folder / name).code == 0
    assert (folder / name).read_bytes().startswith(begin)
    assert [path.name for path in folder.iterdir()] == [name]


def test_any_log_can_be_exported(tmp_path: Path, run: Run) -> None:
    """A trainer's own log, packed journals and plain ones give the same table of steps."""
    journal = Journal(tmp_path / "plain").start().step(0, loss=1.0).step(10, loss=0.5)
    packed = tmp_path / "packed" / "r1" / "metrics.jsonl.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(journal.path.read_bytes()))
    foreign = tmp_path / "progress.csv"
    foreign.write_text("step,loss\n0,1.0\n10,0.5\n")
    for path in (journal.path, packed, foreign):
        table = rows_of(run(path, "-", "--format", "csv").out)
        assert [(row["step"], row["loss"]) for row in table] == [("0", "1.0"), ("10", "0.5")]


def test_half_a_character_does_not_stop_an_export(tmp_path: Path) -> None:
    """A key that is no UTF-8, which some JSON holds, is a key with a question mark in every form."""
    journal = Journal(tmp_path).raw(b'{"_type": "step", "time": 1, "step": 0, "metrics": {"a\\ud800": 1.5}}\n')
    assert strict(exported("jsonl", journal)[0])[0]["metrics"] == {"a?": 1.5}
    assert rows_of(exported("csv", journal)[0])[0]["a?"] == "1.5"
    assert parquet_of(exported("parquet", journal)[0])["a?"] == [1.5]
    assert judge(exported("openmetrics", journal)[0], Format.OPENMETRICS).values("custom_a") == [1.5]


def test_a_damaged_file_is_an_error(tmp_path: Path, run: Run) -> None:
    """A packed journal that ends in the middle is exit 2 with its name, and no half of a table."""
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    packed = journal.path.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(journal.path.read_bytes() * 1000)[:-20])
    result = run(packed, tmp_path / "a.csv")
    assert (result.code, str(packed) in result.err) == (2, True), result.err
    assert not (tmp_path / "a.csv").exists()


def test_what_is_left_out_is_said(tmp_path: Path, run: Run) -> None:
    """Bad lines are warnings with their number, at most twenty of them, and the rest is exported."""
    journal = Journal(tmp_path).start().raw(b"{torn\n" * 25).step(0, loss=1.0)
    result = run(journal.path, "-", "--format", "jsonl")
    assert (result.code, len(strict(result.out))) == (0, 2)
    assert result.err.count("is left out") == 20
    assert "line 2 is left out" in result.err
    assert result.err.endswith("warning: and 5 more\n")


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, run: Run) -> None:
    """An existing file is an error, and stays as it was."""
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    taken = tmp_path / "taken.csv"
    taken.write_text("precious")
    result = run(journal.path, taken)
    assert (result.code, taken.read_text()) == (2, "precious")
    assert "is there already" in result.err


def test_a_failed_export_leaves_nothing(tmp_path: Path, run: Run) -> None:
    """Where something goes wrong on the way, no file appears, not even a part of one."""
    journal = Journal(tmp_path).raw(line("step", 1.0, step=1e30, metrics={"a": 1}))
    folder = tmp_path / "out"
    folder.mkdir()
    assert run(journal.path, folder / "a.parquet").code == 2
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("journal", "run.xls"), "endings .jsonl"),
        (("journal", "-"), "--format"),
        (("journal", "-", "--format", "parquet"), "needs a file"),
        (("journal", "no/folder/a.csv"), "No such file"),
        (("missing.csv", "a.csv"), "does not exist"),
        (("prose.txt", "a.csv"), "no training log"),
    ],
)
def test_wrong_usage_is_exit_2(tmp_path: Path, run: Run, arguments: tuple[str, ...], says: str) -> None:
    """What cannot be done is said with its value and the rule."""
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    (tmp_path / "prose.txt").write_text("Dear reader,\nthis is no log.\n")
    places = {"journal": journal.path, "-": "-"}
    options = arguments[2:]
    result = run(*(places.get(name, tmp_path / name) for name in arguments[:2]), *options)
    assert (result.code, says in result.err) == (2, True), result.err


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is exit 4 with the command that installs it, and needs no folder cleaned up."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(Journal(tmp_path).start().step(0, a=1.0).path, tmp_path / "a.parquet")
    assert (result.code, "pip install 'telemetry-exporter[parquet]'" in result.err) == (4, True)
    assert not (tmp_path / "a.parquet").exists()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """Where the next program in a pipe ends early, so does the export, without a word."""
    journal = Journal(tmp_path).start()
    for number in range(5000):
        journal.step(number, loss=1.0)
    command = [sys.executable, "-m", "exporter", "export", str(journal.path), "-", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize("form", ["jsonl", "csv", "openmetrics"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    """A journal of 40 MB needs hardly more memory than one of 1 MB."""
    metrics = {f"train/metric_{number}": 1 / (number + 3) for number in range(50)}

    def peak(steps: int) -> float:
        journal = Journal(tmp_path, f"run-{steps}").start()
        journal.raw(b"".join(line("step", number, step=number, metrics=metrics) for number in range(steps)))
        program = (
            "import resource, sys; from exporter.cli import main\n"
            "try: main(['export', sys.argv[1], '-', '--format', sys.argv[2]])\n"
            "except SystemExit: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        )
        command = [sys.executable, "-c", program, str(journal.path), form]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120, check=True)
        return int(done.stderr.split()[-1]) / 1024

    assert peak(20_000) < peak(500) + 25
