"""What the tests of the backups share."""

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fixtures import Backups
from target import Target
from tier import Tier


@pytest.fixture(scope="module")
def backups(target: Target, tier: Tier) -> Backups:
    """The backup host: on(command), state() as monitoring reads it, await_state(condition, what)."""
    host = target.groups["backup"][0]
    path = tier.value("backup_state")

    def state() -> dict[str, Any]:
        return json.loads(target.try_on(host, f"cat {path}") or "{}")

    def looked() -> dict[str, Any]:
        target.on(host, "systemctl start tier-backup@look")  # what its timer does every minute
        return state()

    def await_state(condition: Callable[[dict[str, Any]], bool], what: str, seconds: int = 180) -> bool:
        return target.wait(lambda: condition(looked()), what, seconds)

    return Backups(
        host=host,
        on=functools.partial(target.on, host),
        state=state,
        await_state=await_state,
        stanza=tier.value("backup_stanza"),
        repository="/var/lib/pgbackrest",
        path=path,
    )


@pytest.fixture(autouse=True)
def healthy_before_and_after(target: Target) -> Iterator[None]:
    """Whole before and after."""
    target.await_healthy()
    yield
    target.await_healthy()
