"""What perlbal does beyond what is asked of every engine (lb/test_lb.py): its console, its restarts, and how little breaks it."""

import re
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from balancer import Balancer, PerlbalBench, Site, await_true, logged
from fixtures import Make, OnHost
from testinfra.host import Host
from tier import Tier

testinfra_hosts = ["ansible://lb"]

# What nobody sends by mistake.
NONSENSE = [
    b"\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\n\r\n",
    b"BREW / HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET https://elsewhere.example/ HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"GET /../.. HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"GET /%00 HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"GET /%zz% HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: NAME\r\nX: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: NAME\r\nHost: NAME\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 1, 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nTransfer-Encoding: cow\r\n\r\n",
    b"POST / HTTP/1.0\r\nHost: NAME\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nTransfer-Encoding: chunked\r\n\r\nnot a number\r\n",
    b"POST / HTTP/1.1\r\nHost: NAME\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFF\r\nab",
    b"GET / HTTP/1.1\r\nHost: NAME\r\n\r\nGET / HTTP/1.1\r\nHost: NAME\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: NAME\r\n" + b"X: y\r\n" * 30000,
]


@pytest.fixture(name="bench", scope="module")
def bench_fixture(tier: Tier, site: Site) -> Iterator[PerlbalBench]:
    """A second perlbal on the first balancer, in front of stand-ins."""
    bench = PerlbalBench(tier, site)
    try:
        bench.start()
        yield bench
    finally:
        bench.end()


@pytest.fixture(name="say")
def say_fixture(host: Host, site: Site) -> Callable[..., str]:
    """say("nodes") is what the console answers, as an operator types it."""

    def say(*lines: str) -> str:
        typed = "\\n".join([*lines, "quit"])
        return host.check_output(
            f"printf '{typed}\\n' | curl -sS -m 5 telnet://127.0.0.1:{site['console_port']} | tr -d '\\r'"
        )

    return say


def pid(host: Host, unit: str = "perlbal") -> str:
    """The process of a unit."""
    return host.check_output("systemctl show --property=MainPID --value %s", unit)


def upstreams(lb: Balancer, host: Host, log: str) -> set[str]:
    """Hosts with ports that twelve new requests come to."""
    token = uuid.uuid4().hex
    assert {lb.ask(f"/?{token}").status for _ in range(12)} == {200}
    await_true(lambda: len(logged(host, token, log)) == 12)
    return {line["upstream"] for line in logged(host, token, log)}


def test_the_console_is_allowed_to_localhost_only(
    on: OnHost, lb: Balancer, site: Site, say: Callable[..., str]
) -> None:
    assert "version 1.80" in say("version")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lb.address, site["console_port"]), timeout=5)
    neighbour = on(site["pools"]["app"]["hosts"][0]["name"])
    refused = neighbour.run(f"timeout 5 bash -c '</dev/tcp/{lb.address}/{site['console_port']}'")
    assert refused.rc == 1 and "Connection refused" in refused.stderr


def test_the_console_changes_pools_without_a_restart(
    host: Host, lb: Balancer, log: str, site: Site, say: Callable[..., str], make: Make
) -> None:
    nodes = {f"{app['address']}:{site['pools']['app']['port']}" for app in site["pools"]["app"]["hosts"]}
    leaver, before = max(nodes), pid(host)
    assert upstreams(lb, host, log) == nodes
    try:
        assert say(f"pool pages remove {leaver}") == "OK"
        assert upstreams(lb, host, log) == nodes - {leaver}
        said = make("status")
        assert said.returncode != 0
        assert (
            f"{host.backend.host}: its pools were changed on the console, and are as before at its next start: make converge"
            in said.stdout
        )
    finally:
        assert say(f"pool pages add {leaver}") == "OK"
    assert upstreams(lb, host, log) == nodes
    assert pid(host) == before
    counted = {
        (line.split()[0], line.split()[1]): line.split()[2]
        for line in say("nodes").splitlines()
        if len(line.split()) >= 3
    }
    for node in nodes:
        assert int(counted[node, "requests"]) > 0 and int(counted[node, "connects"]) >= int(counted[node, "requests"])


def test_malformed_requests_do_not_stop_perlbal(bench: PerlbalBench) -> None:
    before = pid(bench.host, bench.unit)
    for raw in NONSENSE:
        for scheme in ("http", "https"):
            with (
                bench.tls()
                if scheme == "https"
                else socket.create_connection((bench.address, bench.ports["http"]), timeout=5)
            ) as connection:
                connection.settimeout(1)
                try:
                    connection.sendall(raw.replace(b"NAME", bench.name.encode()))
                    answer = connection.recv(100)
                except (ConnectionError, TimeoutError, OSError):
                    continue  # hung up on
                assert re.match(rb"$|HTTP/1\.0 (200|301|400|404|413|421)", answer), (raw[:80], answer)
    assert pid(bench.host, bench.unit) == before
    assert bench.ask("/").status == 200


