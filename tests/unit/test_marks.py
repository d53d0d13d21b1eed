"""Events and checkpoints as samples at their moments, checks as a status that stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal, Scrape, judge


def scrape(journal: Journal, state: Path, form: Format = Format.TEXT) -> Scrape:
    """A page of every step for a new scraper."""
    exporter = Exporter(partial(find_journals, journal.path), state / "cursors.json", CATALOG)
    return judge(exporter.scraper_page(form, "p").body, form)


def ms(journal: Journal, after: float) -> int:
    """The millisecond of a record so many seconds after the journal's beginning."""
    return int((journal.begin + after) * 1000 + 0.5)


@pytest.mark.parametrize("form", list(Format))
def test_an_event_is_one_sample_at_its_time(tmp_path: Path, form: Format) -> None:
    """Each event stands at its own time under its title and type, and its text nowhere."""
    journal = Journal(tmp_path).start().other("event", 1, title="lr halved", text="secret words", alert_type="warning")
    journal.other("event", 2, title="lr halved", alert_type="warning").other("event", 3, title='a "quoted"\n')
    page = scrape(journal, tmp_path, form)
    assert page.points("run_event", title="lr halved", alert_type="warning") == [
        (ms(journal, 1), 1), (ms(journal, 2), 1)
    ]  # fmt: skip
    assert page.points("run_event", alert_type="info", title='a "quoted"\n') == [(ms(journal, 3), 1)]


def test_the_text_of_an_event_is_not_exported(tmp_path: Path) -> None:
    """Only the title of an event leaves the journal."""
    journal = Journal(tmp_path).start().other("event", 1, title="t", text="secret words")
    exporter = Exporter(partial(find_journals, journal.path), tmp_path / "cursors.json", CATALOG)
    assert b"secret" not in exporter.scraper_page(Format.TEXT, "p").body


def test_titles_are_bounded(tmp_path: Path) -> None:
    """A run has a hundred titles of a hundred characters; later ones share one series."""
    journal = Journal(tmp_path).start()
    for number in range(103):
        journal.other("event", number, title=f"{number:03}" + "x" * 200)
    page = scrape(journal, tmp_path)
    titles = {labels["title"] for labels in page.label_sets("run_event")}
    assert titles == {f"{number:03}" + "x" * 97 for number in range(100)} | {"(other)"}
    assert len(page.points("run_event", title="(other)")) == 3


def test_where_a_run_went_on_is_a_step_at_its_time(tmp_path: Path) -> None:
    """The first step of each attempt after the first is a mark, whatever the page begins with; no other step is."""
    journal = Journal(tmp_path).start().step(0, 1).step(9, 2)
    exporter = Exporter(partial(find_journals, journal.path), tmp_path / "cursors.json", CATALOG)
    exporter.scraper_page(Format.TEXT, "p").delivered()
    journal.start(3).other("event", 4, title="e").step(5, 5).step(6, 6)
    second = judge(exporter.scraper_page(Format.TEXT, "p").body, Format.TEXT)
    journal.start(7).step(7, 8)
    assert second.points("run_resume_step") == [(ms(journal, 5), 5)]
    assert scrape(journal, tmp_path / "new").points("run_resume_step") == [(ms(journal, 5), 5), (ms(journal, 8), 7)]


def test_a_checkpoint_is_its_step_at_its_time(tmp_path: Path) -> None:
    """Each checkpoint is a sample whose value is its step."""
    journal = (
        Journal(tmp_path).start().other("checkpoint", 1, step=10, path="a").other("checkpoint", 5, step=20, path="b")
    )
    assert scrape(journal, tmp_path).points("run_checkpoint_step") == [(ms(journal, 1), 10), (ms(journal, 5), 20)]


@pytest.mark.parametrize(
    ("status", "value"), [("OK", 0), ("WARNING", 1), ("CRITICAL", 2), ("UNKNOWN", 3), ("no such", 3)]
)
def test_a_check_has_the_status_it_had_last(tmp_path: Path, status: str, value: int) -> None:
    """A check's series says its latest status on every page, without a timestamp."""
    journal = (
        Journal(tmp_path).start().other("check", 1, name="c", status="OK").other("check", 2, name="c", status=status)
    )
    assert scrape(journal, tmp_path).points("run_check_status", check="c") == [(None, value)]


def test_checks_are_bounded(tmp_path: Path) -> None:
    """A run has a hundred checks; known ones go on."""
    journal = Journal(tmp_path).start()
    for number in range(102):
        journal.other("check", number, name=f"c{number}", status="OK")
    journal.other("check", 200, name="c0", status="CRITICAL")
    page = scrape(journal, tmp_path)
    assert len(page.label_sets("run_check_status")) == 100
    assert page.value("run_check_status", check="c0") == 2


def test_marks_of_one_millisecond_are_one(tmp_path: Path) -> None:
    """A page never holds two samples of a series with one time: the later checkpoint counts."""
    journal = Journal(tmp_path).start()
    for step in (1, 2):
        journal.other("checkpoint", 1, step=step, path="a").other("event", 1, title="t")
    page = scrape(journal, tmp_path)
    assert page.points("run_checkpoint_step") == [(ms(journal, 1), 2)]
    assert page.points("run_event") == [(ms(journal, 1), 1)]


def test_marks_stand_in_the_order_of_time(tmp_path: Path) -> None:
    """A journal whose events went back in time, or lie in the future, makes no page that a server refuses."""
    journal = Journal(tmp_path).start().other("event", 5, title="t").other("event", 2, title="t")
    journal.other("event", 1e6, title="t")
    assert scrape(journal, tmp_path).points("run_event") == [(ms(journal, 2), 1), (ms(journal, 5), 1)]


def test_an_unknown_kind_of_event_is_info(tmp_path: Path) -> None:
    """What another tool calls its events makes no series of its own."""
    journal = Journal(tmp_path).start().other("event", 1, title="t", alert_type="whatever")
    assert scrape(journal, tmp_path).label_sets("run_event")[0]["alert_type"] == "info"
