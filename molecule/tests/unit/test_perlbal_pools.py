"""How the pools of a Perlbal that runs are changed: by what its console, a small server here, is told and says."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugins.modules import perlbal_pools

WANTED = {"pages": ["192.0.2.1:80", "192.0.2.2:80"], "files": ["192.0.2.3:81"]}


class Server(socketserver.ThreadingTCPServer):
    """Where a console is: its pools, the hosts at work, how often it tells of them, and what it heard."""

    pools: dict[str, list[str]]
    busy: list[str]
    looks: int
    heard: list[str]
    hangs_up: bool
    port: int


class Console(socketserver.StreamRequestHandler):
    """Perlbal's console, as far as pools go: its server has pools, hosts at work, and how often it tells of them."""

    server: Server

    def handle(self) -> None:
        for line in self.rfile:
            command = line.decode().split()
            self.server.heard.append(" ".join(command))
            self.wfile.write("".join(f"{reply}\r\n" for reply in self.answer(command)).encode())
            if self.server.hangs_up:
                return

    def answer(self, command: list[str]) -> list[str]:
        if command == ["backends"]:
            self.server.looks -= 1
            return [*(f"{node} 3 requests" for node in self.server.busy if self.server.looks >= 0), "."]
        if command[:2] == ["show", "pool"]:
            nodes = self.server.pools.get(command[2])
            return (
                [f"ERROR: pool '{command[2]}' does not exist"]
                if nodes is None
                else [*(f"{node} 1" for node in nodes), "."]
            )
        _pool, pool, verb, node = command
        (list.append if verb == "add" else list.remove)(self.server.pools[pool], node)
        return ["OK"]


@pytest.fixture(name="perlbal")
def perlbal_fixture() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Console) as server:
        server.daemon_threads = True
        server.pools, server.busy, server.looks, server.heard, server.hangs_up = (
            {"pages": ["192.0.2.1:80", "192.0.2.9:80"], "files": []},
            [],
            0,
            [],
            False,
        )
        server.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def changes(perlbal: Server) -> list[str]:
    return [command for command in perlbal.heard if not command.startswith("show") and command != "backends"]


def test_pools_are_changed_once_and_never_empty_meanwhile(execute: Callable[..., Any], perlbal: Server) -> None:
    commands = ["pool pages add 192.0.2.2:80", "pool files add 192.0.2.3:81", "pool pages remove 192.0.2.9:80"]
    for check in (True, False):
        done = execute(perlbal_pools, check=check, port=perlbal.port, pools=WANTED)
        assert (done["changed"], done["commands"]) == (True, commands)
        assert changes(perlbal) == ([] if check else commands)
    assert perlbal.pools == WANTED
    done = execute(perlbal_pools, port=perlbal.port, pools=WANTED)
    assert (done["changed"], done["commands"], changes(perlbal)) == (False, [], commands)


@pytest.mark.parametrize(
    ("busy", "looks", "expected"), [(["192.0.2.9:80", "192.0.2.1:80"], 2, 3), (["192.0.2.1:80"], 100, 1), ([], 0, 1)]
)
def test_the_last_request_of_a_host_that_left_is_awaited(
    execute: Callable[..., Any], perlbal: Server, busy: list[str], looks: int, expected: int
) -> None:
    """And of no other; where somebody else removed it, too."""
    perlbal.pools, perlbal.busy, perlbal.looks = {name: list(nodes) for name, nodes in WANTED.items()}, busy, looks
    assert not execute(perlbal_pools, port=perlbal.port, pools=WANTED, wait_s=30)["changed"]
    assert perlbal.heard.count("backends") == expected


def test_an_open_connection_is_reported_after_the_wait(execute: Callable[..., Any], perlbal: Server) -> None:
    perlbal.busy, perlbal.looks = ["192.0.2.9:80"], 1000
    assert not execute(perlbal_pools, port=perlbal.port, pools=WANTED).get("failed")  # nobody asked to wait
    done = execute(perlbal_pools, port=perlbal.port, pools=WANTED, wait_s=1)
    assert (
        done["msg"]
        == "192.0.2.9:80 still works on requests after 1 s. Nobody sends it new ones; the same can be run again."
    )


def test_errors_of_the_console_are_reported(execute: Callable[..., Any], perlbal: Server) -> None:
    def failure(pools: dict[str, list[str]]) -> str:
        done = execute(perlbal_pools, port=perlbal.port, pools=pools)
        assert done["failed"] and done["msg"].endswith(". On this host: systemctl status perlbal")
        return done["msg"]

    assert "show pool x: ERROR: pool 'x' does not exist" in failure({"x": ["192.0.2.1:80"]})
    perlbal.hangs_up = True
    assert "Perlbal hung up" in failure(WANTED)
    perlbal.shutdown()
    perlbal.server_close()
    assert "Connection refused" in failure(WANTED)
