"""A browser without a screen: Debian's Chromium, by its DevTools protocol, over a pipe.

What a page does to it reaches little: it runs as an unprivileged user, in Chromium's own sandbox, trusts one key of each site, and finds no other site.
"""

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import pwd
import random
import select
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FLAGS = [
    "--headless",
    "--disable-background-networking",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
]
PATIENCE = 60.0  # seconds one step may take
# Chromium reads commands from 3 and answers on 4.
PYTHON = "/usr/bin/python3"  # the user that the browser runs as may not reach a virtualenv
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
HELPER = pathlib.Path("/usr/lib/chromium/chrome-sandbox")  # of Debian's chromium-sandbox
# In a container it would have none either (docs/deploy.md).
NO_SANDBOX = (
    "Chromium has no sandbox on this machine and is not started without one: apt-get install chromium-sandbox, or let unprivileged users make "
    "namespaces (sysctl kernel.unprivileged_userns_clone=1 on Debian, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)"
)
USERS = range(61184, 65520)  # those that systemd sets apart for users without a name


class Site(NamedTuple):
    """A site, the address at which it is, and the key that it shows."""

    name: str
    address: str
    key: str


def trust(authority: pathlib.Path | str) -> ssl.SSLContext:
    """Whom a visitor trusts: the public authorities, and this one where it is."""
    context = ssl.create_default_context()
    if (
        pathlib.Path(authority).exists() and pathlib.Path(authority).stat().st_size
    ):  # else somebody else has signed the certificate
        context.load_verify_locations(authority)
    return context


def trusted(name: str, address: str, port: int, authority: pathlib.Path | str) -> Site:
    """A site with the key that it shows now, by a certificate that a visitor trusts. Raises OSError."""
    with (
        socket.create_connection((address, port), timeout=10) as plain,
        trust(authority).wrap_socket(plain, server_hostname=name) as shown,
    ):
        return Site(name, address, spki(x509.load_der_x509_certificate(shown.getpeercert(binary_form=True) or b"")))


def spki(certificate: x509.Certificate) -> str:
    """The key of a certificate, as Chromium is told of it."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def user() -> int | None:
    """The user that a browser of root's runs as: one that nobody is and nothing runs as. Nobody else needs another one."""
    if os.geteuid():
        return None
    taken = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            taken.add(process.stat().st_uid)
    while True:
        candidate = random.choice(USERS)
        with contextlib.suppress(KeyError):
            pwd.getpwuid(candidate)
            continue
        if candidate not in taken:
            return candidate


def as_user(number: int | None) -> dict:
    """The same for subprocess."""
    return {} if number is None else {"user": number, "group": number, "extra_groups": []}


def sandboxed() -> bool:
    """Whether Chromium can have its sandbox here: from the kernel, or by the helper that is root for it."""
    if HELPER.exists() and HELPER.stat().st_uid == 0 and HELPER.stat().st_mode & stat.S_ISUID:
        return True
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"],
        cwd="/",
        check=False,
        capture_output=True,
        **as_user(user()),
    )
    return result.returncode == 0


def install(report: Callable[[str], None]) -> None:
    """Have Chromium, and what its sandbox needs where the kernel gives it none; say so where it has to be installed."""
    wanted = ([] if shutil.which("chromium") else ["chromium", "fonts-dejavu-core"]) + (
        [] if sandboxed() else ["chromium-sandbox"]
    )
    if not wanted:
        return
    report(f"installing Debian's {' and '.join(wanted)}")
    subprocess.run([pathlib.Path(__file__).with_name("apt.sh"), *wanted], check=True, stdout=subprocess.DEVNULL)


def high(descriptor: int) -> int:
    """The same descriptor under a number that nobody else is given."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    return moved


NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
ATTEMPTS = 5  # to load a page


class Browser:
    """A browser with one page, which finds these sites and no other."""

    def __init__(self, *sites: Site) -> None:
        rules = [f"MAP {site.name} {site.address}" for site in sites]
        self.flags = [
            f"--host-resolver-rules={', '.join([*rules, 'MAP * ~NOTFOUND'])}",
            f"--ignore-certificate-errors-spki-list={','.join(site.key for site in sites)}",
        ]

    def __enter__(self) -> Self:
        if not sandboxed():
            raise OSError(NO_SANDBOX)
        self.user = user()
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", dir="/tmp", ignore_cleanup_errors=True)
        if self.user is not None:
            os.chown(self.profile.name, self.user, self.user)
        (browser_in, self.out), (self.answers, browser_out) = (tuple(map(high, os.pipe())) for _ in range(2))
        self.process = subprocess.Popen(
            [
                PYTHON,
                "-I",
                "-c",
                LAUNCH,
                str(browser_in),
                str(browser_out),
                "chromium",
                *FLAGS,
                *self.flags,
                "--remote-debugging-pipe",
                f"--user-data-dir={self.profile.name}",
                "about:blank",
            ],
            pass_fds=(browser_in, browser_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"HOME": self.profile.name, "PATH": "/usr/bin:/bin"},
            **as_user(self.user),
        )
        os.close(browser_in)
        os.close(browser_out)
        self.rest, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.call("Network.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """End it, and remove what it has written."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.answers)
        self.profile.cleanup()

    def message(self, until: float) -> dict[str, Any]:
        """The next thing the browser says. Raises TimeoutError and ConnectionError."""
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser says nothing")
            more = os.read(self.answers, 1 << 16)
            if not more:
                raise ConnectionError("the browser is gone")
            self.rest += more
        message, _end, self.rest = self.rest.partition(b"\0")
        result: dict[str, Any] = json.loads(message)
        return result

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command. Raises RuntimeError where it failed."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters} | (
            {"sessionId": self.session} if self.session else {}
        )
        sent = json.dumps(command).encode() + b"\0"
        while sent:
            sent = sent[os.write(self.out, sent) :]
        until = time.monotonic() + PATIENCE
        while True:
            message = self.message(until)
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            self.events.append(message)

    def await_event(self, method: str) -> None:
        """Await that an event comes, or has come since the last go()."""
        until = time.monotonic() + PATIENCE
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message(until))

    def go(self, what: Callable[[], object]) -> None:
        """Do something that loads a page, and await that it is there."""
        self.events.clear()
        what()
        self.await_event("Page.loadEventFired")

    def open(self, url: str) -> None:
        """Load a page; again where the network of this machine changed meanwhile, as it does when a container comes or goes.

        Raises RuntimeError where there is none, or the site has another key.
        """
        answer = {"errorText": NETWORK_CHANGED}
        for _attempt in range(ATTEMPTS):
            if answer.get("errorText") == NETWORK_CHANGED:
                self.go(lambda: answer.update({"errorText": ""} | self.call("Page.navigate", url=url)))
        if answer["errorText"]:
            raise RuntimeError(f"{url}: {answer['errorText']}")

    def size(self, width: int, height: int) -> None:
        """Be a screen of that size."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def login(self, user: str, password: str) -> None:
        """Send a name and a password along with every request."""
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {credentials}"})

    def logout(self) -> None:
        """Send them no longer."""
        self.call("Network.setExtraHTTPHeaders", headers={})

    def leave(self) -> None:
        """Close the page, whose script would ask on and on."""
        self.open("about:blank")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. Raises RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, path: str | os.PathLike[str]) -> None:
        """Write what is to be seen, as PNG."""
        pathlib.Path(path).write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])
        )
