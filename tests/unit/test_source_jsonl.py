"""Lines of JSON of every shape become rows; what is no number, no metric or not whole is left out or reported."""

from __future__ import annotations

import csv
import gzip
import json
import math
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.sources.base import HEAD_BYTES, Bad, Ended, Head, Meta, Row, read_all, read_head
from exporter.sources.jsonl import Jsonl
from exporter.sources.objects import numeric_leaves, step_number, unix_seconds

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
NAN, INF = math.nan, math.inf


@pytest.fixture
def read(tmp_path):
    """Read text as a file: every item."""

    def read_text(text):
        path = tmp_path / "log.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(read_all(Jsonl(), path))

    return read_text


@pytest.fixture
def real():
    """Find a file that others wrote, or skip."""

    def find(name):
        if not DATA.is_dir():
            pytest.skip("shared/data is not here")
        return DATA / name

    return find


def rows_of(items):
    """The rows among the items."""
    return [item for item in items if isinstance(item, Row)]


def same(left, right):
    """Whether two numbers are the same one, NaN included."""
    return left == right or (math.isnan(left) and math.isnan(right))


TITAN = (
    '{"delta_ms":1,"tid":5,"rank":2,"step":3,"time":1700000000,"time_ms":1700000000500,"time_us":1700000000500000,'
    '"log_type_name":"metric_value","event_name":"train.loss","value":2.5,"seq_id":4}'
)
SHAPES = [
    ('{"_type":"step","time":1.7e9,"step":3,"epoch":0.5,"metrics":{"a":"NaN"}}', Row(3, {"a": NAN}, 1.7e9, 0.5)),
    ('{"timestamp":1.7e9,"global_step":3,"metrics":{"a":1,"ok":true}}', Row(3, {"a": 1, "ok": 1}, 1.7e9)),
    ('{"step":3,"metric":"a","value":1.5,"other":2}', Row(3, {"a": 1.5})),
    ('{"step":3,"metric":"a","value":true}', Row(3, {"a": 1})),
    ('{"step":3,"metric":"a","value":"0.25"}', Row(3, {"a": 0.25})),
    ('{"step":3,"metric":"a","value":"nan"}', Row(3, {"a": NAN})),
    ('{"step":3,"metric":"a","value":2,"metrics":{"b":1}}', Row(3, {"a": 2})),
    ('{"ts":1.7e9,"run_id":"r","phase":"p","step":3,"metric":"a","value":2,"meta":{"b":1}}', Row(3, {"a": 2}, 1.7e9)),
    (
        '{"rank":0,"step":3,"relative_step":1,"log_type_name":"t","value":2,"time_us":1700000000500000}',
        Row(3, {"t": 2}, 1.7e9 + 0.5),
    ),
    (TITAN, Row(3, {"train.loss": 2.5}, 1.7e9 + 0.5)),
    ('{"iteration":3,"time":0.4,"total_loss":1}', Row(3, {"time": 0.4, "total_loss": 1})),
    ('{"iter":3,"time":0.4,"timestamp":1700000000,"loss":1}', Row(3, {"time": 0.4, "loss": 1}, 1.7e9)),
    ('{"trainer/global_step":3,"loss":1}', Row(3, {"loss": 1})),
    ('{"step":3,"train/loss":1,"eval.loss":2}', Row(3, {"train/loss": 1, "eval.loss": 2})),
    ('{"iteration":3,"a":{"b":{"c":1},"d":2},"e":-0.5}', Row(3, {"a/b/c": 1, "a/d": 2, "e": -0.5})),
    ('{"step":3,"data":{"actor/ppo_kl":0.1,"critic/kl":null}}', Row(3, {"actor/ppo_kl": 0.1})),
    ('{"step":3,"data":{"a":1},"b":2}', Row(3, {"data/a": 1, "b": 2})),
    ('{"tracker":"json_logger","event":"log","step":3,"metrics":{"a":1,"h":{"min":0}}}', Row(3, {"a": 1, "h/min": 0})),
    ('{"step":3,"time":1700000000.5,"loss":1}', Row(3, {"loss": 1}, 1700000000.5)),
    (
        '{"_step":3,"_timestamp":1.7e9,"_runtime":2,"a":1,"img":{"_type":"image-file","size":9}}',
        Row(3, {"a": 1}, 1.7e9),
    ),
    ('{"time/fps":90,"time/total_timesteps":3,"train/loss":1}', Row(3, {"time/fps": 90, "train/loss": 1})),
    ('{"timesteps_total":3,"a":1}', Row(3, {"a": 1})),
    (
        '{"training_iteration":3,"timesteps_total":60,"pid":7,"timestamp":1700000000,"done":false}',
        Row(3, {"timesteps_total": 60}, 1.7e9),
    ),
    ('{"step":3,"time":{"fps":5},"a":1}', Row(3, {"time/fps": 5, "a": 1})),
    ('{"step":3,"epoch":"two","a":1}', Row(3, {"a": 1})),
    ('{"step":null,"global_step":3,"a":1}', Row(3, {"a": 1})),
    ('{"step":"3","a":1}', Row(3, {"a": 1})),
    ('{"step":3.0,"a":1,"metrics":{}}', Row(3, {"a": 1})),
    ('{"step":3,"timestamp":"2023-11-14T22:13:20Z","a":1}', Row(3, {"a": 1}, 1.7e9)),
    ('{"step":3,"time":1e12,"timestamp":1.7e9,"a":1}', Row(3, {"a": 1}, 1.7e9)),
    ('{"step":3,"a":"Infinity","b":"-inf","c":"inf"}', Row(3, {"a": INF, "b": -INF, "c": INF})),
    ('{"step":3,"a":1,"d":"text","e":[1],"f":null,"g":true}', Row(3, {"a": 1})),
    ('{"step":3,"a":NaN,"b":-Infinity}', Row(3, {"a": NAN, "b": -INF})),
]


