"""The app tier: what runs the site, what it may do, and what it says about itself."""

import contextlib
import json
import math
import time
import types
import uuid
from collections.abc import Callable, Iterator

import pytest
from testinfra.host import Host
from tier import Tier, eventually

testinfra_hosts = ["ansible://app"]

HEALTH = "/-/health"
Ask = Callable[..., tuple[int, str]]  # ask("/path", *options of curl, of=host): (status, body)


@pytest.fixture(scope="session")
def variables(tier: Tier) -> types.SimpleNamespace:
    """Variables of the app hosts, read once."""
    names = (
        "all_hosts",
        "app_port",
        "app_process_mb",
        "app_status_port",
        "app_threads",
        "cache_hosts",
        "groups",
        "host_share",
        "media_hosts",
        "media_port",
        "media_root",
        "site_media_url",
        "site_name",
        "site_root",
        "site_upload_limit_mb",
    )
    found = tier.value("dict(" + ", ".join(f"{name}={name}" for name in names) + ")", tier.hosts("app")[0])
    return types.SimpleNamespace(**found, addresses={host["name"]: host["address"] for host in found["all_hosts"]})


@pytest.fixture
def name(host: Host) -> str:
    """The inventory's name of the host under test."""
    return host.backend.host


@pytest.fixture
def address(variables: types.SimpleNamespace, name: str) -> str:
    return variables.addresses[name]


@pytest.fixture(scope="session")
def balancer(variables: types.SimpleNamespace, tier: Tier) -> Host:
    return tier.host(variables.groups["lb"][0])


@pytest.fixture
def neighbour(variables: types.SimpleNamespace, tier: Tier, name: str) -> Host:
    """Another app host."""
    return tier.host(next(peer for peer in variables.groups["app"] if peer != name))


@pytest.fixture
def ask(host: Host, variables: types.SimpleNamespace, address: str) -> Ask:
    """Ask this host's Apache, from here or from another host: (status, body)."""
    base = f"http://{address}:{variables.app_port}"

    def ask(path: str, *curl: str, of: Host = host) -> tuple[int, str]:
        said = of.run(
            "curl --silent --max-time 5 --write-out '\\n%%{http_code}'" + " %s" * (len(curl) + 1), *curl, base + path
        )
        body, _, status = said.stdout.rpartition("\n")
        return int(status), body

    return ask


@contextlib.contextmanager
def cut_off(host: Host, *addresses: str) -> Iterator[None]:
    """No way from this host to these."""
    try:
        for address in addresses:
            host.check_output("ip route add unreachable %s", address)
        yield
    finally:
        for address in addresses:
            host.run("ip route del unreachable %s", address)


@contextlib.contextmanager
def frozen(host: Host, unit: str) -> Iterator[None]:
    """A service that takes connections and answers nothing."""
    try:
        host.check_output("systemctl kill --signal=STOP %s", unit)
        yield
    finally:
        host.check_output("systemctl kill --signal=CONT %s", unit)


def daemons(host: Host, variables: types.SimpleNamespace) -> list[str]:
    """Ids of the site's processes."""
    return host.check_output("pgrep --full %s", f"^wsgi:{variables.site_name} ").split()


def test_health_reports_release_database_and_cache(
    host: Host, ask: Ask, name: str, variables: types.SimpleNamespace
) -> None:
    status, body = ask(HEALTH)
    release = host.check_output("basename $(readlink %s/current)", variables.site_root)
    assert (status, json.loads(body)) == (
        200,
        {"node": name, "release": release, "django": "ok", "database": "ok", "cache": "ok"},
    )


def test_health_is_503_in_time_while_the_database_hangs(host: Host, ask: Ask) -> None:
    with frozen(host, "pgpool2"):
        begun = time.monotonic()
        status, body = ask(HEALTH)
        assert status == 503
        assert json.loads(body)["database"] == "no answer"
        assert json.loads(body)["cache"] == "ok"
        assert time.monotonic() - begun < 4  # the way to the host and curl's start included
    assert eventually(lambda: ask(HEALTH)[0] == 200)


@pytest.mark.needs(cache=2)
def test_health_is_200_with_a_single_cache_host_and_503_without_any(
    host: Host, ask: Ask, variables: types.SimpleNamespace
) -> None:
    addresses = [cache["address"] for cache in variables.cache_hosts]
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


@pytest.mark.needs(app=2, monitor=1)
def test_health_is_allowed_to_balancers_and_monitors_only(
    ask: Ask, tier: Tier, variables: types.SimpleNamespace, balancer: Host, neighbour: Host
) -> None:
    assert ask(HEALTH, of=balancer)[0] == 200
    assert ask(HEALTH, of=tier.host(variables.groups["monitor"][0]))[0] == 200
    assert ask(HEALTH, "--header", "X-Forwarded-For: 203.0.113.7", of=balancer)[0] == 403
    assert ask(HEALTH, of=neighbour)[0] == 403


