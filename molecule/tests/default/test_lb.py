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

testinfra_hosts = ["ansible://lb"]

ROOM = "/run/test-lb"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


class Balancer:
    """One balancer by its own address, asked for the site by name."""

    def __init__(self, tier, address, offset=0):
        self.address, self.offset = address, offset
        self.name = tier.value("hostvars[groups['lb'][0]].site_hosts | first")
        self.ports = {scheme: tier.value(f"lb_{scheme}_port", tier.hosts("lb")[0]) for scheme in ("http", "https")}
        self.authority = pathlib.Path(__file__).parents[3] / ".state" / tier.name / "ca.crt"
        self.trust = ssl.create_default_context(cafile=self.authority)

    def tls(self, context=None):
        """A TLS connection, its certificate checked."""
        raw = socket.create_connection((self.address, self.ports["https"] + self.offset), timeout=30)
        return (context or self.trust).wrap_socket(raw, server_hostname=self.name)

    def ask(self, path, method="GET", body=None, headers=None, scheme="https"):
        """The response, read; `.text` is its body. An iterable body is sent in chunks."""
        connection = http.client.HTTPConnection(self.name, timeout=30)
        connection.sock = self.tls() if scheme == "https" else socket.create_connection(
            (self.address, self.ports["http"] + self.offset), timeout=30)
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
        time.sleep(0.1)
    return found


@pytest.fixture(name="lb")
def balancer(host, tier):
    """The balancer under test."""
    return Balancer(tier, tier.address(host.backend.host))


class Bench(Balancer):
    """A second nginx on a balancer, with the balancer's own configuration, in front of stand-ins.

    Its ports are other ones, its timeouts a sixth.
    """

    def __init__(self, host, tier):
        super().__init__(tier, tier.address(host.backend.host), offset=10000)
        self.host, self.units, self.pools = host, [], {"app": [], "media": []}
        conf = host.file("/etc/nginx/nginx.conf").content_string
        for group, pool in self.pools.items():
            for number, name in enumerate(tier.hosts(group), 1):
                stand_in = f"127.0.{1 if group == 'app' else 2}.{number}"
                conf = conf.replace(f"server {tier.address(name)}:", f"server {stand_in}:")
                pool.append((f"test-lb-{name}", stand_in, tier.value(f"{group}_port", name)))
        conf = re.sub(r"(listen \S*?)(\d+)( |;)", lambda m: f"{m[1]}{int(m[2]) + self.offset}{m[3]}", conf)
        conf = re.sub(r"(proxy_read_timeout|proxy_next_upstream_timeout|fail_timeout)([ =])(\d+)s",
                      lambda m: f"{m[1]}{m[2]}{int(m[3]) * 1000 // 6}ms", conf)
        self.conf = conf.replace("/var/log/nginx", ROOM).replace("/run/nginx.pid", f"{ROOM}/nginx.pid")

    def write(self, name, text):
        """Put a file into the bench's room."""
        self.host.check_output("echo %s | base64 -d > %s", base64.b64encode(text.encode()).decode(), f"{ROOM}/{name}")

    def run(self, unit, *command):
        """Start a process that ends with the bench."""
        self.units.append(unit)
        self.host.check_output("systemd-run --quiet --collect --unit=" + unit + " %s" * len(command), *command)

    def start(self):
        """Start all of it."""
        self.host.check_output(f"rm -rf {ROOM}; mkdir {ROOM}; touch {ROOM}/hits")
        self.write("stand_in.py", (pathlib.Path(__file__).parent / "stand_in.py").read_text(encoding="utf-8"))
        self.write("nginx.conf", self.conf)
        self.resume("app")
        self.resume("media")
        self.run("test-lb-nginx", "nginx", "-c", f"{ROOM}/nginx.conf", "-g", "daemon off;")
        for pool in self.pools.values():
            for _unit, address, port in pool:
                await_true(lambda: self.host.socket(f"tcp://{address}:{port}").is_listening)
        await_true(lambda: self.host.socket(f"tcp://0.0.0.0:{self.ports['https'] + self.offset}").is_listening)

    def resume(self, group):
        """Start the stand-ins of a pool."""
        for unit, address, port in self.pools[group]:
            self.run(unit, "python3", f"{ROOM}/stand_in.py", address, str(port), ROOM)

    def stop(self, units):
        """End some of it."""
        self.host.run("systemctl stop " + " ".join(units))

    def hits(self, token):
        """Requests that stand-ins got with a token in their path."""
        return [line for line in self.host.file(f"{ROOM}/hits").content_string.splitlines() if token in line]


