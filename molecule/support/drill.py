"""Break something in a standing tier under load, mend it, and tell what its visitors noticed.

    make drill ENV=local DRILL=primary_killed     one of them
    make drills ENV=local                         all of them, as one table

Visitors outside the tier ask the virtual IP for pages, files and changes, each request over a new connection.
On every app host a writer commits rows through the pgpool there, one after another, and writes down each one
that is acknowledged. Afterwards the databases are asked for all of them.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import http.client
import http.cookies
import json
import os
import pathlib
import random
import re
import secrets
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
import uuid
import zlib

from tier import ROOT, Tier, first, inside, wait

SETTLED = 2.0  # seconds of undisturbed service after the last repair: a second fault in its wake would show
RECOVERY = 120.0  # seconds after which a drill gives up
CONNECT = 1.1  # seconds a visitor waits for a connection: until TCP has asked once more; a browser waits longer
PATIENCE = 40.0  # seconds a visitor waits for an answer: longer than a balancer does
ANSWER = 5.0  # seconds a host has to answer a question about itself
PAUSE = 0.1  # seconds between two requests of one visitor …
UPLOAD_PAUSE = 0.5  # … who uploads
CAUGHT_UP = 60.0  # seconds a media host has to fetch what it missed


def picture():
    """A picture of one pixel, as PNG."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
        + chunk(b"IEND", b"")
    )


WRITER = """
import json, sys, time, psycopg
site = json.load(open(sys.argv[1]))["database"]
where = dict(host="127.0.0.1", port=site["port"], dbname=site["name"], user=site["name"], password=site["password"], connect_timeout=5)
verb, pace = sys.argv[2], float(sys.argv[4])
while True:
    try:
        with psycopg.connect(**where, autocommit=True, prepare_threshold=None) as connection:
            for _ in range(1 if verb == "read" else 10**9):
                begun, row = time.time(), time.time_ns()
                if verb == "read":
                    connection.execute("select max(id) from drill").fetchone()
                    server = "-"
                else:
                    server = connection.execute(
                        "insert into drill values (%s, %s) returning host(inet_server_addr())", (row, sys.argv[3])).fetchone()[0]
                print(row, server, begun, time.time(), flush=True)
                time.sleep(0.02 / pace)  # some forty a second
        time.sleep(0.08 / pace)  # the pace of reads, each on a session of its own
    except psycopg.Error as error:
        print("!", str(error).strip().replace("\\n", " ")[:150], file=sys.stderr, flush=True)
        time.sleep(0.1)  # between two tries to connect, while there is nothing to connect to
"""


def run(*command, check=True):
    """Run a command; its standard output. Where it may fail it may not take long either, and gives None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=None if check else ANSWER)
    except subprocess.TimeoutExpired:  # on a host that froze under it
        return None
    if check and done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout.strip() if done.returncode == 0 else None


@dataclasses.dataclass(frozen=True)
class Request:
    """One request of a visitor's. Times are time.time() in seconds."""

    kind: str
    begun: float
    ended: float
    failure: str  # empty: it was answered as it should be


@dataclasses.dataclass(frozen=True)
class Commit:
    """One row that the database acknowledged, or one read (server: -)."""

    row: int
    app: str
    server: str
    begun: float
    ended: float


