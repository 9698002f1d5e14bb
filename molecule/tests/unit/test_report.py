"""Tables that verbs print."""

import pytest

from controller.report import table

ROWS = [("host", "tier", "does"), ("lb1", "lb quorum", "holds the virtual IP"), ("app1", "app", "")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(ROWS) == [
        "  host   tier        does",
        "  lb1    lb quorum   holds the virtual IP",
        "  app1   app",
    ]
    assert table([("step", "wall"), ("a", "75 s")], right=[1], indent=0, gap=2) == ["step  wall", "a     75 s"]
    assert table([("a", "1.0"), ("b", "")], right=[0, 1]) == ["  a   1.0", "  b"]


@pytest.mark.parametrize(
    "cell", ["[red]x[/red]", ":smile:", "/a?b=1&c=[2]", "x" * 3000, "\x1b[1m", "a  b", "'1' 192.0.2.9"]
)
def test_a_cell_is_printed_unchanged(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert table([(cell, "end")]) == [f"  {cell}   end"]


def test_a_table_without_rows_has_no_lines() -> None:
    assert table([]) == []
