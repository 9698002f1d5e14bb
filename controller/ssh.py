"""Run one program on many hosts at once, over OpenSSH, as Ansible would log in; connections are kept between verbs."""

import concurrent.futures
import contextlib
import dataclasses
import enum
import hashlib
import json
import math
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from controller.environment.login import CONNECT_S, Login, command

GREETING_S = 2.0  # seconds in which a host answers on a connection that stands
LONGEST_PATH = 86  # bytes of a socket's path: 108, less what OpenSSH appends while it makes one
SLOW_S = 0.3  # seconds in which a machine that has time for others starts a Python; each host's login takes it several times as long
BUSY_S = 1.0  # … and in which one starts it that has asked everybody in time
GREETING = b"reached\n"
# The host's shell says that it was reached, before sudo and Python take their time.
COMMAND = "echo reached; exec sudo -H -n -u root /usr/bin/python3 -I -S -"
PROGRAM = """
import json, signal, sys, types
signal.alarm({seconds})  # nobody waits for it any longer
modules, function, arguments = json.loads({given!r})
for name, source in modules:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
json.dump(getattr(module, function)(**arguments), sys.stdout)
"""


class State(enum.Enum):
    """How a host took a program."""

    ANSWERED = "answered"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    NOT_ASKED = "not asked in time"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of a program on a host. output: what it printed; reason: why there is no answer, as a sentence."""

    state: State
    output: bytes = b""
    reason: str = ""


def socket_directory() -> pathlib.Path:
    """Where sockets of connections are: nobody else's, and short. Raises OSError where somebody else could be in it."""
    path = pathlib.Path(os.path.expanduser("~/.ssh/kept"))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o77 or path.is_symlink():
        raise PermissionError(f"{path} has to be a directory of your own that nobody else may read: chmod 700 {path}")
    return path


def socket_path(login: Login, directory: pathlib.Path) -> pathlib.Path | None:
    """The socket of a connection to a host: of no other way to log in. None where the path would be too long."""
    name = hashlib.sha256(json.dumps(dataclasses.astuple(login)).encode()).hexdigest()[:20]
    path = directory / name
    return path if len(os.fsencode(path)) <= LONGEST_PATH else None


def program(modules: Mapping[str, str], function: str, arguments: Mapping[str, Any], within: float) -> bytes:
    """Source for a bare Python: it calls a function of the last of some modules, {name: source}, and prints what that returns as JSON.

    It ends a moment after so many seconds, whatever it is at.
    """
    return PROGRAM.format(
        seconds=math.ceil(within) + 1, given=json.dumps([list(modules.items()), function, arguments])
    ).encode()


def read(process: subprocess.Popen[bytes], until: float, greeted_by: float) -> tuple[bytes, bool]:
    """(what a process printed, whether it came to its end), until a moment of the clock; a process that has not greeted by another one is not waited for."""
    assert process.stdout
    output = b""
    while True:
        limit = until if output.startswith(GREETING) else min(until, greeted_by)
        ready, _w, _x = select.select([process.stdout], [], [], max(0.0, limit - time.monotonic()))
        if not ready:
            return output, False
        more = os.read(process.stdout.fileno(), 1 << 16)
        if not more:
            return output, True
        output += more


def attempt(arguments: list[str], source: bytes, until: float, greeted_by: float) -> tuple[Reply, bool]:
    """(the reply to a program, whether the connection is to blame where there is none)."""
    # Files, not pipes: nobody has to be fed, and a connection that stays behind keeps none of them from ending.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
        given.write(source)
        given.seek(0)
        with subprocess.Popen([*arguments, COMMAND], stdin=given, stdout=subprocess.PIPE, stderr=complaints) as process:
            output, ended = read(process, until, greeted_by)
            if not ended:
                process.kill()
            code = process.wait()
        complaints.seek(0)
        message = complaints.read().decode(errors="replace").strip()
    return classify(output, ended, code, message)


def classify(output: bytes, ended: bool, code: int, message: str) -> tuple[Reply, bool]:
    """(the reply, whether the connection is to blame where there is none), by what ssh printed, whether it ended, how, and what it complained of."""
    greeted = output.startswith(GREETING)
    reason = message.splitlines()[-1] if message else f"it ended with {code}"
    if not ended:
        return (
            Reply(State.TIMED_OUT, reason="it is not done in time")
            if greeted
            else Reply(State.UNREACHABLE, reason="it is silent")
        ), not greeted
    if not greeted or code == 255:
        return Reply(State.UNREACHABLE, reason=reason), True
    if code:
        return Reply(State.FAILED, reason=reason), False
    return Reply(State.ANSWERED, output.removeprefix(GREETING)), False


def leave(arguments: list[str], path: pathlib.Path) -> None:
    """Give a connection up: it may lead to a host that is gone, or was made anew. Whoever uses it still may go on."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*arguments[:-1], "-O", "stop", arguments[-1]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=CONNECT_S,
        )
    path.unlink(missing_ok=True)


def run(login: Login, source: bytes, within: float, directory: pathlib.Path | None) -> Reply:
    """Give a host a program, which changes nothing there; its reply comes within so many seconds. directory: of kept connections."""
    until = time.monotonic() + within
    path = socket_path(login, directory) if directory else None
    arguments = command(login, path)
    if path and path.exists():
        reply, connection = attempt(arguments, source, until, time.monotonic() + GREETING_S)
        if not connection:
            return reply
        leave(arguments, path)
    begun = time.monotonic()
    reply, connection = attempt(arguments, source, until, until)
    # CONNECT_S is enough for a host that is there, and not for a machine that logs in to all of them beside other work.
    left = math.floor(until - time.monotonic())
    if connection and left > 0 and time.monotonic() - begun >= CONNECT_S and start_python(within) > SLOW_S:
        reply, _connection = attempt(command(login, path, left), source, until, until)
    return reply


def start_python(within: float) -> float:
    """Seconds that a Python took on this machine which does nothing; at most so many."""
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True, timeout=within)
    return time.monotonic() - begun


def judge(reply: Reply, started: float) -> Reply:
    """The reply; where there is none, and this machine took so many seconds for a Python that does nothing, it says nothing of the host."""
    if started < BUSY_S or reply.state not in (State.UNREACHABLE, State.TIMED_OUT):
        return reply
    return Reply(State.NOT_ASKED, reason=f"this machine is busy, it took {started:.1f} s to start a Python")


def run_all(logins: dict[str, Login], sources: dict[str, bytes], within: float = 10.0) -> dict[str, Reply]:
    """Replies of hosts to programs, {name: …}, all at once. None takes longer than so many seconds, and none waits for another."""
    if not logins:
        return {}
    directory = socket_directory()
    with concurrent.futures.ThreadPoolExecutor(len(logins) + 1) as at_once:
        running = {name: at_once.submit(run, login, sources[name], within, directory) for name, login in logins.items()}
        started = at_once.submit(start_python, within)
        replies = {name: reply.result() for name, reply in running.items()}
        # It may have become busy only while it asked.
        longest = max(
            started.result(),
            0.0 if all(reply.state is State.ANSWERED for reply in replies.values()) else start_python(within),
        )
    return {name: judge(reply, longest) for name, reply in replies.items()}