class Place:
    """A standing tier in containers, and how to break it."""

    def __init__(self, inventory):
        self.tier = Tier(inventory)
        env = self.tier.name
        if not self.tier.value("hostvars[groups['all'][0]].env_containers"):
            sys.exit(
                f"ENV={env} has real hosts: drills kill and freeze containers of this machine. 'make failover' works there."
            )
        names = (
            "app_port",
            "db_port",
            "etcd_metrics_port",
            "lb_vip",
            "media_port",
            "media_root",
            "patroni_port",
            "pool_port",
            "site_name",
            "site_root",
        )
        self.facts = self.tier.value("dict(" + ", ".join(f"{n}={n}" for n in names) + ")", self.tier.hosts("app")[0])
        self.engine = self.tier.value("lb_engine", self.tier.hosts("lb")[0])
        self.env, self.frozen = env, set()
        self.groups = self.tier.value("groups")
        self.address = {one["name"]: one["address"] for one in self.tier.value("all_hosts", self.tier.hosts("app")[0])}
        if self.docker("ps", "--quiet", "--filter", f"label=realworld={env}") == "":
            sys.exit(f"Nothing stands: make converge {' '.join(self.tier.words)}")

    def docker(self, *words, check=True):
        """Run docker."""
        return run("docker", *words, check=check)

    def container(self, host):
        """Name of a host's container."""
        return f"{self.env}-{host}"

    def run(self, host, *command, user="root", check=True):
        """Run a command on a host; its output, or None if it failed and may. Nothing runs on a frozen host."""
        if host in self.frozen and not check:
            return None
        return run(*inside(self.container(host), *command, user=user), check=check)

    def on(self, host, command, check=True):
        """The same with a command of the shell, as root."""
        return self.run(host, "sh", "-c", command, check=check)

    def ask(self, host, path):
        """What a host's Patroni answers, as (status, JSON); (None, None) if it does not."""
        with contextlib.suppress(OSError, ValueError):
            try:
                with urllib.request.urlopen(
                    f"http://{self.address[host]}:{self.facts['patroni_port']}/{path}", timeout=1
                ) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as answer:
                return answer.code, json.load(answer)
        return None, None

    def primaries(self):
        """Databases that say they are the primary."""
        return [host for host in self.groups["db"] if self.ask(host, "primary")[0] == 200]

    def holders(self):
        """Balancers that have the virtual IP and are not frozen."""
        return [
            host
            for host in self.groups["lb"]
            if host not in self.frozen
            and (pid := self.pid(host))
            and run(
                "nsenter",
                "-t",
                str(pid),
                "-n",
                "ip",
                "-oneline",
                "address",
                "show",
                "to",
                self.facts["lb_vip"],
                check=False,
            )
        ]

    def primary(self):
        """The primary."""
        return self.wait(lambda: (self.primaries() or [None])[0] if len(self.primaries()) == 1 else None, "one primary")

    def standby(self):
        """A database that is not the primary."""
        return next(host for host in self.groups["db"] if host != self.primary())

    def holder(self):
        """The balancer with the virtual IP."""
        return self.wait(
            lambda: (self.holders() or [None])[0] if len(self.holders()) == 1 else None, "one holder of the virtual IP"
        )

    def wait(self, condition, what, seconds=RECOVERY):
        """What a condition comes to, once it is true."""
        return wait(condition, what, seconds)

    def sql(self, statements, superuser=False):
        """Run SQL in the site's database on the primary, as its owner or as a superuser."""
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

    def remember(self):
        """Put a hundred keys into the caches; what they begin with."""
        name = f"drill.{secrets.token_hex(4)}"
        self.cached(self.groups["app"][0], f"[cache.set('{name}.%d' % n, n, 600) for n in range(100)]")
        return name

    def recall(self, name, without):
        """Which part of those keys an app host still finds."""
        app = next(host for host in self.groups["app"] if host not in without)
        return (
            int(self.cached(app, f"print(sum(cache.get('{name}.%d' % n) == n for n in range(100)))").split()[-1]) / 100
        )

    def cached(self, app, code):
        """Run code on an app host, with the site's cache."""
        return self.manage(app, f"from django.core.cache import cache; {code}")

    def manage(self, app, code):
        """Run code in the site on an app host."""
        return self.run(app, "/usr/local/bin/manage", "shell", "-v", "0", "-c", code)

    def logged(self, known_as):
        """What app hosts and balancers logged of a request, as {host: lines}."""
        found = {
            host: self.on(host, f"cat /var/log/*/access.log /var/log/*/access.log.1 | grep {known_as}", check=False)
            for host in (*self.groups["app"], *self.groups["lb"])
        }
        return {host: lines for host, lines in found.items() if lines}

    def upload(self, name):
        """Put a picture on every media host, as the site does."""
        self.manage(
            self.groups["app"][0],
            "from django.core.files.base import ContentFile; from django.core.files.storage import default_storage; "
            f"default_storage.save('{name}', ContentFile(bytes.fromhex('{picture().hex()}')))",
        )

    def open(self, host, port):
        """Whether a port of a host takes connections."""
        with contextlib.suppress(OSError), socket.create_connection((self.address[host], self.facts[port]), timeout=1):
            return True
        return False

    def ailing(self):
        """Why the tier is not whole, as a sentence; empty where it is."""
        if len(self.primaries()) != 1:
            return f"primaries: {self.primaries()}"
        status, cluster = self.ask(self.primaries()[0], "cluster")
        members = cluster["members"] if status == 200 else []
        wrong = [
            m["name"]
            for m in members
            if m["state"] not in ("running", "streaming")
            or m["role"] not in ("leader", "sync_standby", "quorum_standby")
        ]
        if len(members) != len(self.groups["db"]) or wrong:
            return f"databases: {[(m['name'], m['role'], m['state']) for m in members]}"
        if len(self.holders()) != 1:
            return f"holders of the virtual IP: {self.holders()}"
        with concurrent.futures.ThreadPoolExecutor(len(self.groups["all"])) as pool:
            return next(filter(None, pool.map(self.ailment, self.groups["all"])), "")

    def ailment(self, host):
        """What is wrong with one host, as a sentence; empty where nothing is."""
        if host in self.groups["app"]:
            if not self.on(
                host, f"curl -sf -m 3 http://{self.address[host]}:{self.facts['app_port']}/-/health", check=False
            ):
                return f"{host} does not serve"
            nodes = self.on(
                host, "PCPPASSFILE=/etc/pgpool2/pcppass pcp_node_info -h 127.0.0.1 -U follow -w -a", check=False
            )
            if not nodes or any(line.split()[2] not in ("1", "2") for line in nodes.splitlines()):
                return f"pgpool of {host}: {nodes}"
        if host in self.groups["media"] and not self.open(host, "media_port"):
            return f"{host} does not serve files"
        if host in self.groups["quorum"] and not self.on(
            host, f"curl -sf -m 3 http://{self.address[host]}:{self.facts['etcd_metrics_port']}/health", check=False
        ):
            return f"etcd of {host} is down"
        state = self.on(host, "systemctl is-system-running", check=False)
        if state != "running":
            return f"{host}: {self.on(host, 'systemctl --failed --no-legend --plain; true', check=False) or state}"
        return ""

    def await_nothing(self, complaint, what, seconds=RECOVERY):
        """Await that there is nothing to complain about any more."""
        said = []
        try:
            self.wait(lambda: not (said.append(complaint()) or said[-1]), what, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {said[-1]}") from None

    def whole(self):
        """Await that the tier is whole."""
        self.await_nothing(self.ailing, "whole tier")

    # faults and their repairs

    def kill(self, *hosts):
        """Power off, without a goodbye."""
        self.docker("kill", *map(self.container, hosts))

    def start(self, *hosts):
        """Power on."""
        for host in hosts:
            self.docker("start", self.container(host))

    def freezer(self, host, state):
        """Freeze (1) or thaw (0) a container's processes. Not by `docker pause`: it waits for ever for a `docker exec` that began before it."""
        pid = self.pid(host)
        [group] = re.findall(
            r"^0::(.*?)(?:/init\.scope)?$", pathlib.Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8"), re.M
        )
        run(
            "nsenter",
            "-t",
            run("pidof", "-s", "dockerd"),
            "-m",
            "sh",
            "-c",
            f"echo {state} > /sys/fs/cgroup{group}/cgroup.freeze",
        )

    def freeze(self, host):
        """Stop every process of a host; its kernel still takes connections."""
        self.frozen.add(host)
        self.freezer(host, 1)

    def thaw(self, host):
        """Let them go on."""
        self.freezer(host, 0)
        self.frozen.discard(host)

    def pid(self, host):
        """The first process of a host, as this machine numbers it; 0 while the host is off."""
        return first(self.container(host))

    def cut(self, host):
        """Take a host off the network."""
        self.docker("network", "disconnect", f"realworld-{self.env}", self.container(host))

    def mend(self, host):
        """Put it back."""
        self.docker("network", "connect", "--ip", self.address[host], f"realworld-{self.env}", self.container(host))

    def mute(self, host):
        """A host hears all the others, and none hears it."""
        for other, address in self.address.items():
            if other != host:
                self.on(host, f"ip route add blackhole {address}")

    def unmute(self, host):
        """Undo mute."""
        for other, address in self.address.items():
            if other != host:
                self.on(host, f"ip route del blackhole {address}")

    def stall(self, host):
        """Freeze what a standby receives its changes with."""
        self.on(host, "pkill -STOP -f '[p]ostgres.*walreceiver'")
        time.sleep(1.5)  # how long a stalled standby falls behind is part of the fault


CHANGES = ("change", "upload")  # kinds of requests that change something


class Visitor(threading.Thread):
    """Asks one kind of thing again and again, over a new connection each time."""

    def __init__(self, place, kind, cookies="", pace=1.0, connect=CONNECT):
        super().__init__(daemon=True)
        self.place, self.kind, self.cookies = place, kind, cookies
        self.connect, self.pause = connect, (UPLOAD_PAUSE if kind == "upload" else PAUSE) / pace
        self.context = ssl.create_default_context(cafile=place.tier.authority)
        self.over, self.seen, self.waits = threading.Event(), [], None
        self.stamp, self.accepted = secrets.token_hex(4), []

    def fetch(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request."""
        vip = self.place.facts["lb_vip"]
        connection = http.client.HTTPSConnection(vip, timeout=self.connect, context=self.context)
        try:
            connection.connect()
            connection.sock.settimeout(PATIENCE)
            connection.request(
                method, path, body, {"Cookie": self.cookies, "Referer": f"https://{vip}/", **(headers or {})}
            )
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def keep(self, headers):
        """Take the cookies of an answer."""
        jar = http.cookies.SimpleCookie(self.cookies)
        for line in headers.get_all("Set-Cookie", []):
            jar.load(line)
        self.cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())

    def form(self, path, fields):
        """Fill in a page's form; (status, headers, body) of the answer to it."""
        _status, headers, page = self.fetch("GET", path)
        self.keep(headers)
        token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page)
        if not token:
            raise ValueError(f"no form at {path}")
        return self.post(path, fields | {"csrfmiddlewaretoken": token[1].decode()})

    def post(self, path, fields, headers=None):
        """Send a form."""
        return self.fetch(
            "POST",
            path,
            urllib.parse.urlencode(fields),
            {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})},
        )

    def upload(self, path, fields, content, headers):
        """Send a form with a picture."""
        edge = secrets.token_hex(8)
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        parts.append(
            f'--{edge}\r\nContent-Disposition: form-data; name="picture"; filename="drill.png"\r\nContent-Type: image/png\r\n\r\n'.encode()
        )
        body = b"".join(parts) + content + f"\r\n--{edge}--\r\n".encode()
        return self.fetch("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={edge}", **headers})

    def once(self):
        """One request; raises where the answer is not as it should be."""
        if self.kind in CHANGES:
            # Named after its request, so that the logs tell how a change came to be made twice.
            known_as, accepted = uuid.uuid4().hex, self.accepted
            text, headers = f"drill {self.stamp} {known_as}", {"X-Request-Id": known_as}
            today, token = datetime.date.today().isoformat(), http.cookies.SimpleCookie(self.cookies)["csrftoken"].value
            if self.kind == "upload":
                status, headers, _body = self.upload(
                    "/budget/stories/add/",
                    {"title": text, "date": today, "status": 2, "text": "-", "csrfmiddlewaretoken": token},
                    picture(),
                    headers,
                )
            else:
                status, headers, _body = self.post(
                    "/ledger/entries/add/",
                    {"date": today, "text": text, "amount": "1.00", "csrfmiddlewaretoken": token},
                    headers,
                )
            if status != 302 or "login" in headers["Location"]:
                raise ValueError(f"{status} {headers['Location']}")
            accepted.append(text)
            return
        path = {"page": "/", "session": "/accounts/", **self.place.files}[self.kind]
        status, headers, body = self.fetch("GET", path)
        if status != 200:
            raise ValueError(f"{status} {headers.get('Location', '')}")
        if self.kind == "session" and b"Sign out" not in body:
            raise ValueError("signed out")

    def run(self):
        while not self.over.wait(self.pause):
            begun, failure = time.time(), ""
            self.waits = begun
            try:
                self.once()
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"{type(error).__name__} {error}"
            self.seen.append(Request(self.kind, begun, time.time(), failure))
            self.waits = None


