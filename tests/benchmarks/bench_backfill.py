"""How fast a past run gets into a Prometheus, beside what that server takes when the requests are ready.

    python tests/benchmarks/bench_backfill.py [--repeats 3] [--prometheus PATH]

One run of 60 000 steps with 30 metrics, a day old, 1.9 million samples, into the out-of-order window of a server
that has samples of now, as any server has that scrapes. Each measurement has a fresh process and a fresh server on
the same machine; the rows come in turn, so that a drifting machine hits all alike. Millions of samples per
second, medians.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from exporter.analysis.export import Backfill, RunSamples, read_runs
from exporter.analysis.export.columns import time_series
from exporter.records import Family
from exporter.remote_write import Endpoint, RemoteWriter, StoredRun, TimeSeries, encode_v1
from exporter.remote_write.snappy import compress

STEPS, METRICS, SECONDS = 60_000, 30, 0.5
V1_HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
CONFIGURATION = "global: {scrape_interval: 1h}\nstorage: {tsdb: {out_of_order_time_window: 30d}}\n"


def prepared(journal: Path, port: int) -> float:
    """The server alone: requests that were encoded and compressed before, one after another on one connection."""
    (run,) = read_runs([journal])
    pieces = [time_series(piece, run) for piece in run.pieces()]
    bodies = [compress(encode_v1(series)) for series in pieces]
    samples = sum(len(one.values) for series in pieces for one in series)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    begin = time.perf_counter()
    for body in bodies:
        connection.request("POST", "/api/v1/write", body, V1_HEADERS)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 204, answer.status
    return samples / (time.perf_counter() - begin)


def sent(journal: Path, port: int) -> float:
    """Ours from the journal to the last answer."""
    task, seconds = _send(journal, port)
    return task.outcome.total / seconds


def sent_and_verified(journal: Path, port: int) -> float:
    """Ours, until every sample has been seen in the server."""
    begin = time.perf_counter()
    task, _ = _send(journal, port)
    task.verify(settling_seconds=1.0)
    assert task.outcome.is_complete
    return task.outcome.total / (time.perf_counter() - begin)


def command(journal: Path, port: int) -> float:
    """Ours as a user has it: the whole command, its start included."""
    begin = time.perf_counter()
    arguments = [sys.executable, "-m", "exporter", "backfill", str(journal), "--url", f"http://127.0.0.1:{port}"]
    said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - begin
    return int(said.split()[2].replace(",", "")) / seconds


def _send(journal: Path, port: int) -> tuple[Backfill, float]:
    begin = time.perf_counter()
    (run,) = read_runs([journal])
    task = _task(run, port)
    task.send(lambda _: None)
    return task, time.perf_counter() - begin


def _task(run: RunSamples, port: int) -> Backfill:
    endpoint = Endpoint(f"http://127.0.0.1:{port}")
    return Backfill(run, RemoteWriter(endpoint), StoredRun(endpoint, run.name, ""))


ROWS: dict[str, Callable[[Path, int], float]] = {
    row.__name__: row for row in (prepared, sent, sent_and_verified, command)
}


@contextmanager
def server(binary: str, folder: Path) -> Iterator[int]:
    """A fresh Prometheus; gives its port."""
    port = random.SystemRandom().randint(20_000, 60_000)
    (folder / "prometheus.yml").write_text(CONFIGURATION)
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-remote-write-receiver",
            "--log.level=error",
        ]
    )
    try:
        wait_until_ready(port)
        now = TimeSeries(Family("now", "gauge", ""), (("__name__", "now"),), [round(time.time() * 1000)], [1.0])
        RemoteWriter(Endpoint(f"http://127.0.0.1:{port}")).write([now])
        yield port
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(port: int) -> None:
    """Wait at most 10 s."""
    for _ in range(200):
        with suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/-/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("Prometheus does not start")


def write_journal(path: Path) -> None:
    """A run of a day ago."""
    rng = random.Random(1)
    begin = round(time.time() - 86400, 3)
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        file.write(json.dumps({"_type": "run_start", "time": begin, "run_id": "bench", "user_id": "alice"}) + "\n")
        for step in range(STEPS):
            metrics = {f"train/metric_{number}": rng.gauss(0, 3) for number in range(METRICS)}
            at = begin + step * SECONDS
            file.write(json.dumps({"_type": "step", "time": at, "step": step, "metrics": metrics}) + "\n")
        file.write(json.dumps({"_type": "run_end", "time": at, "status": "finished"}) + "\n")


def measure(name: str, journal: Path, binary: str) -> float:
    """One row in a process of its own, against a server of its own."""
    with tempfile.TemporaryDirectory() as folder, server(binary, Path(folder)) as port:
        row = [sys.executable, __file__, "--row", name, "--journal", str(journal), "--port", str(port)]
        return float(json.loads(subprocess.run(row, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Measure every row in turn and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prometheus", default=shutil.which("prometheus"))
    parser.add_argument("--row")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(ROWS[arguments.row](arguments.journal, arguments.port)))
        return
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "bench" / "metrics.jsonl"
        write_journal(journal)
        results: dict[str, list[float]] = {name: [] for name in ROWS}
        for _ in range(arguments.repeats):
            for name, values in results.items():
                values.append(measure(name, journal, arguments.prometheus) / 1e6)
    base = statistics.median(results["prepared"])
    for name, values in results.items():
        middle = statistics.median(values)
        print(f"  {name:18} {middle:6.3f}   [{min(values):.3f} .. {max(values):.3f}]   {middle / base:5.2f} x prepared")


if __name__ == "__main__":
    main()
