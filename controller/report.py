"""Tables on a terminal."""

import io
from collections.abc import Collection, Iterable, Sequence

Row = Sequence[str]  # cells
WIDTH = 10_000  # characters: more than any line has


def table(rows: Iterable[Row], right: Collection[int] = (), indent: int = 2, gap: int = 3) -> list[str]:
    """Rows as lines of text, in columns, as wide as they have to be.

    right: numbers of the columns whose cells are aligned to the right; indent, gap: spaces before a line and between columns.
    """
    # Here: importing rich takes 0.1 s, which a verb without a table does not spend.
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    grid = Table.grid(padding=(0, gap, 0, 0))
    for number in range(max(map(len, rows), default=0)):
        grid.add_column(justify="right" if number in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row))
    # Never cut to a terminal's width, and never coloured: lines are searched and compared.
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None).print(Padding(grid, (0, 0, 0, indent), expand=False))
    return [line.rstrip() for line in text.getvalue().split("\n")[:-1]]
