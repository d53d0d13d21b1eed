"""Reading what trainers print: each kind of line, the noise around it, and real logs."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sources import find_source
from exporter.sources.base import Head, Row, read_all, read_head
from exporter.sources.console import Console, LineParser

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
TITAN = (
    "step: 10  loss:  7.12345  grad_norm:  1.2345  memory: 12.34GiB(15.60%)  tps: 12,345  tflops: 1,234.56  mfu: 40.12%"
)
DEEPSPEED = (
    "[2025-01-01 00:00:00,123] [INFO] [logging.py:96:log_dist] [Rank 0] step=100, skipped=2, lr=[0.0001, 0.0001], "
    "mom=[(0.9, 0.999)]"
)
DEEPSPEED_SPEED = (
    "epoch=1/micro_step=200/global_step=100, RunningAvgSamplesPerSec=12.5, CurrSamplesPerSec=13.25, "
    "MemAllocated=1.5GB, MaxMemAllocated=2.5GB"
)
LEVANTER = (
    "2025-01-01T00:00:00 - 0 - levanter.json_logger - json_logger.py:58 - INFO :: "
    '{"tracker": "json_logger", "event": "log", "step": 3, "metrics": {"train/loss": 0.5, "grad": {"norm": 2.0}}}'
)
TABLE = """\
---------------------------------
| rollout/           |          |
|    ep_len_mean     | 22.7     |
|    ep_rew_mean     | -1.2e+03 |
| time/              |          |
|    fps             | 1234     |
|    total_timesteps | 2048     |
| note               | text     |
| plain              | 3        |
---------------------------------
"""


def real(name):
    """A file that others wrote, where it is there."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name}")
    return path


def parse(*lines):
    """The rows that these lines make."""
    parser = LineParser()
    return [row for line in lines if (row := parser.parse_line(line)) is not None]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("{'loss': 1.25, 'grad_norm': 0.5, 'learning_rate': 5e-05, 'epoch': 0.5}",
         Row(1, {"loss": 1.25, "grad_norm": 0.5, "learning_rate": 5e-05}, None, 0.5)),
        ("{'loss': '1.25', 'num_tokens': 1024, 'learning_rate': '5e-05', 'epoch': '0.5'}",
         Row(1, {"loss": 1.25, "num_tokens": 1024.0, "learning_rate": 5e-05}, None, 0.5)),
        ("{'loss': 1.25, 'step': 40, 'name': 'x', 'flag': True, 'epoch': 1}", Row(40, {"loss": 1.25}, None, 1.0)),
        ("iter 250: loss 1.2345, time 123.45ms, mfu 12.34%",
         Row(250, {"loss": 1.2345, "time_ms": 123.45, "mfu_percent": 12.34})),
        ("iter 0: loss 1.5, time 9ms", Row(0, {"loss": 1.5, "time_ms": 9.0})),
        ("step 250: train loss 1.25, val loss 1.5", Row(250, {"train/loss": 1.25, "val/loss": 1.5})),
        ("step:1375/6200 val_loss:3.9 train_time:285000ms step_avg:216.33ms",
         Row(1375, {"val_loss": 3.9, "train_time_ms": 285000.0, "step_avg_ms": 216.33})),
        ("s:7 trl:10.1872 lr:0.000007 norm:6.18", Row(7, {"trl": 10.1872, "lr": 7e-06, "norm": 6.18})),
        (TITAN, Row(10, {"loss": 7.12345, "grad_norm": 1.2345, "memory_gib": 12.34, "memory_percent": 15.6,
                         "tps": 12345.0, "tflops": 1234.56, "mfu_percent": 40.12})),
        ("step:3 - actor/pg_loss:-0.5 - val-core/gsm8k/acc/mean@8:0.25 - perf/mfu:np.float64(0.125) - tag:text",
         Row(3, {"actor/pg_loss": -0.5, "val-core/gsm8k/acc/mean@8": 0.25, "perf/mfu": 0.125})),
        ("global_step=1024, episodic_return=22.0", Row(1024, {"episodic_return": 22.0})),
        ("global_step=1024, episodic_return=[22.]", Row(1024, {"episodic_return": 22.0})),
        ("{'eval_loss': np.float64(0.5), 'kl': None, 'epoch': 1.0}", Row(1, {"eval_loss": 0.5}, None, 1.0)),
        ("step:  1  loss:  8.5  memory: --GiB(--%)  tps: --  mfu: N/A", Row(1, {"loss": 8.5})),
        ("validate step: 10  loss:  6.25  memory: 12.5GiB(15.50%)  tps: 12,345",
         Row(10, {"validation_metrics/loss": 6.25, "validation_metrics/memory_gib": 12.5,
                  "validation_metrics/memory_percent": 15.5, "validation_metrics/tps": 12345.0})),
        (DEEPSPEED, Row(100, {"skipped": 2.0, "lr": 0.0001})),
        ("step=100, skipped=0, lr=[], mom=[]", Row(100, {"skipped": 0.0})),
        (DEEPSPEED_SPEED, Row(100, {"RunningAvgSamplesPerSec": 12.5, "CurrSamplesPerSec": 13.25,
                                    "MemAllocated_gb": 1.5, "MaxMemAllocated_gb": 2.5}, None, 1.0)),
        ("[metric][batch=3]: loss/train/total: 2.25 ", Row(3, {"loss/train/total": 2.25})),
        (LEVANTER, Row(3, {"train/loss": 0.5, "grad/norm": 2.0})),
        ('{"step": 3, "time": 1700000000.5, "kl": 0.5}', Row(3, {"kl": 0.5}, 1700000000.5)),
    ],
)  # fmt: skip
def test_each_trainer_prints_in_its_own_way(line, row):
    """Every kind of line gives its step and its numbers under its own names, a unit as a part of the name."""
    assert parse(line) == [row]


