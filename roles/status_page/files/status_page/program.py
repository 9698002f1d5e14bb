"""Ask every host of the environment how it is, judge that, and write a page, and the same as JSON.

    status-page [CONFIG]     once
    status-page stay         for ever, every so many seconds, as systemd wants it: a start for each look would take four
                             times as much of a processor

There is no login: balancers, the site, Patroni, etcd and lighttpd tell anybody on the network or the monitor how they
are, and munin-node tells the monitor the rest, some of it less often. All are asked at once; who does not answer in
time is silent. What makes a host of a tier right or wrong beside the others is judged by the same module as
`make status` (status.py). The page itself knows its age, and says that it is blind when it is old.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import time

from status_page.judgement import Release, judge
from status_page.page import page
from status_page.questions import ask_all, lately, slow
from status_page.settings import Config, settings

CONFIG = pathlib.Path("/etc/status-page.json")
PAGE = pathlib.Path(__file__).parents[1] / "page.html"


def release_log(path: str, count: int) -> list[Release]:
    """The newest lines of the release log, the newest first."""
    lines: list[Release] = []
    with contextlib.suppress(OSError, ValueError):
        lines = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()[-count:]]
    return lines[::-1]


def write(directory: str | pathlib.Path, name: str, text: str) -> None:
    """Replace a file at once: nobody reads half of it."""
    new = pathlib.Path(directory, f".{name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, pathlib.Path(directory, name))


def look_once(path: pathlib.Path) -> Config:
    """Ask, judge, write. Returns the settings, which are read at each look: hosts come and go."""
    config = settings(path)
    begun = time.time()  # the page is as old as its questions
    kept = pathlib.Path(config["directory"], "slow.json")
    since, believed = lately(kept, begun)
    answers = ask_all(config, believed)
    model = judge(config, answers, begun, release_log(config["ledger"], config["releases"]))
    write(config["directory"], kept.name, json.dumps({"at": since, "hosts": slow(answers)}))
    write(config["directory"], "status.json", json.dumps(model, indent=1) + "\n")
    write(config["directory"], "index.html", page(model, config, PAGE.read_text(encoding="utf-8")))
    return config


def alive() -> None:
    """Tell systemd's watchdog that a look is over (man sd_notify), where it asked for it."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system:
            system.sendto(b"WATCHDOG=1", address.replace("@", "\0", 1) if address.startswith("@") else address)


def main() -> None:
    """Look once, or for ever."""
    if sys.argv[1:] != ["stay"]:
        look_once(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else CONFIG)
        return
    while True:
        begun = time.monotonic()
        config = look_once(CONFIG)
        alive()
        time.sleep(max(0.0, begun + config["every_s"] - time.monotonic()))  # until the next look is due
