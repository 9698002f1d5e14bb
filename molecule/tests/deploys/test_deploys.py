"""A release goes over the pool while visitors come and go: the good ones all the way, the others back."""

import json
import os
import signal
import subprocess
import time
import uuid

import pytest
from tier import ROOT

MIDDLEWARE = """
import random, time

class Change:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        {code}
        return self.get_response(request)
"""


def middleware(code):
    """An edit that runs code at every request, before the site does."""

    def edit(source):
        (source / "newsbudget/change.py").write_text(MIDDLEWARE.format(code=code), encoding="utf-8")
        settings = source / "newsbudget/settings.py"
        settings.write_text(
            settings.read_text(encoding="utf-8") + '\nMIDDLEWARE = ["newsbudget.change.Change", *MIDDLEWARE]\n',
            encoding="utf-8",
        )

    return edit


def migration(model, field, operation):
    """An edit that adds a migration of the ledger; field goes into the model's code, the operation into the migration."""

    def edit(source):
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


def unwell(source):
    """A release that passes every check and does not start where it serves."""
    with open(source / "newsbudget/wsgi.py", "a", encoding="utf-8") as wsgi:
        wsgi.write('raise RuntimeError("unwell on purpose")\n')


# Two parts of an answer, each of which takes longer than a host has that answers nobody.
PARTS = """if "parts" in request.GET:
            from django.http import StreamingHttpResponse
            return StreamingHttpResponse(time.sleep(PAUSE) or part for part in ("first", "last"))"""

NOTE = migration(
    "Entry",
    "note = models.CharField(max_length=20, null=True)",
    'migrations.AddField("entry", "note", models.CharField(max_length=20, null=True))',
)


@pytest.fixture(name="served")
def served_fixture(tier, visitor):
    """served() is what visitors get: {host: its release}, of every app host that the balancers use."""

    def served():
        about = [visitor.get(f"{tier.url}/about/?format=json", timeout=10).json() for _ in range(20)]
        return {one["node"]: one["release"] for one in about}

    return served


@pytest.fixture(name="style")
def style_fixture(tier, visitor):
    """style() is a static file as visitors get it."""
    return lambda: visitor.get(f"{tier.url}/static/newsbudget/site.css", timeout=10).text


def current(place):
    """{host: the release that is current on it}, as a set of what there is."""
    return {place.on(app, f"basename $(readlink {place.facts['site_root']}/current)") for app in place.groups["app"]}


def ledger(place, host):
    """Entries of a host's ledger."""
    return [json.loads(line) for line in place.on(host, "cat /var/log/releases.jsonl").splitlines()]


def drained(place):
    """Servers that a balancer passes over."""
    return [
        line
        for lb in place.groups["lb"]
        for line in place.on(lb, "grep ' down;' /etc/nginx/nginx.conf || true").splitlines()
    ]


def words(done):
    """What a finished command said, in one line."""
    return " ".join((done.stdout + done.stderr).split())


def asked(place, known_as):
    """How often the app hosts were asked for a page, by its request id."""
    return sum(
        int(place.on(app, f"grep -c ' {known_as} ' /var/log/apache2/access.log || true")) for app in place.groups["app"]
    )


def test_a_release_goes_live_everywhere_and_back_again(
    place, tier, visitor, make, deploy, variant, served, style, unharmed
):
    """With its static files, also those whose names have no hash, which the release since has replaced. Its slow page is asked once, and comes whole."""
    old, before = current(place), style()
    assert len(old) == 1
    known_as = str(uuid.uuid4())
    with unharmed():
        done = deploy(
            variant(middleware(PARTS.replace("PAUSE", str(tier.value("lb_failover_s", place.groups["lb"][0]) + 1))))
        )
        assert done.returncode == 0, done.stdout[-3000:]
        new = current(place)
        assert len(new) == 1 and new != old
        now = served()
        assert set(now) == set(place.groups["app"]) and set(now.values()) == new
        assert style() != before
        page = visitor.get(f"{tier.url}/about/?parts=2", headers={"X-Request-Id": known_as}, timeout=30)
        assert (page.status_code, page.text) == (200, "firstlast")
        place.await_nothing(lambda: "" if asked(place, known_as) else "nobody", "app host that was asked")
        assert asked(place, known_as) == 1
    for host in place.groups["all"]:
        last = ledger(place, host)[-1]
        assert (last["verb"], last["release"], last["result"]) == ("deploy", *new, "live"), host
        assert "@" in last["who"]
        assert "live" in place.on(host, "journalctl -q -t releases -n 1 -o cat")
    with unharmed():
        done = make("rollback")
        assert done.returncode == 0, done.stdout[-3000:]
        assert current(place) == old and set(served().values()) == old
        assert style() == before
    said = make("releases")
    assert said.returncode == 0, said.stdout
    assert [line.split()[2:5] for line in said.stdout.splitlines() if "@" in line][-2:] == [
        ["deploy", *new, "live"],
        ["rollback", *old, "live"],
    ]