@pytest.fixture(name="bench", scope="module")
def bench_fixture(host, tier):
    """A balancer like this one that can be maltreated."""
    bench = Bench(host, tier)
    try:
        bench.start()
        yield bench
    finally:
        bench.stop(bench.units)
        host.run(f"rm -rf {ROOM}")


def logged(host, token):
    """Lines of the access log that mention a token."""
    lines = host.file("/var/log/nginx/access.log").content_string.splitlines()
    return [json.loads(line) for line in lines if token in line]


# ------------------------------------------------------------------ the real tier

def test_visitors_get_pages_by_the_virtual_ip(visitor, tier):
    answer = visitor.get(tier.url + "/", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"]


def test_pages_come_from_every_app_host(host, lb, tier):
    token = uuid.uuid4().hex
    assert {lb.ask(f"/?{token}").status for _ in tier.hosts("app") * 4} == {200}
    expected = {f"{tier.address(name)}:{tier.value('app_port', name)}" for name in tier.hosts("app")}
    await_true(lambda: {line["upstream"] for line in logged(host, token)} == expected)


@pytest.mark.parametrize("url", ["site_static_url", "site_media_url"])
def test_files_come_from_every_media_host(host, lb, tier, url):
    token = uuid.uuid4().hex
    path = tier.value(url, "lb[0]") + f"no-such-file?{token}"
    # Each host is asked for a file that the one before it does not have.
    assert lb.ask(path).status == 404
    expected = {f"{tier.address(name)}:{tier.value('media_port', name)}" for name in tier.hosts("media")}
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


def test_tls_is_modern(lb):
    for version, expected in [(ssl.TLSVersion.TLSv1_1, None), (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
                              (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]:
        context = ssl.create_default_context(cafile=lb.authority)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
        if expected is None:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                lb.tls(context)
        else:
            with lb.tls(context) as connection:
                assert (connection.version(), connection.selected_alpn_protocol()) == (expected, "h2")


def test_plain_http_is_redirected(lb, tier):
    answer = lb.ask("/path?query=1", scheme="http")
    port = "" if lb.ports["https"] == 443 else f":{lb.ports['https']}"
    assert (answer.status, answer.getheader("Location")) == (301, f"https://{lb.name}{port}/path?query=1")


def test_another_name_is_refused(lb):
    for name in ["evil.example", lb.name + ".evil.example", ""]:
        with pytest.raises(http.client.RemoteDisconnected):
            lb.ask("/", headers={"Host": name}, scheme="http")
        assert lb.ask("/", headers={"Host": name}).status in (400, 421)


def test_only_this_machine_sees_health_and_counters(host, lb, tier):
    health = tier.value("lb_health_path", "lb[0]")
    status = tier.value("lb_status_port", "lb[0]")
    assert host.check_output(f"curl -fsS http://127.0.0.1:{lb.ports['http']}{health}") == "ok"
    assert "Active connections" in host.check_output(f"curl -fsS http://127.0.0.1:{status}/nginx_status")
    with pytest.raises(http.client.RemoteDisconnected):
        lb.ask(health, headers={"Host": "127.0.0.1"}, scheme="http")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lb.address, status), timeout=5)


def test_logging_goes_on_after_a_rotation(host, lb):
    host.check_output("logrotate --force /etc/logrotate.d/nginx")
    token = uuid.uuid4().hex
    # The workers turn to the new file when they hear of it.
    await_true(lambda: lb.ask(f"/-/?{token}") and logged(host, token))


# ------------------------------------------------------------------ the bench

def test_hosts_learn_the_truth_about_a_visitor(bench):
    lies = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Request-Id": "lie", "X-Forwarded-Host": "evil.example",
            "Forwarded": "for=6.6.6.6", "Proxy": "evil.example"}
    answer = bench.ask("/truth", headers=lies)
    with socket.create_connection((bench.address, bench.ports["https"])) as probe:
        own = probe.getsockname()[0]
    told = json.loads(answer.text)["headers"]
    assert told["Host"] == bench.name
    assert told["X-Forwarded-For"] == told["X-Real-IP"] == own
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Request-Id"] == answer.getheader("X-Request-Id") != "lie"
    assert not {"X-Forwarded-Host", "Forwarded", "Proxy"} & set(told)
    line = await_true(lambda: [json.loads(x) for x in bench.host.file(f"{ROOM}/access.log").content_string.splitlines() if told["X-Request-Id"] in x])[0]
    assert (line["client"], line["status"], line["release"], line["upstream_status"]) == (own, "200", "r1", "200")
    assert float(line["upstream_time"]) <= float(line["request_time"])
    assert not {"X-Node", "X-Release"} & set(answer.headers)


