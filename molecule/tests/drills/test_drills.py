"""Every drill, on the standing tier, within its limits."""

import pytest

import drill


@pytest.fixture(scope="module")
def place(tier):
    """The tier, to break."""
    return drill.Place(tier.name)


@pytest.mark.parametrize("name", drill.DRILLS)
def test_drill(place, name):
    row = drill.measure(place, drill.DRILLS[name])
    print(drill.line(["drill", *drill.COLUMNS]), drill.line(drill.cells(name, row)), *row["failures"], sep="\n")
    assert not drill.excess(row, drill.DRILLS[name]), row["failures"]
