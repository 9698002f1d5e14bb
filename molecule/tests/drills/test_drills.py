"""Faults under load, on the standing tier, each within its limits. `make drills` runs them all."""

import pytest

import drill


@pytest.fixture(scope="module")
def place(tier):
    """The tier, to break."""
    return drill.Place(tier.name)


@pytest.mark.parametrize("name", ["app_stopped", "media_killed", "cache_killed", "switchover"])
def test_drill(place, name):
    row = drill.measure(place, drill.DRILLS[name])
    print(drill.line(["drill", *drill.COLUMNS]), drill.line(drill.cells(name, row)), sep="\n")
    assert not drill.excess(row, drill.DRILLS[name]), row["failures"]