class Writer(threading.Thread):
    """Commits rows, or reads, through the pgpool of one app host, as long as that host lives."""

    def __init__(self, place, app, verb, pace=1.0):
        super().__init__(daemon=True)
        self.place, self.app, self.verb, self.pace = place, app, verb, pace
        self.over, self.seen, self.process = threading.Event(), [], None

    def run(self):
        facts = self.place.facts
        command = [
            "docker",
            "exec",
            "-i",
            "-u",
            facts["site_name"],
            self.place.container(self.app),
            f"{facts['site_root']}/current/venv/bin/python",
            "-",
            f"/etc/{facts['site_name']}/site.json",
            self.verb,
            self.app,
            str(self.pace),
        ]
        while not self.over.wait(0.2):
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as self.process:
                with contextlib.suppress(BrokenPipeError):
                    self.process.stdin.write(WRITER)
                    self.process.stdin.close()
                for line in self.process.stdout:
                    if not line[0].isdigit():
                        continue  # docker's own word, while the host is off
                    row, server, begun, ended = line.split()
                    self.seen.append(Commit(int(row), self.app, server, float(begun), float(ended)))

    def stop(self):
        """End it, and what it runs on the host."""
        self.over.set()
        self.process.kill()
        self.place.on(self.app, f"pkill -u {self.place.facts['site_name']} -f 'site.json {self.verb}'", check=False)