@pytest.mark.parametrize(("line", "row"), SHAPES)
def test_shapes(read, line, row):
    """Each shape gives one row: its numbers under their keys, and beside them the step, the time and the epoch."""
    [item] = read(line + "\n")
    assert item[0] == row.step
    assert item[2:] == row[2:]
    assert item.metrics.keys() == row.metrics.keys()
    assert all(same(item.metrics[key], value) for key, value in row.metrics.items())
    assert {type(value) for value in item.metrics.values()} <= {int, float}


@pytest.mark.parametrize(
    "line",
    [
        '{"_type":"checkpoint","time":1,"step":3,"path":"p","metrics":{"a":1}}',
        '{"_type":["odd"],"step":3,"a":1}',
        '{"event":"epoch_end","step":3,"loss":1}',
        '{"tracker":"json_logger","event":"artifact","path":"p"}',
        '{"delta_ms":1,"rank":0,"step":3,"log_type_name":"fwd_bwd_start","event_name":null,"seq_id":4}',
        '{"step":3,"metric":"a","value":"fast"}',
        '{"step":3,"metric":"a","value":null}',
        '{"step":3}',
        '{"step":"x","text":"no metrics, so no step is needed"}',
        "{}",
        "",
        "  \r",
    ],
)
def test_no_metrics_no_row(read, line):
    """A line that holds no metric gives nothing at all, and is not bad."""
    assert read(f'{line}\n{{"a":1}}\n') == [Row(0, {"a": 1})]


def test_zero_is_a_value(read):
    """Step 0 is a value, and is not taken for missing."""
    assert read('{"step":0,"global_step":7,"a":0}\n') == [Row(0, {"a": 0})]


def test_lines_without_step_are_counted(read):
    """A line without a step follows the last one by one, and the first is step 0."""
    items = read('{"a":1}\n{"a":2}\n{"step":40,"a":3}\n{"event":"x"}\n{"a":4}\n')
    assert [row.step for row in items] == [0, 1, 40, 41]


KEYS = ("step", "global_step", "timesteps_total", "time", "timestamp", "time_us", "epoch", "pid", "_type", "a", "b/c")
NUMBERS = st.sampled_from([1, 3, 0.5, -1, 1700000000, 1e12, 2**63])
VALUES = NUMBERS | st.sampled_from([NAN, "NaN", "x", None, True, [1], {"d": 1}, {}])


