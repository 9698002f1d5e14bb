"""Tables on a terminal."""

from collections.abc import Iterable, Sequence

Row = Sequence[str]  # cells


def table(rows: Iterable[Row]) -> list[str]:
    """Rows as lines of text, in columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