def test_an_unwell_release_goes_back_by_itself(place, make, deploy, variant, served, style, unharmed):
    """With its static files."""
    old, before = current(place), style()
    with unharmed():
        done = deploy(variant(unwell), django_health_retries=3)
        assert done.returncode != 0
        assert "was taken back" in words(done) and "Every app host serves what it served before" in words(done)
        assert current(place) == old
        assert drained(place) == []
        assert set(served()) == set(place.groups["app"]) and set(served().values()) == old
        assert style() == before
    assert ledger(place, place.groups["app"][0])[-1]["result"].startswith("went back:")


def test_a_release_that_visitors_find_broken_goes_back_by_itself(place, tier, deploy, variant, served, chromium):
    """Every host is well by its own word; one page that another one links to is not, and nobody can sign in."""
    old = current(place)
    place.manage(
        place.groups["app"][0],
        "from django.contrib.auth import get_user_model; get_user_model().objects.filter(username='smoke').delete()",
    )
    place.whole()
    broken = middleware(
        "assert request.path != '/about/' and (request.method, request.path) != ('POST', '/accounts/login/')"
    )
    done = deploy(variant(broken), site_smoke_most=40, site_smoke_sign_in=tier.value("site_smoke_sign_in", "lb[0]"))
    assert done.returncode != 0
    assert "was taken back: visitors miss what they got before. The page /about/ is not there: 500" in words(done), (
        words(done)[-3000:]
    )
    assert "; Nobody can sign in at /accounts/login/" in words(done), words(done)[-3000:]
    assert "Every app host serves what it served before" in words(done)
    assert current(place) == old and drained(place) == []
    assert set(served()) == set(place.groups["app"]) and set(served().values()) == old
    assert "The page /about/" in ledger(place, place.groups["app"][0])[-1]["result"]
    place.whole()


def test_a_release_that_breaks_the_running_one_is_refused(place, deploy, variant):
    old = current(place)
    done = deploy(variant(migration("Entry", "", 'migrations.RenameField("entry", "text", "words")')))
    assert done.returncode != 0
    assert "ledger.0003_change renames ledger.entry.text to words" in words(done)
    assert "BREAKING=1" in words(done)
    assert current(place) == old
    assert place.sql("select count(*) from django_migrations where name = '0003_change'") == "0"


