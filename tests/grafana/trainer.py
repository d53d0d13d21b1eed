"""Training processes whose runs differ in length, metrics and end.

python trainer.py KIND DIRECTORY SECONDS
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable

from exporter import Run, start_run

FINE_TUNING = 'fine tuning "7b"'
DIVERGED = "bob's NaN"
SINGLE = "one-step"


def fine_tune(directory: str, seconds: float) -> None:
    """A language model on two ranks, the second of which waits for its data; it goes on until it is killed."""
    run = start_run(
        FINE_TUNING,
        user_id="alice",
        recipe="sft",
        base_model="llama-7b",
        framework="trl",
        config={"learning_rate": 3e-4, "max_steps": 400, "seed": 1, "lora": {"rank": 8}},
        directory=directory,
        ranks="all",
    )
    rng = random.Random(1)
    begin = time.monotonic()
    step = 0
    while time.monotonic() - begin < seconds:
        _phases(run, slow="data" if os.environ["RANK"] == "1" else "forward")
        run.log(_language_model(step, rng), step=step, epoch=step / 100)
        _marks(run, step)
        step += 1


def diverge(directory: str, seconds: float) -> None:
    """A run whose loss becomes NaN now and then, until it raises."""
    config = {"learning_rate": 0.1, "seed": 1}
    with start_run(
        DIVERGED, user_id="bob", recipe="sft", base_model="llama-1b", config=config, directory=directory
    ) as run:
        begin = time.monotonic()
        step = 0
        while time.monotonic() - begin < seconds:
            loss = math.nan if step % 7 == 5 else 2.0 + math.sin(step / 3)
            run.log({"train/loss": loss, "train/grad_norm": math.inf if step == 9 else 1.0 + step / 50}, step=step)
            step += 1
            time.sleep(1.03)
        raise ArithmeticError("the loss is no number")


def single_step(directory: str, _seconds: float) -> None:
    """A run of one step, with a metric of its own."""
    with start_run(SINGLE, recipe="eval", directory=directory) as run:
        run.log({"val/loss": 1.25, "train/loss": 0.5, "eval/pass_rate": 0.75}, step=10)
        run.check("tokenizer", "WARNING", "a token is missing")


def _language_model(step: int, rng: random.Random) -> dict[str, float]:
    metrics = {
        "train/loss": 4.0 * math.exp(-step / 60) + rng.gauss(0, 0.1),
        "train/grad_norm": 1.0 + rng.random(),
        "train/learning_rate": 3e-4 * (1 - step / 400),
        "train/tokens_per_second": 9000 + rng.gauss(0, 300),
        "train/mfu": 0.41 + rng.gauss(0, 0.01),
        "performance/step_seconds": 0.9 + rng.random() / 10,
        "performance/queue_depth": float(rng.randrange(5)),
        "performance/gpu_utilization": 80 + rng.gauss(0, 5),
    }
    if step % 10 == 0:
        metrics["val/loss"] = 4.1 * math.exp(-step / 60)
    return metrics


def _phases(run: Run, slow: str) -> None:
    for name in ("data", "forward", "backward", "optimizer"):
        with run.phase(name):
            time.sleep(0.45 if name == slow else 0.18)


def _marks(run: Run, step: int) -> None:
    if step % 15 == 14:
        run.checkpoint(f"checkpoints/{step}.pt", step=step)
    if step == 20:
        run.event("learning rate halved", alert_type="warning")
        run.check("gradients", "OK")


KINDS: dict[str, Callable[[str, float], None]] = {
    "fine_tune": fine_tune,
    "diverge": diverge,
    "single_step": single_step,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](sys.argv[2], float(sys.argv[3]))
