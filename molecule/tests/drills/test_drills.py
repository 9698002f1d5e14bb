"""Every fault under load, on the standing tier, each within its limits. `make drills` prints them as one table."""

import pytest

import drill


@pytest.mark.parametrize("name", drill.DRILLS)
def test_drill(place, name):
    row = drill.measure(place, drill.DRILLS[name])
    print(drill.line(["drill", *drill.COLUMNS]), drill.line(drill.cells(name, row)), sep="\n")
    assert not drill.excess(row, drill.DRILLS[name]), row["failures"]
