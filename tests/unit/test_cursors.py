"""Where each scraper stands, on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.journal import START, Position
from exporter.server.cursors import Cursor, CursorStore

HERE = Position(120, 3, 5000, 1)
JOURNAL = Path("/runs/r1/metrics.jsonl")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def test_a_new_scraper_stands_at_the_start(tmp_path: Path) -> None:
    """Without a state file nobody has been served anything, and looking writes nothing."""
    store = CursorStore(tmp_path / "state.json")
    assert store.scrapers == []
    assert store.position("p", JOURNAL, 7) == START
    assert list(tmp_path.iterdir()) == []


def test_a_cursor_survives_a_restart(tmp_path: Path) -> None:
    """Another process continues where this one stopped, for each scraper and journal apart."""
    path = tmp_path / "made" / "state.json"
    other = Path("/runs/r2/metrics.jsonl")
    store = CursorStore(path)
    store.advance("p", {JOURNAL: Cursor(7, HERE), other: Cursor(8, START)})
    store.advance("q", {JOURNAL: Cursor(7, START)})
    for again in (store, CursorStore(path)):
        assert again.scrapers == ["p", "q"]
        assert again.position("p", JOURNAL, 7) == HERE
        assert again.position("p", other, 8) == START
        assert again.position("q", JOURNAL, 7) == START


def test_a_replaced_journal_is_read_from_its_start(tmp_path: Path) -> None:
    """A cursor belongs to the file it was made for: at another inode it means nothing."""
    store = CursorStore(tmp_path / "state.json")
    store.advance("p", {JOURNAL: Cursor(7, HERE)})
    assert store.position("p", JOURNAL, 8) == START


def test_journals_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """A scraper's cursors are those of its last page, so the state file does not grow for ever."""
    path = tmp_path / "state.json"
    store = CursorStore(path)
    store.advance("p", {JOURNAL: Cursor(7, HERE)})
    store.advance("p", {})
    assert CursorStore(path).position("p", JOURNAL, 7) == START
    assert str(JOURNAL) not in path.read_text()


def test_a_state_file_is_replaced_in_one_move(tmp_path: Path) -> None:
    """After saving there is the state file and nothing else, and no write leaves it torn."""
    path = tmp_path / "state.json"
    store = CursorStore(path)
    store.advance("p", {JOURNAL: Cursor(7, HERE)})
    inode = path.stat().st_ino
    store.advance("p", {JOURNAL: Cursor(7, START)})
    assert path.stat().st_ino != inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"p": 7}',
        '{"p": {"/j": 7}}',
        '{"p": {"/j": [7, [1, 2]]}}',
        '{"p": {"/j": [7, [1, 2, 3, "x"]]}}',
        '{"p": {"/j": ["x", [1, 2, 3, 4]]}}',
        '{"p": {"/j": [7, [-120, 3, 5000, 1]]}}',
        '{"p": {"/j": [7, [1e999, 0, 0, 0]]}}',
        "\udcff",
    ],
)
def test_a_spoilt_state_file_means_starting_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """State that cannot be right is said and left out: serving again loses nothing."""
    path = tmp_path / "state.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    store = CursorStore(path)
    assert store.scrapers == []
    assert str(path) in capsys.readouterr().err
    store.advance("p", {JOURNAL: Cursor(7, HERE)})
    assert CursorStore(path).position("p", JOURNAL, 7) == HERE


@given(content=JSON)
@settings(max_examples=60)
def test_no_state_file_can_stop_the_exporter(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    """Whatever JSON the file holds, there is a store, and each position in it can be read from."""
    path = tmp_path_factory.mktemp("state") / "state.json"
    path.write_text(json.dumps({"p": {"/j": content}}))
    position = CursorStore(path).position("p", Path("/j"), 7)
    assert all(type(number) is int and number >= 0 for number in position)


def test_a_state_file_that_cannot_be_read_means_starting_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder where the file should be is said once when starting and once when saving, not at every scrape."""
    path = tmp_path / "state.json"
    path.mkdir()
    store = CursorStore(path)
    assert "unusable" in capsys.readouterr().err
    for _ in range(3):
        store.advance("p", {JOURNAL: Cursor(7, HERE)})
    assert capsys.readouterr().err.count("cannot save cursors") == 1
    assert store.position("p", JOURNAL, 7) == HERE


def test_an_unwritable_folder_keeps_cursors_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a place to save, scrapes go on from memory."""
    (tmp_path / "file").write_text("")
    store = CursorStore(tmp_path / "file" / "state.json")
    capsys.readouterr()
    for _ in range(2):
        store.advance("p", {JOURNAL: Cursor(7, HERE)})
    assert store.position("p", JOURNAL, 7) == HERE
    assert capsys.readouterr().err.count("cannot save") == 1


def test_two_processes_do_not_write_the_same_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that becomes the state has the process' number in its name."""
    moved: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (moved.append(self.name), replace(self, target))[1])
    CursorStore(tmp_path / "state.json").advance("p", {})
    assert moved == [f"state.json.{os.getpid()}.tmp"]
