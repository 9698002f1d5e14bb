"""A balancer, whichever engine it runs: asked as visitors ask it, and a second engine beside it to break."""

import base64
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from testinfra.host import Host
from tier import ROOT, Tier

DIRECTORY = "/run/test-lb"
OFFSET = 5000  # from a port of the balancer to that of the one beside it
T = TypeVar("T")
Site = dict[str, Any]  # of read_site()
StandIn = tuple[str, str, int]  # unit, address, port
Patterns = list[tuple[str, str | Callable[[re.Match[str]], str]]]  # (pattern, replacement)

PORT = r"(?m)(listen \S*?|listen +=.*:)(\d+)(?= |;|$)"


def await_true(condition: Callable[[], T], seconds: float = 10) -> T:
    """What a condition gives once it is true. AssertionError if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)  # between two checks of a condition with a deadline
    return value


def read_site(tier: Tier) -> Site:
    """What the inventory says about the balancers and those behind them."""
    site: Site = tier.value(
        "dict(engine=lb_engine, names=site_hosts, vip=lb_vip, http_port=lb_http_port, https_port=lb_https_port,"
        " status_port=lb_status_port, console_port=lb_console_port, health=lb_health_path,"
        " limit=site_upload_limit_mb * 2**20, urls=[site_static_url, site_media_url],"
        " media_root=media_root, balancers=lb_hosts, pools=dict(app=dict(hosts=app_hosts, port=app_port),"
        " media=dict(hosts=media_hosts, port=media_port)))",
        tier.hosts("lb")[0],
    )
    return site


class Response(http.client.HTTPResponse):
    """A response with its body."""

    text = ""


class Balancer:
    """One balancer by an address of its own, asked for the site by name."""

    def __init__(self, tier: Tier, site: Site, address: str, offset: int = 0) -> None:
        self.site, self.address, self.name, self.authority = site, address, site["names"][0], tier.authority
        self.ports = {name: site[f"{name}_port"] + offset for name in ("http", "https", "console")}
        self.trust = ssl.create_default_context(cafile=self.authority)

    def tls(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A TLS connection, its certificate checked."""
        raw = socket.create_connection((self.address, self.ports["https"]), timeout=30)
        return (context or self.trust).wrap_socket(raw, server_hostname=self.name)

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: str | bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        scheme: str = "https",
    ) -> Response:
        """The response, read; `.text` is its body. An iterable body is sent in chunks."""
        # By hand: tests are about what is on the wire, down to a connection that is reset.
        connection = http.client.HTTPConnection(self.name, timeout=30)
        connection.response_class = Response
        connection.sock = (
            self.tls()
            if scheme == "https"
            else socket.create_connection((self.address, self.ports["http"]), timeout=30)
        )
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            assert isinstance(response, Response)
            response.text = response.read().decode()
            return response
        finally:
            connection.close()


