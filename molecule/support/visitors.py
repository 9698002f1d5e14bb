"""Load on a standing tier: visitors and writers, what they counted, and what of it is lost."""

import collections
import contextlib
import dataclasses
import datetime
import email.message
import http.client
import http.cookies
import re
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
import urllib.parse
import uuid
from collections.abc import Collection, Mapping
from typing import Self

from target import Target, png

CONNECT_S = 1.1  # seconds a visitor waits for a connection: until TCP has asked once more; a browser waits longer
PATIENCE_S = 40.0  # seconds a visitor waits for an answer: longer than a balancer does
KEEPALIVE_S = 5  # seconds without a packet after which a visitor's kernel asks whether the connection exists
PAUSE_S = 0.1  # seconds between two requests of one visitor …
UPLOAD_PAUSE_S = 0.5  # … who uploads
CAUGHT_UP_S = 60.0  # seconds a media host has to fetch what it missed
CHANGES = ("change", "upload")  # kinds of requests that change something
KINDS = ("page", "page", "session", "static", "change", "change", "upload")  # a visitor for each

Answer = tuple[int, email.message.Message, bytes]  # status, headers, body

WRITER = """
import json, sys, time, psycopg
site = json.load(open(sys.argv[1]))["database"]
where = dict(host="127.0.0.1", port=site["port"], dbname=site["name"], user=site["name"], password=site["password"],
             connect_timeout=5)
verb, pace = sys.argv[2], float(sys.argv[4])
while True:
    try:
        with psycopg.connect(**where, autocommit=True, prepare_threshold=None) as connection:
            for _ in range(1 if verb == "read" else 10**9):
                started, row = time.time(), time.time_ns()
                if verb == "read":
                    connection.execute("select max(id) from drill").fetchone()
                    server = "-"
                else:
                    server = connection.execute(
                        "insert into drill values (%s, %s) returning host(inet_server_addr())",
                        (row, sys.argv[3])).fetchone()[0]
                print(row, server, started, time.time(), flush=True)
                time.sleep(0.02 / pace)  # some forty a second
        time.sleep(0.08 / pace)  # the pace of reads, each on a session of its own
    except psycopg.Error as error:
        print("!", str(error).strip().replace("\\n", " ")[:150], file=sys.stderr, flush=True)
        time.sleep(0.1)  # between two tries to connect, while there is nothing to connect to
"""


@dataclasses.dataclass(frozen=True)
class Request:
    """One request of a visitor. Times are time.time() in seconds."""

    kind: str
    started: float
    ended: float
    failure: str  # empty: the answer was as it should be


@dataclasses.dataclass(frozen=True)
class Commit:
    """One row that the database acknowledged, or one read (server: -). Times are time.time() in seconds."""

    row: int
    app: str
    server: str
    started: float
    ended: float

    def __str__(self) -> str:
        return f"row {self.row} of {self.app} on {self.server} at {self.ended:.3f}"


