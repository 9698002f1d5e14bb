"""The production that is rehearsed on this machine, where every other scenario has had its verbs, and a staging that is rebuilt to be like it."""

import functools
import time

import pytest
from fixtures import Make
from target import Target
from tier import Tier, output_of
from visitors import CAUGHT_UP_S, Visitor

from controller.environment import Environment

MAIL = "ada.lovelace@mail.example"
NAME = "adalovelace"
PICTURE = f"rehearsal/{int(time.time())}.png"
PEOPLE = f"""
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.db import SessionStore
get_user_model().objects.filter(username__startswith="{NAME}").delete()
for number in range(3):
    get_user_model().objects.create_user("{NAME}%d" % number, "%d{MAIL}" % number, "a password of hers %d" % number, first_name="Ada", last_name="Lovelace")
    session = SessionStore()
    session["who"] = "{NAME}"
    session.create()
"""
STORIES = "select md5(string_agg(s::text, ' ' order by s.id)) from budget_story s"


def everything(target: Target) -> str:
    """All rows of the site's database, as text."""
    dump = target.run(
        target.primary(),
        "pg_dump",
        "--data-only",
        "-p",
        str(target.facts["db_port"]),
        target.facts["site_name"],
        user="postgres",
    )
    return "\n".join(line for line in dump.splitlines() if "restrict " not in line)  # pg_dump's own, another each time


@pytest.fixture(scope="module", name="production")
def production_fixture() -> Target:
    """Production as it stands, with people in it."""
    target = Target(Environment.named("production", rehearsed=True).inventory)
    target.await_healthy()
    target.manage(target.groups["app"][0], PEOPLE)
    target.upload(PICTURE)
    return target


def test_a_rehearsal_has_the_hosts_and_groups_of_the_environment(production: Target) -> None:
    """Every host of the inventory stands under its own name and in its own groups, and every verb is told of the rehearsal."""
    declared = Tier(Environment.named("production").inventory)
    assert production.groups == declared.value("groups")
    assert [production.on(host, "hostname") for host in production.groups["all"]] == production.groups["all"]
    done = production.tier.make("status")
    assert done.returncode == 0 and "all is well" in done.stdout, output_of(done)


def test_staging_is_rebuilt_from_scrubbed_data_of_production(production: Target, tier: Tier, make: Make) -> None:
    """From nothing, with its release, its pictures and its rows, in which nobody is found again; production stays as it is."""
    done = production.tier.make("backup")
    assert done.returncode == 0, output_of(done)[-3000:]
    before = everything(production)
    assert before.count(MAIL) == 3 and NAME in before
    users, sessions = (
        int(production.sql("select count(*) from auth_user")),
        production.sql("select session_key from django_session").split(),
    )
    assert users >= 3 and len(sessions) >= 3
    done = make("rebuild", "FROM=production", "YES=1")
    assert done.returncode == 0, output_of(done)[-4000:]
    assert "0 differences" in done.stdout
    assert (
        f"auth_user.email: {users} rows" in done.stdout
        and f"django_session emptied: {len(sessions)} rows" in done.stdout
    ), done.stdout[-3000:]

    target = Target(tier.inventory)
    target.await_healthy()
    rows = everything(target)
    assert MAIL not in rows and NAME not in rows and "Lovelace" not in rows
    assert target.sql("select count(*) from auth_user where email ~ '^scrubbed\\d+@' and password ~ '^!'") == str(users)
    assert [key for key in sessions if key in rows] == []
    assert target.sql(STORIES) == production.sql(STORIES)
    for media in target.groups["media"]:
        target.wait(
            functools.partial(target.try_on, media, f"ls {target.facts['media_root']}/{PICTURE}"),
            f"{PICTURE} on {media}",
            CAUGHT_UP_S,
        )
    assert everything(production) == before


def test_a_password_of_production_is_refused_by_staging(production: Target, target: Target) -> None:
    """The same password opens production and not staging."""

    def opens(where: Target) -> bool:
        visitor = Visitor(where, "session")
        status, headers, _body = visitor.form(
            "/accounts/login/", {"username": f"{NAME}0", "password": "a password of hers 0"}
        )
        return status == 302 and "login" not in headers["Location"]

    assert opens(production) and not opens(target)
