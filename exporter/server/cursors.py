"""How far each scraper has got in each journal, kept on disk so that a restart neither loses nor repeats."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from exporter.journal import START, Position

__all__ = ["Cursor", "CursorStore"]


class Cursor(NamedTuple):
    """A position in the content that a journal's inode held when it was read."""

    inode: int
    position: Position


class CursorStore:
    """Cursors by scraper and journal; a store that cannot be written is kept in memory, and said once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cursors: dict[str, dict[str, Cursor]] = _load(path)
        self._warned = False

    @property
    def scrapers(self) -> list[str]:
        """Names of the scrapers seen so far."""
        return list(self._cursors)

    def position(self, scraper: str, journal: Path, inode: int) -> Position:
        """Where a scraper stands in a journal; its start where the journal is new or has been replaced."""
        cursor = self._cursors.get(scraper, {}).get(str(journal))
        return cursor.position if cursor and cursor.inode == inode else START

    def advance(self, scraper: str, cursors: dict[Path, Cursor]) -> None:
        """Move a scraper to where it was just served, forget journals that are gone, and save."""
        self._cursors[scraper] = {str(path): cursor for path, cursor in cursors.items()}
        try:
            self._save()
        except OSError as error:
            if not self._warned:
                print(f"telemetry: cannot save cursors in {self.path}: {error}", file=sys.stderr)
            self._warned = True

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._cursors))
        temporary.replace(self.path)


def _load(path: Path) -> dict[str, dict[str, Cursor]]:
    """Cursors from disk; a file that is missing or spoilt means starting over, which repeats but never loses."""
    try:
        stored = json.loads(path.read_text())
        return {
            scraper: {journal: _cursor(*numbers) for journal, numbers in journals.items()}
            for scraper, journals in stored.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        print(f"telemetry: {path} is unusable ({error}); every step is served again", file=sys.stderr)
        return {}


def _cursor(inode: int, position: list[int]) -> Cursor:
    cursor = Cursor(int(inode), Position(*map(int, position)))
    if min(cursor.position) < 0:
        raise ValueError(f"{position} is no position")
    return cursor
