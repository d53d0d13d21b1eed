"""Reading progress tables: numbers, gaps, restarts and torn ends, whatever trainer wrote them."""

from __future__ import annotations

import csv
import gzip
import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sources.base import HEAD_BYTES, Bad, Ended, Head, Meta, Row, read_all, read_head
from exporter.sources.csv_table import CsvTable

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"


def real(name):
    """A file that others wrote, where it is there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name}")
    return path


def read(path, text):
    """Everything that a table of this text says."""
    file = path / "progress.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_all(CsvTable(), file))


def rows_of(items):
    """Only the rows."""
    return [item for item in items if isinstance(item, Row)]


def recognised(text):
    """Whether a file that begins like this is a table."""
    return CsvTable().recognises(Head("x", text if isinstance(text, bytes) else text.encode()))


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("time/total_timesteps,time/time_elapsed,train/loss\n2048,3,0.5\n",
         Row(2048, {"time/time_elapsed": 3.0, "train/loss": 0.5})),
        ("training_iteration,timestamp,timesteps_total,date\n7,1570763935,900,2019-10-10_20-18-55\n",
         Row(7, {"timesteps_total": 900.0}, 1570763935.0)),
        ("epoch,step,train_loss,val_loss\n1,49,,0.25\n", Row(49, {"val_loss": 0.25}, None, 1.0)),
        ("epoch,accuracy,loss\n0,0.5,NA\n", Row(0, {"accuracy": 0.5}, None, 0.0)),
        ("EpRewMean,TimestepsSoFar\n3.5,4096\n", Row(4096, {"EpRewMean": 3.5})),
        ("misc/nupdates,misc/total_timesteps,loss/policy_loss\n3,6144,-0.5\n",
         Row(6144, {"misc/nupdates": 3.0, "loss/policy_loss": -0.5})),
        ("step,lr\n512,0.001\n", Row(512, {"lr": 0.001})),
        ("Wall time,Step,Value\n1700000000.5,30,2.5\n", Row(30, {"Value": 2.5}, 1700000000.5)),
    ],
    ids=["sb3", "rllib", "lightning", "keras", "baselines", "ppo2", "deepspeed", "tensorboard"],
)  # fmt: skip
def test_each_trainer_says_its_step_in_its_own_column(tmp_path, text, row):
    """Step, time and epoch are taken from their columns, every other number is a metric of that row."""
    assert read(tmp_path, text) == [row]
    assert recognised(text)


def test_a_monitor_file_is_read_with_its_clock(tmp_path):
    """An episode of monitor.csv ended at t_start + t, and is numbered by its row."""
    text = '#{"t_start": 1700000000.0, "env_id": "CartPole-v1"}\nr,l,t\n22.0,22,1.5\n9.0,9,2.25\n'
    assert read(tmp_path, text) == [
        Meta({"t_start": 1700000000.0, "env_id": "CartPole-v1"}),
        Row(1, {"r": 22.0, "l": 22.0}, 1700000001.5),
        Row(2, {"r": 9.0, "l": 9.0}, 1700000002.25),
    ]
    assert recognised(text)


@pytest.mark.parametrize("first", ["#{nonsense", "#{}", '#{"t_start": null}', '#{"t_start": []}'])
def test_a_monitor_file_without_a_clock_is_still_read(tmp_path, first):
    """A first line that says no start is reported, the episodes under it have no time."""
    bad, row = read(tmp_path, f"{first}\nr,l,t\n22.0,22,1.5\n")
    assert (bad.line, row) == (1, Row(1, {"r": 22.0, "l": 22.0, "t": 1.5}))


def test_rows_are_numbered_where_no_column_says_the_step(tmp_path):
    """Without a step column the first row is step 1, and broken rows do not count."""
    items = read(tmp_path, "a,b\n1,2\n3\n5,6\n")
    assert [row.step for row in rows_of(items)] == [1, 2]


def test_a_row_without_a_step_belongs_to_the_step_before(tmp_path):
    """An empty, infinite or text step repeats the last one."""
    items = read(tmp_path, "step,loss\n5,1\n,2\ninf,3\nx,4\n6.0,5\n")
    assert [row.step for row in items] == [5, 5, 5, 5, 6]


def test_not_finite_numbers_are_values_and_text_is_not(tmp_path):
    """Any spelling of nan and infinity is a value; empty, NA, words, names of digits and 1_000 are none."""
    header = "step,a,b,c,d,e,f,g,trial_id\n"
    (row,) = read(tmp_path, header + "1,NaN,-Inf,INFINITY,,NA,True,1_000,12345678\n")
    assert list(row.metrics) == ["a", "b", "c"]
    assert math.isnan(row.metrics["a"])
    assert (row.metrics["b"], row.metrics["c"]) == (-math.inf, math.inf)


def test_objects_are_reported_once_per_column_where_they_begin(tmp_path):
    """A cell that holds a list or dict is one fault per column, at the line where it begins, and never evaluated."""
    text = "step,info,loss\n1,,0.5\n2,\"{'a':\n1}\",0.25\n3,[1],0.125\n4,__import__('os').abort(),1\n"
    assert read(tmp_path, text) == [
        Row(1, {"loss": 0.5}),
        Bad(3, "column 'info' is not numeric: it holds objects or lists"),
        Row(2, {"loss": 0.25}),
        Row(3, {"loss": 0.125}),
        Row(4, {"loss": 1.0}),
    ]


def test_a_ragged_row_is_bad_and_costs_only_itself(tmp_path):
    """A row with more or fewer cells than its header is reported by its line; empty lines are nothing."""
    items = read(tmp_path, "step,loss\n1,2,3\n\n2\n3,4\n")
    assert [item.line for item in items if isinstance(item, Bad)] == [2, 4]
    assert rows_of(items) == [Row(3, {"loss": 4.0})]


def test_a_header_in_the_middle_begins_a_table(tmp_path):
    """After a restart the columns are those of the new header, the same or others, and it is no row."""
    items = read(tmp_path, "step,lr\n1,0.5\nstep,lr\n1,0.25\nlr,step,loss\n0.125,9,3\n")
    assert items == [Row(1, {"lr": 0.5}), Row(1, {"lr": 0.25}), Row(9, {"lr": 0.125, "loss": 3.0})]


def test_a_trial_that_is_done_has_ended(tmp_path):
    """RLlib's `done` ends the run; in any other table it is a word."""
    assert read(tmp_path, "training_iteration,done\n1,False\n2,True\n")[-1] == Ended("finished")
    assert not any(isinstance(item, Ended) for item in read(tmp_path, "step,done\n2,True\n"))


