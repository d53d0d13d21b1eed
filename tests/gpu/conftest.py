"""The fake library in this process, its scenario, and collectors that end with their test."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.collectors.gpu import GpuCollector
from exporter.collectors.gpu_readings import GpuSession
from tests.gpu.fake import Scenario, compile_library, host
from tests.support.journals import CATALOG


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake library, loaded: pynvml asks the loader for its name and is given the one that is there."""
    path = compile_library(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(path))
    return path


@pytest.fixture
def scenario(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A host with one GPU that has an answer to everything."""
    result = Scenario(tmp_path / "scenario", host(1))
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(result.path))
    return result


@pytest.fixture
def session(scenario: Scenario) -> Iterator[Callable[[], GpuSession]]:
    """Begins sessions, and ends them after the test."""
    begun: list[GpuSession] = []

    def begin() -> GpuSession:
        begun.append(GpuSession())
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


@pytest.fixture
def collector(scenario: Scenario) -> Iterator[Callable[..., GpuCollector]]:
    """Starts collectors that sample ten times a second, and ends them after the test.

    A busy machine makes samples late, so only those that are meant to grow old do so soon.
    """
    started: list[GpuCollector] = []

    def start(**settings: Any) -> GpuCollector:
        hasty = {"interval_seconds": 0.1, "max_age_seconds": 60.0, "retry_seconds": 0.3}
        started.append(GpuCollector(CATALOG, **{**hasty, **settings}))
        return started[-1]

    yield start
    for one in started:
        one.close()
