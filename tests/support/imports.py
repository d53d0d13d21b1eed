"""Foreign logs as trainers write them, and an importer that can be ended and started again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.importer import Importer, ImportOptions

__all__ = ["Import", "JournalLine", "json_rows", "replace_bytes", "table"]

JournalLine = dict[str, Any]


class Import:
    """Imports what is below some paths into a folder beside them."""

    def __init__(self, *paths: Path, folder: Path, **options: Any) -> None:
        self.paths = paths
        self.folder = folder
        self.options = ImportOptions(**options)
        self.importer = Importer(paths, folder, self.options)

    def poll(self, times: int = 1) -> None:
        """Look for logs and take over everything that is new, as the sidecar does."""
        for _ in range(times):
            self.importer.find()
            self.importer.take(60.0)
            assert not self.importer.is_behind

    def restart(self) -> None:
        """A new process goes on from what is on disk."""
        self.importer.close()
        self.importer = Importer(self.paths, self.folder, self.options)

    def close(self) -> None:
        """End it."""
        self.importer.close()

    def marks(self, run_id: str, rank: int = 0) -> Path:
        """Where it is noted how far a run was taken."""
        return self.folder / run_id / f".marks-{rank}.json"

    def run_ids(self) -> list[str]:
        """The runs that have a journal."""
        return sorted({path.parent.name for path in self.importer.journals() if self.folder in path.parents})

    def lines(self, run_id: str, rank: int = 0) -> list[JournalLine]:
        """Every line of a run's journal, read without the product's own reader."""
        name = f"metrics.rank{rank}.jsonl" if rank else "metrics.jsonl"
        text = (self.folder / run_id / name).read_text("utf-8")
        assert text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def steps(self, run_id: str, rank: int = 0) -> list[JournalLine]:
        """The steps in a run's journal; none without one."""
        try:
            return [line for line in self.lines(run_id, rank) if line["_type"] == "step"]
        except FileNotFoundError:
            return []

    def column(self, run_id: str, key: str = "train/loss") -> list[tuple[int, Any]]:
        """Step and value of each point of a metric, in the journal's order."""
        return [(line["step"], line["metrics"][key]) for line in self.steps(run_id) if key in line["metrics"]]

    def attempts(self, run_id: str) -> list[int]:
        """The attempt of each step."""
        found, attempt = [], 0
        for line in self.lines(run_id):
            attempt = line["attempt"] if line["_type"] == "run_start" else attempt
            if line["_type"] == "step":
                found.append(attempt)
        return found


def json_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows under a header, in Python's own dialect; missing cells are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def replace_bytes(path: Path, content: str) -> None:
    """Write a file anew at once, under the same inode."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, content.encode(), 0)
    finally:
        os.close(fd)
