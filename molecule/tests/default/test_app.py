"""The app tier: what runs the site, what it may do, and what it says about itself."""

import contextlib
import json
import time
import uuid

import pytest
import testinfra

testinfra_hosts = ["ansible://app"]

HEALTH = "/-/health"


@pytest.fixture
def name(host):
    """The inventory's name of the host under test."""
    return host.backend.get_hostname()


@pytest.fixture
def site(tier):
    return tier.value("site_name")


@pytest.fixture
def ask(host, tier, name):
    """Ask this host's Apache, from here or from another host: (status, body)."""
    base = f"http://{tier.address(name)}:{tier.value('app_port')}"

    def ask(path, *curl, of=host):
        said = of.run("curl --silent --max-time 5 --write-out '\\n%%{http_code}'" + " %s" * (len(curl) + 1), *curl, base + path)
        body, _, status = said.stdout.rpartition("\n")
        return int(status), body

    return ask


def other(tier, hostname):
    """Another host of the tier."""
    return testinfra.get_host(f"ansible://{hostname}", ansible_inventory=tier.inventory, sudo=True)


def eventually(true, seconds=20):
    """Await a condition: what it came to, true or not."""
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def cut_off(host, *addresses):
    """No way from this host to these."""
    try:
        for address in addresses:
            host.check_output("ip route add unreachable %s", address)
        yield
    finally:
        for address in addresses:
            host.run("ip route del unreachable %s", address)


@contextlib.contextmanager
def frozen(host, unit):
    """A service that takes connections and answers nothing."""
    try:
        host.check_output("systemctl kill --signal=STOP %s", unit)
        yield
    finally:
        host.check_output("systemctl kill --signal=CONT %s", unit)


def daemons(host, site):
    return host.check_output("pgrep --full '^wsgi:%s '" % site).split()


def test_the_node_proves_that_it_can_serve(host, ask, name, tier):
    status, body = ask(HEALTH)
    release = host.check_output("basename $(readlink %s/current)" % tier.value("site_root", name))
    assert (status, json.loads(body)) == (
        200, {"node": name, "release": release, "django": "ok", "database": "ok", "cache": "ok"})


def test_the_node_says_no_in_time_when_the_database_hangs(host, ask):
    with frozen(host, "pgpool2"):
        begun = time.monotonic()
        status, body = ask(HEALTH)
        assert status == 503
        assert json.loads(body)["database"] == "no answer"
        assert json.loads(body)["cache"] == "ok"
        assert time.monotonic() - begun < 4  # the way to the host and curl's start included
    assert eventually(lambda: ask(HEALTH)[0] == 200)


def test_one_cache_node_may_die_and_not_all(host, ask, tier):
    addresses = [cache["address"] for cache in tier.value("cache_hosts")]
    with cut_off(host, *addresses[1:]):
        assert ask(HEALTH)[0] == 200
        assert ask("/")[0] == 200
    with cut_off(host, *addresses):
        status, body = ask(HEALTH)
        assert status == 503
        assert json.loads(body)["cache"] not in ("ok", "no answer")
        assert json.loads(body)["database"] == "ok"
        assert ask("/")[0] == 200  # slower, but there
    assert eventually(lambda: ask(HEALTH)[0] == 200)


def test_health_is_for_balancers_and_monitors_not_for_visitors(ask, tier, name):
    balancer = other(tier, tier.hosts("lb")[0])
    assert ask(HEALTH, of=balancer)[0] == 200
    assert ask(HEALTH, of=other(tier, tier.hosts("monitor")[0]))[0] == 200
    assert ask(HEALTH, "--header", "X-Forwarded-For: 203.0.113.7", of=balancer)[0] == 403
    neighbour = other(tier, next(peer for peer in tier.hosts("app") if peer != name))
    assert ask(HEALTH, of=neighbour)[0] == 403


def test_pages_are_for_balancers(ask, tier, name):
    neighbour = other(tier, next(peer for peer in tier.hosts("app") if peer != name))
    assert ask("/", "--header", "X-Forwarded-For: " + tier.address(tier.hosts("lb")[0]), of=neighbour)[0] == 403
    assert ask("/", of=other(tier, tier.hosts("lb")[0]))[0] == 200


@pytest.mark.parametrize("balanced", [True, False])
def test_only_a_balancer_is_believed_who_the_visitor_is(host, ask, tier, name, balanced):
    marker = uuid.uuid4().hex
    status, _ = ask("/", "--header", "X-Forwarded-For: 203.0.113.7", "--header", f"X-Request-Id: {marker}",
                    of=other(tier, tier.hosts("lb")[0]) if balanced else host)
    assert status == 200
    line = host.check_output("grep --no-filename %s /var/log/apache2/access.log", marker)
    assert line.split()[0] == ("203.0.113.7" if balanced else tier.address(name))
    assert f"{name}/" in line.split()[-1]


def test_a_body_over_the_limit_is_refused_before_it_is_sent(ask, tier):
    limit = tier.value("site_upload_limit_mb") * 1024 * 1024
    assert ask("/", "--request", "POST", "--header", f"Content-Length: {limit + 1}")[0] == 413


def test_the_status_is_for_this_host_alone(host, tier, name):
    port = str(tier.value("app_status_port", name))
    assert "BusyWorkers" in host.check_output("curl -s 'http://127.0.0.1:%s/server-status?auto'", port)
    assert host.run("curl -s --max-time 2 http://%s:%s/server-status", tier.address(name), port).rc != 0