class Load:
    """Visitors and writers, and what they saw. pace: times the usual number of requests and commits; connect: seconds they wait for a connection."""

    def __init__(self, place, pace=1.0, connect=CONNECT):
        self.place = place
        self.clean()
        # Not unique: a row that is written twice is to be seen.
        place.sql("create table drill (id bigint not null, app text not null); create index on drill (id)")
        password = secrets.token_urlsafe(12)
        app = place.groups["app"][0]
        place.on(app, f"echo {password} | /usr/local/bin/manage create_editor --username drill")
        first = Visitor(place, "page")
        _s, _h, page = first.fetch("GET", "/")
        place.files = {"static": re.search(rb'"(/static/[^"]+\.css)"', page)[1].decode()}
        status, headers, _body = first.form("/accounts/login/", {"username": "drill", "password": password})
        if status != 302:
            sys.exit(f"The drill's visitor cannot sign in: {status}")
        first.keep(headers)
        status, headers, _body = first.fetch("GET", "/ledger/entries/add/")
        first.keep(headers)
        kinds = ["page", "page", "session", "static", "change", "change", "upload"]
        self.visitors = [
            Visitor(place, kind, first.cookies if kind in ("session", *CHANGES) else "", pace, connect)
            for kind in kinds
        ]
        self.writers = [Writer(place, app, verb, pace) for app in place.groups["app"] for verb in ("write", "read")]

    def __enter__(self):
        for one in [*self.visitors, *self.writers]:
            one.start()
        self.place.wait(lambda: all(w.seen for w in self.writers) and all(v.seen for v in self.visitors), "load")
        return self

    def __exit__(self, error, *_more):
        for one in self.visitors:
            one.over.set()
        for one in self.writers:
            one.stop()
        for one in self.visitors:
            one.join()
        if not error:
            uploads = self.uploads()
            self.place.await_nothing(
                lambda: ", ".join(
                    f"{host} lacks {absent}" for host, absent in files_missing(self.place, uploads).items() if absent
                ),
                "complete media host",
                CAUGHT_UP,
            )
        self.clean()

    def uploads(self, stamps=""):
        """Names of the pictures that the database has of these visitors."""
        return self.place.sql(f"select picture from budget_story where title ~ '^drill ({stamps})'").split()

    def clean(self):
        """Remove what visitors and writers left."""
        files = self.uploads()
        self.place.sql(
            "delete from ledger_entry where text like 'drill %'; delete from budget_story where title like 'drill %'; "
            "drop table if exists drill"
        )
        if files:
            self.place.manage(
                self.place.groups["app"][0],
                f"from django.core.files.storage import default_storage; [default_storage.delete(n) for n in {files}]",
            )

    def mark(self):
        """Begin to count changes anew; what is still on its way belongs to before."""
        for one in self.visitors:
            one.stamp, one.accepted = secrets.token_hex(4), []

    def requests(self, since):
        """Requests that ended after a moment, in the order of their ends."""
        return sorted((r for v in self.visitors for r in v.seen if r.ended > since), key=lambda r: r.ended)

    def commits(self, since, verb="write"):
        """Acknowledged commits (or reads) begun after a moment, in the order of the answers."""
        return sorted(
            (c for w in self.writers if w.verb == verb for c in w.seen if c.begun > since), key=lambda c: c.ended
        )

    def unkept(self, commits):
        """(sentences about what was acknowledged since mark() and is not there, about entries that are there twice)."""
        place = self.place
        accepted = {text for v in self.visitors for text in v.accepted}
        found = collections.Counter(map(int, place.sql("select id from drill").split()))
        stamps = "|".join(v.stamp for v in self.visitors)
        entries = dict(
            line.split("|")
            for line in place.sql(
                f"select text, string_agg(concat_ws(' ', id, xmin, ctid), ', ') from ("
                f"select id, xmin, ctid, text from ledger_entry where text ~ 'drill ({stamps}) ' union all "
                f"select id, xmin, ctid, title from budget_story where title ~ 'drill ({stamps}) ') as entry group by text"
            ).splitlines()
        )
        missing = files_missing(place, self.uploads(stamps))
        lost = [
            *(f"row {c.row} of {c.app} on {c.server} at {c.ended:.3f}" for c in commits if c.row not in found),
            *(accepted - set(entries)),
            *set.intersection(*missing.values()),
        ]
        return lost, [
            *(
                f"row {c.row} of {c.app} on {c.server} at {c.ended:.3f}, {found[c.row]} times"
                for c in commits
                if found[c.row] > 1
            ),
            *(f"{text} as {rows}: {place.logged(text.split()[-1])}" for text, rows in entries.items() if ", " in rows),
        ]

    def unserved(self, since, without=(), held=()):
        """Who, since a moment, has not been answered at least twice, the last two times well; empty where all have.

        Not asked: writers of the hosts in without, visitors of the kinds in held.
        """
        kinds = {}
        for one in self.visitors:
            if one.kind in held:
                continue
            kinds.setdefault(one.kind, []).extend((r.ended, r.failure) for r in one.seen[-2:] if r.begun > since)
        waiting = [
            kind
            for kind, seen in kinds.items()
            if len(seen) < 2 or any(failure for _ended, failure in sorted(seen)[-2:])
        ]
        return ", ".join(
            waiting
            + [
                f"{w.verb} by {w.app}"
                for w in self.writers
                if w.app not in without and sum(c.begun > since for c in w.seen[-20:]) < 3
            ]
        )

    def await_service(self, *whom, **but):
        """Await that everybody is served again, as unserved() takes it."""
        self.place.await_nothing(lambda: self.unserved(*whom, **but), "service")

    def await_answers(self, before):
        """Await that whoever asked before a moment has an answer or has given up.

        A balancer that has been frozen may keep a visitor waiting for PATIENCE, until long after it is well: that failure is its own, not the next drill's.
        """

        def waiting():
            asked = [(one.kind, one.waits) for one in self.visitors]
            return ", ".join(kind for kind, since in asked if since and since < before)

        self.place.await_nothing(waiting, "answers")


