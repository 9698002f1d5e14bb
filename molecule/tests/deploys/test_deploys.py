"""A release goes over the pool while visitors come and go: the good ones all the way, the others back."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
from fixtures import Make, Unaffected
from target import Target
from tier import ROOT, Tier, output_of

from controller.browser import Browser

MIDDLEWARE = """
import random, time

class Change:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        {code}
        return self.get_response(request)
"""


def middleware(code: str) -> Callable[[pathlib.Path], object]:
    """An edit that runs code at every request, before the site does."""

    def edit(source: pathlib.Path) -> None:
        (source / "newsbudget/change.py").write_text(MIDDLEWARE.format(code=code), encoding="utf-8")
        settings = source / "newsbudget/settings.py"
        settings.write_text(
            settings.read_text(encoding="utf-8") + '\nMIDDLEWARE = ["newsbudget.change.Change", *MIDDLEWARE]\n',
            encoding="utf-8",
        )

    return edit


def migration(model: str, field: str, operation: str) -> Callable[[pathlib.Path], object]:
    """An edit that adds a migration of the ledger; field goes into the model's code, the operation into the migration."""

    def edit(source: pathlib.Path) -> None:
        (source / "ledger/migrations/0003_change.py").write_text(
            "from django.db import migrations, models\n\n\nclass Migration(migrations.Migration):\n"
            f'    dependencies = [("ledger", "0002_starter_entries")]\n    operations = [{operation}]\n',
            encoding="utf-8",
        )
        models = source / "ledger/models.py"
        models.write_text(
            models.read_text(encoding="utf-8").replace(
                f"class {model}(models.Model):\n", f"class {model}(models.Model):\n    {field}\n"
            ),
            encoding="utf-8",
        )

    return edit


def unwell(source: pathlib.Path) -> None:
    """A release that passes every check and does not start where it serves."""
    with open(source / "newsbudget/wsgi.py", "a", encoding="utf-8") as wsgi:
        wsgi.write('raise RuntimeError("unwell on purpose")\n')


# A slow page of the site under test: two parts of an answer. The sleep before each is longer than lb_failover_s, which must not cut it.
PARTS = """if "parts" in request.GET:
            from django.http import StreamingHttpResponse
            return StreamingHttpResponse(time.sleep(PAUSE) or part for part in ("first", "last"))"""

NOTE = migration(
    "Entry",
    "note = models.CharField(max_length=20, null=True)",
    'migrations.AddField("entry", "note", models.CharField(max_length=20, null=True))',
)


@pytest.fixture(name="served")
def served_fixture(tier: Tier, visitor: requests.Session) -> Callable[[], dict[str, str]]:
    """served() is what visitors get: {host: its release}, of every app host that the balancers use."""

    def served() -> dict[str, str]:
        about = [visitor.get(f"{tier.url}/about/?format=json", timeout=10).json() for _ in range(20)]
        return {one["node"]: one["release"] for one in about}

    return served


@pytest.fixture(name="style")
def style_fixture(tier: Tier, visitor: requests.Session) -> Callable[[], str]:
    """style() is a static file as visitors get it."""
    return lambda: visitor.get(f"{tier.url}/static/newsbudget/site.css", timeout=10).text


def current(target: Target) -> set[str]:
    """{host: the release that is current on it}, as a set of what there is."""
    return {target.on(app, f"basename $(readlink {target.facts['site_root']}/current)") for app in target.groups["app"]}


def ledger(target: Target, host: str) -> list[dict[str, Any]]:
    """Entries of a host's ledger."""
    return [json.loads(line) for line in target.on(host, "cat /var/log/releases.jsonl").splitlines()]


def drained(target: Target) -> list[str]:
    """Servers that a balancer passes over."""
    return [
        line
        for lb in target.groups["lb"]
        for line in target.on(lb, "grep ' down;' /etc/nginx/nginx.conf || true").splitlines()
    ]


def count_requests(target: Target, known_as: str) -> int:
    """How often the app hosts were asked for a page, by its request id."""
    return sum(
        int(target.on(app, f"grep -c ' {known_as} ' /var/log/apache2/access.log || true"))
        for app in target.groups["app"]
    )