@st.composite
def alike(draw):
    """Objects of equal keys, every other time plain rows."""
    values = draw(st.sampled_from([NUMBERS, VALUES]))
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=4))
    return draw(st.lists(st.fixed_dictionaries(dict.fromkeys(keys, values)), min_size=1, max_size=2))


def with_floats(row):
    """The row with every metric as a float: 2**63 and 2.0**63 are one number."""
    return row._replace(metrics={key: float(value) for key, value in row.metrics.items()})


@example([[{"step": 1, "time_us": 1.7e15, "a": 1}, {"step": 2, "time_us": 1.7e9, "a": 1}]])
@example([[{"step": 1, "time": 1e12, "a": 1}, {"step": 2, "time": -1, "a": 1}]])
@example([[{"step": 1, "time": 1e12, "timestamp": 1.7e9, "a": 1}], [{"a": 1}]])
@example([[{"step": 1, "time": 1.7e9, "a": 1}, {"step": 2, "time": 0.5, "a": 1}]])
@example([[{"step": 1, "epoch": 2}, {"step": 3, "epoch": 2}], [{"a": 1}]])
@given(st.lists(alike(), max_size=3))
def test_lines_read_at_once_say_what_each_says_alone(tmp_path_factory, groups):
    """Rows of equal keys are read many at a time; a blank line, by which they are read one by one, changes nothing."""
    path = tmp_path_factory.mktemp("many") / "log.jsonl"
    text = "".join(json.dumps(fields) + "\n" for group in groups for fields in group)
    said = []
    for end in ("", "\n"):
        path.write_text(text + end)
        items = list(read_all(Jsonl(), path))
        said.append([with_floats(item) if isinstance(item, Row) else item[0] for item in items])
    assert repr(said[0]) == repr(said[1])


def test_what_is_said_about_the_last_step_is_no_further_one(read):
    """A summary of levanter's and an event of torchtitan without a step belong to the step before, or to step 0."""
    event = '{"log_type_name":"init_end","value":2}\n'
    summary = '{"tracker":"json_logger","event":"summary","metrics":{"a":1}}\n'
    items = read(event + '{"step":7,"a":1}\n' + summary + event)
    assert items == [Row(0, {"init_end": 2}), Row(7, {"a": 1}), Row(7, {"a": 1}), Row(7, {"init_end": 2})]


def test_a_config_of_a_bad_line_is_said_by_the_next(read):
    """A line that cannot be read says nothing, not even its config: the next one with that config does."""
    bad, *items = read('{"step":"x","config":{"lr":1},"a":1}\n{"step":1,"config":{"lr":1},"a":1}\n')
    assert isinstance(bad, Bad)
    assert items == [Meta({"lr": 1}), Row(1, {"a": 1})]


def test_bad_lines(read):
    """A line that cannot be read is reported by its number, and the next one is read."""
    bad = ["{", "[1]", "5", '{"step":"x","a":1}', '{"step":1e300,"a":1}', '{"step":[1],"a":1}', '{"step":NaN,"a":1}']
    bad += ['{"_type":"run_end"}', '{"a":' * 3000 + "1" + "}" * 3000, '{"a":' * 990 + "1" + "}" * 990]
    items = read("\n\n".join([*bad, '{"step":5,"a":1}']) + "\n")
    assert [item.line for item in items[:-1]] == [2 * place + 1 for place in range(len(bad))]
    assert all(isinstance(item, Bad) and item.reason for item in items[:-1])
    assert items[-1] == Row(5, {"a": 1})
    assert isinstance(read(b'{"a":"\xff"}\n')[0], Bad)


@given(st.integers(0, 200))
def test_torn_end(tmp_path_factory, cut):
    """A file cut anywhere gives the rows that are whole, and nothing bad."""
    text = b"".join(b'{"step":%d,"loss":0.5}\n' % step for step in range(8))
    path = tmp_path_factory.mktemp("torn") / "log.jsonl"
    path.write_bytes(text[:cut])
    whole = text[:cut].count(b"}")
    assert list(read_all(Jsonl(), path)) == [Row(step, {"loss": 0.5}) for step in range(whole)]