@pytest.mark.needs(app=2)
def test_pages_are_allowed_to_balancers_only(
    ask: Ask, variables: types.SimpleNamespace, balancer: Host, neighbour: Host
) -> None:
    pretended = "X-Forwarded-For: " + variables.addresses[variables.groups["lb"][0]]
    assert ask("/", "--header", pretended, of=neighbour)[0] == 403
    assert ask("/", of=balancer)[0] == 200


@pytest.mark.apart("app", "lb")
@pytest.mark.parametrize("balanced", [True, False])
def test_x_forwarded_for_is_trusted_from_balancers_only(
    host: Host, ask: Ask, name: str, address: str, balancer: Host, balanced: bool
) -> None:
    marker = uuid.uuid4().hex
    status, _ = ask(
        "/",
        "--header",
        "X-Forwarded-For: 203.0.113.7",
        "--header",
        f"X-Request-Id: {marker}",
        of=balancer if balanced else host,
    )
    assert status == 200
    line = host.check_output("grep --no-filename %s /var/log/apache2/access.log", marker)
    assert line.split()[0] == ("203.0.113.7" if balanced else address)
    assert f"{name}/" in line.split()[-1]


def test_a_body_over_the_limit_is_refused_by_content_length(ask: Ask, variables: types.SimpleNamespace) -> None:
    limit = variables.site_upload_limit_mb * 1024 * 1024
    assert ask("/", "--request", "POST", "--header", f"Content-Length: {limit + 1}")[0] == 413


def test_server_status_of_apache_is_allowed_to_localhost_only(
    host: Host, variables: types.SimpleNamespace, address: str
) -> None:
    port = str(variables.app_status_port)
    assert "BusyWorkers" in host.check_output("curl -s 'http://127.0.0.1:%s/server-status?auto'", port)
    assert host.run("curl -s --max-time 2 http://%s:%s/server-status", address, port).rc != 0


STORAGE = """
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage as storage
name = "%s.txt"
"""


def manage(host: Host, script: str) -> list[str]:
    """What a script prints that runs inside the site."""
    return host.check_output("manage shell --verbosity 0 --command %s", script).splitlines()


@pytest.mark.needs(app=2)
def test_an_upload_is_on_every_media_host_and_readable_from_every_app_host(
    host: Host, tier: Tier, variables: types.SimpleNamespace, balancer: Host, neighbour: Host
) -> None:
    directory = "realworld-" + uuid.uuid4().hex
    start = STORAGE % f"{directory}/picture"
    try:
        [uploaded] = manage(host, start + "print(storage.save(name, ContentFile(b'a picture')))")
        for media in variables.media_hosts:
            url = f"http://{media['address']}:{variables.media_port}{variables.site_media_url}{uploaded}"
            assert balancer.check_output("curl --silent --fail %s", url) == "a picture"
        assert manage(neighbour, start + "print(storage.open(name).read())") == ["b'a picture'"]
        # A second of the same name gets another one, and the first stays what it was.
        second, first = manage(
            neighbour,
            start
            + """
second = storage.save(name, ContentFile(b'another'))
print(second, storage.open(name).read(), sep="\\n")
storage.delete(second)
""",
        )
        assert second != uploaded
        assert first == "b'a picture'"
        # Code that opens a file to write to, asks for its path, or whether its directory exists.
        assert manage(
            neighbour,
            start
            + """
with storage.open(name, "a") as file:
    file.write(" of us")
import os
print(storage.open(name, "r").read(), open(storage.path(name)).read(), storage.exists(os.path.dirname(name)), sep="\\n")
""",
        ) == ["a picture of us", "a picture of us", "True"]
        assert manage(host, start + "print(storage.open(name).read())") == ["b'a picture of us'"]
    finally:
        left = manage(host, start + "storage.delete(name); print(storage.exists(name))")
        for media in variables.groups["media"]:
            tier.host(media).run("rmdir %s", f"{variables.media_root}/{directory}")
    assert left == ["False"]


@pytest.mark.needs(media=2)
def test_an_upload_succeeds_while_a_media_host_is_unreachable(host: Host, variables: types.SimpleNamespace) -> None:
    with cut_off(host, variables.media_hosts[0]["address"]):
        assert (
            manage(
                host,
                STORAGE % uuid.uuid4().hex
                + """
storage.save(name, ContentFile(b"x"))
print(storage.open(name).read())
storage.delete(name)
""",
            )[-1]
            == "b'x'"
        )


