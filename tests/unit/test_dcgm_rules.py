"""dcgm-exporter's figures under our names, judged by promtool's own unit tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.promtool import rules_of
from tests.support.servers import REPOSITORY, require


@pytest.mark.parametrize("name", ["promtool", "PROMTOOL_NEXT"])
def test_figures_of_dcgm_exporter_have_our_names_and_units(tmp_path: Path, name: str) -> None:
    """Each figure is there once, in base units, with the labels of our own collector, and joins with a run."""
    shutil.copy(REPOSITORY / "alerts" / "dcgm.rules.yml", tmp_path)
    (tmp_path / "alert.rules.yml").write_text(rules_of("GPUErrors"))
    shutil.copy(Path(__file__).with_name("dcgm.test.yml"), tmp_path)
    promtool = os.environ.get(name) or require("promtool")
    command = [promtool, "test", "rules", "dcgm.test.yml"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