def test_journal(read):
    """A journal of ours gives its config, its steps and its end; all other records are left out."""
    items = read(
        '{"_type":"run_start","time":1.7e9,"run_id":"r","config":{"lr":0.1}}\n'
        '{"_type":"step","time":1.7e9,"step":0,"metrics":{"a":1}}\n'
        '{"_type":"timing","time":1.7e9,"name":"save","seconds":3}\n'
        '{"_type":"run_end","time":1.7e9,"status":"failed","reason":"x"}\n'
    )
    assert items == [Meta({"lr": 0.1}), Row(0, {"a": 1}, 1.7e9), Ended("failed")]


def test_config_is_said_when_it_changes(read):
    """A config is never a metric, and repeated on every line it is said once until it is another."""
    one, two = {"lr": 1, "bound": INF}, {"lr": 2}
    lines = [{"step": step, "config": config, "a": step} for step, config in enumerate([one, one, two])]
    items = read("".join(json.dumps(line) + "\n" for line in [*lines, {"event": "hparams", "hparams": {"b": 3}}]))
    rows = [Row(step, {"a": step}) for step in range(3)]
    assert items == [Meta(one), rows[0], rows[1], Meta(two), rows[2], Meta({"b": 3})]


def test_end_of_run(read):
    """RLlib's done result and levanter's last line end the run; the end of an episode does not."""
    assert read('{"training_iteration":1,"a":1,"done":true}\n') == [Row(1, {"a": 1}), Ended("finished")]
    assert read('{"tracker":"json_logger","event":"finish","summary":{"a":1}}\n') == [Ended("finished")]
    assert read('{"step":1,"a":1,"done":true}\n') == [Row(1, {"a": 1})]


