"""The judge of our pages is itself judged: by the OpenMetrics project's own parser cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from exporter.exposition import Format
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal, judge
from tests.support.servers import REPOSITORY

FOLDER = REPOSITORY.parent / "shared" / "data" / "openmetrics" / "parsers"
CASES = sorted(FOLDER.iterdir()) if FOLDER.is_dir() else []
without_cases = pytest.mark.skipif(not CASES, reason=f"OpenMetrics' parser cases are not at {FOLDER}")


def accepts(text: str) -> bool:
    """Whether the judge's parser takes a page."""
    try:
        list(parse(text))
    except Exception:  # noqa: BLE001 - it raises whatever its code meets
        return False
    return True


@without_cases
def test_all_cases_are_there() -> None:
    """The collection is the whole one, with both kinds of cases."""
    wanted = [json.loads((case / "test.json").read_text())["shouldParse"] for case in CASES]
    assert (len(wanted), wanted.count(True)) == (211, 44)


@without_cases
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_judge_agrees_with_openmetrics(case: Path) -> None:
    """The parser that our tests trust accepts and refuses what OpenMetrics says it must."""
    about = json.loads((case / "test.json").read_text())
    assert accepts((case / about["file"]).read_bytes().decode("utf-8", "surrogateescape")) is about["shouldParse"]