class Visitor(threading.Thread):
    """Asks for the same kind of answer again and again, over a new connection each time."""

    def __init__(
        self, target: Target, kind: str, cookies: str = "", pace: float = 1.0, connect: float = CONNECT_S, css: str = ""
    ) -> None:
        super().__init__(daemon=True)
        self.target, self.kind, self.cookies, self.css = target, kind, cookies, css
        self.connect, self.pause = connect, (UPLOAD_PAUSE_S if kind == "upload" else PAUSE_S) / pace
        self.context = ssl.create_default_context(cafile=target.tier.authority)
        self.stopped = threading.Event()
        self.requests: list[Request] = []
        self.waiting_since: float | None = None
        self.stamp = secrets.token_hex(4)
        self.accepted: list[str] = []

    def fetch(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """(status, headers, body) of one request."""
        vip = self.target.facts["lb_vip"]
        # By hand: a drill counts what a visitor without a library that repeats and reuses would see, at each step's own timeout.
        connection = http.client.HTTPSConnection(vip, timeout=self.connect, context=self.context)
        try:
            connection.connect()
            connection.sock.settimeout(PATIENCE_S)
            # The virtual IP may move while the visitor waits: its new holder resets the connection when the kernel asks for it.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            connection.request(
                method, path, body, {"Cookie": self.cookies, "Referer": f"https://{vip}/", **(headers or {})}
            )
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def store_cookies(self, headers: email.message.Message) -> None:
        """Take the cookies of an answer."""
        jar = http.cookies.SimpleCookie(self.cookies)
        for line in headers.get_all("Set-Cookie", []):
            jar.load(line)
        self.cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())

    def form(self, path: str, fields: Mapping[str, str]) -> Answer:
        """Fill in a page's form; (status, headers, body) of the answer to it."""
        _status, headers, page = self.fetch("GET", path)
        self.store_cookies(headers)
        token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page)
        if not token:
            raise ValueError(f"no form at {path}")
        return self.post(path, {**fields, "csrfmiddlewaretoken": token[1].decode()})

    def post(self, path: str, fields: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Answer:
        """Send a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.fetch("POST", path, urllib.parse.urlencode(fields), {**kind, **(headers or {})})

    def upload(self, path: str, fields: Mapping[str, object], content: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a form with a picture."""
        edge = secrets.token_hex(8)
        parts = [
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        parts.append(
            f'--{edge}\r\nContent-Disposition: form-data; name="picture"; filename="drill.png"\r\n'
            "Content-Type: image/png\r\n\r\n".encode()
        )
        body = b"".join(parts) + content + f"\r\n--{edge}--\r\n".encode()
        return self.fetch("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={edge}", **headers})

    def change(self) -> None:
        """Add an entry or a picture. Raises ValueError where it is not accepted."""
        # Named after its request, so that the logs tell how a change came to be made twice.
        request_id, accepted = uuid.uuid4().hex, self.accepted
        text, sent = f"drill {self.stamp} {request_id}", {"X-Request-Id": request_id}
        today, token = datetime.date.today().isoformat(), http.cookies.SimpleCookie(self.cookies)["csrftoken"].value
        if self.kind == "upload":
            story = {"title": text, "date": today, "status": 2, "text": "-", "csrfmiddlewaretoken": token}
            status, headers, _body = self.upload("/budget/stories/add/", story, png(), sent)
        else:
            entry = {"date": today, "text": text, "amount": "1.00", "csrfmiddlewaretoken": token}
            status, headers, _body = self.post("/ledger/entries/add/", entry, sent)
        if status != 302 or "login" in headers["Location"]:
            raise ValueError(f"{status} {headers['Location']}")
        accepted.append(text)

    def read(self) -> None:
        """Ask for a page or a file. Raises ValueError where the answer is not as it should be."""
        path = {"page": "/", "session": "/accounts/", "static": self.css}[self.kind]
        status, headers, body = self.fetch("GET", path)
        if status != 200:
            raise ValueError(f"{status} {headers.get('Location', '')}")
        if self.kind == "session" and b"Sign out" not in body:
            raise ValueError("signed out")

    def run(self) -> None:
        """Ask until stopped."""
        while not self.stopped.wait(self.pause):
            started, failure = time.time(), ""
            self.waiting_since = started
            try:
                if self.kind in CHANGES:
                    self.change()
                else:
                    self.read()
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"{type(error).__name__} {error}"
            self.requests.append(Request(self.kind, started, time.time(), failure))
            self.waiting_since = None


class Writer(threading.Thread):
    """Commits rows, or reads, through the pgpool of one app host, as long as that host is up."""

    def __init__(self, target: Target, app: str, verb: str, pace: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.target, self.app, self.verb, self.pace = target, app, verb, pace
        self.stopped = threading.Event()
        self.commits: list[Commit] = []
        self.process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        """Run the program on the host until stopped."""
        facts = self.target.facts
        # A process of this machine's Docker: it starts again and again while the host is off.
        command = ["docker", "exec", "-i", "-u", facts["site_name"], self.target.container(self.app)]
        command += [f"{facts['site_root']}/current/venv/bin/python", "-", f"/etc/{facts['site_name']}/site.json"]
        command += [self.verb, self.app, str(self.pace)]
        while not self.stopped.wait(0.2):
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as self.process:
                assert self.process.stdin and self.process.stdout
                with contextlib.suppress(BrokenPipeError):
                    self.process.stdin.write(WRITER)
                    self.process.stdin.close()
                for line in self.process.stdout:
                    if not line[0].isdigit():
                        continue  # a message of Docker, while the host is off
                    row, server, started, ended = line.split()
                    self.commits.append(Commit(int(row), self.app, server, float(started), float(ended)))

    def stop(self) -> None:
        """End the thread, and the program on the host."""
        self.stopped.set()
        if self.process:
            self.process.kill()
        self.target.try_on(self.app, f"pkill -u {self.target.facts['site_name']} -f 'site.json {self.verb}'")


class Load:
    """Visitors and writers, and what they counted.

    pace: times the usual number of requests and commits; connect: seconds they wait for a connection.
    """

    def __init__(self, target: Target, pace: float = 1.0, connect: float = CONNECT_S) -> None:
        self.target = target
        self.clean()
        # Not unique: a row that is written twice is to be seen.
        target.sql("create table drill (id bigint not null, app text not null); create index on drill (id)")
        password = secrets.token_urlsafe(12)
        app = target.groups["app"][0]
        target.on(app, f"echo {password} | /usr/local/bin/manage create_editor --username drill")
        first = Visitor(target, "page")
        _status, _headers, page = first.fetch("GET", "/")
        style = re.search(rb'"(/static/[^"]+\.css)"', page)
        assert style, page
        status, headers, _body = first.form("/accounts/login/", {"username": "drill", "password": password})
        if status != 302:
            sys.exit(f"The drill's visitor cannot sign in: {status}")
        first.store_cookies(headers)
        status, headers, _body = first.fetch("GET", "/ledger/entries/add/")
        first.store_cookies(headers)
        self.visitors = [
            Visitor(
                target,
                kind,
                first.cookies if kind in ("session", *CHANGES) else "",
                pace,
                connect,
                style[1].decode(),
            )
            for kind in KINDS
        ]
        self.writers = [Writer(target, app, verb, pace) for app in target.groups["app"] for verb in ("write", "read")]

    def __enter__(self) -> Self:
        for thread in [*self.visitors, *self.writers]:
            thread.start()
        self.target.wait(
            lambda: all(w.commits for w in self.writers) and all(v.requests for v in self.visitors), "load"
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: types.TracebackType | None,
    ) -> None:
        for visitor in self.visitors:
            visitor.stopped.set()
        for writer in self.writers:
            writer.stop()
        for visitor in self.visitors:
            visitor.join()
        if not kind:
            uploads = self.uploads()

            def incomplete() -> str:
                missing = self.target.missing_files(uploads)
                return ", ".join(f"{host} lacks {files}" for host, files in missing.items() if files)

            self.target.await_no_problem(incomplete, "complete media host", CAUGHT_UP_S)
        self.clean()

    def uploads(self, stamps: str = "") -> list[str]:
        """Names of the pictures that the database has of these visitors."""
        return self.target.sql(f"select picture from budget_story where title ~ '^drill ({stamps})'").split()

    def clean(self) -> None:
        """Remove what visitors and writers left."""
        files = self.uploads()
        self.target.sql(
            "delete from ledger_entry where text like 'drill %'; delete from budget_story where title like 'drill %'; "
            "drop table if exists drill"
        )
        if files:
            self.target.manage(
                self.target.groups["app"][0],
                f"from django.core.files.storage import default_storage; [default_storage.delete(n) for n in {files}]",
            )

    def mark(self) -> None:
        """Count changes from here; a change that is not answered yet does not count."""
        for visitor in self.visitors:
            visitor.stamp, visitor.accepted = secrets.token_hex(4), []

    def requests(self, since: float) -> list[Request]:
        """Requests that ended after a moment, in the order of their ends."""
        return sorted((r for v in self.visitors for r in v.requests if r.ended > since), key=lambda r: r.ended)

    def commits(self, since: float, verb: str = "write") -> list[Commit]:
        """Acknowledged commits (or reads) started after a moment, in the order of the answers."""
        return sorted(
            (c for w in self.writers if w.verb == verb for c in w.commits if c.started > since), key=lambda c: c.ended
        )

    def lost_and_duplicated(self, commits: list[Commit]) -> tuple[list[str], list[str]]:
        """(what was acknowledged since mark() and is lost, what was written twice), as sentences."""
        target = self.target
        accepted = {text for v in self.visitors for text in v.accepted}
        rows = collections.Counter(map(int, target.sql("select id from drill").split()))
        stamps = "|".join(v.stamp for v in self.visitors)
        entries: dict[str, str] = dict(
            line.split("|")
            for line in target.sql(
                f"select text, string_agg(concat_ws(' ', id, xmin, ctid), ', ') from ("
                f"select id, xmin, ctid, text from ledger_entry where text ~ 'drill ({stamps}) ' union all "
                f"select id, xmin, ctid, title from budget_story where title ~ 'drill ({stamps}) ') as entry group by text"
            ).splitlines()
        )
        missing = target.missing_files(self.uploads(stamps))
        lost = [str(c) for c in commits if c.row not in rows]
        lost += [*(accepted - set(entries)), *set.intersection(*missing.values())]
        duplicated = [f"{c}, {rows[c.row]} times" for c in commits if rows[c.row] > 1]
        duplicated += [
            f"{text} as {ids}: {target.log_lines(text.split()[-1])}" for text, ids in entries.items() if ", " in ids
        ]
        return lost, duplicated

    def unserved(self, since: float, without: Collection[str] = (), held: Collection[str] = ()) -> str:
        """Kinds of visitors and writers without two answers since a moment, or with a failure in the last two; empty where there are none.

        Not asked: writers of the hosts in `without`, visitors of the kinds in `held`.
        """
        recent: dict[str, list[tuple[float, str]]] = {}
        for visitor in self.visitors:
            if visitor.kind in held:
                continue
            recent.setdefault(visitor.kind, []).extend(
                (r.ended, r.failure) for r in visitor.requests[-2:] if r.started > since
            )
        visitors = [
            kind
            for kind, answers in recent.items()
            if len(answers) < 2 or any(failure for _ended, failure in sorted(answers)[-2:])
        ]
        writers = [
            f"{w.verb} by {w.app}"
            for w in self.writers
            if w.app not in without and sum(c.started > since for c in w.commits[-20:]) < 3
        ]
        return ", ".join(visitors + writers)

    def await_service(self, since: float, without: Collection[str] = (), held: Collection[str] = ()) -> None:
        """Await that all are served again, as unserved() takes it."""
        self.target.await_no_problem(lambda: self.unserved(since, without, held), "service")

    def await_answers(self, before: float) -> None:
        """Await that every request from before a moment has an answer or has failed.

        A balancer that was frozen may keep a visitor waiting for PATIENCE_S, until long after it is healthy: that
        failure belongs to its drill, not to the next.
        """

        def waiting() -> str:
            since = [(visitor.kind, visitor.waiting_since) for visitor in self.visitors]
            return ", ".join(kind for kind, moment in since if moment and moment < before)

        self.target.await_no_problem(waiting, "answers")
