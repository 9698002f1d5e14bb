"""Questions to services of a host and to other hosts, by bare sockets. It needs no Ansible on the host (host_health.py)."""

from __future__ import annotations

import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable

TYPE_CHECKING = False  # what is only for a type checker is not imported: that takes longer than all else
if TYPE_CHECKING:
    from typing import Any

ANSWER_S = 1.0  # seconds anybody has to answer


def http_get(address: str, port: int | str, path: str, within: float = ANSWER_S) -> tuple[int, str] | tuple[None, str]:
    """(status, body) of a request, by HTTP/1.0: the body ends where the connection does. (None, reason) if there is no answer within so many seconds."""
    until, answer = time.monotonic() + within, b""
    try:
        with socket.create_connection((address, int(port)), timeout=within) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}:{port}\r\n\r\n".encode())
            while True:
                connection.settimeout(max(0.001, until - time.monotonic()))
                more = connection.recv(65536)
                if not more:
                    break
                answer += more
    except OSError as error:
        return None, str(error)
    head, _end, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/\S+ (\d{3})\b", head)
    return (int(status[1]), body.decode(errors="replace")) if status else (None, "no answer by HTTP")


def json_get(address: str, port: int | str, path: str, within: float = ANSWER_S) -> dict[str, Any]:
    """The JSON that is answered, whatever the status; an empty dict if there is none."""
    try:
        result: dict[str, Any] = json.loads(http_get(address, port, path, within)[1])
        return result
    except ValueError:
        return {}


def connects(address: str, port: int | str) -> bool:
    """Whether a TCP port takes connections within ANSWER_S."""
    try:
        socket.create_connection((address, int(port)), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def memcached(address: str, port: int | str) -> dict[str, str]:
    """A memcached's statistics as {name: text}; empty if it does not answer within ANSWER_S."""
    try:
        with socket.create_connection((address, int(port)), timeout=ANSWER_S) as connection:
            connection.sendall(b"stats\r\n")
            answer = b""
            while not answer.endswith(b"END\r\n") and (more := connection.recv(65536)):
                answer += more
    except OSError:
        return {}
    return dict(line.split()[1:3] for line in answer.decode().splitlines() if line.startswith("STAT "))


def output(*command: str, **environment: str) -> str:
    """What a command prints; empty if it fails or takes over two seconds."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=2,
            env={**os.environ, "LC_ALL": "C", **environment},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def size(path: pathlib.Path) -> int:
    """Bytes of a file; none of one that has just gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Later:
    """What a function returns, which runs meanwhile in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.run, args=(function, arguments), daemon=True)
        self.thread.start()

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Keep what it returns or raises."""
        try:
            self.value = function(*arguments)
        except Exception as error:  # raised where the result is asked for
            self.error = error

    def result(self) -> Any:
        """What it returned, once it has. Raises what it raised."""
        self.thread.join()
        if self.error:
            raise self.error
        return self.value


def active(listed: str) -> tuple[dict[str, str], set[str]]:
    """({name: state} of units that are loaded, names of those that failed), from what systemctl list-units prints."""
    rows = [line.split(None, 4)[:4] for line in listed.splitlines() if line.strip()]
    states = {row[0]: row[2] for row in rows}
    return states, {name for name, state in states.items() if state == "failed"}
