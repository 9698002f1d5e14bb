"""The balancers, whichever engine they run: what visitors meet, and what they never notice.

What one engine alone does is in default/test_nginx.py and perlbal/test_perlbal.py.
"""

import concurrent.futures
import hashlib
import http.client
import json
import socket
import ssl
import uuid
from collections.abc import Iterator

import pytest
from balancer import BENCHES, Balancer, Bench, Site, await_true, logged
from testinfra.host import Host
from tier import Tier

testinfra_hosts = ["ansible://lb"]

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@pytest.fixture(name="bench", scope="module")
def bench_fixture(tier: Tier, site: Site) -> Iterator[Bench]:
    """A balancer like the first one that can be maltreated."""
    if len(tier.hosts("app")) < 2 or set(tier.hosts("app")) & set(tier.hosts("media")):
        pytest.skip("each app and media host needs a place of its own to stand in for it")
    bench = BENCHES[site["engine"]](tier, site)
    try:
        bench.start()
        yield bench
    finally:
        bench.end()


# ------------------------------------------------------------------ the real tier


def test_pages_are_served_by_the_virtual_ip(tier: Tier, site: Site) -> None:
    answer = Balancer(tier, site, site["vip"]).ask("/")
    assert answer.status == 200
    assert answer.getheader("X-Request-Id")


def test_pages_are_served_by_every_app_host(host: Host, lb: Balancer, log: str, site: Site) -> None:
    token = uuid.uuid4().hex
    pool = site["pools"]["app"]
    expected = {f"{peer['address']}:{pool['port']}" for peer in pool["hosts"]}

    def reached() -> bool:
        for _ in pool["hosts"] * 4:
            assert lb.ask(f"/?{token}").status == 200
        return {line["upstream"] for line in logged(host, token, log)} >= expected

    # A host that failed a moment ago is left out for a while.
    await_true(reached, 20)


def test_files_are_served_by_every_media_host(host: Host, lb: Balancer, log: str, site: Site) -> None:
    pool = site["pools"]["media"]
    expected = {f"{peer['address']}:{pool['port']}" for peer in pool["hosts"]}
    for url in site["urls"]:
        token = uuid.uuid4().hex
        # Each host is asked for a file that the one before it does not have.
        assert lb.ask(f"{url}no-such-file?{token}").status == 404
        (line,) = await_true(lambda: logged(host, token, log))
        assert set(line["upstream"].split(", ")) == expected


def test_no_request_fails_under_load(lb: Balancer) -> None:
    def visit(number: int) -> Iterator[int]:
        connection = http.client.HTTPConnection(lb.name, timeout=30)
        connection.sock = lb.tls()
        try:
            for _ in range(number):
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                yield response.status
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        statuses = [s for batch in pool.map(lambda _: list(visit(50)), range(20)) for s in batch]
    assert len(statuses) == 1000
    assert [s for s in statuses if s != 200] == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_only_tls_1_2_and_1_3_are_accepted(lb: Balancer) -> None:
    for version, expected in [
        (ssl.TLSVersion.TLSv1_1, None),
        (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
    ]:
        context = ssl.create_default_context(cafile=lb.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        if expected is None:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                lb.tls(context)
        else:
            with lb.tls(context) as connection:
                assert connection.version() == expected
                cipher = connection.cipher()
                assert cipher and cipher[0].startswith(("ECDHE-", "TLS_")) and "CBC" not in cipher[0]


def test_http_is_redirected_to_https(lb: Balancer) -> None:
    answer = lb.ask("/path?query=1", scheme="http")
    port = "" if lb.ports["https"] == 443 else f":{lb.ports['https']}"
    assert (answer.status, answer.getheader("Location")) == (301, f"https://{lb.name}{port}/path?query=1")


def test_other_host_names_are_refused(lb: Balancer) -> None:
    for name in ["evil.example", lb.name + ".evil.example"]:
        with pytest.raises(ConnectionResetError):
            lb.ask("/", headers={"Host": name}, scheme="http")
        assert lb.ask("/", headers={"Host": name}).status == 421


def test_the_balancer_answers_health_checks(host: Host, lb: Balancer, site: Site) -> None:
    assert host.check_output(f"curl -fsS http://127.0.0.1:{lb.ports['http']}{site['health']}") == "ok"
    assert lb.ask(site["health"], scheme="http").status == 204
    with pytest.raises(ConnectionResetError):
        lb.ask(site["health"], headers={"Host": "127.0.0.1"}, scheme="http")


def test_the_access_log_is_reopened_after_a_rotation(host: Host, lb: Balancer, log: str, site: Site) -> None:
    host.check_output(f"logrotate --force /etc/logrotate.d/{site['engine']}")
    token = uuid.uuid4().hex
    # The engine turns to the new file when it hears of it.
    await_true(lambda: lb.ask(f"/-/?{token}") and logged(host, token, log))


# ------------------------------------------------------------------ the bench


def test_forwarded_headers_of_visitors_are_replaced(bench: Bench) -> None:
    lies = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Real-IP": "6.6.6.6",
        "Forwarded": "for=6.6.6.6",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Request-Id": "lie",
        "Proxy": "evil.example",
        "X_Forwarded_Proto": "http",
    }
    answer = bench.ask("/truth", headers=lies)
    with socket.create_connection((bench.address, bench.ports["https"])) as probe:
        own = probe.getsockname()[0]
    told = json.loads(answer.text)["headers"]
    assert told["Host"] == bench.name
    assert told["X-Forwarded-For"] == told["X-Real-IP"] == own
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Request-Id"] == answer.getheader("X-Request-Id") != "lie"
    assert not {"X-Forwarded-Host", "Forwarded", "Proxy", "X_Forwarded_Proto"} & set(told)
    (line,) = await_true(lambda: logged(bench.host, told["X-Request-Id"], bench.log))
    assert (line["client"], line["status"], line["served_by"], line["upstream_status"]) == (
        own,
        "200",
        "here/r1",
        "200",
    )
    assert float(line["upstream_time"]) >= 0 and float(line["request_time"]) >= 0
    assert "X-Served-By" not in answer.headers


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        ("0123456789abcdef0123456789abcdef", True),
        ("01234567-89ab-cdef-0123-456789abcdef", True),
        ("0123456789ABCDEF0123456789ABCDEF", False),
        ("0123456789abcdef0123456789abcdef*/", False),
        ("f" * 31, False),
        ("f" * 33, False),
    ],
)
def test_a_valid_request_id_of_a_visitor_is_kept(bench: Bench, claimed: str, kept: bool) -> None:
    answer = bench.ask("/truth", headers={"X-Request-Id": claimed})
    told = json.loads(answer.text)["headers"]["X-Request-Id"]
    assert told == answer.getheader("X-Request-Id") and (told == claimed) is kept
    assert len(told) in (32, 36)
    await_true(lambda: logged(bench.host, told, bench.log))


