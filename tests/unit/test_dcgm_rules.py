"""dcgm-exporter's figures under our names, judged by promtool's own unit tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.promtool import PROMTOOLS, find_promtool
from tests.support.servers import REPOSITORY


@pytest.mark.parametrize("name", PROMTOOLS)
def test_figures_of_dcgm_exporter_have_our_names_and_units(tmp_path: Path, name: str) -> None:
    """Each figure is there once, in base units, with the labels of our own collector, and joins with a run."""
    shutil.copy(REPOSITORY / "alerts" / "dcgm.rules.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("dcgm.test.yml"), tmp_path)
    command = [find_promtool(name), "test", "rules", "dcgm.test.yml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
