"""The judge of our pages is itself judged: by the OpenMetrics project's own parser cases."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from exporter.exposition import Format
from exporter.journal import find_journals
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


def a_journal(folder: Path) -> Journal:
    """A running journal with everything that a page can show."""
    journal = Journal(folder).start(recipe="ppo", config={"lr": 0.1, "net": {"width": 64}}, tags={"team": "a"})
    for number in range(5):
        journal.log(number, {"train/loss": 1.0 / (number + 1), "train/approx_kl": 0.01}, epoch=0.5)
    journal.step(5, **{"train/loss": float("nan"), "my key": True})
    journal.other("timing", 0.7, name="optim_step", seconds=0.02).other("lost", 0.8, reason="disk_full", count=2)
    return journal


@pytest.mark.parametrize("page", ["latest", "every step"])
def test_our_pages_are_openmetrics(tmp_path: Path, page: str) -> None:
    """Both pages of a run satisfy the judge, with the types that the catalog promises."""
    a_journal(tmp_path)
    exporter = Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG)
    form = Format.OPENMETRICS
    body = exporter.latest_page(form) if page == "latest" else exporter.scraper_page(form, "p").body
    scrape = judge(body, form)
    for name, kind in scrape.types.items():
        if name in CATALOG.metrics:
            assert kind == CATALOG.metrics[name].type
    assert scrape.types["custom_my_key"] == "gauge"


def test_the_judge_sees_a_sample_given_twice() -> None:
    """A page that says one thing twice fails, although the reference parser lets it pass."""
    page = b"# TYPE a gauge\na 1 5\na 1 5\n# EOF\n"
    with pytest.raises(AssertionError):
        judge(page, Format.OPENMETRICS)


def test_the_judge_sees_an_interrupted_family() -> None:
    """A family in two places fails in classic text as well, whose parser lets it pass."""
    page = b'# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na{x="1"} 1\n'
    with pytest.raises(AssertionError):
        judge(page, Format.TEXT)
