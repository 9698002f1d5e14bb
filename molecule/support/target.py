"""A standing tier in containers: its state, and how to break and repair its hosts."""

import concurrent.futures
import contextlib
import json
import pathlib
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import requests
from tier import Tier, first, inside, wait

from controller import health
from plugins.module_utils import service_health

T = TypeVar("T")

RECOVERY_S = 120.0  # seconds after which a wait for a healthy tier gives up
ANSWER_S = 5.0  # seconds a host has to answer a question about itself
STALL_S = 1.5  # seconds a stalled standby falls behind before its primary is broken
VARIABLES = (
    "app_port",
    "db_port",
    "etcd_metrics_port",
    "lb_vip",
    "make_args",
    "media_port",
    "media_root",
    "patroni_port",
    "pool_port",
    "site_name",
    "site_root",
)


def png() -> bytes:
    """A picture of one pixel, as PNG."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
        + chunk(b"IEND", b"")
    )


def try_run(*command: str) -> str | None:
    """Standard output of a command, stripped; None where it fails or takes longer than ANSWER_S."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:  # on a host that froze during it
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run(*command: str) -> str:
    """Standard output of a command, stripped. Exits where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout.strip()


class Target:
    """A standing tier in containers, and how to break it."""

    def __init__(self, inventory: str | pathlib.Path) -> None:
        self.tier = Tier(inventory)
        env = self.tier.name
        if not self.tier.value("hostvars[groups['all'][0]].env_containers"):
            sys.exit(
                f"ENV={env} has real hosts: drills kill and freeze containers of this machine."
                " 'make failover' works there."
            )
        app = self.tier.hosts("app")[0]
        self.facts: dict[str, Any] = self.tier.value("dict(" + ", ".join(f"{n}={n}" for n in VARIABLES) + ")", app)
        self.engine: str = self.tier.value("lb_engine", self.tier.hosts("lb")[0])
        self.env = env
        self.frozen: set[str] = set()
        self.unhealthy = ""  # the host that had a problem when all were asked last
        self.groups: dict[str, list[str]] = self.tier.value("groups")
        self.address: dict[str, str] = {host["name"]: host["address"] for host in self.tier.value("all_hosts", app)}
        self.cut_from = ""  # the primary that a standby was cut off from, as long as it is
        self.gateway = ""  # address that the monitor's alarms leave by
        if run("docker", "ps", "--quiet", "--filter", f"label=realworld={env}") == "":
            sys.exit(f"Nothing stands: make converge {' '.join(self.tier.words)}")

    # commands on hosts

    def docker(self, *arguments: str) -> str:
        """Run docker; its output."""
        return run("docker", *arguments)

    def container(self, host: str) -> str:
        """Name of a host's container."""
        return f"{self.env}-{host}"

    def run(self, host: str, *command: str, user: str = "root") -> str:
        """Output of a command on a host. Exits where it fails."""
        return run(*inside(self.container(host), *command, user=user))

    def on(self, host: str, command: str) -> str:
        """Output of a shell command on a host, as root. Exits where it fails."""
        return self.run(host, "sh", "-c", command)

    def try_on(self, host: str, command: str) -> str | None:
        """The same; None where it fails, and on a frozen host, on which nothing runs."""
        return None if host in self.frozen else try_run(*inside(self.container(host), "sh", "-c", command))

    def sql(self, statements: str, superuser: bool = False) -> str:
        """Run SQL in the site's database on the primary, as its owner or as a superuser; rows as psql -qAt prints."""
        name = self.facts["site_name"]
        return self.run(
            self.primary(),
            "psql",
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-p",
            str(self.facts["db_port"]),
            "-d",
            name,
            "-U",
            "postgres" if superuser else name,
            "-c",
            statements,
            user="postgres",
        )

    def manage(self, app: str, code: str) -> str:
        """Run code in the site on an app host; its output."""
        return self.run(app, "/usr/local/bin/manage", "shell", "-v", "0", "-c", code)

    # state

    def ask(self, host: str, path: str) -> tuple[int | None, Any]:
        """What a host's Patroni answers, as (status, JSON); (None, None) if it does not."""
        with contextlib.suppress(requests.RequestException):
            answer = requests.get(f"http://{self.address[host]}:{self.facts['patroni_port']}/{path}", timeout=1)
            return answer.status_code, answer.json()
        return None, None

    def primaries(self) -> list[str]:
        """Databases that say they are the primary."""
        return [host for host in self.groups["db"] if self.ask(host, "primary")[0] == 200]

    def holders(self) -> list[str]:
        """Balancers that have the virtual IP and are not frozen."""
        show = ("ip", "-oneline", "address", "show", "to", self.facts["lb_vip"])
        return [
            host
            for host in self.groups["lb"]
            if host not in self.frozen and (pid := self.pid(host)) and try_run("nsenter", "-t", str(pid), "-n", *show)
        ]

    def primary(self) -> str:
        """The primary."""
        return self.wait(lambda: (self.primaries() or [""])[0] if len(self.primaries()) == 1 else "", "one primary")

    def standby(self) -> str:
        """A database that is not the primary."""
        return next(host for host in self.groups["db"] if host != self.primary())

    def holder(self) -> str:
        """The balancer with the virtual IP."""
        return self.wait(
            lambda: (self.holders() or [""])[0] if len(self.holders()) == 1 else "", "one holder of the virtual IP"
        )

    def pid(self, host: str) -> int:
        """The first process of a host, as this machine numbers it; 0 while the host is off."""
        return first(self.container(host))

    def accepts_connections(self, host: str, port: str) -> bool:
        """Whether a port of a host, by the name of its variable, takes connections."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self.address[host], self.facts[port]), timeout=1),
        ):
            return True
        return False

    def log_lines(self, request_id: str) -> dict[str, str]:
        """What app hosts and balancers logged of a request, as {host: lines}."""
        logs = {
            host: self.try_on(host, f"cat /var/log/*/access.log /var/log/*/access.log.1 | grep {request_id}")
            for host in (*self.groups["app"], *self.groups["lb"])
        }
        return {host: lines for host, lines in logs.items() if lines}

    # caches and uploads

    def fill_cache(self) -> str:
        """Put a hundred keys into the caches; what they begin with."""
        prefix = f"drill.{secrets.token_hex(4)}"
        self.cached(self.groups["app"][0], f"[cache.set('{prefix}.%d' % n, n, 600) for n in range(100)]")
        return prefix

    def cached_share(self, prefix: str, without: Collection[str]) -> float:
        """The share of those keys, from 0 to 1, that an app host which is not among `without` still finds."""
        app = next(host for host in self.groups["app"] if host not in without)
        output = self.cached(app, f"print(sum(cache.get('{prefix}.%d' % n) == n for n in range(100)))")
        return int(output.split()[-1]) / 100

    def cached(self, app: str, code: str) -> str:
        """Run code on an app host, with the site's cache; its output."""
        return self.manage(app, f"from django.core.cache import cache; {code}")

    def upload(self, name: str) -> None:
        """Put a picture on every media host, as the site does."""
        self.manage(
            self.groups["app"][0],
            "from django.core.files.base import ContentFile; from django.core.files.storage import default_storage; "
            f"default_storage.save('{name}', ContentFile(bytes.fromhex('{png().hex()}')))",
        )

    def missing_files(self, names: Collection[str]) -> dict[str, set[str]]:
        """{media host: uploads that it lacks}. What one of them has the others fetch; what none has is lost."""
        paths = [f"{self.facts['media_root']}/{name}" for name in names]
        missing = {}
        for host in self.groups["media"]:
            output = self.try_on(host, f"for f in {' '.join(paths)}; do [ -s $f ] || echo $f; done")
            missing[host] = set(paths if output is None else output.split())
        return missing

    # health

    def problem(self) -> str:
        """Why the tier is not healthy, as a sentence; empty where it is."""
        _roles, problems = health.problems_across_hosts(self.answers(), self.groups, self.facts, strict=True)
        if problems:
            return problems[0]
        # A wait asks the host that it waits for: questions to all of them would slow the recovery that is awaited.
        if self.unhealthy and (problem := self.host_problem(self.unhealthy)):
            return problem
        with concurrent.futures.ThreadPoolExecutor(len(self.groups["all"])) as threads:
            answers = dict(zip(self.groups["all"], threads.map(self.host_problem, self.groups["all"])))
        self.unhealthy = next((host for host, problem in answers.items() if problem), "")
        return answers.get(self.unhealthy, "")

    def answers(self) -> health.Answers:
        """What databases and balancers answer, as host_status returns it; less than a look from inside costs, while visitors are at it."""
        answers: dict[str, dict[str, dict[str, Any]]] = {host: {"raw": {}} for host in self.groups["all"]}
        primaries, holders = self.primaries(), self.holders()
        for host in self.groups["db"]:
            answers[host]["raw"]["role"] = "primary" if host in primaries else None
        for host in primaries[:1]:
            status, cluster = self.ask(host, "cluster")
            answers[host]["raw"]["cluster"] = cluster if status == 200 else {}
        for host in self.groups["lb"]:
            answers[host]["raw"]["holds"] = host in holders
        return answers

    def json_on(self, host: str, port: str, path: str) -> dict[str, Any]:
        """What a service of a host answers to the host itself, as JSON; empty where it does not. port: the name of its variable."""
        output = self.try_on(host, f"curl -sf -m 3 http://{self.address[host]}:{self.facts[port]}{path}")
        with contextlib.suppress(ValueError):
            answer: dict[str, Any] = json.loads(output or "{}")
            return answer
        return {}

    def host_problem(self, host: str) -> str:
        """Why a host is not healthy, as a sentence; empty where it is."""
        problems: list[str] = []
        if host in self.groups["app"]:
            problems += service_health.site_problems(self.json_on(host, "app_port", "/-/health"))
            command = "PCPPASSFILE=/etc/pgpool2/pcppass pcp_node_info -h 127.0.0.1 -U follow -w -a"
            nodes = service_health.pgpool_nodes(self.try_on(host, command) or "")
            problems += [] if nodes else [service_health.PGPOOL]
            problems += [f"its pgpool does not use {node['address']}" for node in nodes if not node["up"]]
        if host in self.groups["media"] and not self.accepts_connections(host, "media_port"):
            problems.append(service_health.LIGHTTPD)
        if host in self.groups["quorum"]:
            problems += service_health.etcd_problems(self.json_on(host, "etcd_metrics_port", "/health"))
        if problems:
            return f"{host}: {problems[0]}"
        state = self.try_on(host, "systemctl is-system-running")
        if state != "running":
            return f"{host}: {self.try_on(host, 'systemctl --failed --no-legend --plain; true') or state}"
        return ""

    def wait(self, condition: Callable[[], T], what: str, seconds: float = RECOVERY_S) -> T:
        """The value of a condition, once it is true. Raises TimeoutError after so many seconds."""
        return wait(condition, what, seconds)

    def await_no_problem(self, problem: Callable[[], str], what: str, seconds: float = RECOVERY_S) -> None:
        """Await that problem() is empty. Raises TimeoutError, with the last problem, after so many seconds."""
        last = ""

        def solved() -> bool:
            nonlocal last
            last = problem()
            return not last

        try:
            self.wait(solved, what, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {last}") from None

    def await_healthy(self) -> None:
        """Await that the tier is healthy."""
        self.await_no_problem(self.problem, "healthy tier")

    # faults and their repairs

    def kill(self, *hosts: str) -> None:
        """Power hosts off, without a shutdown."""
        self.docker("kill", *map(self.container, hosts))

    def start(self, *hosts: str) -> None:
        """Power hosts on."""
        for host in hosts:
            self.docker("start", self.container(host))

    def set_frozen(self, host: str, state: int) -> None:
        """Freeze (1) or thaw (0) a container's processes: `docker pause` waits for ever for an earlier `docker exec`."""
        cgroup = pathlib.Path(f"/proc/{self.pid(host)}/cgroup").read_text(encoding="utf-8")
        [group] = re.findall(r"^0::(.*?)(?:/init\.scope)?$", cgroup, re.M)
        engine = run("pidof", "-s", "dockerd")
        run("nsenter", "-t", engine, "-m", "sh", "-c", f"echo {state} > /sys/fs/cgroup{group}/cgroup.freeze")

    def freeze(self, host: str) -> None:
        """Stop every process of a host; its kernel still takes connections."""
        self.frozen.add(host)
        self.set_frozen(host, 1)

    def thaw(self, host: str) -> None:
        """Let the processes of a frozen host continue."""
        self.set_frozen(host, 0)
        self.frozen.discard(host)

    def disconnect(self, host: str) -> None:
        """Take a host off the network."""
        self.docker("network", "disconnect", f"realworld-{self.env}", self.container(host))

    def connect(self, host: str) -> None:
        """Put a host back on the network."""
        self.docker("network", "connect", "--ip", self.address[host], f"realworld-{self.env}", self.container(host))

    def mute(self, host: str) -> None:
        """Drop what a host sends to others; it still receives what they send."""
        for other, address in self.address.items():
            if other != host:
                self.on(host, f"ip route add blackhole {address}")

    def unmute(self, host: str) -> None:
        """Undo mute."""
        for other, address in self.address.items():
            if other != host:
                self.on(host, f"ip route del blackhole {address}")

    def stall(self, host: str) -> None:
        """Freeze the WAL receiver of a standby."""
        self.on(host, "pkill -STOP -f '[p]ostgres.*walreceiver'")
        time.sleep(STALL_S)  # how long a stalled standby falls behind is part of the fault