def test_an_endless_chunk_size_closes_the_connection(bench: PerlbalBench) -> None:
    with bench.tls() as connection:
        connection.settimeout(10)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            connection.sendall(f"POST / HTTP/1.1\r\nHost: {bench.name}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for _ in range(100):
                connection.sendall(b"g" * 10000)


def test_closed_and_silent_connections_leave_no_load(bench: PerlbalBench) -> None:
    """No connection is left over, nor is any looked at in vain."""
    for begun in (
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 900000\r\n\r\nabc" % bench.name.encode(),
    ):
        for _ in range(5):
            connection = bench.tls()
            connection.sendall(begun)
            connection.close()

    def spent() -> int:
        return sum(
            map(int, bench.host.check_output(f"cut -d' ' -f14,15 /proc/{pid(bench.host, bench.unit)}/stat").split())
        )

    await_true(
        lambda: bench.host.run(f"ss -Htn state established src {bench.address}:{bench.ports['https']}").stdout == ""
    )
    before = spent()
    with pytest.raises(TimeoutError), bench.tls() as silent:
        silent.settimeout(3)
        silent.recv(1)
    assert spent() - before < 50  # hundredths of a second, of three seconds
    assert bench.host.check_output("find /var/tmp -maxdepth 1 -name 'app-*'") == ""


def test_a_new_certificate_and_a_new_log_need_no_restart(bench: PerlbalBench) -> None:
    def shown() -> bytes:
        with bench.tls(context) as connection:
            certificate = connection.getpeercert(binary_form=True)
            assert certificate
            return certificate

    context = bench.trust.__class__(bench.trust.protocol)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before, process = shown(), pid(bench.host, bench.unit)
    bench.host.check_output(
        f"cd /run/test-lb && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out crt -subj /CN=new 2>/dev/null"
        f" && cat key crt > site.pem && mv access.log access.log.1 && systemctl kill --signal=HUP {bench.unit}"
    )
    await_true(lambda: shown() != before)
    assert bench.host.file(bench.log).exists
    # One that cannot be read changes nothing.
    renewed = shown()
    bench.host.check_output(f"echo nonsense > /run/test-lb/site.pem && systemctl kill --signal=HUP {bench.unit}")
    assert shown() == renewed
    bench.write("site.pem", bench.texts["site.pem"])
    bench.host.check_output(f"systemctl kill --signal=HUP {bench.unit}")
    await_true(lambda: shown() == before)
    assert pid(bench.host, bench.unit) == process


def test_a_stop_waits_for_running_requests(bench: PerlbalBench) -> None:
    """A change that takes seconds is answered; who comes meanwhile is not let in."""
    answers = []
    visitor = threading.Thread(target=lambda: answers.append(bench.ask(f"/slow/{uuid.uuid4().hex}", "POST").status))
    visitor.start()
    await_true(lambda: " /slow/" in bench.hits())
    bench.host.check_output("systemctl stop %s", bench.unit)
    visitor.join()
    assert answers == [200]
    with pytest.raises(ConnectionRefusedError):
        bench.ask("/")
    bench.run()


def test_perlbal_restarts_after_a_crash(host: Host, lb: Balancer) -> None:
    before = pid(host)
    host.check_output(f"kill -KILL {before}")
    await_true(lambda: pid(host) not in ("0", before) and host.run("systemctl is-active perlbal").rc == 0, 30)
    assert lb.ask("/").status == 200


def test_the_munin_plugin_has_a_value_for_every_field(host: Host) -> None:
    figures = host.check_output("munin-run perlbal")
    fields = re.findall(r"(?m)^(\S+)\.label", host.check_output("munin-run perlbal config"))
    assert fields and set(re.findall(r"(?m)^(\S+)\.value \d+$", figures)) == set(fields)


def test_nginx_is_stopped_and_disabled(host: Host) -> None:
    assert host.run("systemctl is-active nginx").stdout.strip() == "inactive"
    assert host.run("systemctl is-enabled nginx").stdout.strip() == "disabled"
    assert host.check_output("systemctl is-enabled perlbal") == "enabled"


def test_maintenance_is_read_without_a_restart_and_ends_by_itself(
    tier: Tier, site: Site, on: OnHost, make: Make
) -> None:
    lb, host = Balancer(tier, site, site["vip"]), on(site["balancers"][0]["name"])
    process = pid(host)
    done = make("maintenance", "FOR=10m", "READONLY=1")
    assert done.returncode == 0, done.stdout[-3000:]
    assert (lb.ask("/").status, lb.ask("/", "POST", "x=1").status) == (200, 503)
    done = make("maintenance", "FOR=20s", "MESSAGE=Back <soon>")
    assert done.returncode == 0, done.stdout[-3000:]
    closed = lb.ask("/")
    assert closed.status == 503 and "Back &lt;soon&gt;" in closed.text
    assert closed.headers["Cache-Control"] == "no-store" and 0 < int(closed.headers["Retry-After"]) <= 30
    await_true(lambda: lb.ask("/").status == 200, 60)
    assert pid(host) == process