def files_missing(place, names):
    """{media host: uploads that it lacks}. What one of them has the others fetch; what none has is lost."""
    wanted = [f"{place.facts['media_root']}/{name}" for name in names]
    found = {}
    for host in place.groups["media"]:
        absent = place.on(host, f"for f in {' '.join(wanted)}; do [ -s $f ] || echo $f; done", check=False)
        found[host] = set(wanted if absent is None else absent.split())
    return found


def longest(moments, start, end):
    """The longest time in [start, end] between two neighbours of a sorted list of moments."""
    inside = [start, *(m for m in moments if start < m < end), end]
    return max(b - a for a, b in zip(inside, inside[1:]))


@dataclasses.dataclass(frozen=True)
class Drill:
    """A fault, its repair, and what may come of it at most."""

    fault: object  # fault(place) breaks something; returns the hosts that are away because of it
    repair: object  # repair(place, hosts) brings them back
    limits: dict  # {column: maximum}, in seconds or as a count
    hold: float = 1.0  # seconds of service without the broken part
    held: tuple = ()  # kinds of requests that the broken part may hold until it is repaired


@contextlib.contextmanager
def watching(place):
    """A list of the moments at which two balancers had the virtual IP."""
    doubles, over = [], threading.Event()

    def watch():
        while not over.wait(0.3):
            if len(place.holders()) > 1:
                doubles.append(time.time())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield doubles
    finally:
        over.set()
        watcher.join()


