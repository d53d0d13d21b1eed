"""What it costs to follow logs in which nothing happens; every figure is from one run on one machine.

    python tests/benchmarks/bench_following.py [--logs 1000] [--seconds 30]

The real command follows the logs in a process of its own; its CPU time is read from the system.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support.event_files import VERSION, event, simple

SCRAPE_SECONDS = 5.0
QUERY = "?scraper=bench&overlap=10"
"""As the shipped configuration asks."""

AGE_SECONDS = 900.0
"""The logs were last written so long ago: their runs still count as running."""

FILES_OF_A_RUN = 100
TABLE = "step,train/loss,train/approx_kl\n" + "".join(f"{step},{step / 10},{step / 1000}\n" for step in range(50))


def one_table_a_run(folder: Path, logs: int) -> None:
    """As many runs as logs."""
    for number in range(logs):
        _write(folder / f"run{number}" / "progress.csv", TABLE.encode(), _moment(number))


def many_event_files_a_run(folder: Path, logs: int) -> None:
    """Few runs, each resumed very often."""
    for number in range(logs):
        run, moment = number // FILES_OF_A_RUN, _moment(number)
        content = VERSION + event(simple("train/loss", 0.5), step=number, time=moment)
        _write(folder / f"run{run}" / f"events.out.tfevents.{number}", content, moment)


def _moment(number: int) -> float:
    return time.time() - AGE_SECONDS + number / 100


def _write(path: Path, content: bytes, moment: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (moment, moment))


def idle_share(write: Callable[[Path, int], None], logs: int, seconds: float, *, is_scraped: bool) -> float:
    """CPU time of an idle sidecar as a share of one core."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), logs)
        command = [sys.executable, "-m", "exporter", "serve", folder, "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            _get(url + QUERY)  # the first page has the whole history
            time.sleep(40)  # until the logs count as idle
            _get(url + QUERY)
            share = _cpu_share(process.pid, url + QUERY if is_scraped else "", seconds)
            process.terminate()
    return share


def _cpu_share(pid: int, url: str, seconds: float) -> float:
    begin, used = time.monotonic(), sum(psutil.Process(pid).cpu_times()[:2])
    while time.monotonic() - begin < seconds:
        time.sleep(SCRAPE_SECONDS)
        if url:
            _get(url)
    return (sum(psutil.Process(pid).cpu_times()[:2]) - used) / (time.monotonic() - begin)


def _get(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                answer.read()
        except OSError:  # not ready yet
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    print(f"CPU of a sidecar that follows {arguments.logs} idle logs, share of one core over {arguments.seconds:g} s")
    for name, write in {
        "one table a run": one_table_a_run,
        f"{FILES_OF_A_RUN} event files a run": many_event_files_a_run,
    }.items():
        for is_scraped in (False, True):
            share = idle_share(write, arguments.logs, arguments.seconds, is_scraped=is_scraped)
            print(f"  {name:22} {f'a page every {SCRAPE_SECONDS:g} s' if is_scraped else 'no pages':18} {share:7.2%}")


if __name__ == "__main__":
    main()