@pytest.mark.parametrize("line", [TITAN, "step:3 - actor/kl:0.5", "{'loss': 1.0, 'epoch': 0.5}"])
@pytest.mark.parametrize(
    "around",
    [
        "{}\n",
        "\x1b[36m{}\x1b[0m\r\n",
        "(TaskRunner pid=123) {}",
        "\x1b[36m(main_task pid=12, ip=10.0.0.1)\x1b[0m {}",
        "\x1b[36m(PPO(env=CartPole-v1; learners=0) pid=12)\x1b[0m {}",
        "(Worker pid=12) {}\x1b[32m [repeated 3x across cluster]\x1b[0m",
        "[rank0]: {}",
        "3: {}",
        "[rank0]:[titan] 2025-01-01 00:00:00,123 - root - INFO - {}",
        " 10%|#         | 5/50 [00:01<00:09]\r{}",
        "{}\r 12%|#         | 6/50 [00:01<00:09]",
        "old {}\r{}\r 12%|#",
    ],
)
def test_decoration_changes_nothing(line, around):
    """Colours, Ray's and a logger's prefixes and progress bars around a line leave its row as it is."""
    assert parse(around.replace("{}", line)) == parse(line)


def test_the_last_line_of_a_progress_bar_counts():
    """Of parts that overwrite each other, the last that says something is meant."""
    assert parse("s:1 trl:9.0\rs:2 trl:8.0\rwaiting") == [Row(2, {"trl": 8.0})]


@pytest.mark.parametrize(
    "line",
    [
        "", "step 3 of the plan: loss of time", "{'loss': [1, 2], 'epoch': 1}", "{'lr': 0.1, 'batch': 32}",
        "{'loss': __import__('os').abort(), 'epoch': 1}", "{'loss': 1.0, 'epoch': {'a': 1}}", "step: 3 note: four",
        "| a | b |", "step:x - a:1", "{'loss': 1.0, 'epoch': 1.0} and more", "{'loss': 1" + " " * 70000 + "}", "\r\r",
        '{"loss": 1.0, "epoch": 2.0}', "epoch: 3", "step: 5", "step: nan loss: 1.0", "s:1e999 trl:2.0",
        f"step:{2**63} - a:1", "{'loss': 1.0, 'step': 1e300, 'epoch': 1}", 'request {"step": "x", "a": 1}',
        'done {"step": 3}', 'config {"lr": 0.1}', 'cut {"step": 3, "a": }', f"iter {'9' * 5000}: loss 1.0, time 1ms",
        "Step 3:", "'loss': '1.0',",
    ],
)  # fmt: skip
def test_prose_code_and_objects_are_no_metrics(line):
    """A line that is not wholly of a known kind says nothing, and nothing in it is evaluated."""
    assert parse(line) == []


def test_dict_lines_are_counted():
    """Hugging Face prints no step: the rows are numbered from 1."""
    rows = parse("{'loss': 1.0, 'epoch': 0.5}", "prose", "{'eval_loss': nan, 'epoch': 1.0}")
    assert [row.step for row in rows] == [1, 2]
    assert math.isnan(rows[1].metrics["eval_loss"])


def test_a_table_is_one_row_of_its_sections():
    """The values of a table belong to its total_timesteps, under the section above them; text is no value."""
    (row,) = parse(*TABLE.splitlines())
    assert row == Row(
        2048, {"rollout/ep_len_mean": 22.7, "rollout/ep_rew_mean": -1200.0, "time/fps": 1234.0, "plain": 3.0}
    )


def test_tables_follow_each_other_and_an_open_one_waits():
    """Each table is its own row, a table without a step is counted, and one whose end is not printed is left out."""
    small = ["-" * 20, "| loss | 1.5 |", "-" * 20]
    first = parse(*TABLE.splitlines())
    counted = [Row(2049, {"loss": 1.5}), Row(2050, {"loss": 1.5})]
    assert parse(*TABLE.splitlines(), *small, *small) == first + counted
    assert parse(*TABLE.splitlines()[:-1]) == parse(*small[1:]) == []


