"""Series that recording rules make of others, judged by promtool's own unit tests."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from exporter.catalog import peak_flops
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal, Scrape, judge
from tests.support.promtool import PROMTOOLS, find_promtool
from tests.support.servers import REPOSITORY


def scrape(folder: Path) -> Scrape:
    """The page of the latest values."""
    exporter = Exporter(partial(find_journals, folder), folder / ".cursors.json", CATALOG)
    return judge(exporter.latest_page(Format.TEXT), Format.TEXT)


@pytest.mark.parametrize("name", PROMTOOLS)
def test_derived_series_follow_from_their_definition(tmp_path: Path, name: str) -> None:
    """MFU and the time relative to the median have the values that their definition gives, or are absent."""
    shutil.copy(REPOSITORY / "alerts" / "derived.rules.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("derived.test.yml"), tmp_path)
    command = [find_promtool(name), "test", "rules", "derived.test.yml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_recorded_series_are_in_the_catalog() -> None:
    """What a rule records is named and explained where every metric is."""
    text = (REPOSITORY / "alerts" / "derived.rules.yml").read_text()
    recorded = [line.split()[-1] for line in text.splitlines() if "record:" in line]
    assert len(recorded) == 2
    assert all(CATALOG.metrics[name].derived for name in recorded)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H20", 148),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA B200", 2250),
    ],
)
def test_a_known_gpu_has_the_peak_of_its_data_sheet(name: str, teraflops: float) -> None:
    """Dense BF16, by the name that NVML gives; form factors of one chip differ."""
    assert peak_flops(name) == teraflops * 1e12


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 2080 SUPER", "NVIDIA H1000", "Tesla V100-SXM2-16GB", "H100", ""])
def test_an_unknown_gpu_has_no_peak(name: str) -> None:
    """What is not in the table, or has no BF16, is not guessed."""
    assert peak_flops(name) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"parameters": 7e9}, [7e9]),
        ({"num_parameters": 125_000_000}, [125e6]),
        ({"parameters": "7B"}, []),
        ({"parameters": 0}, []),
        ({}, []),
    ],
)
def test_the_size_of_the_model_comes_from_the_configuration(
    tmp_path: Path, config: dict[str, object], expected: list[float]
) -> None:
    """A number under parameters or num_parameters is a series; anything else is none."""
    Journal(tmp_path).start(config=config)
    assert scrape(tmp_path).values("training_parameters") == expected
