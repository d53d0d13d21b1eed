"""A training process for tests: logs at a steady rate, says where it serves, and can be killed.

python trainer.py RUNS RUN_ID SECONDS STEPS_PER_SECOND [PORT]
"""

from __future__ import annotations

import random
import sys
import time

from exporter import start_run


def main() -> None:
    """Log until the time is over."""
    runs, run_id, seconds, rate = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    port = int(sys.argv[5]) if len(sys.argv) > 5 else None
    rng = random.Random(run_id)
    run = start_run(run_id=run_id, user_id="test", directory=runs, port=port)
    print(run.url, flush=True)
    begin = time.monotonic()
    step = 0
    while time.monotonic() - begin < seconds:
        metrics = {f"train/metric_{number}": rng.gauss(0, 1) for number in range(10)}
        run.log({"train/loss": rng.random(), "train/approx_kl": rng.random() / 100, **metrics}, step=step)
        step += 1
        time.sleep(max(0.002, begin + step / rate - time.monotonic()))  # never two in a millisecond
    run.finish()


main()