def test_a_torn_end_is_left_out(tmp_path):
    """A last line without its end, or a quoted cell without its quote, is not there yet."""
    assert read(tmp_path, "step,loss\n1,2\n2,3") == [Row(1, {"loss": 2.0})]
    assert read(tmp_path, 'step,loss,info\n1,2,\n2,3,"{\n') == [Row(1, {"loss": 2.0})]
    assert read(tmp_path, "step,loss") == read(tmp_path, "") == []


def test_what_is_no_csv_is_bad_and_reading_goes_on(tmp_path):
    """A quote in a wrong place costs its own record."""
    bad, row = read(tmp_path, 'step,loss\n1,"2"3\n2,4\n')
    assert (bad.line, row) == (2, Row(2, {"loss": 4.0}))


def test_gzip_byte_order_mark_and_windows_lines_are_read(tmp_path):
    """Packing, a mark at the beginning and CRLF change no value; a packed file that is cut gives what is whole."""
    plain = b"\xef\xbb\xbfstep,loss\r\n1,2\r\n"
    assert read(tmp_path, plain) == read(tmp_path, gzip.compress(plain)) == [Row(1, {"loss": 2.0})]
    assert read(tmp_path, gzip.compress(plain)[:-9]) in ([], [Row(1, {"loss": 2.0})])


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "hello, world\nthis is prose, not a table\n", "<html>\n<p>1,2\n", '{"step": 1,\n"loss": 2}\n',
        "[1, 2]\n3,4\n", "1,2\n3,4\n", b"\0\5\x16\7\0\2,step\n1,2\n", b"a,\xffb\n1,2\n" * 9, "step\n", "loss\nx\n",
        "global_step=1, episodic_return=2\n", "import os, step\nimport sys\n", "a,b\n1,2,3\n", "a,b\nx,y\n", 'a,"b\n',
    ],
)  # fmt: skip
def test_other_files_are_not_recognised(text):
    """Prose, markup, JSON, code, binary files and tables of text are no progress tables."""
    assert recognised(text) is (text == "step\n")


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "loss\n0.5\n", "step,loss\n", "name,step,x\nfoo,1,bar\n"])
def test_tables_are_recognised_by_a_known_name_or_by_numbers(text):
    """A known column, or names over mostly numbers, is enough, even if the file has only just begun."""
    assert recognised(text)


def test_a_head_may_end_inside_a_character():
    """A cut of the head in the middle of a character hides nothing."""
    assert recognised("step,loss\n1,é".encode()[:-1])