@pytest.mark.parametrize("prefix", ["", "(skyrl_entrypoint pid=7) "])
def test_a_dict_below_its_step_is_one_row(prefix):
    """SkyRL prints a step, and below it a dict of texts, on one line or many: its numbers are a row of that step."""
    lines = [
        "2025-01-01 00:00:00.000 | INFO     | skyrl.train.utils.tracking:log:180 - Step 12: ",
        "{'generate/avg_num_tokens': '345.1250',",
        " 'loss/avg_final_rewards': 'nan',",
        " 'note': 'a, b',",
        " 'trainer/epoch': 2}",
        "Step 13:",
        "{'reward/avg_raw_reward': '0.2500'}",
        "{'reward/avg_raw_reward': '0.2500'}",
    ]
    first, second = parse(*(prefix + line for line in lines))
    assert math.isnan(first.metrics["loss/avg_final_rewards"])
    assert first.step == 12
    assert {**first.metrics, "loss/avg_final_rewards": 0} == {
        "generate/avg_num_tokens": 345.125,
        "loss/avg_final_rewards": 0,
        "trainer/epoch": 2.0,
    }
    assert second == Row(13, {"reward/avg_raw_reward": 0.25})


def test_a_long_progress_bar_hides_no_row():
    """However often a bar was drawn before a line of metrics, the line counts; a long text without one does not."""
    bars = "".join(f"\r {percent}%|###   | {percent}/100 [00:01<00:09, 9.99it/s]" for percent in range(100)) * 40
    assert len(bars) > 1 << 17
    assert parse(bars + "\r" + TITAN) == parse(TITAN)
    assert parse(TITAN + " " * (1 << 17)) == []


@pytest.mark.parametrize(
    "text",
    [
        ' {"}' * 15_000 + "x", "}" + " " * 60_000 + "x", "step: 1 " + "a: 1 " * 12_000 + "!", "'a': x, " * 8_000,
        "(pid=1 " * 9_000, "(a(" * 20_000, "Step 1:" + " " * 60_000 + "x", "[repeated 1x " * 5_000, "\x1b[" * 30_000,
        "step:1 - " + "a:" * 30_000,
        "step: " + "1" * 60_000 + " a: 1", "| " * 32_000, "epoch=1/micro_step=1/global_step=1, " + "a=1, " * 12_000,
    ],
)  # fmt: skip
def test_no_line_takes_long(text):
    """The longest line that is looked at takes a moment, whatever is in it."""
    begin = time.process_time()
    parse("Step 1:", text)
    assert time.process_time() - begin < 2


def test_a_speed_belongs_to_the_last_step():
    """CleanRL's SPS line says no step: it is that of the line before."""
    assert parse("global_step=1024, episodic_return=22.0", "SPS: 1500")[1] == Row(1024, {"SPS": 1500.0})


@pytest.mark.parametrize(
    ("text", "is_log"),
    [
        ("hello\n{'loss': 1.0, 'epoch': 0.5}\n{'loss': 0.5, 'epoch': 1.0}\n", True),
        (TABLE, True),
        ("iter 0: loss 1.5, time 9ms\nprose\n", False),
        ("s:1 trl:2\ns:2 trl:1\n\0", False),
        ("-----\n-----\n-----\n", False),
        ("", False),
    ],
)
def test_two_lines_of_metrics_make_a_log(text, is_log):
    """A text file is a console log from its second line of metrics on."""
    assert Console().recognises(Head("x", text.encode())) is is_log


@given(st.lists(st.sampled_from([*TABLE.splitlines(), TITAN, "prose é", "{'loss': 1.0, 'epoch': 0.5}"])), st.data())
def test_a_cut_log_says_a_beginning_of_the_whole(lines, data):
    """Cut at any byte, a log is read without a crash and says the first of its rows."""
    whole = "\n".join([*lines, ""]).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(whole)
        every = list(read_all(Console(), path))
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        some = list(read_all(Console(), path))
    assert some == every[: len(some)]


@given(st.text(alphabet="step: loss{}'\"|-=,.0123infa\r\x1b[m", max_size=60))
def test_any_line_is_read_without_a_crash(line):
    """Whatever is printed, parsing it ends without an exception."""
    parse(line, line)


def test_modded_nanogpt_log():
    """Each of the 6 251 step lines is a row, and 13 of them have no average yet."""
    path = real("modded-nanogpt/muon_eb5659d0.txt")
    rows = list(read_all(Console(), path))
    assert Console().recognises(read_head(path))
    assert len(rows) == sum(line.startswith("step:") for line in path.read_text().splitlines()) == 6251
    assert sum(math.isnan(row.metrics["step_avg_ms"]) for row in rows) == 13
    assert (rows[-1].step, rows[-1].metrics["val_loss"]) == (6200, 3.2785)


def test_llmc_log():
    """Each line of llm.c's log is a row under its own names."""
    path = real("modded-nanogpt/llmc_main.log")
    rows = list(read_all(Console(), path))
    assert Console().recognises(read_head(path))
    assert len(rows) == len(path.read_text().splitlines()) == 19640
    assert (rows[0], rows[-1]) == (Row(0, {"tel": 11.0092}), Row(19560, {"tel": 3.2722}))


def test_no_other_real_file_is_a_log():
    """Of all real files only the two logs are read as such."""
    files = [path for path in real("modded-nanogpt").parent.rglob("*") if path.is_file()]
    found = {path.parent.name for path in files if isinstance(find_source(path), Console)}
    assert found == {"modded-nanogpt"}
