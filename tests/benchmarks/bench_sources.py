"""What reading a trainer's log costs, beside the libraries that a user would take instead.

    python tests/benchmarks/bench_sources.py [--rounds 5] [--records 1000000]

Each measurement runs in a fresh process, the rows in turn (A B C A B C ...), so that a drifting machine hits all
alike. Times are CPU seconds of the reading alone, imports left out; memory is the peak of the process. Medians are
printed with their range, and the ratios to the peer: how many times faster, and which part of its memory.

A reader here gives row after row and keeps none; pandas and EventAccumulator hold the whole log when they return.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
METRICS = (
    "train/loss",
    "train/grad_norm",
    "train/learning_rate",
    "rl/approx_kl",
    "rl/clip_fraction",
    "rl/entropy",
    "rl/reward_mean",
    "perf/tokens_per_second",
)
TAGS = [
    f"{group}/{name}" for group in ("train", "rollout", "optim", "perf") for name in ("loss", "kl", "std", "a", "b")
]
MISSING_DEPENDENCY = 4

Reading = Callable[[], object]
"""Reads a log that is known, with libraries that are imported."""


def rows(count: int) -> Iterator[dict[str, float]]:
    """A training log: step, time and eight metrics, each with all its digits."""
    rng, moment = random.Random(1), 1.7e9
    for step in range(count):
        moment += rng.random()
        yield {"step": step, "time": moment, **{name: rng.gauss(2, 0.5) for name in METRICS}}


def write_json(path: Path, count: int) -> None:
    """The log as lines of JSON, written by Python's own encoder."""
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(count))


def write_csv(path: Path, count: int) -> None:
    """The log as a table, written by Python's own writer."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "time", *METRICS])
        writer.writeheader()
        writer.writerows(rows(count))


def write_events(path: Path, count: int) -> None:
    """As many scalars of 20 tags, one record each, as torch's SummaryWriter writes them."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.support.event_files import NOW, VERSION, event, simple

    rng = random.Random(2)
    path.mkdir()
    with (path / "events.out.tfevents.1.host").open("wb") as file:
        file.write(VERSION)
        for number in range(count):
            step, tag = divmod(number, len(TAGS))
            file.write(event(simple(TAGS[tag], rng.gauss(0, 1)), step=step, time=NOW + step + tag / 65536))


def jsonl_ours(path: Path) -> Reading:
    """Every row of the log."""
    return _reading("jsonl", path)


def jsonl_orjson(path: Path) -> Reading:
    """The floor of a reader of rows: each line decoded by orjson, nothing looked at."""
    import orjson

    def read() -> None:
        with path.open("rb") as file:
            deque(map(orjson.loads, file), 0)

    return read


def jsonl_pandas(path: Path) -> Reading:
    """The whole log as a data frame."""
    import pandas

    return lambda: pandas.read_json(path, lines=True)


def tensorboard_ours(path: Path) -> Reading:
    """Every scalar of the event file."""
    return _reading("tensorboard", next(path.iterdir()))


def tensorboard_accumulator(path: Path) -> Reading:
    """TensorBoard's own EventAccumulator, all scalars kept."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload


def csv_ours(path: Path) -> Reading:
    """Every row of the table."""
    return _reading("csv", path)


def csv_pandas(path: Path) -> Reading:
    """The whole table as a data frame."""
    import pandas

    return lambda: pandas.read_csv(path)


def _reading(name: str, path: Path) -> Reading:
    from exporter.sources import read_all, source_named

    source = source_named(name)
    return lambda: deque(read_all(source, path), 0)


class Section(NamedTuple):
    """Readings of one log, and the peer that they are held against."""

    title: str
    write: Callable[[Path, int], None]
    rows: list[Callable[[Path], Reading]]
    peer: Callable[[Path], Reading]
    library: str
    """What the peer is installed with."""


SECTIONS = (
    Section("lines of JSON, 8 metrics each", write_json, [jsonl_ours, jsonl_orjson], jsonl_pandas, "pandas"),
    Section("TensorBoard scalars", write_events, [tensorboard_ours], tensorboard_accumulator, "tensorboard"),
    Section("rows of CSV, 8 metrics each", write_csv, [csv_ours], csv_pandas, "pandas"),
)


def child(*arguments: str) -> str:
    """Run this file in a process of its own: logs are written there, too, so that no peak includes their making."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(name: str, path: Path) -> None:
    """Read a log once and print what it took: CPU seconds and the peak in MiB."""
    read = globals()[name](path)
    begin = time.process_time()
    read()
    seconds = time.process_time() - begin
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def run_section(section: Section, path: Path, rounds: int) -> None:
    """Measure all rows of a section in turn and print them."""
    present = importlib.util.find_spec(section.library) is not None
    names = [row.__name__ for row in [*section.rows, *([section.peer] if present else [])]]
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, measured in results.items():
            measured.append(json.loads(child("--measure", name, str(path))))
    columns = {name: [sorted(column) for column in zip(*measured, strict=True)] for name, measured in results.items()}
    base = [statistics.median(column) for column in columns.get(section.peer.__name__, [])]
    for name, (seconds, peaks) in columns.items():
        took, peak = statistics.median(seconds), statistics.median(peaks)
        line = f"  {name:24} {took:8.2f} s [{seconds[0]:.2f} .. {seconds[-1]:.2f}] {peak:9.1f} MiB"
        print(line + (f"   {base[0] / took:6.1f} x as fast, {peak / base[1]:7.3f} of the memory" if base else ""))
    if not present:
        print(f"  {section.peer.__name__:24} is missing: pip install {section.library}")


def main() -> int:
    """Measure every section; 4 where a peer is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="a part of the title")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        globals()[arguments.write[0]](Path(arguments.write[1]), arguments.records)
        return 0
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return 0
    sections = [section for section in SECTIONS if arguments.only in section.title]
    for section in sections:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "log"
            child("--write", section.write.__name__, str(path), "--records", str(arguments.records))
            print(f"\n{arguments.records} {section.title}", flush=True)
            run_section(section, path, arguments.rounds)
    missing = {section.library for section in sections if importlib.util.find_spec(section.library) is None}
    return MISSING_DEPENDENCY if missing else 0


if __name__ == "__main__":
    sys.exit(main())
