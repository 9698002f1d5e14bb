"""What a visitor of the whole tier relies on: every hop, and nothing shared but database and cache."""

import io
import json
import pathlib
import re
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import requests
from fixtures import OnHost
from tier import Tier, search

PASSWORD = "only-for-this-test-0123456789"
EDITOR = "tier-test"


def png() -> bytes:
    """A small picture: the bytes of a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"".join(bytes((x * 8, y * 8, 128)) for x in range(32)) for y in range(32))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(name="served_by", scope="module")
def served_by_fixture(tier: Tier, on: OnHost) -> Callable[[Iterable[requests.Response]], set[str]]:
    """served_by(answers) is the set of app hosts that gave them, as the balancers' logs tell."""
    addresses = {f"{tier.address(name)}:{tier.value('app_port')}": name for name in tier.hosts("app")}
    balancers = [on(name) for name in tier.hosts("lb")]

    def served_by(answers: Iterable[requests.Response]) -> set[str]:
        wanted = {answer.headers["X-Request-Id"] for answer in answers}
        deadline = time.monotonic() + 5
        while True:
            lines = [
                json.loads(line)
                for lb in balancers
                for line in lb.run("tail --lines 400 /var/log/nginx/access.log").stdout.splitlines()
            ]
            found = {
                line["request_id"]: line["upstream"].split(", ")[-1] for line in lines if line["request_id"] in wanted
            }
            if set(found) == wanted:
                return {addresses[upstream] for upstream in found.values()}
            assert time.monotonic() < deadline, f"not in any balancer's log: {wanted - set(found)}"

    return served_by


@pytest.fixture(name="signed_in")
def signed_in_fixture(tier: Tier, visitor: requests.Session, on: OnHost) -> requests.Session:
    """A visitor signed in to the demo site as an editor."""
    made = on(tier.hosts("app")[0]).run("echo %s | /usr/local/bin/manage create_editor --username %s", PASSWORD, EDITOR)
    assert made.rc == 0, made.stderr
    visitor.headers["Referer"] = tier.url + "/"
    post(visitor, f"{tier.url}/accounts/login/", data={"username": EDITOR, "password": PASSWORD})
    return visitor


def post(visitor: requests.Session, url: str, **form: Any) -> requests.Response:
    """Fill in the form of a page as a browser does; return the answer to the POST, redirects followed."""
    token = search(r'name="csrfmiddlewaretoken" value="(\w+)"', visitor.get(url, timeout=10).text)[1]
    answer = visitor.post(url, **{**form, "data": {**form["data"], "csrfmiddlewaretoken": token}}, timeout=10)
    assert answer.status_code == 200 and answer.history, (
        f"{url}: {answer.status_code}, no redirect: {answer.text[:300]}"
    )
    return answer


def picture_of(visitor: requests.Session, tier: Tier) -> tuple[str | None, ...]:
    """Post a story with a picture; return the picture's path."""
    story = post(
        visitor,
        f"{tier.url}/budget/stories/add/",
        data={"title": "A picture for the tier", "date": "2026-01-02", "status": "1", "text": "words"},
        files={"picture": ("tier.png", io.BytesIO(png()), "image/png")},
    )
    return search(r'class="picture"[^>]*src="([^"]+)"|src="([^"]+)"[^>]*class="picture"', story.text).group(1, 2)


def test_the_page_and_the_style_sheet_are_served_by_the_virtual_ip(visitor: requests.Session, tier: Tier) -> None:
    page = visitor.get(tier.url, timeout=10)
    assert page.status_code == 200
    # The starter stories come from the database, so the page went all the way down.
    assert re.search(r'href="/budget/stories/\d+-', page.text)
    style = search(r'href="(/static/[^"]+\.css)"', page.text)[1]
    assert re.search(r"\.[0-9a-f]{12}\.css$", style), "static names are hashed"
    answer = visitor.get(tier.url + style, timeout=10)
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/css")
    assert "immutable" in answer.headers["Cache-Control"]


def test_every_app_host_serves_the_same_release(
    visitor: requests.Session, tier: Tier, served_by: Callable[[Iterable[requests.Response]], set[str]]
) -> None:
    answers = [visitor.get(f"{tier.url}/about/?format=json", timeout=10) for _ in range(20)]
    assert served_by(answers) == set(tier.hosts("app"))
    assert {a.json()["node"] for a in answers} == set(tier.hosts("app"))
    assert len({a.json()["release"] for a in answers}) == 1


