"""A real PPO run for tests, healthy or broken in one way: what its log shows is what that does to the training.

python ppo_run.py KIND RUN_ID RUNS SECONDS SEED UPDATES_PER_SECOND [PORT]
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace

import numpy as np

from exporter import start_run
from exporter.demo.objective import Rollout
from exporter.demo.ppo import PRESETS, Trainer, stop_requested, train

STEADY = PRESETS["steady"]
KINDS = {
    "healthy": STEADY,
    "step-size": PRESETS["diverging"],
    "entropy-sign": replace(STEADY, entropy_start=-STEADY.entropy_start, entropy_floor=-STEADY.entropy_start),
    "value-sign": replace(STEADY, value_coefficient=-STEADY.value_coefficient),
    "nan": STEADY,
}
"""Step size 30 times too large; entropy paid for instead of rewarded; value loss made worse instead of better."""
BAD_UPDATE = 60


class DividesByZero(Trainer):
    """Its reward function once divides zero by zero; all that follows, the training does by itself."""

    def _rollout(self) -> Rollout:
        rollout = super()._rollout()
        if self.updates + 1 == BAD_UPDATE:
            rollout.rewards[3, 2] = np.nan
        return rollout


def main() -> None:
    """Train and log until the time is over or SIGTERM arrives."""
    kind, run_id, runs, seconds, seed, rate, *port = sys.argv[1:]
    os.nice(10)  # however many train at once, the servers go first
    served = int(port[0]) if port else None
    with stop_requested() as stop, start_run(run_id, recipe=kind, directory=runs, port=served) as run:
        trainer = (DividesByZero if kind == "nan" else Trainer)(KINDS[kind], int(seed), run.time_operation)
        train(trainer, run, stop, time.monotonic() + float(seconds), 1 / float(rate))


main()