def measure(place, drill, load):
    """Drill under a load; the row of the table, as {column: value}."""
    place.whole()
    load.mark()
    keys = place.remember() if "cache lost" in drill.limits else None
    with watching(place) as doubles:
        begun = time.time()
        away = drill.fault(place)
        try:
            load.await_service(begun + 0.5, without=away, held=drill.held)
            served = time.time()
            moved = place.holder(), place.primary()
            time.sleep(drill.hold)  # service without the broken part
            kept = place.recall(keys, away) if keys else 1
        finally:
            repaired = time.time()
            drill.repair(place, away)
        load.await_service(repaired)
        back = time.time()
        place.whole()
        time.sleep(SETTLED)  # to see what comes in the wake of the repair
        load.await_answers(back)
        ended = time.time()
    requests, commits, reads = load.requests(begun), load.commits(begun), load.commits(begun, "read")
    apps = [app for app in place.groups["app"] if app not in away]
    failures = [r for r in requests if r.failure]
    good = [r for r in requests if not r.failure]
    servers = [c.server for c in commits]
    blocks = [server for before, server in zip([None, *servers], servers) if server != before]
    lost, twice = load.unkept(commits)
    row = {
        "requests": len(requests),
        "failed": len(failures),
        "failed again": sum(r.begun > back for r in failures),
        "pages failed": sum(r.kind not in CHANGES for r in failures),
        "gap": longest([r.ended for r in good], begun, ended),
        "slowest page": max((r.ended - r.begun for r in good if r.kind not in CHANGES), default=0),
        "slowest change": max((r.ended - r.begun for r in good if r.kind in CHANGES), default=0),
        "commits": len(commits),
        "lost": len(lost),
        "twice": len(twice),
        "writes paused": max(longest([c.ended for c in commits if c.app == app], begun, ended) for app in apps),
        "reads paused": max(longest([c.ended for c in reads if c.app == app], begun, ended) for app in apps),
        "recovered": served - begun,
        "signed out": sum("signed out" in r.failure or "/accounts/login" in r.failure for r in failures),
        "cache lost": 1 - kept,
        "two primaries": len(blocks) - len(set(blocks)),
        "two holders": len(doubles),
        "moved again": int((place.holder(), place.primary()) != moved),
        "primary": place.primary(),
        "holder": place.holder(),
        "failures": twice
        + sorted({f"{r.kind}: {r.failure}"[:140] for r in failures})
        + [f"lost: {one}" for one in lost[:20]],
    }
    return row