def test_deploy_and_rollback_switch_every_app_host(
    target: Target,
    tier: Tier,
    visitor: requests.Session,
    make: Make,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    style: Callable[[], str],
    visitors_unaffected: Unaffected,
) -> None:
    """With its static files, also those whose names have no hash, which the release since has replaced. Its slow page is asked once, and comes whole."""
    old, before = current(target), style()
    assert len(old) == 1
    known_as = str(uuid.uuid4())
    with visitors_unaffected():
        done = deploy(
            variant(middleware(PARTS.replace("PAUSE", str(tier.value("lb_failover_s", target.groups["lb"][0]) + 1))))
        )
        assert done.returncode == 0, done.stdout[-3000:]
        new = current(target)
        assert len(new) == 1 and new != old
        now = served()
        assert set(now) == set(target.groups["app"]) and set(now.values()) == new
        assert style() != before
        page = visitor.get(f"{tier.url}/about/?parts=2", headers={"X-Request-Id": known_as}, timeout=30)
        assert (page.status_code, page.text) == (200, "firstlast")
        target.await_no_problem(lambda: "" if count_requests(target, known_as) else "nobody", "app host that was asked")
        assert count_requests(target, known_as) == 1
    for host in target.groups["all"]:
        last = ledger(target, host)[-1]
        assert (last["verb"], last["release"], last["result"]) == ("deploy", *new, "live"), host
        assert "@" in last["who"]
        assert "live" in target.on(host, "journalctl -q -t releases -n 1 -o cat")
    with visitors_unaffected():
        done = make("rollback")
        assert done.returncode == 0, done.stdout[-3000:]
        assert current(target) == old and set(served().values()) == old
        assert style() == before
    said = make("releases")
    assert said.returncode == 0, said.stdout
    assert [line.split()[2:5] for line in said.stdout.splitlines() if "@" in line][-2:] == [
        ["deploy", *new, "live"],
        ["rollback", *old, "live"],
    ]


def test_an_unhealthy_release_is_reverted(
    target: Target,
    make: Make,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    style: Callable[[], str],
    visitors_unaffected: Unaffected,
) -> None:
    """With its static files."""
    old, before = current(target), style()
    with visitors_unaffected():
        done = deploy(variant(unwell), django_health_retries=3)
        assert done.returncode != 0
        assert "was taken back" in output_of(done) and "Every app host serves what it served before" in output_of(done)
        assert current(target) == old
        assert drained(target) == []
        assert set(served()) == set(target.groups["app"]) and set(served().values()) == old
        assert style() == before
    assert ledger(target, target.groups["app"][0])[-1]["result"].startswith("went back:")


def test_a_release_that_fails_the_smoke_test_is_reverted(
    target: Target,
    tier: Tier,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    chromium: Browser,
) -> None:
    """Every host is well by its own word; one page that another one links to is not, and nobody can sign in."""
    old = current(target)
    target.manage(
        target.groups["app"][0],
        "from django.contrib.auth import get_user_model; get_user_model().objects.filter(username='smoke').delete()",
    )
    target.await_healthy()
    broken = middleware(
        "assert request.path != '/about/' and (request.method, request.path) != ('POST', '/accounts/login/')"
    )
    done = deploy(variant(broken), site_smoke_most=40, site_smoke_sign_in=tier.value("site_smoke_sign_in", "lb[0]"))
    assert done.returncode != 0
    assert "was taken back: visitors miss what they got before. The page /about/ is not there: 500" in output_of(
        done
    ), output_of(done)[-3000:]
    assert "; Nobody can sign in at /accounts/login/" in output_of(done), output_of(done)[-3000:]
    [request_id] = set(re.findall(r"The page /about/ is not there: 500, request ([0-9a-f]+)", output_of(done)))
    assert re.search(rf"app\d, request {request_id}:\s+Traceback .*AssertionError", output_of(done), re.S)
    assert "Every app host serves what it served before" in output_of(done)
    assert current(target) == old and drained(target) == []
    assert set(served()) == set(target.groups["app"]) and set(served().values()) == old
    assert "The page /about/" in ledger(target, target.groups["app"][0])[-1]["result"]
    target.await_healthy()


