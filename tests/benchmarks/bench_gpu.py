"""What a sample of 8 GPUs costs the sidecar, and what a scrape of it costs while the driver hangs.

    python tests/benchmarks/bench_gpu.py [--rounds 50]

The real pynvml asks the fake library of tests/gpu, whose own time is part of every figure; a driver takes longer,
but waits for its device meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUDGET_MS = 20.0


def milliseconds(rounds: int, action: Callable[[], object]) -> tuple[float, float]:
    """Median CPU time of this process and wall time of an action."""
    costs = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        costs.append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
    return statistics.median(cpu for cpu, _ in costs), statistics.median(wall for _, wall in costs)


def main() -> int:
    """Print the figures; 1 if a sample is over its budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(REPOSITORY))
    import ctypes

    from exporter.catalog import default_catalog
    from exporter.collectors.gpu import GpuCollector
    from exporter.collectors.processes import RunProcess
    from tests.gpu.fake import Scenario, compile_library, host, mig

    counters = {f"gpu{gpu}.gpm.{number}": 50 for gpu in range(8) for number in (1, 2, 3, 5, 10, 20, 21, 60, 61)}
    instances = {key: value for place in range(7) for key, value in mig(7, place, place + 1).items()}
    processes = {f"gpu{gpu}.compute": f"{os.getpid()}:{2**30}" for gpu in range(7)}
    hosts = {
        "8 GPUs": host(8),
        "8 GPUs with GPM, a run on each": {**host(8), "gpu*.gpm": 1, **counters, **processes},
        "the same, one divided into 7": {**host(8), "gpu*.gpm": 1, **counters, **processes, **instances},
    }
    catalog = default_catalog()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        ctypes.CDLL(str(compile_library(Path(folder))))
        scenario = Scenario(Path(folder) / "scenario", {"driver": 9})
        os.environ["FAKE_NVML_SCENARIO"] = str(scenario.path)
        for title, lines in hosts.items():
            scenario.only(lines)
            gpus = GpuCollector(catalog, lambda: [RunProcess((("run_id", "r"),), os.getpid())], interval_seconds=3600)
            while not gpus.collect():
                time.sleep(0.01)
            cpu, wall = milliseconds(rounds, gpus._round)
            slowest = max(slowest, cpu)
            print(f"{title:32} {cpu:6.2f} ms CPU {wall:6.2f} ms  {len(gpus._round()):4} samples")
            gpus.close()
        scenario.set({"gpu0.power.delay": 600_000})
        hanging = GpuCollector(catalog)
        cpu, wall = milliseconds(rounds, hanging.collect)
        print(f"{'a scrape while a call hangs':32} {cpu:6.2f} ms CPU {wall:6.2f} ms")
        scenario.set({"gpu0.power.delay": None})
        hanging.close()
    print(f"budget of a sample of 8 GPUs: {BUDGET_MS:g} ms CPU")
    return int(slowest > BUDGET_MS)


if __name__ == "__main__":
    sys.exit(main())