@pytest.mark.parametrize("path", ["/-/", "/-/health", "/%2d/health", "//-/health", "/./-/health", "/a/../-/health"])
def test_questions_to_the_hosts_themselves_are_refused(bench, path):
    token = uuid.uuid4().hex
    assert bench.ask(f"{path}?{token}").status == 404
    assert bench.hits(token) == []


def test_changes_are_made_once_and_pages_asked_for_twice(bench):
    """Whatever happens to the first host: it closes the connection, says 503, or says nothing."""
    tokens = {(method, fault): uuid.uuid4().hex for method in METHODS for fault in ("die", "busy", "freeze")}
    with concurrent.futures.ThreadPoolExecutor(len(tokens)) as pool:
        statuses = list(pool.map(lambda item: bench.ask(f"/{item[0][1]}/{item[1]}", item[0][0]).status, tokens.items()))
    for ((method, fault), token), status in zip(tokens.items(), statuses):
        got = (len(bench.hits(token)), status)
        if method in ("GET", "HEAD"):
            assert got == (2, 200), (method, fault)
        else:
            assert got == (1, {"die": 502, "busy": 503, "freeze": 504}[fault]), (method, fault)


def test_a_slow_page_is_still_answered(bench):
    assert bench.ask(f"/slow/{uuid.uuid4().hex}").status == 200


def test_a_host_that_is_down_costs_nobody_a_change(bench):
    unit, address, port = bench.pools["app"][0]
    bench.stop([unit])
    try:
        assert [bench.ask("/down/", "POST", b"x").status for _ in range(8)] == [200] * 8
    finally:
        bench.run(unit, "python3", f"{ROOM}/stand_in.py", address, str(port), ROOM)
        await_true(lambda: bench.host.socket(f"tcp://{address}:{port}").is_listening)


def test_with_every_app_host_down_visitors_are_told_and_files_served(bench, tier):
    bench.stop([unit for unit, _address, _port in bench.pools["app"]])
    try:
        for method in ["GET", "POST", "DELETE"]:
            answer = bench.ask("/", method)
            assert answer.status == 502
            assert int(answer.getheader("Retry-After")) > 0
            assert "Back in a moment" in answer.text
        assert bench.ask(tier.value("site_static_url", "lb[0]") + "x").status == 200
    finally:
        bench.resume("app")
        await_true(lambda: bench.ask("/").status == 200)


def test_uploads_arrive_whole_up_to_the_limit(bench, tier):
    limit = tier.value("site_upload_limit_mb", "lb[0]") * 2**20
    body = bytes(range(256)) * (limit // 256)
    halves = iter([body[:limit // 2], body[limit // 2:]])
    for sent in (body, halves):
        told = json.loads(bench.ask("/upload", "POST", sent).text)
        assert (told["size"], told["sha"]) == (limit, hashlib.sha256(body).hexdigest())
        # The hosts wait for no slow visitor: the whole body is here before they are asked.
        assert int(told["headers"]["Content-Length"]) == limit


def test_larger_uploads_are_refused(bench, tier):
    limit = tier.value("site_upload_limit_mb", "lb[0]") * 2**20
    token = uuid.uuid4().hex
    with bench.tls() as connection:
        connection.sendall(f"POST /upload/{token} HTTP/1.1\r\nHost: {bench.name}\r\nContent-Length: {limit + 1}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    with bench.tls() as connection:
        connection.sendall(f"POST /upload/{token} HTTP/1.1\r\nHost: {bench.name}\r\nTransfer-Encoding: chunked\r\n\r\n{limit + 1:x}\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert bench.hits(token) == []


def test_files_are_only_read(bench, tier):
    for url in ("site_static_url", "site_media_url"):
        assert {bench.ask(tier.value(url, "lb[0]") + "x", method).status for method in METHODS[2:]} == {405}
