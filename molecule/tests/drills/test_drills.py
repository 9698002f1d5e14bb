"""Every fault under load, on the standing tier, each within its limits. `make drills` prints them as one table."""

import drill
import pytest


@pytest.fixture(scope="module")
def load(place):
    """Visitors and writers, from the first drill to the last."""
    place.whole()
    with drill.Load(place) as load:
        yield load


@pytest.fixture(scope="module")
def table(tier):
    """The table of this run, as `make drills` prints it: .state/ENV/drills.txt."""
    path = tier.state / "drills.txt"
    path.write_text(drill.line(["drill", *drill.COLUMNS]) + "\n")
    return path


@pytest.mark.parametrize("name", drill.DRILLS)
def test_drill(place, load, table, name):
    row = drill.measure(place, drill.DRILLS[name], load)
    with table.open("a") as lines:
        print(drill.line(drill.cells(name, row)), file=lines)
    excess = drill.excess(row, drill.DRILLS[name])
    assert not excess, f"{excess}, primary {row['primary']}, holder {row['holder']}: {row['failures']}"
