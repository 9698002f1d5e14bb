"""Tables on a terminal."""


def table(rows):
    """Lines of cells as text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  " + "   ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
