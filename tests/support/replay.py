"""Runs that others have logged, in a real Prometheus at a time and pace of our choice."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.catalog import Namer
from exporter.importer import journals_of
from exporter.journal import START, read_chunk
from exporter.records import Step
from tests.support.journals import CATALOG
from tests.support.servers import REPOSITORY, get, require

__all__ = ["DATA", "Replay", "blocks", "count_series", "rows_of"]

DATA = REPOSITORY.parent / "shared/data"


class Row(NamedTuple):
    """What a run logged at once: seconds since 1970, and its values by series, as PromQL writes them."""

    time: float
    values: dict[str, float]


class Replay(NamedTuple):
    """A run of its own id whose rows lie at these times."""

    run_id: str
    rows: Sequence[Row]
    times: Sequence[float]


def rows_of(path: Path, folder: Path) -> list[Row]:
    """Every row of a log, as the importer understands it."""
    namer = Namer(CATALOG)
    rows = []
    for journal in journals_of(path, folder):
        for stamped in read_chunk(journal, START, journal.stat().st_size + 1).records:
            if isinstance(stamped.record, Step):
                rows.append(Row(stamped.ms / 1000, dict(_values(namer, stamped.record))))
    return rows


def _values(namer: Namer, step: Step) -> Iterator[tuple[str, float]]:
    for key, value in step.metrics.items():
        name = namer.resolve(key)
        if name.metric is not None and name.family.type == "gauge":
            labels = "".join(f'{label}="{text}",' for label, text in name.labels)
            yield f"{name.family.name}{{{labels}", float(value) * name.scale


def blocks(replays: Sequence[Replay], folder: Path, status_every: float) -> None:
    """Write the runs, and that they are running, as blocks into the data folder of a Prometheus."""
    series: dict[str, list[str]] = {}
    for replay in replays:
        own = f'run_id="{replay.run_id}"}}'
        for number, (row, time) in enumerate(zip(replay.rows, replay.times, strict=True), start=1):
            for name, value in [*row.values.items(), ("training_steps_total{", number)]:
                series.setdefault(name, []).append(f"{name}{own} {value} {time}")
        name, time = 'run_status{status="running",', replay.times[0]
        while time <= replay.times[-1]:
            series.setdefault(name, []).append(f"{name}{own} 1 {time}")
            time += status_every
    source = folder / "replay.om"
    with source.open("w") as file:
        for family in sorted({name.partition("{")[0] for name in series}):
            kind = "counter" if family.endswith("_total") else "gauge"
            file.write(f"# TYPE {family.removesuffix('_total')} {kind}\n")
            for name, lines in series.items():
                if name.partition("{")[0] == family:
                    file.write("\n".join(lines) + "\n")
        file.write("# EOF\n")
    command = [require("promtool"), "tsdb", "create-blocks-from", "openmetrics", "-q", source, folder / "data"]
    subprocess.run(command, check=True, capture_output=True)
    source.unlink()


def count_series(url: str, expression: str, times: Sequence[float], step: float) -> int:
    """At how many of these evenly spaced times, over all series, an expression gives a value."""
    parameters = {"query": expression, "start": times[0], "end": times[-1], "step": step}
    body = get(f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}")
    return sum(len(item["values"]) for item in json.loads(body)["data"]["result"])
