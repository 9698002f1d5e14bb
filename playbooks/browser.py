"""A browser without a screen: Debian's Chromium, by its DevTools protocol, over a pipe."""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

FLAGS = ["--headless", "--no-sandbox", "--disable-background-networking", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--no-proxy-server", "--hide-scrollbars", "--ignore-certificate-errors"]  # whether the certificate is right is asked elsewhere
PATIENCE = 60.0  # seconds one step may take
# Chromium reads commands from 3 and answers on 4.
LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"


def install(say):
    """Have Chromium; say so where it has to be installed."""
    if shutil.which("chromium"):
        return
    say("installing Debian's chromium")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium",
                    "fonts-dejavu-core"], check=True, stdout=subprocess.DEVNULL)


def high(descriptor):
    """The same descriptor under a number that nobody else is given."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20)
    os.close(descriptor)
    return moved


NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
ATTEMPTS = 5  # to load a page


class Browser:
    """A browser with one page. Flags are Chromium's."""

    def __init__(self, *flags):
        self.flags = flags

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (its_in, self.out), (self.answers, its_out) = (tuple(map(high, os.pipe())) for _ in range(2))
        self.process = subprocess.Popen([sys.executable, "-c", LAUNCH, str(its_in), str(its_out), "chromium", *FLAGS, *self.flags, "--remote-debugging-pipe",
                                         f"--user-data-dir={self.profile.name}", "about:blank"],
                                        pass_fds=(its_in, its_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(its_in)
        os.close(its_out)
        self.rest, self.number, self.events, self.session = b"", 0, [], None
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.call("Page.enable")
            self.call("Network.enable")
            self.call("Security.setIgnoreCertificateErrors", ignore=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
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

    def message(self, until):
        """The next thing the browser says. Raises TimeoutError and ConnectionError."""
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser says nothing")
            more = os.read(self.answers, 1 << 16)
            if not more:
                raise ConnectionError("the browser is gone")
            self.rest += more
        said, _end, self.rest = self.rest.partition(b"\0")
        return json.loads(said)

    def call(self, method, **parameters):
        """The result of a command. Raises RuntimeError where it failed."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        sent = json.dumps(command).encode() + b"\0"
        while sent:
            sent = sent[os.write(self.out, sent):]
        until = time.monotonic() + PATIENCE
        while True:
            said = self.message(until)
            if said.get("id") == self.number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self.events.append(said)

    def await_event(self, method):
        """Await that an event comes, or has come since the last go()."""
        until = time.monotonic() + PATIENCE
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.message(until))

    def go(self, what):
        """Do something that loads a page, and await that it is there."""
        self.events.clear()
        what()
        self.await_event("Page.loadEventFired")

    def open(self, url):
        """Load a page; again where the network of this machine changed meanwhile, as it does when a container comes or goes."""
        said = {"errorText": NETWORK_CHANGED}
        for _attempt in range(ATTEMPTS):
            if said.get("errorText") == NETWORK_CHANGED:
                self.go(lambda: said.update({"errorText": ""} | self.call("Page.navigate", url=url)))

    def size(self, width, height):
        """Be a screen of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def login(self, user, password):
        """Send a name and a password along with every request."""
        words = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {words}"})

    def logout(self):
        """Send them no longer."""
        self.call("Network.setExtraHTTPHeaders", headers={})

    def leave(self):
        """Close the page, whose script would ask on and on."""
        self.open("about:blank")

    def value(self, expression):
        """The value of a JavaScript expression in the page. Raises RuntimeError where it throws."""
        said = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(f"{expression}: {said['exceptionDetails']}")
        return said["result"].get("value")

    def picture(self, path):
        """Write what is to be seen, as PNG."""
        pathlib.Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))