ALWAYS = {"lost": 0, "twice": 0, "signed out": 0, "two primaries": 0, "two holders": 0, "moved again": 0}


def excess(row, drill):
    """Sentences about what exceeds its limit."""
    return [
        f"{column}: {row[column]:.2f}, at most {most}"
        for column, most in (ALWAYS | drill.limits).items()
        if row[column] > most
    ]


def on_host(choose, act):
    """A fault of one host: choose(place) names it, act(place, host) breaks it."""

    def fault(place):
        host = choose(place)
        act(place, host)
        return [host]

    return fault


def each(act):
    """A repair of every host that is away."""

    def repair(place, hosts):
        for host in hosts:
            act(place, host)

    return repair


def service(verb, *units):
    """An act on units of a host."""
    return lambda place, host: place.on(host, f"systemctl {verb} {' '.join(units)}")


def engine(verb):
    """An act on the engine of a balancer."""
    return lambda place, host: place.on(host, f"systemctl {verb} {place.engine}")


def last(group):
    """The last host of a group."""
    return lambda place: place.groups[group][-1]


def etcd_leader(place):
    """The host whose etcd leads the others."""

    def leads():
        for host in place.groups["quorum"]:
            metrics = place.on(
                host,
                f"curl -s -m 1 http://{place.address[host]}:{place.facts['etcd_metrics_port']}/metrics",
                check=False,
            )
            if "\netcd_server_is_leader 1\n" in (metrics or ""):
                return host
        return None

    return place.wait(leads, "leader of etcd")


def stalled(act):
    """An act on the primary once the standby's receiver has not heard of it for a while."""

    def both(place, host):
        for standby in place.groups["db"]:
            if standby != host:
                place.stall(standby)
        act(place, host)
        for standby in place.groups["db"]:
            if standby != host:
                place.on(standby, "pkill -KILL -f '[p]ostgres.*walreceiver'", check=False)

    return both


def kill_postgres(place, host):
    """Kill PostgreSQL itself; its Patroni lives on."""
    place.on(host, "pkill -KILL -o -x postgres")


def power_cut(place):
    """Every host off at once, and on again one after the other in a seeded random order."""
    hosts = list(place.groups["all"])
    place.kill(*hosts)
    seed = int(os.environ.get("SEED") or time.time())
    print(f"  SEED={seed}", flush=True)
    random.Random(seed).shuffle(hosts)
    place.start(*hosts)
    return []


def both_databases(place):
    """Every database off at once."""
    place.kill(*place.groups["db"])
    time.sleep(5)  # how long they are off is part of the fault
    place.start(*place.groups["db"])
    return []


def databases_stopped(place):
    """Every database stopped in order, and started."""
    for verb in ("stop", "start"):
        for host in place.groups["db"]:
            place.on(host, f"systemctl {verb} patroni")
        if verb == "stop":
            time.sleep(
                10
            )  # the fault itself: visitors go on meanwhile, so that children of every pgpool look for a database and find none
    return []


def switchover(place):
    """The planned one, as an operator does it."""
    run("make", "--no-print-directory", "--directory", str(ROOT), "failover", *place.tier.words)
    return []


def nothing(place, hosts):
    """It mends itself."""


KILL, START = Place.kill, each(Place.start)
FREEZE, THAW = Place.freeze, each(Place.thaw)
IN_FLIGHT = 6  # requests that one host may be working on: one for each visitor
NO_FAILURE = {"failed": 0}
BALANCER = {"gap": 1.5}
STANDBY = {"failed": IN_FLIGHT, "pages failed": 0, "writes paused": 10}
PRIMARY = {"writes paused": 30, "recovered": 35, "pages failed": 0}