def test_a_migration_waits_for_nobody_longer_than_said(place, deploy, variant, unharmed):
    """Visitors queue behind it."""
    old = current(place)
    with unharmed():
        holder = subprocess.Popen(
            [
                "docker",
                "exec",
                "-u",
                "postgres",
                place.container(place.primary()),
                "psql",
                "-d",
                place.facts["site_name"],
                "-p",
                str(place.facts["db_port"]),
                "-c",
                "begin; select count(*) from public.ledger_entry; select pg_sleep(120)",
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            done = deploy(variant(NOTE), site_lock_timeout_s=2)
        finally:
            place.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(120)%' and pid <> pg_backend_pid()",
                superuser=True,
            )
            holder.wait()
        assert done.returncode != 0
        assert "lock timeout" in words(done) and "it is safe to try again" in words(done)
        assert current(place) == old
    assert ledger(place, place.groups["app"][0])[-1]["result"].startswith("failed")


def background(place, source):
    """A deploy of a directory, under way; its process group can be killed. Its output goes to a file beside the directory."""
    with open(f"{source}.out", "w", encoding="utf-8") as out:
        return subprocess.Popen(
            [
                "make",
                "--no-print-directory",
                "deploy",
                *place.tier.words,
                f"VARS={json.dumps({'site_source': str(source)})}",
            ],
            cwd=ROOT,
            env=dict(os.environ, MAKEFLAGS=""),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def test_one_at_a_time_and_one_that_is_cut_off_is_finished(place, make, deploy, variant, served, unharmed):
    old, source = current(place), variant()
    with unharmed():
        first = background(place, source)
        place.wait(
            lambda: any(place.on(app, "pgrep -f '[h]old-the-tier' || true") for app in place.groups["app"]), "lock"
        )
        done = make("deploy")
        assert done.returncode != 0
        assert "Nothing was touched." in words(done) and f"{os.uname().nodename} (make deploy, pid" in words(done)
        # Between two hosts: one serves the new release, one the old.
        place.wait(lambda: len(current(place)) == 2, "half a deploy")
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        said = make("releases")
        assert said.returncode != 0 and "cut off, or under way" in said.stdout
        refused = make("rollback")
        assert refused.returncode != 0 and "The app hosts serve different releases" in words(refused)
        done = deploy(source)
        assert done.returncode == 0, done.stdout[-3000:]
        assert len(current(place)) == 1 and current(place) != old
        assert drained(place) == []
        assert set(served()) == set(place.groups["app"])


CANARY = {"canary_s": 8, "canary_requests": 40}


def test_a_good_canary_is_promoted(place, deploy, served, unharmed):
    """For a share of the visitors, each of whom stays with the release that they saw first. It is the demo's own: the tier is left as it was found."""
    old = current(place)
    with unharmed(pace=1.0):
        done = deploy(ROOT / "demo", "CANARY=50%", **CANARY)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "The canary is as good" in words(done)
        assert len(current(place)) == 1 and current(place) != old
        assert "canary" not in place.on(place.groups["lb"][0], "cat /etc/nginx/nginx.conf")
        assert set(served().values()) == current(place)


def test_a_slow_canary_is_taken_back(place, deploy, variant, served, unharmed):
    old, app = current(place), place.groups["app"][-1]
    slow = variant(middleware("time.sleep(1.0)"))  # what is wrong with this release
    with unharmed(pace=1.0):
        done = deploy(slow, f"CANARY={app}", **CANARY)
        assert done.returncode != 0
        assert f"it is slow: {app}" in words(done)
        assert current(place) == old and set(served().values()) == old
    assert "it is slow" in ledger(place, app)[-1]["result"]


def test_a_failing_canary_is_taken_back(place, deploy, variant, served, tier, visitor):
    """Few visitors meet it, and none any more once it is back."""
    old, app = current(place), place.groups["app"][0]
    visitor.headers["Connection"] = (
        "close"  # a balancer that reads its configuration anew closes idle ones; a browser asks again, requests does not
    )
    place.whole()
    source = variant(middleware("assert request.path != '/about/' or random.random() < 0.2"))
    with subprocess.Popen(
        [
            "make",
            "--no-print-directory",
            "deploy",
            *place.tier.words,
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
        said = " ".join(canary.stdout.read().split())
    assert canary.returncode != 0
    assert f"it fails: {app}" in said
    assert 500 in statuses and statuses.count(200) > statuses.count(500)
    assert current(place) == old and set(served().values()) == old
    assert {visitor.get(f"{tier.url}/about/", timeout=10).status_code for _ in range(20)} == {200}


def test_a_canary_nobody_can_judge_is_refused(place, make):
    old = current(place)
    for canary, reason in [
        ("nobody", "is neither a host of the app pool"),
        (",".join(place.groups["app"]), "is the whole pool"),
    ]:
        done = make("deploy", f"CANARY={canary}")
        assert done.returncode != 0 and reason in words(done)
    assert current(place) == old


def test_an_index_that_is_built_concurrently_waits_longer_than_for_a_lock(place):
    """It keeps nobody waiting meanwhile; cut off, it would leave an index that is not valid."""
    build = "from django.db import connection; connection.cursor().execute('create index concurrently waits on ledger_entry (amount)')"
    with subprocess.Popen(
        [
            "docker",
            "exec",
            "-u",
            "postgres",
            place.container(place.primary()),
            "psql",
            "-d",
            place.facts["site_name"],
            "-p",
            str(place.facts["db_port"]),
            "-c",
            "begin; select count(*) from public.ledger_entry; select pg_sleep(4)",
        ],
        stdout=subprocess.DEVNULL,
    ):
        place.wait(
            lambda: place.sql(
                "select 1 from pg_stat_activity where query like '%pg_sleep(4)%' and pid <> pg_backend_pid()",
                superuser=True,
            ),
            "reader",
        )
        begun = time.monotonic()
        place.on(place.groups["app"][0], f'LOCK_TIMEOUT=1 manage shell -v 0 -c "{build}"')
    try:
        assert time.monotonic() - begun > 1
        assert place.sql("select indisvalid from pg_index where indexrelid = 'waits'::regclass") == "t"
    finally:
        place.sql("drop index waits")