CELLS = st.sampled_from(["1", "-2.5", "nan", "", "NA", "é", '"a\nb"', "{'a': 1}", '"x', "step", "a,b"])
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), max_size=8)


@given(TABLES, st.data())
def test_a_cut_file_says_a_beginning_of_the_whole(lines, data):
    """Cut at any byte, a table is read without a crash and says the beginning of what the whole file says."""
    whole = "\n".join(["step,loss,info", *lines, ""]).encode()
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    with tempfile.TemporaryDirectory() as folder:
        every, some = read(Path(folder), whole), read(Path(folder), cut)
    assert repr(some) == repr(every[: len(some)])


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_a_crash(content):
    """Whatever a file holds, reading and recognising it ends without an exception."""
    with tempfile.TemporaryDirectory() as folder:
        read(Path(folder), content)
    recognised(content)


def test_stable_baselines_run():
    """A real SB3 run: 123 rows, its KL and clip fraction never near an alert, as the data's README says."""
    rows = rows_of(read_all(CsvTable(), real("bevos/progress.csv")))
    clip = [row.metrics["train/clip_fraction"] for row in rows if "train/clip_fraction" in row.metrics]
    variance = [row.metrics["train/explained_variance"] for row in rows if "train/explained_variance" in row.metrics]
    assert len(rows) == 123
    assert max(row.metrics.get("train/approx_kl", 0.0) for row in rows) == pytest.approx(0.00416, abs=5e-6)
    assert (min(clip), max(clip)) == pytest.approx((0.1019, 0.1774), abs=5e-5)
    assert (min(variance), max(variance)) == pytest.approx((0.2079, 0.5981), abs=5e-5)
    assert (rows[0].step, rows[0].time) == (4096, None)


def test_rllib_run_says_the_same_as_its_json():
    """One run in two formats: every iteration has the reward, KL and time that result.json has."""
    rows = rows_of(read_all(CsvTable(), real("flow/trained_ring/progress.csv")))
    lines = [json.loads(line) for line in real("flow/trained_ring/result.json").read_text().splitlines()]
    assert len(rows) == len(lines) == 200
    for row, line in zip(rows, lines, strict=True):
        assert (row.step, row.time) == (line["training_iteration"], line["timestamp"])
        assert row.metrics["episode_reward_mean"] == line["episode_reward_mean"]
        kl = line["info"]["learner"]["default_policy"]["kl"]
        assert row.metrics["info/learner/default_policy/kl"] == kl
    assert (kl, rows[-1].metrics["episode_reward_mean"]) == (0.01615159772336483, 2324.433615775931)


def test_old_rllib_run_of_printed_dicts():
    """Cells that hold dicts and rows that do not fit the header are reported; the one sound row is read."""
    items = list(read_all(CsvTable(), real("flow/test_files/progress.csv")))
    bad = [item for item in items if isinstance(item, Bad)]
    assert [item.line for item in bad] == [2] * 6 + list(range(3, 45))
    (row,) = rows_of(items)
    assert (row.step, row.metrics["episode_reward_mean"]) == (1, -4.045722713864307)


@pytest.mark.parametrize(
    ("name", "column", "count", "high"),
    [
        ("atari-ppo-breakout-torch-True", "info/learner/kl", 5241, 0),
        ("atari-ppo-breakout-torch-False", "info/learner/default_policy/kl", 4690, 10),
    ],
)
def test_rllib_runs_with_other_names_of_the_kl(name, column, count, high):
    """Every row is read, and the KL passes 0.1 as often as in the file."""
    rows = rows_of(read_all(CsvTable(), real(f"rl-experiments/{name}/progress.csv")))
    assert len(rows) == count
    assert sum(row.metrics[column] > 0.1 for row in rows) == high


def test_real_cells_of_several_lines():
    """A table with printed arrays over several lines has as many rows as the csv module counts."""
    path = real("rl-experiments/halfcheetah-sac-2021/progress.csv")
    with path.open(newline="") as file:
        count = sum(1 for _ in csv.DictReader(file))
    assert len(rows_of(read_all(CsvTable(), path))) == count


def test_every_real_table_and_nothing_else_is_recognised():
    """Of all real files exactly those named csv are tables."""
    files = [path for path in real("bevos").parent.rglob("*") if path.is_file()]
    found = {path for path in files if CsvTable().recognises(read_head(path))}
    assert found == {path for path in files if path.suffix == ".csv"}
    assert max(path.stat().st_size for path in found) > HEAD_BYTES
