"""What the spine costs, beside what a user would take instead; every figure is from one run on one machine.

    python tests/benchmarks/bench_spine.py [--repeats 5]

Each measurement runs in a fresh process, the rows in turn (A B C A B C ...), so that a drifting machine
hits all alike; medians are printed, and the ratio to the peer of the same section.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STEPS = 20_000
SERIES = 30
PAGE_SAMPLES = 100_000
NAMES = [
    f"{group}/{name}"
    for group in ("train", "rollout", "optim", "perf", "env")
    for name in ("loss", "reward_mean", "reward_std", "kl", "entropy", "grad_norm")
]
ROWS = [{name: random.Random(seed).gauss(0, 3) for name in NAMES} for seed in range(64)]


def per_step(step: Callable[[int, dict[str, float]], None]) -> float:
    """Microseconds per call in a tight loop, the median of ten stretches."""
    stretches = []
    for _ in range(10):
        begin = time.perf_counter()
        for number in range(STEPS // 10):
            step(number, ROWS[number & 63])
        stretches.append((time.perf_counter() - begin) / (STEPS // 10) * 1e6)
    return statistics.median(stretches)


def log_ours(rows: Sequence[Mapping[str, float]] = ROWS, **settings: Any) -> float:
    """Run.log of 30 floats: in the journal's file when it returns."""
    from exporter import start_run

    with tempfile.TemporaryDirectory() as folder:
        run = start_run(run_id="bench", directory=folder, **settings)
        cost = per_step(lambda number, _: run.log(rows[number & 63], step=number))
        run.finish()
    return cost


def log_watched() -> float:
    """The same with a callback on alerts: three of the 30 are judged, and all is well."""
    return log_ours([{**row, "train/kl": 0.01} for row in ROWS], on_alert=lambda alert: None)


def log_alarmed() -> float:
    """The same with a KL that is always bad, of either sign."""
    return log_ours(on_alert=lambda alert: None)