def test_gzip_is_the_plain_file(tmp_path):
    """A packed file gives what the plain one gives; cut or damaged it gives what comes before."""
    text = b"".join(b'{"step":%d,"loss":%f}\n' % (step, math.sin(step)) for step in range(5000))
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(text)
    data = gzip.compress(text)
    packed.write_bytes(data)
    expected = list(read_all(Jsonl(), plain))
    assert list(read_all(Jsonl(), packed)) == expected
    assert len(expected) == 5000
    packed.write_bytes(data[: len(data) // 2])
    some = list(read_all(Jsonl(), packed))
    assert 0 < len(some) < 5000
    assert some == expected[: len(some)]
    packed.write_bytes(data[:-8] + bytes(8))
    *items, bad = read_all(Jsonl(), packed)
    assert items == expected[: len(items)]
    assert isinstance(bad, Bad)


def test_damaged_packing_is_bad(tmp_path):
    """Packed bytes that cannot be unpacked are one bad item."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 50)
    with pytest.raises(zlib.error):
        gzip.decompress(path.read_bytes())
    assert [type(item) for item in read_all(Jsonl(), path)] == [Bad]


def test_missing_file(tmp_path):
    """A file that is not there is an error of the system, not a bad line."""
    with pytest.raises(FileNotFoundError):
        list(read_all(Jsonl(), tmp_path / "none"))


LONG = b'{"config":{"x":"' + b"y" * HEAD_BYTES
RECOGNISED = [
    ("x", b'{"step":1,"a":1}\n'),
    ("x", b'{"step":1,"a":1}'),
    ("x", b'{"a":1}\n{"a":2}\n'),
    ("x", b'torn"}\n{"a":1}\n{"a":2}\n'),
    ("x", b'\xef\xbb\xbf{"step":1,"a":1}\r\n'),
    ("x", b'{"metric":"a","value":1}\n{"met'),
    ("x", b'{"a":1}\n' * 5000),
    ("x.jsonl", b'{"a":1}\n'),
    ("x", (b'{"training_iteration":1,' + LONG[1:])[:HEAD_BYTES]),
]
FOREIGN = [
    b"",
    b"\n",
    b"{",
    b"{}",
    b"5\n6\n",
    b"a,b\n1,2\n",
    b"step 1 loss 2\n",
    b"<!DOCTYPE html>\n<html>{}</html>\n",
    b"\x89PNG\r\n\x1a\n" + bytes(200),
    b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(40),
    b'{"lr":1,"env":"x"}\n',
    b'{\n  "step": 1,\n  "log_history": []\n}\n',
    b'{"global_step":1,"log_history":[]}\n',
    b'{"loss":1,"_step":1,"_runtime":2}',
    b'{"loss":1,"_step":1,"_wandb":{"runtime":2}}\n',
    b'[{"task":"a","xs":[1]},\n{"task":"b","xs":[1]}]\n',
    LONG[:HEAD_BYTES],
    (b'{"global_step":1,"log_history":[' + LONG)[:HEAD_BYTES],
]


@pytest.mark.parametrize(("name", "data"), RECOGNISED)
def test_recognised(name, data):
    """Objects line by line are recognised; a single one where it looks like a row."""
    assert Jsonl().recognises(Head(name, data))


@pytest.mark.parametrize("data", FOREIGN)
def test_not_recognised(data):
    """Text, binary data, tables and single documents are not lines of JSON."""
    assert not Jsonl().recognises(Head("x", data))


@pytest.mark.parametrize("name", ["trainer_state.json", "wandb-summary.json"])
@pytest.mark.parametrize("data", [b'{"global_step":1,"_step":2}\n', (b'{"_step":1,"a":"' + LONG)[:HEAD_BYTES]])
def test_known_documents_are_not_lines(name, data):
    """A single object under the name of a known document is that document."""
    assert not Jsonl().recognises(Head(name, data))


@given(st.dictionaries(st.text(max_size=3), st.floats() | st.booleans() | st.none() | st.text(max_size=3), max_size=5))
def test_numeric_leaves_are_the_numbers(fields):
    """Of a flat object exactly the numbers are left, each as it was."""
    texts = {"nan", "inf"}
    numbers = {key: value for key, value in fields.items() if type(value) is float or value in texts}
    assert all(same(numeric_leaves(fields)[key], float(value)) for key, value in numbers.items())
    assert numeric_leaves(fields).keys() == numbers.keys()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1e8, 1e8),
        (1.7e9, 1.7e9),
        (0, None),
        (99999999, None),
        (-1, None),
        (1e11, None),
        (NAN, None),
        (True, None),
        ("soon", None),
        ([], None),
        ("2023-11-14T22:13:20Z", 1.7e9),
        ("2023-11-14T23:13:20+01:00", 1.7e9),
        ("2023-11-14T22:13:20.250000", 1.7e9 + 0.25),
        ("2023-11-15", 1.7e9 + 6400),
        ("1960-01-01T00:00:00", None),
    ],
)
def test_unix_seconds(value, seconds):
    """Time is a number of seconds since 1970 or ISO text, in UTC unless it says otherwise; a duration is none."""
    assert unix_seconds(value) == seconds


@given(st.integers(-(2**63), 2**63 - 1))
def test_step_numbers_are_whole(step):
    """Every 64-bit number is a step, as a number or as text, and no larger one is."""
    assert step_number(step) == step_number(str(step)) == step
    with pytest.raises(ValueError, match="no whole number"):
        step_number(step + 2**64)


def test_flow_is_its_table(real):
    """RLlib's results are its progress table: 200 iterations, equal in every column that both have."""
    *items, ended = read_all(Jsonl(), real("flow/trained_ring/result.json"))
    rows = rows_of(items)
    assert [row.step for row in rows] == list(range(1, 201))
    assert ended == Ended("finished")
    assert sum(isinstance(item, Meta) for item in items) == 1
    last = rows[-1].metrics
    learner = "info/learner/default_policy/"
    assert last[learner + "kl"] == 0.01615159772336483
    assert last[learner + "entropy"] == -2.1259605884552
    assert last["episode_reward_mean"] == 2324.433615775931
    assert not any(key.startswith("config") for row in rows for key in row.metrics)
    with real("flow/trained_ring/progress.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row.time for row in rows] == [float(line["timestamp"]) for line in table]
    shared = rows[0].metrics.keys() & table[0].keys()
    assert len(shared) >= 30
    for row, line in zip(rows, table, strict=True):
        assert all(row.metrics[key] == pytest.approx(float(line[key]), rel=1e-12) for key in shared)


def flat_floats(fields, prefix=""):
    """An independent reading: every float in nested objects."""
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from flat_floats(value, f"{prefix}{key}/")
        elif isinstance(value, float):
            yield prefix + key, value


@pytest.mark.parametrize(
    ("name", "count", "keys", "nan_lines"),
    [
        ("halfcheetah-sac", 587, "", set(range(1, 11))),
        ("apex-beamrider", 262, "episode_reward_", {1, 136, 215, 219}),
    ],
)
def test_rllib_results(real, name, count, keys, nan_lines):
    """Every line is a row that holds each float of its JSON, and NaN on the known lines only."""
    path = real(f"rl-experiments/{name}/result.json")
    items = list(read_all(Jsonl(), path))
    rows = rows_of(items)
    assert len(rows) == count
    assert not any(isinstance(item, Bad) for item in items)
    nans = [any(math.isnan(value) for key, value in row.metrics.items() if key.startswith(keys)) for row in rows]
    assert {line for line, is_nan in enumerate(nans, 1) if is_nan} == nan_lines
    for row, line in zip(rows, path.read_text().splitlines(), strict=True):
        fields = json.loads(line)
        del fields["config"]
        assert row.step == fields["training_iteration"]
        assert row.time == fields["timestamp"]
        assert all(same(row.metrics[key], value) for key, value in flat_floats(fields))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tinker-cookbook/logs", 7),
        ("tinker-cookbook/logs_v2", 29),
        ("tinker-cookbook/logs_v2p3", 57),
        ("tinker-cookbook/logs_v2p7", 113),
        ("dreamer-goal", 5),
        ("dreamer-goal/logdir/fetch-reach-v1/dreamer/2", 86),
    ],
)
def test_flat_rows_of_others(real, name, count):
    """Rows with slash names are the lines of the file without their step."""
    path = real(name) / "metrics.jsonl"
    assert Jsonl().recognises(read_head(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == count
    assert list(read_all(Jsonl(), path)) == [Row(line.pop("step"), line) for line in lines]


def test_eval_metrics_only_on_eval_steps(real):
    """What is evaluated now and then is not invented for the other steps."""
    rows = rows_of(read_all(Jsonl(), real("tinker-cookbook/logs_v2p7/metrics.jsonl")))
    evaluated = [row.step for row in rows if any(key.startswith("test/env/all/") for key in row.metrics)]
    timed = [row.step for row in rows if "time/run_evals" in row.metrics]
    assert evaluated == timed
    assert 0 < len(evaluated) < len(rows)


def test_real_documents_are_not_lines(real):
    """Score files, settings and single documents that others wrote are not lines of JSON."""
    names = ["dreamerv3/*", "crafter/*", "conceptppo/*/files/*", "jaxmarl/*", "avatarl-sac/*", "*/params.json"]
    paths = [path for name in [*names, "trainer_state_viz/*"] for path in real("").glob(name)]
    paths += real("rl-experiments").glob("*/params.json")
    assert len(paths) > 15
    assert [path for path in paths if Jsonl().recognises(read_head(path))] == []


def test_memory_and_speed(tmp_path):
    """A file far larger than the memory used is read, at a speed that a slow machine reaches too."""
    metrics = {f"train/metric_{number}": number / 7 for number in range(20)}
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        file.writelines(json.dumps({"step": step, "time": 1e9, **metrics}) + "\n" for step in range(20_000))
    started = time.perf_counter()
    values = sum(len(row.metrics) for row in read_all(Jsonl(), path))
    assert values == 400_000
    assert values / (time.perf_counter() - started) > 50_000
    tracemalloc.start()
    assert sum(1 for _ in read_all(Jsonl(), path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 5