DRILLS = {
    "balancer_stopped": Drill(on_host(Place.holder, engine("stop")), each(engine("start")), BALANCER),
    "balancer_killed": Drill(on_host(Place.holder, KILL), START, BALANCER),
    "balancer_frozen": Drill(on_host(Place.holder, FREEZE), THAW, BALANCER),
    "app_stopped": Drill(
        on_host(last("app"), service("stop", "apache2")), each(service("start", "apache2")), NO_FAILURE
    ),
    "apache_killed": Drill(
        on_host(last("app"), service("kill --signal=KILL", "apache2")), nothing, {"failed": IN_FLIGHT}
    ),
    "app_killed": Drill(on_host(last("app"), KILL), START, {"failed": IN_FLIGHT}),
    "app_frozen": Drill(on_host(last("app"), FREEZE), THAW, {"failed": 0, "slowest page": 4}, hold=12, held=CHANGES),
    "media_stopped": Drill(
        on_host(last("media"), service("stop", "lighttpd")), each(service("start", "lighttpd")), NO_FAILURE
    ),
    "media_killed": Drill(on_host(last("media"), KILL), START, NO_FAILURE),
    "media_frozen": Drill(
        on_host(last("media"), FREEZE), THAW, NO_FAILURE | {"slowest change": 8}
    ),  # once 5 s, not for each question
    "cache_stopped": Drill(
        on_host(last("cache"), service("stop", "memcached")),
        each(service("start", "memcached")),
        NO_FAILURE | {"cache lost": 0.7},
    ),
    "cache_killed": Drill(on_host(last("cache"), KILL), START, NO_FAILURE | {"cache lost": 0.7}),
    "cache_frozen": Drill(on_host(last("cache"), FREEZE), THAW, NO_FAILURE | {"cache lost": 0.7}),
    "switchover": Drill(switchover, nothing, {"failed": 0, "writes paused": 5}),
    "postgres_killed": Drill(on_host(Place.primary, kill_postgres), nothing, PRIMARY),
    "primary_killed": Drill(on_host(Place.primary, stalled(KILL)), START, PRIMARY),
    "primary_frozen": Drill(on_host(Place.primary, stalled(FREEZE)), THAW, PRIMARY),
    "primary_cut_off": Drill(on_host(Place.primary, stalled(Place.cut)), each(Place.mend), PRIMARY),
    "primary_mute": Drill(on_host(Place.primary, stalled(Place.mute)), each(Place.unmute), PRIMARY),
    # A change that was just reading from it hangs with it, and is ended; pages are asked for again.
    "standby_killed": Drill(on_host(Place.standby, KILL), START, STANDBY),
    "standby_frozen": Drill(on_host(Place.standby, FREEZE), THAW, STANDBY),
    "quorum_member_stopped": Drill(
        on_host(last("quorum"), service("stop", "etcd")), each(service("start", "etcd")), NO_FAILURE
    ),
    # On its return it may end every lock by mistake (etcd issue 15247): the primary has to take its own again.
    "quorum_leader_frozen": Drill(on_host(etcd_leader, FREEZE), THAW, NO_FAILURE, hold=25),
    "monitor_killed": Drill(on_host(last("monitor"), KILL), START, NO_FAILURE),
    "pgpool_killed": Drill(
        on_host(last("app"), service("kill --signal=KILL", "pgpool2")), nothing, {"failed": IN_FLIGHT, "recovered": 3}
    ),
    "databases_down": Drill(both_databases, nothing, {"recovered": 60, "failed again": 0}),
    "databases_stopped": Drill(databases_stopped, nothing, {"recovered": 60, "failed again": 0}),
    "power_cut": Drill(power_cut, nothing, {"recovered": 90, "failed again": 0}),
}

COLUMNS = [
    "requests",
    "failed",
    "gap",
    "slowest page",
    "slowest change",
    "commits",
    "lost",
    "writes paused",
    "reads paused",
    "recovered",
    "primary",
    "holder",
]


def line(cells):
    """A row of the table."""
    return "  ".join(f"{cell:<{24 if n == 0 else max(6, len(COLUMNS[n - 1]))}}" for n, cell in enumerate(cells))


def cells(name, row):
    """What the table shows of a row."""
    return [name, *(f"{row[c]:.1f} s" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS)]


def main():
    """Run the drills named on the command line, or all; 1 where a limit was exceeded."""
    if os.geteuid():
        os.execvp(
            "sudo",
            ["sudo", "--preserve-env=INVENTORY,ANSIBLE_VAULT_PASSWORD_FILE,SEED,PATH", sys.executable, *sys.argv],
        )
    place = Place(os.environ.get("INVENTORY", "inventories/local.yml"))
    names = sys.argv[1:] or list(DRILLS)
    for name in names:
        if name not in DRILLS:
            sys.exit(f"No drill {name}. There are: {', '.join(DRILLS)}.")
    table, worst = [], 0
    place.whole()
    with Load(place) as load:
        for name in names:
            print(f"{name} …", flush=True)
            row = measure(place, DRILLS[name], load)
            table.append(cells(name, row))
            for sentence in excess(row, DRILLS[name]):
                print(f"  {name} exceeds its limit: {sentence}", flush=True)
                worst = 1
            for failure in row["failures"]:
                print(f"    {failure}", flush=True)
    print("\n" + "\n".join(map(line, [["drill", *COLUMNS], *table])))
    return worst


if __name__ == "__main__":
    sys.exit(main())
