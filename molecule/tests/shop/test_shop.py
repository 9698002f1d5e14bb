"""A project that knows nothing of the tier is served by all of it, described by variables alone; and plain Ansible builds that."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator

import pytest
import requests
import yaml
from fixtures import Make, OnHost
from tier import Tier, search

RUNG = "RUNG=5-apps"


def after(seconds: float) -> Callable[[], bool]:
    """A condition that holds after so many seconds."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() > moment


@pytest.fixture(scope="module", autouse=True)
def standing(tier: Tier, make: Make) -> Iterator[None]:
    """Built from nothing: cut off while packages are installed and while files are written, then to its end. Nothing is left afterwards."""
    make("down")  # what a run that was cut off has left
    for seconds in (25, 45):
        tier.cut_off("converge", RUNG, "MITOGEN=0", "IMAGE=bare", when=after(seconds))
    done = make("converge", RUNG, "MITOGEN=0", "IMAGE=bare")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    yield
    done = make("down")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(name="page")
def page_fixture(tier: Tier, visitor: requests.Session) -> str:
    """The shop's page, as a visitor gets it."""
    answer = visitor.get(tier.url, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_the_page_has_the_environment_and_the_database_of_the_shop(page: str) -> None:
    assert "<h1>The corner shop</h1>" in page
    assert "<li>A jar of honey</li>" in page  # the second release command put it there


def test_static_files_of_the_shop_are_hashed_and_cached_by_browsers(
    tier: Tier, visitor: requests.Session, page: str
) -> None:
    style = search(r'href="(/assets/shop/shop\.[0-9a-f]{12}\.css)"', page)[1]
    answer = visitor.get(tier.url + style, timeout=10)
    assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]


def test_sessions_of_the_shop_are_valid_on_every_app_host(tier: Tier, visitor: requests.Session) -> None:
    looks = [search(r"Looks: (\d+)", visitor.get(tier.url, timeout=10).text)[1] for _ in range(12)]
    assert looks == [str(n) for n in range(1, 13)]


def test_site_extensions_of_the_shop_exist(tier: Tier, on: OnHost) -> None:
    def sql(role: str, statement: str) -> str:
        return on(tier.hosts("db")[0]).check_output(
            "runuser -u postgres -- psql -qAtX -p %s -U %s -d shop -c %s", str(tier.value("db_port")), role, statement
        )

    sql("shop", "create extension if not exists semver")  # what a migration types: no superuser's privilege is needed
    assert sql("postgres", "select extname from pg_extension where extowner = 10 order by 1").split() == [
        "cube",  # earthdistance requires it
        "earthdistance",
        "pg_stat_statements",
        "plpgsql",
        "semver",
        "unaccent",
    ]


def test_an_upload_is_served_by_every_media_host(tier: Tier, visitor: requests.Session) -> None:
    answer = visitor.post(
        f"{tier.url}/photo", data={"item": "A jar of honey"}, files={"photo": ("jar.txt", b"golden")}, timeout=10
    )
    assert answer.status_code == 200, answer.text
    path = answer.json()["url"]
    assert path.startswith("/photos/items/")
    assert visitor.get(tier.url + path, timeout=10).content == b"golden"
    for name in tier.hosts("media"):
        assert (
            visitor.get(f"http://{tier.address(name)}:{tier.value('media_port')}{path}", timeout=10).content
            == b"golden"
        ), name


def test_every_app_host_is_healthy(tier: Tier, on: OnHost) -> None:
    for name in tier.hosts("app"):
        on(name).check_output(
            "curl --fail --silent --show-error http://%s:%s/-/health", tier.address(name), str(tier.value("app_port"))
        )


def test_a_converge_fails_where_a_page_of_site_smoke_fails(make: Make) -> None:
    """And says why: the page, its answer, the request and what the site said of it. Nothing changes."""
    described = yaml.safe_load(open(os.environ["TIER_VARS"].removeprefix("@"), encoding="utf-8"))
    # That one wants a form
    described["site_smoke"] = [
        {"path": "/", "says": "The corner shop"},
        {"path": "/photo", "says": ""},
    ]
    done = make("site", RUNG, "TAGS=deploy", f"VARS={json.dumps(described)}")
    assert done.returncode != 0
    [request] = re.findall(r"The page /photo is not there: 500, request ([0-9a-f]+)", done.stdout)
    assert "The page / " not in done.stdout
    assert re.search(
        rf"app\d, request {request}:\s+Traceback \(most recent call last\):\s+File .*shop/views\.py.*MultiValueDictKeyError: 'item'",
        done.stdout,
        re.S,
    )
    assert "make logs ENV=ladder REQUEST=" in done.stdout
    assert not re.search(r"changed=[1-9]", done.stdout)
