"""What the README says is executed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.servers import REPOSITORY, Sidecar, get, require, running

README = (REPOSITORY / "README.md").read_text()


def test_the_example_logs_a_run_that_is_served(tmp_path: Path) -> None:
    """The README's Python example, as it stands, gives a finished run with its loss on the page."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    sidecar = Sidecar(tmp_path / "runs", tmp_path / "sidecar.log")
    with running(sidecar):
        page = get(f"{sidecar.url}/metrics?scraper=readme")
    assert 'run_status{run_id="ppo-1",user_id="alice",status="finished"} 1.0' in page
    assert page.count('training_loss{run_id="ppo-1"') == 100


def test_every_command_is_known(tmp_path: Path) -> None:
    """Every command in the README is a target of the Makefile, a command of the program, or a checked server's."""
    commands = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        program, argument = re.sub(r"^(\w+=\S+ )+", "", command).split()[:2]
        if program == "make":
            assert argument in targets
        elif program == "telemetry-exporter":
            subprocess.run([sys.executable, "-m", "exporter", argument, "--help"], check=True, capture_output=True)
        else:
            assert program == "prometheus"
            file = argument.partition("=")[2]
            subprocess.run([require("promtool"), "check", "config", file], cwd=REPOSITORY, check=True)


def test_every_linked_file_exists() -> None:
    """Links and pictures of the README and the documents lead somewhere."""
    for document in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), REPOSITORY / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_documents_name_every_setting_and_reason() -> None:
    """docs/operation.md names every TELEMETRY_ variable, so the list cannot rot."""
    from exporter.run.settings import Settings

    text = (REPOSITORY / "docs/operation.md").read_text()
    assert "TELEMETRY_SETTINGS" in text
    for name in Settings.__dataclass_fields__:
        assert f"TELEMETRY_{name.upper()}" in text
    assert os.path.getsize(REPOSITORY / "LICENSE") > 10_000
