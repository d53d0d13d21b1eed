"""The files have the form that Grafana's types give dashboards; a typo in them would be found."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.grafana.bench import BENCH, DASHBOARDS, NAMES

Json = dict[str, Any]


def in_dashboard(board: Json) -> None:
    """A key of the dashboard."""
    board["refreshh"] = board.pop("refresh")


def in_variable(board: Json) -> None:
    """A key of a variable."""
    board["templating"]["list"][1]["includAll"] = True


def in_panel(board: Json) -> None:
    """A key of a panel."""
    board["panels"][0]["intervall"] = "1s"


def in_panel_of_a_closed_row(board: Json) -> None:
    """A key of a panel that is not in view at first."""
    board["panels"][-1]["panels"][0]["fieldConfig"]["defaults"]["unitt"] = "s"


def in_options(board: Json) -> None:
    """An option of a panel."""
    board["panels"][0]["options"]["legend"]["displayMod"] = "list"


def in_custom_options(board: Json) -> None:
    """A custom field option."""
    board["panels"][0]["fieldConfig"]["defaults"]["custom"]["lineWidht"] = 2


def in_an_override(board: Json) -> None:
    """A custom field option of an override."""
    board["panels"][0]["fieldConfig"]["overrides"][0]["properties"].append({"id": "custom.lineStile", "value": {}})


def in_a_value(board: Json) -> None:
    """A value that is none of those allowed."""
    board["panels"][0]["fieldConfig"]["defaults"]["color"]["mode"] = "palette-colourblind"


TYPOS: tuple[Callable[[Json], None], ...] = (
    in_dashboard,
    in_variable,
    in_panel,
    in_panel_of_a_closed_row,
    in_options,
    in_custom_options,
    in_an_override,
    in_a_value,
)


@pytest.fixture(scope="module")
def problems(bench: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is wrong with the dashboards, and with copies of one that have a typo each."""
    board = json.loads((DASHBOARDS / "performance.json").read_text("utf-8"))
    files = sorted(DASHBOARDS.glob("*.json"))
    for typo in TYPOS:
        wrong = copy.deepcopy(board)
        typo(wrong)
        files.append(tmp_path_factory.mktemp("typos") / f"{typo.__name__}.json")
        files[-1].write_text(json.dumps(wrong), "utf-8")
    command = ["node", "src/schema.mjs", *map(str, files)]
    done = subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_dashboards_have_the_form_of_the_schema(problems: str, name: str) -> None:
    """A dashboard, its panels' options and their field options are what @grafana/schema describes."""
    assert str(DASHBOARDS / f"{name}.json") not in problems


@pytest.mark.parametrize("typo", TYPOS, ids=lambda typo: typo.__name__)
def test_a_typo_is_found(problems: str, typo: Callable[[Json], None]) -> None:
    """A misspelt key or value is named with its file, wherever it stands."""
    assert f"{typo.__name__}.json" in problems
