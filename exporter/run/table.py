"""Rows to look at beside the curves: sample completions, per-layer statistics, breakdowns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Table"]


class Table:
    """Rows under named columns; without names the first row decides their number."""

    def __init__(self, columns: Sequence[str] | None = None, data: Iterable[Sequence[Any]] = ()) -> None:
        """Start with columns and rows.

        Raises:
            ValueError: a row's width differs from the columns'.
        """
        self.columns: list[str] = [str(column) for column in columns or ()]
        self.rows: list[list[Any]] = []
        self.add_rows(data)

    def add_row(self, row: Sequence[Any]) -> Table:
        """Add one row; returns the table.

        Raises:
            ValueError: its width differs from the columns'.
        """
        if not self.columns:
            self.columns = [f"column_{number}" for number in range(1, len(row) + 1)]
        if len(row) != len(self.columns):
            raise ValueError(
                f"row has {len(row)} values, but the table has {len(self.columns)} columns "
                f"({', '.join(self.columns)}); give one value per column, None for a missing one"
            )
        self.rows.append(list(row))
        return self

    def add_rows(self, rows: Iterable[Sequence[Any]]) -> Table:
        """Add several rows; returns the table."""
        for row in rows:
            self.add_row(row)
        return self

    def __len__(self) -> int:
        return len(self.rows)
