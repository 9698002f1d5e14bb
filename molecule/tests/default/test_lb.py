"""The balancers: what visitors meet, and what they never notice."""

import base64
import concurrent.futures
import hashlib
import http.client
import json
import pathlib
import re
import socket
import ssl
import time
import uuid

import pytest
import testinfra

testinfra_hosts = ["ansible://lb"]

ROOM = "/run/test-lb"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class Balancer:
    """One balancer by an address of its own, asked for the site by name."""

    def __init__(self, tier, site, address, offset=0):
        self.site, self.address, self.offset, self.name = site, address, offset, site["names"][0]
        self.ports = {"http": site["http_port"] + offset, "https": site["https_port"] + offset}
        self.authority = pathlib.Path(__file__).parents[3] / ".state" / tier.name / "ca.crt"
        self.trust = ssl.create_default_context(cafile=self.authority)

    def tls(self, context=None):
        """A TLS connection, its certificate checked."""
        raw = socket.create_connection((self.address, self.ports["https"]), timeout=30)
        return (context or self.trust).wrap_socket(raw, server_hostname=self.name)

    def ask(self, path, method="GET", body=None, headers=None, scheme="https"):
        """The response, read; `.text` is its body. An iterable body is sent in chunks."""
        connection = http.client.HTTPConnection(self.name, timeout=30)
        connection.sock = self.tls() if scheme == "https" else socket.create_connection(
            (self.address, self.ports["http"]), timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.text = response.read().decode()
            return response
        finally:
            connection.close()


def await_true(condition, seconds=10):
    """What a condition gives once it is true. AssertionError if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)  # between two looks at a condition with a deadline
    return found


@pytest.fixture(name="site", scope="module")
def site_fixture(tier):
    """What the inventory says about the balancers and those behind them, asked for once."""
    return tier.value(
        "dict(names=site_hosts, vip=lb_vip, http_port=lb_http_port, https_port=lb_https_port, status_port=lb_status_port,"
        " health=lb_health_path, limit=site_upload_limit_mb * 2**20, urls=[site_static_url, site_media_url],"
        " balancers=lb_hosts, pools=dict(app=dict(hosts=app_hosts, port=app_port),"
        " media=dict(hosts=media_hosts, port=media_port)))",
        "lb[0]")


@pytest.fixture(name="lb")
def lb_fixture(host, tier, site):
    """The balancer under test."""
    address, = [lb["address"] for lb in site["balancers"] if lb["name"] == host.backend.host]
    return Balancer(tier, site, address)


class Bench(Balancer):
    """A second nginx on a balancer, with the balancer's own configuration, in front of stand-ins.

    Its ports are other ones, its timeouts a sixth.
    """

    def __init__(self, tier, site):
        super().__init__(tier, site, site["balancers"][0]["address"], offset=10000)
        self.host, = testinfra.get_hosts(["ansible://" + site["balancers"][0]["name"]],
                                         ansible_inventory=tier.inventory, sudo=True)
        self.pools = {"app": [], "media": []}
        conf = self.host.file("/etc/nginx/nginx.conf").content_string
        for network, (group, pool) in enumerate(self.pools.items(), 1):
            for number, peer in enumerate(site["pools"][group]["hosts"], 1):
                stand_in = f"127.0.{network}.{number}"
                conf = conf.replace(f"server {peer['address']}:", f"server {stand_in}:")
                pool.append((f"test-lb-{peer['name']}", stand_in, site["pools"][group]["port"]))
        conf = re.sub(r"(listen \S*?)(\d+)( |;)", lambda m: f"{m[1]}{int(m[2]) + self.offset}{m[3]}", conf)
        conf = re.sub(r"(proxy_(?:read|next_upstream)_timeout) (\d+)s",
                      lambda m: f"{m[1]} {int(m[2]) * 1000 // 6}ms", conf)
        conf = re.sub(r"fail_timeout=\d+s", "fail_timeout=1s", conf)
        self.conf = conf.replace("/var/log/nginx", ROOM).replace("/run/nginx.pid", f"{ROOM}/nginx.pid")

    def write(self, name, text):
        """Put a file into the bench's room."""
        self.host.check_output("echo %s | base64 -d > %s", base64.b64encode(text.encode()).decode(), f"{ROOM}/{name}")

    def start(self):
        """Start all of it."""
        self.host.check_output(f"rm -rf {ROOM}; mkdir {ROOM}; touch {ROOM}/hits")
        self.write("stand_in.py", (pathlib.Path(__file__).parent / "stand_in.py").read_text(encoding="utf-8"))
        self.write("nginx.conf", self.conf)
        self.resume(self.pools["app"] + self.pools["media"])
        health = f"127.0.0.1:{self.ports['http']}{self.site['health']}"
        self.host.check_output(
            f"systemd-run --quiet --collect --unit=test-lb-nginx nginx -c {ROOM}/nginx.conf -g 'daemon off;'"
            f" && timeout 10 sh -c 'until curl -fso /dev/null {health}; do sleep .1; done'")

    def resume(self, stand_ins):
        """Start stand-ins and await them."""
        self.host.check_output(" && ".join(
            f"systemd-run --quiet --collect --unit={unit} python3 {ROOM}/stand_in.py {address} {port} {ROOM}"
            f" && timeout 10 sh -c 'until curl -so /dev/null {address}:{port}; do sleep .1; done'"
            for unit, address, port in stand_ins))

    def pause(self, stand_ins):
        """Stop stand-ins."""
        self.host.check_output("systemctl stop " + " ".join(unit for unit, _address, _port in stand_ins))

    def end(self):
        """Leave nothing behind."""
        self.host.check_output(f"systemctl stop 'test-lb-*'; rm -rf {ROOM}")

    def hits(self):
        """Requests that the stand-ins got, one a line."""
        return self.host.file(f"{ROOM}/hits").content_string


@pytest.fixture(name="bench", scope="module")
def bench_fixture(tier, site):
    """A balancer like the first one that can be maltreated."""
    bench = Bench(tier, site)
    try:
        bench.start()
        yield bench
    finally:
        bench.end()


def logged(host, token, log="/var/log/nginx/access.log"):
    """Lines of the access log that mention a token."""
    return [json.loads(line) for line in host.run("grep %s %s", token, log).stdout.splitlines()]


# ------------------------------------------------------------------ the real tier

def test_visitors_get_pages_by_the_virtual_ip(tier, site):
    answer = Balancer(tier, site, site["vip"]).ask("/")
    assert answer.status == 200
    assert answer.getheader("X-Request-Id")


def test_pages_come_from_every_app_host(host, lb, site):
    token = uuid.uuid4().hex
    pool = site["pools"]["app"]
    expected = {f"{peer['address']}:{pool['port']}" for peer in pool["hosts"]}

    def reached():
        for _ in pool["hosts"] * 4:
            assert lb.ask(f"/?{token}").status == 200
        return {line["upstream"] for line in logged(host, token)} >= expected

    # A host that failed a moment ago is left out for a while.
    await_true(reached, 20)


def test_files_come_from_every_media_host(host, lb, site):
    pool = site["pools"]["media"]
    expected = {f"{peer['address']}:{pool['port']}" for peer in pool["hosts"]}
    for url in site["urls"]:
        token = uuid.uuid4().hex
        # Each host is asked for a file that the one before it does not have.
        assert lb.ask(f"{url}no-such-file?{token}").status == 404
        line, = await_true(lambda: logged(host, token))
        assert set(line["upstream"].split(", ")) == expected


def test_healthy_hosts_never_look_failed_under_load(lb):
    def visit(number):
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
        statuses = [s for batch in pool.map(lambda _: list(visit(50)), range(40)) for s in batch]
    assert len(statuses) == 2000
    assert [s for s in statuses if s != 200] == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_is_modern(lb):
    for version, expected in [(ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
                              (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]:
        context = ssl.create_default_context(cafile=lb.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        if expected is None:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                lb.tls(context)
        else:
            with lb.tls(context) as connection:
                assert (connection.version(), connection.selected_alpn_protocol()) == (expected, "h2")


def test_plain_http_is_redirected(lb):
    answer = lb.ask("/path?query=1", scheme="http")
    port = "" if lb.ports["https"] == 443 else f":{lb.ports['https']}"
    assert (answer.status, answer.getheader("Location")) == (301, f"https://{lb.name}{port}/path?query=1")


def test_another_name_is_refused(lb):
    for name in ["evil.example", lb.name + ".evil.example"]:
        with pytest.raises(ConnectionResetError):
            lb.ask("/", headers={"Host": name}, scheme="http")
        assert lb.ask("/", headers={"Host": name}).status == 421


def test_only_this_machine_sees_health_and_counters(host, lb, site):
    inside = f"curl -fsS http://127.0.0.1:{lb.ports['http']}{site['health']} http://127.0.0.1:{site['status_port']}/nginx_status"
    assert host.check_output(inside).startswith("ok\nActive connections")
    with pytest.raises(ConnectionResetError):
        lb.ask(site["health"], headers={"Host": "127.0.0.1"}, scheme="http")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lb.address, site["status_port"]), timeout=5)


def test_logging_goes_on_after_a_rotation(host, lb):
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    token = uuid.uuid4().hex
    # The workers turn to the new file when they hear of it.
    await_true(lambda: lb.ask(f"/-/?{token}") and logged(host, token))


# ------------------------------------------------------------------ the bench

def test_hosts_learn_the_truth_about_a_visitor(bench):
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": "evil.example", "X-Request-Id": "lie", "Proxy": "evil.example"}
    answer = bench.ask("/truth", headers=lies)
    with socket.create_connection((bench.address, bench.ports["https"])) as probe:
        own = probe.getsockname()[0]
    told = json.loads(answer.text)["headers"]
    assert told["Host"] == bench.name
    assert told["X-Forwarded-For"] == told["X-Real-IP"] == own
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Request-Id"] == answer.getheader("X-Request-Id") != "lie"
    assert not {"X-Forwarded-Host", "Forwarded", "Proxy"} & set(told)
    line, = await_true(lambda: logged(bench.host, told["X-Request-Id"], f"{ROOM}/access.log"))
    assert (line["client"], line["status"], line["served_by"], line["upstream_status"]) == (own, "200", "here/r1", "200")
    assert float(line["upstream_time"]) >= 0 and float(line["request_time"]) >= 0
    assert "X-Served-By" not in answer.headers


@pytest.mark.parametrize("path", ["/-/", "/-/health", "/%2d/health", "//-/health", "/./-/health", "/a/../-/health"])
def test_questions_to_the_hosts_themselves_are_refused(bench, path):
    token = uuid.uuid4().hex
    assert bench.ask(f"{path}?{token}").status == 404
    assert token not in bench.hits()


def test_changes_are_made_once_and_pages_asked_for_twice(bench):
    """Whatever happens to the first host: it closes the connection, says 503, or says nothing."""
    tokens = {(method, fault): uuid.uuid4().hex for method in METHODS for fault in ("die", "busy", "freeze")}
    with concurrent.futures.ThreadPoolExecutor(len(tokens)) as pool:
        statuses = list(pool.map(lambda item: bench.ask(f"/{item[0][1]}/{item[1]}", item[0][0]).status, tokens.items()))
    hits = bench.hits()
    for ((method, fault), token), status in zip(tokens.items(), statuses):
        got = (hits.count(token), status)
        if method in ("GET", "HEAD"):
            assert got == (2, 200), (method, fault)
        else:
            assert got == (1, {"die": 502, "busy": 503, "freeze": 504}[fault]), (method, fault)


def test_a_slow_page_is_still_answered(bench):
    assert bench.ask(f"/slow/{uuid.uuid4().hex}").status == 200


def test_a_host_that_is_down_costs_nobody_a_change(bench):
    down = bench.pools["app"][:1]
    bench.pause(down)
    try:
        assert [bench.ask("/down/", "POST", b"x").status for _ in range(8)] == [200] * 8
    finally:
        bench.resume(down)


def test_with_every_app_host_down_visitors_are_told_and_files_served(bench, site):
    bench.pause(bench.pools["app"])
    try:
        for method in ["GET", "POST", "DELETE"]:
            answer = bench.ask("/", method)
            assert answer.status == 502
            assert int(answer.getheader("Retry-After")) > 0
            assert "Back in a moment" in answer.text
        assert {bench.ask(url + "x").status for url in site["urls"]} == {200}
    finally:
        bench.resume(bench.pools["app"])
    assert bench.ask("/").status == 200


def test_uploads_arrive_whole_up_to_the_limit(bench, site):
    limit = site["limit"]
    body = bytes(range(256)) * (limit // 256)
    halves = iter([body[:limit // 2], body[limit // 2:]])
    for sent in (body, halves):
        told = json.loads(bench.ask("/upload", "POST", sent).text)
        assert (told["size"], told["sha"]) == (limit, hashlib.sha256(body).hexdigest())
        # The hosts wait for no slow visitor: the whole body is here before they are asked.
        assert int(told["headers"]["Content-Length"]) == limit


def test_larger_uploads_are_refused(bench, site):
    token, size = uuid.uuid4().hex, site["limit"] + 1
    for framing, body in [(f"Content-Length: {size}", b""), ("Transfer-Encoding: chunked", b"%x\r\n" % size + bytes(size))]:
        with bench.tls() as connection:
            connection.sendall(f"POST /{token} HTTP/1.1\r\nHost: {bench.name}\r\n{framing}\r\n\r\n".encode() + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert token not in bench.hits()


def test_files_are_only_read(bench, site):
    assert {bench.ask(url + "x", method).status for url in site["urls"] for method in METHODS[2:]} == {405}