def log_prometheus_client() -> float:
    """prometheus_client gauges, children cached by the caller: the last value only, lost with the process."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    gauges = {
        name: Gauge(name.replace("/", "_"), "x", ["run", "user"], registry=registry).labels("bench", "alice")
        for name in NAMES
    }

    def step(_: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            gauges[name].set(value)

    return per_step(step)


def log_floor() -> float:
    """What no durable logger can undercut here: orjson and one write, nothing checked."""
    import os

    import orjson

    with tempfile.NamedTemporaryFile() as file:
        descriptor = os.open(file.name, os.O_WRONLY | os.O_APPEND)

        def step(number: int, row: dict[str, float]) -> None:
            record = {"_type": "step", "time": time.time(), "step": number, "metrics": row}
            os.write(descriptor, orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE))

        cost = per_step(step)
        os.close(descriptor)
    return cost


def render_ours(*, packed: bool = False, from_journal: bool = False) -> float:
    """The every-step page of 100 000 samples, microseconds per sample."""
    import zlib

    from exporter.catalog import Namer, default_catalog
    from exporter.exposition import Budget, Format, Page, RunSeries, add_steps
    from exporter.journal import START, read_chunk
    from exporter.server.history import PIECE_BYTES

    with tempfile.TemporaryDirectory() as folder:
        path = _journal(Path(folder))
        catalog = default_catalog()

        def render(chunks: list) -> tuple[int, bytes]:
            series = RunSeries(Namer(catalog), Budget(), (("run_id", "ppo-llama-2025-11-21-a"), ("user_id", "alice")))
            page = Page(Format.TEXT)
            samples = sum(add_steps(page, chunk.records, series, catalog) for chunk in chunks)
            body = page.render()
            return samples, zlib.compressobj(1, zlib.DEFLATED, 31).compress(body) if packed else body

        def read() -> list:
            chunks, position = [], START
            while (chunk := read_chunk(path, position, PIECE_BYTES)).records:
                chunks.append(chunk)
                position = chunk.end
            return chunks

        if from_journal:
            return _median_per_sample(lambda: render(read())[0])
        chunks = read()
        return _median_per_sample(lambda: render(chunks)[0])


def render_packed() -> float:
    """The same page, with gzip."""
    return render_ours(packed=True)


def render_from_journal() -> float:
    """The same page, reading and decoding the journal included."""
    return render_ours(from_journal=True)


def render_prometheus_client() -> float:
    """generate_latest on as many samples (each a series of its own, as it has no history)."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry, rng = CollectorRegistry(), random.Random(1)
    for family in range(PAGE_SAMPLES // 100):
        gauge = Gauge(f"train_metric_{family:04d}_mean", "A metric", ["run", "user"], registry=registry)
        for run in range(100):
            gauge.labels(f"ppo-llama-2025-11-{run:03d}", "alice").set(rng.gauss(0, 3))

    def render() -> int:
        generate_latest(registry)
        return PAGE_SAMPLES

    return _median_per_sample(render)


def import_ours() -> float:
    """Milliseconds for ``import exporter`` in a fresh interpreter, the interpreter's own start taken off."""
    return _import_ms("exporter")


def import_prometheus_client() -> float:
    """The same for prometheus_client."""
    return _import_ms("prometheus_client")


def delay_quiet() -> float:
    """The longest Run.log of two seconds of training at 500 steps/s, in milliseconds, nobody scraping."""
    return _longest_log(scrape=False)


def delay_during_scrape() -> float:
    """The same while the in-process server renders pages of 100 000 samples."""
    return _longest_log(scrape=True)


def _journal(folder: Path) -> Path:
    from exporter import start_run

    run = start_run(run_id="bench", directory=folder)
    for number in range(PAGE_SAMPLES // (SERIES + 1) + 1):
        run.log(ROWS[number & 63], step=number)
    run.finish()
    return folder / "bench/metrics.jsonl"


def _median_per_sample(render: Callable[[], int]) -> float:
    costs = []
    for _ in range(4):
        begin = time.perf_counter()
        samples = render()
        costs.append((time.perf_counter() - begin) / samples * 1e6)
    return statistics.median(costs[1:])


def _import_ms(module: str) -> float:
    def run(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    return (
        statistics.median(run(f"import {module}") for _ in range(5)) - statistics.median(run("") for _ in range(5))
    ) * 1000


def _longest_log(*, scrape: bool) -> float:
    from exporter import start_run

    with tempfile.TemporaryDirectory() as folder:
        _journal(Path(folder))
        run = start_run(run_id="bench", directory=folder, port=0)
        stop = threading.Event()
        # The client is a process of its own: only the server's threads share the training's interpreter.
        client = subprocess.Popen(
            [sys.executable, "-c", _CLIENT, run.url or ""] if scrape else [sys.executable, "-c", ""]
        )
        longest = 0.0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            begin = time.perf_counter()
            run.log(ROWS[0])
            longest = max(longest, time.perf_counter() - begin)
            time.sleep(0.002)
        stop.set()
        client.kill()
        client.wait()
        run.finish()
    return longest * 1000


_CLIENT = """
import sys, urllib.request
for number in range(1000):
    urllib.request.urlopen(f"{sys.argv[1]}/metrics?scraper=bench{number % 60}&overlap=3600").read()
"""

SECTIONS: dict[str, tuple[str, list[Callable[[], float]]]] = {
    "one step's call with 30 floats, us": (
        "log_prometheus_client",
        [log_ours, log_watched, log_alarmed, log_floor, log_prometheus_client],
    ),
    "a page of 100 000 samples, us per sample": (
        "render_prometheus_client",
        [render_ours, render_packed, render_from_journal, render_prometheus_client],
    ),
    "the longest Run.log of 2 s, ms": ("delay_quiet", [delay_during_scrape, delay_quiet]),
    "import, ms": ("import_prometheus_client", [import_ours, import_prometheus_client]),
}


def main() -> None:
    """Measure every row in turn and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(globals()[arguments.row]()))
        return
    for title, (peer, rows) in SECTIONS.items():
        results: dict[str, list[float]] = {row.__name__: [] for row in rows}
        for _ in range(arguments.repeats):
            for name, values in results.items():
                output = subprocess.run(
                    [sys.executable, __file__, "--row", name], check=True, capture_output=True, text=True
                ).stdout
                values.append(json.loads(output))
        print(f"\n{title}")
        base = statistics.median(results[peer])
        for row in rows:
            values = sorted(results[row.__name__])
            middle = statistics.median(values)
            print(
                f"  {row.__name__:26} {middle:9.3f}   [{values[0]:.3f} .. {values[-1]:.3f}]   "
                f"{middle / base:6.3f} x {peer}"
            )


if __name__ == "__main__":
    main()