def test_an_upload_is_on_every_media_host_and_readable_from_every_app_host(host, tier, name):
    uploaded = f"realworld-test/{uuid.uuid4().hex}.txt"
    manage = "manage shell --verbosity 0 --command "
    storage = "from django.core.files.storage import default_storage as s; from django.core.files.base import ContentFile as C; "
    try:
        assert host.check_output(manage + "%s", storage + f"print(s.save('{uploaded}', C(b'a picture')))") == uploaded
        balancer = other(tier, tier.hosts("lb")[0])
        for media in tier.value("media_hosts"):
            url = f"http://{media['address']}:{tier.value('media_port')}{tier.value('site_media_url')}{uploaded}"
            assert balancer.check_output("curl --silent --fail %s", url) == "a picture"
        for peer in tier.hosts("app"):
            assert other(tier, peer).check_output(manage + "%s", storage + f"print(s.open('{uploaded}').read())") == "b'a picture'"
        # A second of the same name gets another one, and the first stays what it was.
        script = storage + f"n = s.save('{uploaded}', C(b'another')); print(n, s.open('{uploaded}').read()); s.delete(n)"
        second, _, first = host.check_output(manage + "%s", script).partition(" ")
        assert second != uploaded
        assert first == "b'a picture'"
    finally:
        host.run(manage + "%s", storage + f"s.delete('{uploaded}'); print(s.exists('{uploaded}'))")


def test_an_upload_succeeds_while_one_media_host_is_away(host, tier):
    uploaded = f"realworld-test/{uuid.uuid4().hex}.txt"
    script = ("from django.core.files.storage import default_storage as s; from django.core.files.base import ContentFile as C; "
              f"s.save('{uploaded}', C(b'x')); print(s.open('{uploaded}').read()); s.delete('{uploaded}')")
    with cut_off(host, tier.value("media_hosts")[0]["address"]):
        assert host.check_output("manage shell --verbosity 0 --command %s", script).splitlines()[-1] == "b'x'"


def test_the_site_can_write_nowhere_but_its_own_temporary_directories(host, site):
    found = host.check_output(
        "nsenter --mount --target $(systemctl show --property MainPID --value apache2) -- runuser -u %s -- "
        "find / -path /proc -prune -o -path /sys -prune -o '(' -type d -o -type f ')' -writable -print 2>/dev/null || true", site)
    assert set(found.split()) == {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"}
    for directory in ("/tmp", "/var/tmp"):
        path = f"{directory}/{uuid.uuid4().hex}"
        host.check_output("touch %s", path)
        seen = host.run("nsenter --mount --target $(systemctl show --property MainPID --value apache2) -- test -e %s", path)
        host.check_output("rm %s", path)
        assert seen.rc == 1, f"{directory} is the host's own"


def test_the_site_runs_in_as_many_processes_as_were_computed_and_as_its_own_user(host, site, tier, name):
    pids = daemons(host, site)
    assert len(pids) == int(tier.value("app_processes", name))
    for pid in pids:
        process = host.process.get(pid=pid)
        assert process.user == site
        assert int(process.thcount) >= tier.value("app_threads", name)


def test_apaches_own_processes_never_load_the_site(host, site, tier, name, ask):
    assert ask("/")[0] == 200
    root = tier.value("site_root", name)
    ours = daemons(host, site)
    for pid in host.check_output("pgrep apache2 --uid www-data,%s", site).split() + ours:
        loaded = host.run("runuser -u %s -- grep -q %s/releases /proc/%s/maps", site if pid in ours else "www-data", root, pid)
        assert loaded.rc == (0 if pid in ours else 1)


def test_apache_is_back_after_it_was_killed(host, ask):
    before = host.check_output("systemctl show --property MainPID --value apache2")
    host.check_output("kill -KILL %s", before)
    assert eventually(lambda: ask(HEALTH)[0] == 200)
    assert host.check_output("systemctl show --property MainPID --value apache2") not in (before, "0")


def test_a_killed_process_of_the_site_is_replaced(host, site, ask, tier, name):
    before = daemons(host, site)
    host.check_output("kill -KILL " + " ".join(before))
    assert eventually(lambda: ask(HEALTH)[0] == 200)
    assert eventually(lambda: len(set(daemons(host, site)) - set(before)) == int(tier.value("app_processes", name)))


def test_no_secret_is_in_a_process_list_or_a_file_for_everybody(host, site, tier, name):
    # The secrets stay on the host, and out of the command lines that look for them.
    secrets = f"python3 -c 'import json; s = json.load(open(\"/etc/{site}/site.json\")); " \
              "print(s[\"secret_key\"], s[\"database\"][\"password\"], *s[\"secrets\"].values(), sep=\"\\n\")'"
    assert int(host.check_output(secrets + " | grep --count .")) >= 2
    assert host.check_output(secrets + " | grep --files-with-matches --text --no-messages --fixed-strings --file=- "
                             "/proc/[0-9]*/cmdline || true") == ""
    readable = host.check_output(secrets + " | runuser -u nobody -- grep --recursive --binary-files=without-match "
                                 "--files-with-matches --no-messages --fixed-strings --exclude-dir=venv --file=- "
                                 "/etc %s /run /usr/local /var/log /var/lib || true" % tier.value("site_root", name))
    assert readable == ""
    assert host.run("runuser -u %s -- test -w /etc/%s/site.json", site, site).rc == 1


def test_a_request_is_logged_with_the_balancers_id(host, ask):
    marker = uuid.uuid4().hex
    assert ask(f"/none-{marker}", "--header", f"X-Request-Id: {marker}")[0] == 404
    assert eventually(lambda: f"[{marker}]" in host.check_output(
        "journalctl --identifier apache2 --since -1min --output cat --no-pager"), 5)
