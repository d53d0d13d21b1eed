"""What a sample of the host and of 8 runs with 10 processes each costs, and how long a page waits for it.

    python tests/benchmarks/bench_host.py [--rounds 50]

The processes and the disks are sampled every five seconds by threads of their own; the rest at each page.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE_BUDGET_MS = 20.0
TRAINER = """
    import os, sys
    for _ in range(9):
        if not os.fork():
            sys.stdin.read()
            os._exit(0)
    print("up", flush=True)
    sys.stdin.read()
"""


def milliseconds(rounds: int, action: Callable[[], object]) -> tuple[float, float]:
    """Median CPU time of this process and wall time of an action."""
    costs = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        costs.append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
    return statistics.median(cpu for cpu, _ in costs), statistics.median(wall for _, wall in costs)


def trainers(count: int, stack: ExitStack) -> list[int]:
    """Pids of processes that have nine children each, until the stack is closed."""
    command = [sys.executable, "-c", textwrap.dedent(TRAINER)]
    pids = []
    for _ in range(count):
        process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert process.stdout is not None
        process.stdout.readline()
        pids.append(process.pid)
    return pids


def main() -> int:
    """Print the figures; 1 if what is done at each page is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(REPOSITORY))
    from exporter.catalog import default_catalog
    from exporter.collectors import RunProcess, host_collectors
    from exporter.collectors.run_processes import RunProcessCollector

    catalog = default_catalog()
    with ExitStack() as stack:
        runs = [RunProcess((("run_id", str(pid)),), pid, "/tmp/1.pt") for pid in trainers(8, stack)]
        behind = RunProcessCollector(catalog, lambda: runs)
        cpu, wall = milliseconds(rounds, lambda: list(behind.collect()))
        host = len([name for name in os.listdir("/proc") if name.isdecimal()])
        print(f"in the background: the runs' processes, of {host} on the host {cpu:6.2f} ms CPU {wall:6.2f} ms")
        total = 0.0
        for collector in host_collectors(catalog, Path.cwd(), lambda: runs):
            samples = len(list(collector.collect()))
            cpu, wall = milliseconds(rounds, lambda collector=collector: list(collector.collect()))
            total += wall
            print(f"at each page: {collector.name:14} {samples:4} samples {cpu:6.2f} ms CPU {wall:6.2f} ms")
    print(f"budget of a page: {PAGE_BUDGET_MS:g} ms, used {total:.2f} ms")
    return int(total > PAGE_BUDGET_MS)


if __name__ == "__main__":
    sys.exit(main())
