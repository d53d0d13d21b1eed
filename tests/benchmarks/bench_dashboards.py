"""How long the dashboards' queries take at twenty runs of 100 000 steps in a day; prints the slowest of each.

    python tests/benchmarks/bench_dashboards.py [PROMETHEUS]

Needs what `make test-dashboards` has installed, 2 GB of memory and 2 GB of disk.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cramjam

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from exporter.catalog import default_catalog
from exporter.exposition.histogram import BUCKETS
from exporter.records import Family
from exporter.remote_write import TimeSeries, encode_v1
from tests.grafana.bench import NAMES, ask, build, job
from tests.grafana.conftest import SMOOTHINGS
from tests.support.servers import Server, free_port, get, require, running

RUNS, STEPS, DAY_MS = 20, 100_000, 86_400_000
SCRAPE_MS, SLICE_MS = 5_000, 1_800_000
CATALOG = default_catalog()
STATUSES = ("running", "stalled", "finished", "failed", "crashed")
CONFIG_KEYS = 30
FAMILY = Family("any", "gauge", "")

Labels = dict[str, str]
Times = Sequence[int]


class Receiver(Server):
    """Prometheus that is written to instead of scraping."""

    def __init__(self, binary: str, folder: Path) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        (folder / "prometheus.yml").write_text("storage: {tsdb: {out_of_order_time_window: 30d}}\n")
        command = [
            *(binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address={address}", "--web.enable-remote-write-receiver"),
        ]
        super().__init__(command, folder / "prometheus.log", lambda: get(f"{self.url}/-/ready"))

    def write(self, series: Sequence[TimeSeries]) -> int:
        """Store series; returns the number of samples."""
        body = bytes(cramjam.snappy.compress_raw(encode_v1(series)))
        headers = {"Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0"}
        request = urllib.request.Request(f"{self.url}/api/v1/write", body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert answer.status == 204
        return sum(len(one.times_ms) for one in series)


def fill(server: Receiver, now_ms: int) -> int:
    """Every step gauge of each run, and what is scraped of a run; returns the number of samples.

    Half an hour of all runs after the other, because a server takes what is not much older than its newest sample.
    """
    rng = random.Random(0)
    noise = [rng.gauss(0.0, 0.1) for _ in range(STEPS)]
    count = 0
    for begin in range(0, DAY_MS, SLICE_MS):
        steps = range(begin * STEPS // DAY_MS, (begin + SLICE_MS) * STEPS // DAY_MS)
        times = [now_ms - DAY_MS + step * DAY_MS // STEPS for step in steps]
        scrapes = range(now_ms - DAY_MS + begin, now_ms - DAY_MS + begin + SLICE_MS, SCRAPE_MS)
        for number in range(RUNS):
            run = {"run_id": f"run-{number:02}", "user_id": f"user-{number % 3}"}
            series = [
                one(
                    name,
                    {**run, **labels},
                    times,
                    list(map(float, steps)) if name == "training_step" else noise[steps.start : steps.stop],
                )
                for name, labels in step_series()
            ]
            series += [
                one(name, {**run, **labels}, scrapes, [value] * len(scrapes))
                for name, labels, value in scraped_series(number, now_ms)
            ]
            growing = [(at - now_ms + DAY_MS) / SCRAPE_MS for at in scrapes]
            series += [one(name, {**run, **labels}, scrapes, growing) for name, labels in counter_series()]
            count += server.write(series)
    return count


def one(name: str, labels: Labels, times: Times, values: Sequence[float]) -> TimeSeries:
    """One series as it is sent."""
    return TimeSeries(FAMILY, tuple(sorted({**labels, "__name__": name, "job": "telemetry"}.items())), times, values)


def step_series() -> Iterator[tuple[str, Labels]]:
    """What a run logs at every step: all gauges of the catalog that it can."""
    yield "training_step", {}
    yield "training_epoch", {}
    for metric in CATALOG.metrics.values():
        if metric.type == "gauge" and metric.aliases and metric.group != "gpu":
            yield metric.name, dict.fromkeys(metric.labels, "update")


def scraped_series(number: int, now_ms: int) -> Iterator[tuple[str, Labels, float]]:
    """What an exporter tells of a run at every scrape."""
    for status in STATUSES:
        yield "run_status", {"status": status}, float(status == "running")
    yield "run_info", {"recipe": "ppo", "base_model": "small", "framework": "sb3", "host": "h", "version": "1"}, 1.0
    for key in range(CONFIG_KEYS):
        yield "run_config_info", {"key": f"key{key}", "value": str(number if key == 0 else key)}, 1.0
    yield "run_start_timestamp_seconds", {}, (now_ms - DAY_MS) / 1000
    yield "run_last_step_timestamp_seconds", {}, now_ms / 1000
    for metric in ("training_loss", "validation_loss", "rl_reward_mean"):
        for name in ("run_last_value", "run_best_value", "run_best_step"):
            yield name, {"metric": metric}, 1.0


def counter_series() -> Iterator[tuple[str, Labels]]:
    """What grows with the steps."""
    yield "training_steps_total", {}
    yield "training_nonfinite_total", {"metric": "training_loss"}
    for name in ("performance_forward_backward", "performance_optim_step"):
        yield f"{name}_duration_seconds_sum", {}
        for bound in (*map(repr, BUCKETS), "+Inf"):
            yield f"{name}_duration_seconds_bucket", {"le": bound}
    for phase in ("data", "forward", "backward", "optimizer"):
        yield "performance_phase_duration_seconds_sum", {"phase": phase, "rank": "0"}


def seconds_alone(server: Receiver, query: dict[str, Any]) -> float:
    """How long a query takes while nothing else is asked; the faster of two times."""
    path, parameters = "query", {"query": query["expr"], "time": query["to"]}
    if not query["instant"]:
        path, parameters = "query_range", {"query": query["expr"], "start": query["from"], "end": query["to"]}
        parameters["step"] = query["step"]
    body = urllib.parse.urlencode(parameters).encode()
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        with urllib.request.urlopen(f"{server.url}/api/v1/{path}", body, timeout=60) as answer:
            answer.read()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    """Fill a server, ask every dashboard for the whole day, and time each query by itself."""
    binary = sys.argv[1] if len(sys.argv) > 1 else require("prometheus")
    build("node")
    with tempfile.TemporaryDirectory() as folder:
        server = Receiver(binary, Path(folder))
        with running(server):
            now_ms = int(time.time()) * 1000
            begun = time.perf_counter()
            count = fill(server, now_ms)
            print(f"{binary}: {count:,} samples of {RUNS} runs in {time.perf_counter() - begun:.0f} s")
            cases = [(name, "none") for name in NAMES] + [("compare", smoothing) for smoothing in SMOOTHINGS[1:]]
            for name, smoothing in cases:
                [answer] = ask(server.url, [job(name, now_ms / 1000, DAY_MS / 1000, smoothing=smoothing)])
                timed = sorted(
                    (seconds_alone(server, query), query["refId"], query["expr"]) for query in answer["queries"]
                )
                total, slowest = sum(each[0] for each in timed), timed[-1]
                print(
                    f"{name:12} {smoothing:9} {len(timed):3} queries, {total:5.1f} s one after another, "
                    f"slowest {slowest[0]:.2f} s ({slowest[1]}: {slowest[2][:60]}...)"
                )


if __name__ == "__main__":
    main()