@pytest.mark.parametrize("path", ["/-/", "/-/health", "/%2d/health", "//-/health", "/./-/health", "/a/../-/health"])
def test_internal_paths_are_refused(bench: Bench, path: str) -> None:
    token = uuid.uuid4().hex
    assert bench.ask(f"{path}?{token}").status == 404
    assert token not in bench.hits()


def test_safe_requests_are_retried_and_changes_are_not(bench: Bench) -> None:
    """Where the first host closes the connection or says 503. What it takes too long for it may still be doing. Changes are made once."""
    tokens = {(method, fault): uuid.uuid4().hex for method in METHODS for fault in ("die", "busy", "stall")}
    with concurrent.futures.ThreadPoolExecutor(len(tokens)) as pool:
        statuses = list(pool.map(lambda item: bench.ask(f"/{item[0][1]}/{item[1]}", item[0][0]).status, tokens.items()))
    hits = bench.hits()
    for ((method, fault), token), status in zip(tokens.items(), statuses):
        got = (hits.count(token), status)
        if method in ("GET", "HEAD") and fault != "stall":
            assert got == (2, 200), (method, fault)
        else:
            assert got == (1, {"die": 502, "busy": 503, "stall": 504}[fault]), (method, fault)


def test_a_slow_page_is_answered(bench: Bench) -> None:
    assert bench.ask(f"/slow/{uuid.uuid4().hex}").status == 200


def test_changes_succeed_while_a_backend_is_down(bench: Bench) -> None:
    down = bench.pools["app"][:1]
    bench.pause(down)
    try:
        assert [bench.ask("/down/", "POST", b"x").status for _ in range(8)] == [200] * 8
    finally:
        bench.resume(down)


def test_with_every_app_host_down_pages_are_502_and_files_are_served(bench: Bench, site: Site) -> None:
    bench.pause(bench.pools["app"])
    try:
        for method in ["GET", "POST", "DELETE"]:
            answer = bench.ask("/", method)
            assert answer.status == 502
            assert int(answer.getheader("Retry-After") or 0) > 0
            assert "Back in a moment" in answer.text
        assert {bench.ask(url + "x").status for url in site["urls"]} == {200}
    finally:
        bench.resume(bench.pools["app"])
    assert bench.ask("/").status == 200


def test_uploads_up_to_the_limit_are_complete(bench: Bench, site: Site) -> None:
    limit = site["limit"]
    body = bytes(range(256)) * (limit // 256)
    halves = iter([body[: limit // 2], body[limit // 2 :]])
    for sent in (body, halves):
        told = json.loads(bench.ask("/upload", "POST", sent).text)
        assert (told["size"], told["sha"]) == (limit, hashlib.sha256(body).hexdigest())
        # The hosts wait for no slow visitor: the whole body is here before they are asked.
        assert int(told["headers"]["Content-Length"]) == limit


def test_uploads_over_the_limit_are_refused(bench: Bench, site: Site) -> None:
    token, size = uuid.uuid4().hex, site["limit"] + 1
    for framing, body in [
        (f"Content-Length: {size}", b""),
        ("Transfer-Encoding: chunked", b"%x\r\n" % size + bytes(size)),
    ]:
        with bench.tls() as connection:
            connection.sendall(f"POST /{token} HTTP/1.1\r\nHost: {bench.name}\r\n{framing}\r\n\r\n".encode() + body)
            assert connection.recv(100).split()[1] == b"413"
    assert token not in bench.hits()


def test_write_methods_on_files_are_refused(bench: Bench, site: Site) -> None:
    assert {bench.ask(url + "x", method).status for url in site["urls"] for method in METHODS[2:]} == {405}
