"""Tables: rows as wide as their columns, or an error at once."""

from __future__ import annotations

import pytest

from exporter import Table


def test_columns_and_rows():
    """A table holds its columns as text and its rows in order, and counts them."""
    table = Table(["a", 5], [[1, 2]]).add_row((3, None)).add_rows([["x", "y"], [7, 8]])
    assert table.columns == ["a", "5"]
    assert table.rows == [[1, 2], [3, None], ["x", "y"], [7, 8]]
    assert len(table) == 4


def test_the_first_row_decides_without_columns():
    """Without columns the first row decides how many there are, and they get numbers for names."""
    table = Table().add_row([1, 2, 3])
    assert table.columns == ["column_1", "column_2", "column_3"]
    with pytest.raises(ValueError, match="row has 2 values, but the table has 3 columns"):
        table.add_row([1, 2])


@pytest.mark.parametrize("row", [[], [1], [1, 2, 3]])
def test_a_row_of_another_width_is_refused(row):
    """A row of another width is an error that names the columns, and leaves the table as it was."""
    table = Table(["a", "b"], [[1, 2]])
    with pytest.raises(ValueError, match=rf"row has {len(row)} values, but the table has 2 columns \(a, b\)"):
        table.add_row(row)
    assert table.rows == [[1, 2]]


def test_an_empty_table():
    """A table may have no rows and no columns yet."""
    table = Table()
    assert (len(table), table.columns, table.rows) == (0, [], [])


def test_rows_are_copied():
    """A row that its owner changes later stays in the table as it was added."""
    row = [1]
    table = Table(["a"]).add_row(row)
    row[0] = 2
    assert table.rows == [[1]]