def test_a_session_is_valid_on_every_app_host(
    signed_in: requests.Session, tier: Tier, served_by: Callable[[Iterable[requests.Response]], set[str]]
) -> None:
    answers = [signed_in.get(f"{tier.url}/accounts/", timeout=10) for _ in range(12)]
    assert all(a.status_code == 200 and "Sign out" in a.text for a in answers)
    assert served_by(answers) == set(tier.hosts("app"))


def test_a_write_is_read_by_the_next_request(visitor: requests.Session, tier: Tier) -> None:
    """Counting visits is a write and a read per request, on whichever host and database."""
    counts = [visitor.get(f"{tier.url}/visits/?format=json", timeout=10).json()["visits"] for _ in range(20)]
    assert counts == list(range(counts[0], counts[0] + 20))


def test_an_uploaded_picture_is_on_every_media_host(
    signed_in: requests.Session, tier: Tier, visitor: requests.Session
) -> None:
    path = next(filter(None, picture_of(signed_in, tier)))
    through_the_balancer = visitor.get(tier.url + path, timeout=10)
    assert through_the_balancer.status_code == 200
    for name in tier.hosts("media"):
        direct = visitor.get(f"http://{tier.address(name)}:{tier.value('media_port')}{path}", timeout=10)
        assert direct.status_code == 200, name
        assert direct.content == through_the_balancer.content


def test_the_balance_sheet_is_computed_once_for_all_app_hosts(
    visitor: requests.Session, tier: Tier, served_by: Callable[[Iterable[requests.Response]], set[str]]
) -> None:
    answers = [visitor.get(f"{tier.url}/ledger/?format=json", timeout=10) for _ in range(12)]
    sheets = [a.json() for a in answers]
    assert served_by(answers) == set(tier.hosts("app"))
    assert all(sheet["cached"] for sheet in sheets[1:])
    assert len({sheet["computed_by"] for sheet in sheets}) == 1


def test_an_unchanged_page_is_answered_with_304(visitor: requests.Session, tier: Tier) -> None:
    first = visitor.get(tier.url, timeout=10)
    for _ in range(6):
        assert visitor.get(tier.url, headers={"If-None-Match": first.headers["ETag"]}, timeout=10).status_code == 304


@pytest.mark.apart("app", "media", "cache", "db")
def test_requests_write_no_file_outside_declared_paths_of_app_hosts(
    signed_in: requests.Session, tier: Tier, on: OnHost, served_by: Callable[[Iterable[requests.Response]], set[str]]
) -> None:
    """Requests of every kind, an upload among them, leave no new file but logs and what services keep in /run."""
    hosts = {name: on(name) for name in tier.hosts("app")}
    for host in hosts.values():
        host.check_output("touch /run/tier-test-mark")
    answers = [signed_in.get(tier.url + path, timeout=10) for path in ("/", "/ledger/", "/visits/", "/about/") * 3]
    picture_of(signed_in, tier)
    assert served_by(answers) == set(hosts)
    for name, host in hosts.items():
        changed = host.check_output(
            "find / -xdev -newer /run/tier-test-mark -type f -not -path '/proc/*' -not -path '/sys/*' "
            "-not -path '/var/log/*' -not -path '/var/spool/rsyslog/*' -not -path '/var/lib/systemd/*' -not -path '/var/lib/munin-node/*' -printf '%%p\n'"
        )
        host.check_output("rm /run/tier-test-mark")
        assert changed == "", f"{name} wrote {changed}"


def test_no_secret_is_in_a_command_line_or_a_log(tier: Tier, on: OnHost) -> None:
    """Each secret of the environment, looked for on every host."""
    secrets = tier.value(
        "query('ansible.builtin.vars', 'db_superuser_password', 'db_replication_password', 'db_rewind_password',"
        " 'db_site_password', 'db_monitor_password', 'etcd_root_password', 'pgpool_pcp_password',"
        " 'monitor_password', 'site_secret_key')",
        tier.hosts("lb")[0],
    )
    for name in tier.hosts("all"):
        host = on(name)
        said = host.check_output(
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; journalctl --output cat; cat /var/log/*.log /var/log/syslog "
            "/var/log/*/*.log 2>/dev/null; true"
        )
        for secret in secrets:
            assert secret not in said, f"{name} tells a secret"


def test_tags_limit_a_run_to_roles(tier: Tier) -> None:
    run = subprocess.run(
        [
            "ansible-playbook",
            "-i",
            tier.inventory,
            "playbooks/site.yml",
            "--tags",
            "nginx,pgpool,munin_node",
            "--check",
        ],
        cwd=pathlib.Path(__file__).resolve().parents[3],
        env=tier.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert not re.search(r"changed=[1-9]", run.stdout)
