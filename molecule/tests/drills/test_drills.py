"""Every fault under load, on the standing tier, each within its limits. `make drills` prints them as one table."""

import pathlib
from collections.abc import Iterator

import drills
import pytest
from target import Target
from tier import Tier
from visitors import Load


@pytest.fixture(scope="module")
def load(target: Target) -> Iterator[Load]:
    """Visitors and writers, from the first drill to the last."""
    target.await_healthy()
    with Load(target) as load:
        yield load


@pytest.fixture(scope="module")
def table(tier: Tier) -> pathlib.Path:
    """The table of this run, as `make drills` prints it: .state/ENV/drills.txt."""
    path = tier.state / "drills.txt"
    path.write_text(drills.line(["drill", *drills.COLUMNS]) + "\n")
    return path


@pytest.mark.parametrize("name", drills.DRILLS)
def test_the_drill_stays_within_limits(target: Target, load: Load, table: pathlib.Path, name: str) -> None:
    row = drills.measure(target, drills.DRILLS[name], load)
    with table.open("a") as lines:
        print(drills.line(drills.cells(name, row)), file=lines)
    excess = drills.excess(row, drills.DRILLS[name])
    assert not excess, f"{excess}, primary {row['primary']}, holder {row['holder']}: {row['failures']}"
