"""Every fault under load, on the standing tier, each within its limits. `make drills` prints them as one table."""

import pytest

import drill


@pytest.fixture(scope="module")
def load(place):
    """Visitors and writers, from the first drill to the last."""
    place.whole()
    with drill.Load(place) as load:
        yield load


@pytest.mark.parametrize("name", drill.DRILLS)
def test_drill(place, load, name):
    row = drill.measure(place, drill.DRILLS[name], load)
    print(drill.line(["drill", *drill.COLUMNS]), drill.line(drill.cells(name, row)), sep="\n")
    assert not drill.excess(row, drill.DRILLS[name]), row["failures"]