class Bench(Balancer):
    """A second engine on a balancer, with the balancer's own configuration, in front of stand-ins.

    Its ports are other ones, its timeouts a sixth.
    """

    FILES: tuple[str, ...] = ()  # the engine's configuration
    COMMAND = ""  # starts the engine
    SHORTER_TIMEOUTS: Patterns = []  # shortens the engine's timeouts

    def __init__(self, tier: Tier, site: Site) -> None:
        super().__init__(tier, site, site["balancers"][0]["address"], OFFSET)
        self.host = tier.host(site["balancers"][0]["name"])
        self.pools: dict[str, list[StandIn]] = {"app": [], "media": []}
        self.log, self.unit = f"{DIRECTORY}/access.log", "test-lb-engine"
        self.texts: dict[str, str] = {
            name: self.host.file(f"/etc/{site['engine']}/{name}").content_string for name in self.FILES
        }
        for network, (group, pool) in enumerate(self.pools.items(), 1):
            for number, peer in enumerate(site["pools"][group]["hosts"], 1):
                stand_in = f"127.0.{network}.{number}"
                self.replace(rf"\b{re.escape(peer['address'])}:", f"{stand_in}:")
                pool.append((f"test-lb-{peer['name']}", stand_in, site["pools"][group]["port"]))
        self.replace(PORT, lambda m: f"{m[1]}{int(m[2]) + OFFSET}")
        self.replace(f"/var/log/{site['engine']}", DIRECTORY)
        for name in self.FILES:
            self.replace(f"/etc/{site['engine']}/{name}", f"{DIRECTORY}/{name}")
        for pattern, replacement in self.SHORTER_TIMEOUTS:
            self.replace(pattern, replacement)

    def replace(self, pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> None:
        """Replace a pattern in every file."""
        self.texts = {name: re.sub(pattern, replacement, text) for name, text in self.texts.items()}

    def write(self, name: str, text: str) -> None:
        """Write a file into the directory of the bench."""
        self.host.check_output(
            "echo %s | base64 -d > %s", base64.b64encode(text.encode()).decode(), f"{DIRECTORY}/{name}"
        )

    def start(self) -> None:
        """Start all of it."""
        self.host.check_output(f"rm -rf {DIRECTORY}; mkdir {DIRECTORY}; touch {DIRECTORY}/hits")
        self.write("stand_in.py", (ROOT / "molecule/tests/lb/stand_in.py").read_text(encoding="utf-8"))
        for name, text in self.texts.items():
            self.write(name, text)
        self.resume(self.pools["app"] + self.pools["media"])
        self.run()

    def run(self) -> None:
        """Start the engine and await it."""
        health = f"127.0.0.1:{self.ports['http']}{self.site['health']}"
        self.host.check_output(
            f"systemd-run --quiet --collect --unit={self.unit} {self.COMMAND}"
            f" && timeout 10 sh -c 'until curl -fso /dev/null {health}; do sleep .1; done'"
        )

    def resume(self, stand_ins: Iterable[StandIn]) -> None:
        """Start stand-ins and await them."""
        self.host.check_output(
            " && ".join(
                f"systemd-run --quiet --collect --unit={unit} python3 {DIRECTORY}/stand_in.py {address} {port} {DIRECTORY}"
                f" && timeout 10 sh -c 'until curl -so /dev/null {address}:{port}; do sleep .1; done'"
                for unit, address, port in stand_ins
            )
        )

    def pause(self, stand_ins: Iterable[StandIn]) -> None:
        """Stop stand-ins."""
        self.host.check_output("systemctl stop " + " ".join(unit for unit, _address, _port in stand_ins))

    def end(self) -> None:
        """Leave nothing behind."""
        self.host.check_output(f"systemctl stop 'test-lb-*'; rm -rf {DIRECTORY}")

    def hits(self) -> str:
        """Requests that the stand-ins got, one a line."""
        return str(self.host.file(f"{DIRECTORY}/hits").content_string)


class NginxBench(Bench):
    """A second nginx."""

    FILES: tuple[str, ...] = ("nginx.conf",)
    COMMAND = f"nginx -c {DIRECTORY}/nginx.conf -g 'daemon off;'"
    SHORTER_TIMEOUTS: Patterns = [
        (r"(proxy_(?:read|next_upstream)_timeout) (\d+)s", lambda m: f"{m[1]} {int(m[2]) * 1000 // 6}ms"),
        (r"fail_timeout=\d+s", "fail_timeout=1s"),
        ("/run/nginx.pid", f"{DIRECTORY}/nginx.pid"),
    ]


class PerlbalBench(Bench):
    """A second Perlbal."""

    FILES: tuple[str, ...] = ("perlbal.conf", "pools.conf", "site.pem")
    COMMAND = f"perlbal --config={DIRECTORY}/perlbal.conf"
    SHORTER_TIMEOUTS: Patterns = [
        (r"(TIER answer_s +=) (\d+)", lambda m: f"{m[1]} {int(m[2]) / 6:.3f}"),
        (r"(TIER rest_s +=) \d+", r"\1 1"),
    ]


BENCHES: dict[str, type[Bench]] = {"nginx": NginxBench, "perlbal": PerlbalBench}


def logged(host: Host, token: str, log: str) -> list[dict[str, Any]]:
    """Lines of an access log that mention a token."""
    return [json.loads(line) for line in host.run("grep %s %s", token, log).stdout.splitlines()]
