"""What the tests of the backups share."""

import json
import types

import pytest


@pytest.fixture(scope="module")
def backups(target, tier):
    """The backup host: on(command), state() as monitoring reads it, await_state(condition, what)."""
    host = target.groups["backup"][0]
    path = tier.value("backup_state")

    def state():
        return json.loads(target.try_on(host, f"cat {path}") or "{}")

    def looked():
        target.on(host, "systemctl start tier-backup@look")  # what its timer does every minute
        return state()

    def await_state(condition, what, seconds=180):
        return target.wait(lambda: condition(looked()), what, seconds)

    return types.SimpleNamespace(
        host=host,
        on=lambda command, check=True: target.on(host, command, check=check),
        state=state,
        await_state=await_state,
        stanza=tier.value("backup_stanza"),
        repository="/var/lib/pgbackrest",
        path=path,
    )


@pytest.fixture(autouse=True)
def healthy_before_and_after(target):
    """Whole before and after."""
    target.await_healthy()
    yield
    target.await_healthy()
