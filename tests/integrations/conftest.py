"""Trainers run on the CPU, offline; what they warn about themselves is left to them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Each trainer is also a script of its own, whose neighbours are imported by their bare names.
sys.path.insert(0, str(Path(__file__).resolve().parent / "trainers"))

os.environ.update(
    HF_HUB_OFFLINE="1",
    KERAS_BACKEND="torch",
    OMP_NUM_THREADS="1",  # the models are so small that threads would only wait for each other
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
)

_WARNINGS_OF_TRAINERS = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # TRL about transformers
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning",  # Lightning about torch
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",  # Keras about its variables
    "ignore:.*WARN. (Box|The obs) .*:UserWarning",  # gymnasium about RLlib
)


def pytest_configure(config: pytest.Config) -> None:
    """Leave out what trainers warn about each other; every other warning is an error."""
    for warning in _WARNINGS_OF_TRAINERS:
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once per process can be said once in each test."""
    monkeypatch.setattr("exporter.integrations.base._said", set())
