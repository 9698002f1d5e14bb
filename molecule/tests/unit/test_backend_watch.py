"""What a balancer has asked of a host that answers nobody is closed; a page that only takes long is not."""

import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from repository import program

PROGRAM = "roles/backend_watch/files/backend-watch"
watch = program(PROGRAM)

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B1E1FAC:C350 151E1FAC:1F40 01 00000000:00000000 02:0000A8C0 00000000    33        0 1 1 0 20 4 30 10 -1
   1: 0B1E1FAC:C351 151E1FAC:1F40 01 00000000:00000000 00:00000000 00000000    33        0 1 1 0 20 4 30 10 -1
   2: 0B1E1FAC:C352 151E1FAC:1F40 01 00000020:00000000 01:00000014 00000003    33        0 1 1 0 20 4 30 10 -1
   3: 0B1E1FAC:C353 151E1FAC:1F40 01 00000020:00000000 01:00000014 00000000    33        0 1 1 0 20 4 30 10 -1
   4: 0B1E1FAC:C354 151E1FAC:1F40 02 00000001:00000000 01:00000014 00000000    33        0 1 1 0 20 4 30 10 -1
   5: 0B1E1FAC:1F40 151E1FAC:C355 01 00000000:00000000 02:0000A8C0 00000000    33        0 1 1 0 20 4 30 10 -1
"""
SERVER = """
import http.server, time
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(2)  # that is what the page takes
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_only_keepalive_and_retransmitting_connections_to_backends_are_closable() -> None:
    """Keepalive, or data that were sent again; nobody's who connects, nor of those who ask this host."""
    host = ("172.31.30.21", 8000)
    assert [
        (connection.host, connection.local_port, connection.closable) for connection in watch.connections(TABLE, {8000})
    ] == [
        (host, 50000, True),
        (host, 50001, False),
        (host, 50002, True),
        (host, 50003, False),
    ]
    assert watch.connections(TABLE, {8080}) == []


@pytest.fixture(name="server")
def server_fixture() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that is slow, and its port."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, int(process.stdout.readline())
        process.send_signal(signal.SIGCONT)
        process.terminate()


def ask(port: int, keepalive: bool) -> socket.socket:
    """A connection on which a slow page was asked for."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive)
    connection.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
    return connection


def watch_until(watching: Any, port: int, seconds: float | int, until: Callable[..., Any] = lambda: False) -> None:
    """Look at the connections for so long, or until something is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        watching.look(watch.connections(pathlib.Path("/proc/net/tcp").read_text(encoding="ascii"), {port}))
        time.sleep(0.05)  # until the next look


def test_only_read_requests_to_a_silent_host_are_closed(
    server: tuple[subprocess.Popen[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    watching = watch.Watch("/-/alive", 0.5)
    process, port = server
    host = ("127.0.0.1", port)
    with ask(port, True) as read, ask(port, False) as change:
        watch_until(watching, port, 1.5)  # three times as long as a silent host has
        assert not watching.silent
        assert read.recv(12) == change.recv(12) == b"HTTP/1.0 200"
    with ask(port, True) as read, ask(port, False) as change:
        process.send_signal(signal.SIGSTOP)
        watch_until(watching, port, 5, lambda: host in watching.silent)
        watch_until(watching, port, 0.3)
        with pytest.raises(ConnectionAbortedError):
            read.recv(1)
        process.send_signal(signal.SIGCONT)
        watch_until(watching, port, 5, lambda: host not in watching.silent)
        assert change.recv(12) == b"HTTP/1.0 200"
    output = capsys.readouterr().out
    assert [line.split(" ", 1)[1] for line in output.splitlines()] == [
        "answers nobody",
        "closing 1 connections",
        "answers again",
    ]


def test_the_count_of_sockets_is_read() -> None:
    assert watch.in_use("sockets: used 33\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\nUDP: inuse 2 mem 0\n") == 5
    assert watch.in_use(pathlib.Path("/proc/net/sockstat").read_text()) > 0


def test_a_refusal_is_an_answer() -> None:
    assert watch.answers(("127.0.0.1", 1), "/-/alive", 1)
