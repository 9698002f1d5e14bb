"""How media hosts take uploads and deletions from each other: the program itself, between servers on this machine."""

import contextlib
import hashlib
import http.server
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/lighttpd/files/media-sync"
NOW = 1_800_000_000 * 10**9  # in the future: no deletion is too old
ODD = ["a b/c%d.txt", "ü.png", "new\nline", "#?&.txt", os.fsdecode(b"\xff.bin")]


class Server(http.server.ThreadingHTTPServer):
    """The server of a media host's uploads: answers that replace files, and bytes that are missing at their ends."""

    root: pathlib.Path
    answers: dict[str, bytes]
    missing: dict[str, int]


class Peer(http.server.BaseHTTPRequestHandler):
    """What lighttpd serves of a media host; answers may be replaced by those of the server."""

    server: Server

    def do_GET(self) -> None:
        path = urllib.parse.unquote_to_bytes(self.path)
        file = self.server.root / (
            ".sync/index" if path == b"/media-sync" else os.fsdecode(path.removeprefix(b"/media/"))
        )
        content = self.server.answers.get(self.path) or (file.read_bytes() if file.is_file() else None)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"") + self.server.missing.get(self.path, 0)))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_args: str) -> None:
        pass


class Host:
    """A media host: its uploads, and the server of them."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        (root / ".sync/deleted").mkdir(parents=True)
        self.server = Server(("127.0.0.1", 0), Peer)
        self.server.root, self.server.answers, self.server.missing = root, {}, {}
        self.url = f"http://127.0.0.1:{self.server.server_port}/media/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def upload(self, name: str, when: int, content: str = "x") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, ns=(NOW + when, NOW + when))

    def delete(self, name: str, when: int) -> None:
        """As delete.lua does, and mod_webdav then."""
        note = self.root / ".sync/deleted" / hashlib.sha256(os.fsencode(name)).hexdigest()
        note.write_bytes(os.fsencode(name))
        os.utime(note, ns=(NOW + when, NOW + when))
        (self.root / name).unlink(missing_ok=True)

    def sync(self, *peers: Any, strict: bool = False) -> tuple[int, str]:
        """(exit code, what it said) of the program."""
        command = [
            sys.executable,
            str(PROGRAM),
            "--keep-days",
            "30",
            *(["--strict"] if strict else []),
            str(self.root),
            *(peer.url for peer in peers),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    def has(self) -> dict[str, tuple[str, int]]:
        """{name: (content, time)} of its uploads."""
        files = [path for path in self.root.rglob("*") if path.is_file() and ".sync" not in path.parts]
        return {str(path.relative_to(self.root)): (path.read_text(), path.stat().st_mtime_ns - NOW) for path in files}


@pytest.fixture(name="hosts")
def hosts_fixture(tmp_path: pathlib.Path) -> Iterator[list[Any]]:
    with contextlib.ExitStack() as ends:
        hosts = [Host(tmp_path / name) for name in ("one", "two", "three")]
        for host in hosts:
            ends.callback(host.server.server_close)
            ends.callback(host.server.shutdown)
        yield hosts


def test_hosts_become_equal_and_stay_equal(hosts: list[Any]) -> None:
    first, second, _three = hosts
    for when, name in enumerate(ODD):
        first.upload(name, when)
    second.upload("new/one.txt", 7, "two's")
    second.delete(ODD[0], 8)
    second.sync()
    assert first.sync(second) == (0, f"deleted {ODD[0]}\nfetched new/one.txt from {second.url}\n")
    assert second.sync(first)[0] == 0
    assert (
        first.has()
        == second.has()
        == {name: ("x", when) for when, name in enumerate(ODD) if when} | {"new/one.txt": ("two's", 7)}
    )
    index = (first.root / ".sync/index").stat().st_mtime_ns
    assert first.sync(second) == second.sync(first) == (0, "")
    assert (first.root / ".sync/index").stat().st_mtime_ns == index


def test_the_last_event_of_a_name_wins(hosts: list[Any]) -> None:
    cases = [
        (("upload", 1, "old"), ("upload", 2, "new"), ("new", 2)),
        (("upload", 2, "new"), ("upload", 1, "old"), ("new", 2)),
        (("upload", 1, "old"), ("delete", 2), None),
        (("upload", 3, "again"), ("delete", 2), ("again", 3)),
        (("upload", 2, "same"), ("delete", 2), None),
        (("delete", 2), ("upload", 1, "old"), None),
        (("delete", 2), ("upload", 3, "again"), ("again", 3)),
        (("delete", 2), ("upload", 2, "same"), None),
        # An empty file is what a power cut leaves.
        (("upload", 2, ""), ("upload", 1, "whole"), ("whole", 1)),
        (("upload", 1, "whole"), ("upload", 2, ""), ("whole", 1)),
    ]
    for name, (*events, _left) in enumerate(cases):
        for host, (event, *what) in zip(hosts, events):
            getattr(host, str(event))(str(name), *what)
    hosts[1].sync()
    assert hosts[0].sync(hosts[1])[0] == 0
    assert hosts[0].has() == {str(name): left for name, (*_events, left) in enumerate(cases) if left}


def test_the_newest_file_of_all_peers_wins_and_deleted_files_are_not_fetched(hosts: list[Any]) -> None:
    first, second, third = hosts
    second.upload("a", 1, "old")
    third.upload("a", 2, "new")
    second.upload("gone", 1)
    third.delete("gone", 2)
    second.sync()
    third.sync()
    assert first.sync(second, third) == (0, f"fetched a from {third.url}\n")
    assert first.has() == {"a": ("new", 2)}


def test_invalid_names_of_uploads_are_not_fetched(hosts: list[Any], tmp_path: pathlib.Path) -> None:
    first, second, _three = hosts
    names = ["../out", "a/../../out", f"{tmp_path}/out", ".sync/deleted/x", ".hidden", "a/.b/c", "a~", "a//b"]
    second.server.answers = {"/media-sync": "".join(f"{NOW} 1 {name}\n" for name in [*names, "good"]).encode()} | {
        f"/media/{name}": b"x" for name in names
    }
    second.upload("good", 0)
    assert first.sync(second) == (0, f"fetched good from {second.url}\n")
    assert first.has() == {"good": ("x", 0)} and not (tmp_path / "out").exists()


def test_a_name_that_is_file_and_directory_does_not_stop_other_files(hosts: list[Any]) -> None:
    first, second, _three = hosts
    first.upload("a", 1)
    first.upload("b/c", 1)
    for name in ("a/x", "b", "c"):
        second.upload(name, 2)
    second.sync()
    code, output = first.sync(second)
    assert code == 1 and f"{second.url}: a/x: " in output and f"{second.url}: b: " in output
    assert first.has() == {"a": ("x", 1), "b/c": ("x", 1), "c": ("x", 2)}


@pytest.mark.parametrize("strict", [False, True])
def test_incomplete_files_are_fetched_again_by_the_next_run(hosts: list[Any], strict: bool) -> None:
    first, second, third = hosts
    second.upload("a", 1, "half")
    third.upload("b", 1)
    second.sync()
    third.sync()
    second.server.missing = {"/media/a": 4}
    assert first.sync(second, third, strict=strict)[0] == strict
    second.server.answers = {"/media-sync": f"{NOW + 2} -1 b\n{NOW} 1 a".encode()}  # half a name
    assert first.sync(second, strict=strict)[0] == strict
    assert first.has() == {} and not (first.root / "b").exists()
    second.server.answers, second.server.missing = {}, {}
    third.server.shutdown()
    third.server.server_close()
    code, output = first.sync(third, second, strict=strict)
    assert code == strict and "ConnectionRefusedError" in output and first.has() == {"a": ("half", 1)}


def test_old_and_incomplete_records_of_deletions_are_removed(hosts: list[Any]) -> None:
    host = hosts[0]
    host.delete("old", -NOW + 10**9)
    host.delete("new", 1)
    (host.root / ".sync/deleted" / ("0" * 64)).write_text("cut o")
    assert host.sync() == (0, "")
    assert (host.root / ".sync/index").read_text() == f"{NOW + 1} -1 new\n"
    assert len(list((host.root / ".sync/deleted").iterdir())) == 1