def test_a_migration_that_breaks_the_running_release_is_refused(
    target: Target, deploy: Callable[..., subprocess.CompletedProcess[str]], variant: Callable[..., pathlib.Path]
) -> None:
    old = current(target)
    done = deploy(variant(migration("Entry", "", 'migrations.RenameField("entry", "text", "words")')))
    assert done.returncode != 0
    assert "ledger.0003_change renames ledger.entry.text to words" in output_of(done)
    assert "BREAKING=1" in output_of(done)
    assert current(target) == old
    assert target.sql("select count(*) from django_migrations where name = '0003_change'") == "0"


def test_a_migration_waits_for_locks_no_longer_than_the_limit(
    target: Target,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    visitors_unaffected: Unaffected,
) -> None:
    """Visitors queue behind it."""
    old = current(target)
    with visitors_unaffected():
        holder = subprocess.Popen(
            [
                "docker",
                "exec",
                "-u",
                "postgres",
                target.container(target.primary()),
                "psql",
                "-d",
                target.facts["site_name"],
                "-p",
                str(target.facts["db_port"]),
                "-c",
                "begin; select count(*) from public.ledger_entry; select pg_sleep(120)",
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            done = deploy(variant(NOTE), site_lock_timeout_s=2)
        finally:
            target.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(120)%' and pid <> pg_backend_pid()",
                superuser=True,
            )
            holder.wait()
        assert done.returncode != 0
        assert "lock timeout" in output_of(done) and "it is safe to try again" in output_of(done)
        assert current(target) == old
    assert ledger(target, target.groups["app"][0])[-1]["result"].startswith("failed")


def background(target: Target, source: pathlib.Path) -> subprocess.Popen[bytes]:
    """A deploy of a directory, under way; its process group can be killed. Its output goes to a file beside the directory."""
    with open(f"{source}.out", "w", encoding="utf-8") as out:
        return subprocess.Popen(
            [
                "make",
                "--no-print-directory",
                "deploy",
                *target.tier.words,
                f"VARS={json.dumps({'site_source': str(source)})}",
            ],
            cwd=ROOT,
            env=dict(os.environ, MAKEFLAGS=""),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def test_concurrent_deploys_are_refused_and_an_interrupted_deploy_can_be_repeated(
    target: Target,
    make: Make,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    visitors_unaffected: Unaffected,
) -> None:
    old, source = current(target), variant()
    with visitors_unaffected():
        first = background(target, source)
        target.wait(
            lambda: any(target.on(app, "pgrep -f '[h]old-the-tier' || true") for app in target.groups["app"]), "lock"
        )
        done = make("deploy")
        assert done.returncode != 0
        assert "Nothing was touched." in output_of(done) and f"{os.uname().nodename} (make deploy, pid" in output_of(
            done
        )
        # Between two hosts: one serves the new release, one the old.
        target.wait(lambda: len(current(target)) == 2, "half a deploy")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        said = make("releases")
        assert said.returncode != 0 and "cut off, or under way" in said.stdout
        refused = make("rollback")
        assert refused.returncode != 0 and "The app hosts serve different releases" in output_of(refused)
        done = deploy(source)
        assert done.returncode == 0, done.stdout[-3000:]
        assert len(current(target)) == 1 and current(target) != old
        assert drained(target) == []
        assert set(served()) == set(target.groups["app"])


CANARY = {"canary_s": 8, "canary_requests": 40}


def test_a_healthy_canary_is_promoted(
    target: Target,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    served: Callable[[], dict[str, str]],
    visitors_unaffected: Unaffected,
) -> None:
    """For a share of the visitors, each of whom stays with the release that they saw first. It is the demo's own: the tier is left as it was found."""
    old = current(target)
    with visitors_unaffected(pace=1.0):
        done = deploy(ROOT / "demo", "CANARY=50%", **CANARY)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "The canary is as good" in output_of(done)
        assert len(current(target)) == 1 and current(target) != old
        assert "canary" not in target.on(target.groups["lb"][0], "cat /etc/nginx/nginx.conf")
        assert set(served().values()) == current(target)


def test_a_slow_canary_is_reverted(
    target: Target,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    visitors_unaffected: Unaffected,
) -> None:
    old, app = current(target), target.groups["app"][-1]
    slow = variant(middleware("time.sleep(1.0)"))  # what is wrong with this release
    with visitors_unaffected(pace=1.0):
        # Each takes a second, and so many tell it.
        done = deploy(slow, f"CANARY={app}", **CANARY | {"canary_requests": 20})
        assert done.returncode != 0
        assert f"it is slow: {app}" in output_of(done)
        assert current(target) == old and set(served().values()) == old
    assert "it is slow" in ledger(target, app)[-1]["result"]


def test_a_failing_canary_is_reverted(
    target: Target,
    deploy: Callable[..., subprocess.CompletedProcess[str]],
    variant: Callable[..., pathlib.Path],
    served: Callable[[], dict[str, str]],
    tier: Tier,
    visitor: requests.Session,
) -> None:
    """Few visitors meet it, and none any more once it is back."""
    old, app = current(target), target.groups["app"][0]
    visitor.headers["Connection"] = (
        "close"  # a balancer that reads its configuration anew closes idle ones; a browser asks again, requests does not
    )
    target.await_healthy()
    source = variant(middleware("assert request.path != '/about/' or random.random() < 0.2"))
    with subprocess.Popen(
        [
            "make",
            "--no-print-directory",
            "deploy",
            *target.tier.words,
            f"CANARY={app}",
            f"VARS={json.dumps({'site_source': str(source), **CANARY})}",
        ],
        cwd=ROOT,
        env=dict(os.environ, MAKEFLAGS=""),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as canary:
        statuses = []
        while canary.poll() is None:
            statuses.append(visitor.get(f"{tier.url}/about/", timeout=10).status_code)
            time.sleep(0.05)  # the pace of this visitor
        assert canary.stdout
        said = " ".join(canary.stdout.read().split())
    assert canary.returncode != 0
    assert f"it fails: {app}" in said
    assert 500 in statuses and statuses.count(200) > statuses.count(500)
    assert current(target) == old and set(served().values()) == old
    assert {visitor.get(f"{tier.url}/about/", timeout=10).status_code for _ in range(20)} == {200}


def test_an_invalid_canary_is_refused(target: Target, make: Make) -> None:
    old = current(target)
    for canary, reason in [
        ("nobody", "is neither a host of the app pool"),
        (",".join(target.groups["app"]), "is the whole pool"),
    ]:
        done = make("deploy", f"CANARY={canary}")
        assert done.returncode != 0 and reason in output_of(done)
    assert current(target) == old


def test_the_lock_timeout_does_not_cancel_a_concurrent_index_build(target: Target) -> None:
    """It keeps nobody waiting meanwhile; cut off, it would leave an index that is not valid."""
    build = "from django.db import connection; connection.cursor().execute('create index concurrently waits on ledger_entry (amount)')"
    with subprocess.Popen(
        [
            "docker",
            "exec",
            "-u",
            "postgres",
            target.container(target.primary()),
            "psql",
            "-d",
            target.facts["site_name"],
            "-p",
            str(target.facts["db_port"]),
            "-c",
            "begin; select count(*) from public.ledger_entry; select pg_sleep(4)",
        ],
        stdout=subprocess.DEVNULL,
    ):
        target.wait(
            lambda: target.sql(
                "select 1 from pg_stat_activity where query like '%pg_sleep(4)%' and pid <> pg_backend_pid()",
                superuser=True,
            ),
            "reader",
        )
        begun = time.monotonic()
        target.on(target.groups["app"][0], f'LOCK_TIMEOUT=1 manage shell -v 0 -c "{build}"')
    try:
        assert time.monotonic() - begun > 1
        assert target.sql("select indisvalid from pg_index where indexrelid = 'waits'::regclass") == "t"
    finally:
        target.sql("drop index waits")