def test_the_site_can_write_to_private_temporary_directories_only(host: Host, variables: types.SimpleNamespace) -> None:
    found = host.check_output(
        "nsenter --mount --target $(systemctl show --property MainPID --value apache2) -- runuser -u %s -- "
        "find / -path /proc -prune -o -path /sys -prune -o '(' -type d -o -type f ')' -writable -print 2>/dev/null || true",
        variables.site_name,
    )
    assert set(found.split()) == {"/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"}
    for directory in ("/tmp", "/var/tmp"):
        path = f"{directory}/{uuid.uuid4().hex}"
        host.check_output("touch %s", path)
        seen = host.run(
            "nsenter --mount --target $(systemctl show --property MainPID --value apache2) -- test -e %s", path
        )
        host.check_output("rm %s", path)
        assert seen.rc == 1, f"{directory} is the host's own"


def test_number_and_user_of_the_processes_of_the_site(host: Host, variables: types.SimpleNamespace) -> None:
    cores, kilobytes = map(int, host.check_output("nproc; awk '/^MemTotal/ {print $2}' /proc/meminfo").split())
    cores, memory = max(1, math.ceil(cores * variables.host_share)), kilobytes / 1024 * variables.host_share
    pids = daemons(host, variables)
    assert len(pids) == max(2, min(2 * cores, memory // 2 // variables.app_process_mb))
    for line in host.check_output("ps -o user:64=,nlwp= -p %s", ",".join(pids)).splitlines():
        user, threads = line.split()
        assert user == variables.site_name
        assert int(threads) >= variables.app_threads


def test_processes_of_apache_do_not_load_the_site(host: Host, variables: types.SimpleNamespace, address: str) -> None:
    host.check_output(
        "for _ in $(seq 40); do curl --silent --fail --output /dev/null http://%s:%s/; done",
        address,
        str(variables.app_port),
    )
    processes = host.check_output("ps -o pid=,rss= --ppid $(systemctl show --property MainPID --value apache2)")
    memory = {pid: int(rss) for pid, rss in map(str.split, processes.splitlines())}
    site = {pid: memory.pop(pid) for pid in daemons(host, variables)}
    assert len(memory) > 1
    assert max(memory.values()) < min(site.values()) / 2  # an interpreter with Django in it weighs several times theirs


def test_apache_restarts_after_a_crash(host: Host, ask: Ask) -> None:
    before = host.check_output("systemctl show --property MainPID --value apache2")
    host.check_output("kill -KILL %s", before)
    assert eventually(lambda: ask(HEALTH)[0] == 200)
    assert host.check_output("systemctl show --property MainPID --value apache2") not in (before, "0")


def test_a_killed_process_of_the_site_is_replaced(host: Host, ask: Ask, variables: types.SimpleNamespace) -> None:
    before = daemons(host, variables)
    host.check_output("kill -KILL " + " ".join(before))
    assert eventually(lambda: ask(HEALTH)[0] == 200)
    assert eventually(lambda: len(set(daemons(host, variables)) - set(before)) == len(before))


def test_no_secret_is_in_a_command_line_or_a_world_readable_file(host: Host, variables: types.SimpleNamespace) -> None:
    # The secrets stay on the host, and out of the command lines that look for them.
    described = f"/etc/{variables.site_name}/site.json"
    secrets = (
        f'python3 -c \'import json; s = json.load(open("{described}")); '
        'print(s["secret_key"], s["database"]["password"], *s["secrets"].values(), sep="\\n")\''
    )
    assert int(host.check_output(secrets + " | grep --count .")) >= 2
    find = "grep --files-with-matches --no-messages --fixed-strings --file=- "
    assert host.check_output(secrets + " | " + find + "--text /proc/[0-9]*/cmdline || true") == ""
    assert (
        host.check_output(
            secrets + " | runuser -u nobody -- " + find + "--recursive --binary-files=without-match "
            f"--exclude-dir=venv /etc {variables.site_root} /run /usr/local /var/log /var/lib || true"
        )
        == ""
    )
    assert host.run("runuser -u %s -- test -w %s", variables.site_name, described).rc == 1


def test_a_request_is_logged_with_the_request_id(host: Host, ask: Ask) -> None:
    marker = uuid.uuid4().hex
    assert ask(f"/none-{marker}", "--header", f"X-Request-Id: {marker}")[0] == 404
    assert eventually(
        lambda: (
            f"[{marker}]" in host.check_output("journalctl --identifier apache2 --since -1min --output cat --no-pager")
        ),
        5,
    )
