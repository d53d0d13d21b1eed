"""A training process for tests that knows nothing of us: writes a table, lines of JSON and an event file, in bursts.

python log_writer.py FOLDER SECONDS

What it wrote, and when, stands in ``truth.jsonl`` beside FOLDER, a line for each step.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from tests.support.event_files import VERSION, event, simple

BURST = 7
PAUSE_SECONDS = 0.5


class Table:
    """Stable-Baselines3's ``progress.csv``: a new column makes it write all lines anew, in place."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+", encoding="utf-8")
        self._columns: list[str] = []

    def write(self, values: dict[str, float]) -> None:
        """Append a row under a header that grows."""
        new = sorted(set(values) - set(self._columns))
        if new:
            self._columns.extend(new)
            self._file.seek(0)
            lines = self._file.readlines()
            self._file.seek(0)
            self._file.write(",".join(self._columns) + "\n")
            for line in lines[1:]:
                self._file.write(line[:-1] + "," * len(new) + "\n")
        self._file.write(",".join(str(values.get(key, "")) for key in self._columns) + "\n")
        self._file.flush()


def main() -> None:
    """Write until the time is over."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    for name in ("ppo", "dqn"):
        (folder / name).mkdir(parents=True)
    rng, begin, step = random.Random(7), time.time(), 0
    table = Table(folder / "ppo/progress.csv")
    lines, events = folder / "sft.jsonl", folder / "dqn/events.out.tfevents.1"
    events.write_bytes(VERSION)
    with (folder.parent / "truth.jsonl").open("a", buffering=1) as truth:
        while time.time() - begin < seconds:
            for _ in range(BURST):
                step += 1
                loss, moment = rng.random(), time.time()
                row = {"time/total_timesteps": step, "time/time_elapsed": int(moment - begin), "train/loss": loss}
                if step > 150:
                    row["train/approx_kl"] = loss / 100
                table.write(row)
                with lines.open("a") as file:
                    file.write(json.dumps({"step": step, "train/loss": loss, "time": moment}) + "\n")
                with events.open("ab") as file:
                    file.write(event(simple("train/loss", loss), step=step, time=moment))
                truth.write(json.dumps({"step": step, "loss": loss, "time": moment}) + "\n")
                time.sleep(0.002)
            if step == BURST * 40:
                lines.rename(folder / "sft.jsonl.1")
            time.sleep(PAUSE_SECONDS)


main()
