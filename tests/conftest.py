"""Fixtures that every test may use: an environment without settings, runs that end with their test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from exporter import Run, start_run
from exporter.journal import START, read_chunk
from exporter.records import Record

# In CI the examples are the same each time; a search for new ones belongs to whoever changes the code.
hypothesis.settings.register_profile(
    "telemetry",
    max_examples=100,
    deadline=None,
    database=None,
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("telemetry")

_RANK_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMI_SIZE"),
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting and no rank comes from the shell that runs the tests."""
    for name in list(os.environ):
        if name.startswith("TELEMETRY_") or name in _RANK_VARIABLES:
            monkeypatch.delenv(name)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """``start_run`` in ``tmp_path/runs``; every run that it started is finished after the test."""
    runs: list[Run] = []

    def begin(run_id: str | None = "r1", **settings: Any) -> Run:
        runs.append(start_run(run_id, **{"directory": tmp_path / "runs", **settings}))
        return runs[-1]

    yield begin
    for run in runs:
        run.finish()


def read_records(path: Path) -> list[Record]:
    """Every record of a journal, none of whose lines may be bad."""
    chunk = read_chunk(path, START, 1 << 30)
    assert not chunk.bad_lines
    return [stamped.record for stamped in chunk.records]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every line of a journal by the standard library's strict JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def records() -> Callable[[Path], list[Record]]:
    """Reads a journal as readers do."""
    return read_records


@pytest.fixture
def lines() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a journal as any other tool would."""
    return read_lines
