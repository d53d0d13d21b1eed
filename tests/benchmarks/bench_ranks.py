"""What it costs one sidecar to follow the journals of many ranks; every figure is from one run on one machine.

    python tests/benchmarks/bench_ranks.py [--ranks 64] [--rate 20] [--seconds 60]

The real command follows ranks that log in processes of their own, and is scraped as the shipped configuration asks.
Every step of every rank must arrive with its value and time. The peer is the multi-process mode of the Prometheus
client library: it shows the last value of each rank, and no step.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from exporter import start_run
from exporter.journal import journal_name

SCRAPE_SECONDS = 5.0
QUERY = "/metrics?scraper=bench&overlap=10"
RANKS_OF_A_WRITER = 16
PHASES = ("data", "forward", "backward", "optimizer")
METRICS = tuple(f"train/metric_{number}" for number in range(10))
LOSS = re.compile(r'training_loss\{(?:rank="(\d+)",)?run_id="bench"\} (\S+) (\d+)')
PEER_PAGES = 5
MOST_LATE_PAGES = 10


def write(folder: str, ranks: range, world_size: int, rate: float, seconds: float) -> None:
    """Log as these ranks do, all of them in turn, at a steady rate."""
    runs = []
    for rank in ranks:
        os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(world_size)})
        runs.append((rank, start_run(run_id="bench", directory=folder, ranks="all")))
    begin = time.monotonic()
    for step in range(int(rate * seconds)):
        for rank, run in runs:
            for phase in PHASES:
                with run.phase(phase):
                    pass
            values = dict.fromkeys(METRICS, (step + rank) / 7)
            run.log({"train/loss": step + rank / 1000, "train/step_tokens": 4096, **values}, step=step)
        time.sleep(max(begin + (step + 1) / rate - time.monotonic(), 0))
    for _, run in runs:
        run.finish()


def logged(folder: Path, ranks: int) -> Iterator[tuple[int, int, float]]:
    """Rank, millisecond and loss of every step, read without the product's own reader."""
    for rank in range(ranks):
        for line in (folder / "bench" / journal_name(rank)).read_text().splitlines():
            record = json.loads(line)
            if record["_type"] == "step":
                yield rank, int(record["time"] * 1000 + 0.5), record["metrics"]["train/loss"]


def told(page: str) -> Iterator[tuple[int, int, float]]:
    """The same as a page has it."""
    for rank, value, ms in LOSS.findall(page):
        yield int(rank or 0), int(ms), float(value)


def scrape(url: str) -> str:
    """A page, once the sidecar answers."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(url + QUERY, timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the sidecar does not answer")


def follow(folder: Path, arguments: argparse.Namespace) -> float:
    """Let ranks log while the sidecar is scraped; print what it took, and return its share of a core."""
    command = [sys.executable, "-m", "exporter", "serve", str(folder), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sidecar:
        assert sidecar.stdout is not None
        url = sidecar.stdout.readline().split()[-1].removesuffix("/metrics")
        scrape(url)
        process = psutil.Process(sidecar.pid)
        writers = [_writer(folder, first, arguments) for first in range(0, arguments.ranks, RANKS_OF_A_WRITER)]
        seen: set[tuple[int, int, float]] = set()
        begin, used, slowest, pages = time.monotonic(), _cpu_seconds(process), 0.0, 0
        while any(writer.poll() is None for writer in writers):
            time.sleep(SCRAPE_SECONDS)
            asked = time.monotonic()
            seen.update(told(scrape(url)))
            slowest = max(slowest, time.monotonic() - asked)
            pages += 1
        seconds, cpu = time.monotonic() - begin, _cpu_seconds(process) - used
        expected = set(logged(folder, arguments.ranks))
        late = 0
        while seen != expected and late < MOST_LATE_PAGES:
            seen.update(told(scrape(url)))
            late += 1
        memory = process.memory_info().rss
        sidecar.terminate()
    assert len(expected) == int(arguments.rate * arguments.seconds) * arguments.ranks, "a rank did not log everything"
    assert seen == expected, (
        f"{len(expected - seen)} of {len(expected)} steps are missing, {len(seen - expected)} are new"
    )
    size = sum(path.stat().st_size for path in (folder / "bench").glob("*.jsonl"))
    print(f"  every one of {len(expected)} steps arrived with time and value ({size / 1e6:.0f} MB of journals)")
    print(f"  sidecar: {cpu / seconds:.1%} of one core, {1000 * cpu / pages:.0f} ms a page, {memory / 1e6:.0f} MB")
    print(f"  slowest page: {slowest:.1f} s; {late} pages after the last step until all were there")
    return cpu / seconds


def _writer(folder: Path, first: int, arguments: argparse.Namespace) -> subprocess.Popen[bytes]:
    last = min(first + RANKS_OF_A_WRITER, arguments.ranks)
    own = [str(folder), str(first), str(last)]
    plain = [f"--ranks={arguments.ranks}", f"--rate={arguments.rate}", f"--seconds={arguments.seconds}"]
    return subprocess.Popen([sys.executable, __file__, *plain, "--write", *own])


def _cpu_seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def peer(ranks: int) -> float:
    """CPU seconds of a page of prometheus_client's multi-process mode, with as many processes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        script = f"""
import os, time
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
gauges = [Gauge(f"metric_{{number}}", "h") for number in range({len(METRICS) + 1})]
phases = Histogram("phase_seconds", "h", ["phase"], buckets=[2.0 ** n for n in range(-8, 9)])
for rank in range({ranks}):
    if not os.fork():
        for gauge in gauges:
            gauge.set(rank / 7)
        for phase in {PHASES!r}:
            phases.labels(phase).observe(0.1)
        os._exit(0)
    os.wait()
registry = CollectorRegistry()
MultiProcessCollector(registry)
begin = time.process_time()
for _ in range({PEER_PAGES}):
    generate_latest(registry)
print((time.process_time() - begin) / {PEER_PAGES})
"""
        answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(answer.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        folder, first, last = arguments.write
        write(folder, range(int(first), int(last)), arguments.ranks, arguments.rate, arguments.seconds)
        return
    of_a_step = f"{len(PHASES)} phases and {len(METRICS) + 2} values"
    print(f"{arguments.ranks} ranks, {arguments.rate:g} steps/s each with {of_a_step}")
    folder = Path(tempfile.mkdtemp())
    try:
        own = follow(folder, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    page = peer(arguments.ranks)
    every = page * arguments.rate
    print(f"  prometheus_client, {arguments.ranks} processes: {1000 * page:.0f} ms a page with the last step;")
    print(f"  asked for every step: {every:.1%} of one core; ours is {own / every:.2f} of that")


if __name__ == "__main__":
    main()
