"""Mitogen's connections to an environment's hosts, kept from one verb to the next.

To connect to a host and to send it Ansible's code takes a third of a verb that changes nothing. So the multiplexer, which is otherwise a child of
one ansible-playbook, is a process of its own. It serves one verb after another; where it is busy, a verb has a multiplexer of its own, as Mitogen
would. It ends IDLE_S after the last verb, and at once when

- a verb was interrupted: what still runs on hosts on its behalf ends with its connections;
- the next verb's code, settings, environment variables or known hosts differ from its own (`key_of`);
- the environment's `connections.lock` is removed (make down).

A connection that an earlier verb made is used once its host has answered on it, and else made anew.

Usage: python -m controller.connections SOCKET LOCK KEY
Source: ansible_mitogen/process.py, ClassicWorkerModel and MuxProcess; ansible_mitogen/services.py, ContextService.
"""

import atexit
import fcntl
import hashlib
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import ansible_mitogen.process
import ansible_mitogen.services
import mitogen.core
import mitogen.service
from ansible.plugins.loader import init_plugin_loader

from controller.environment import STATE
from controller.imports import Imports

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOCKETS = pathlib.Path("~/.ssh/verbs").expanduser()  # short, and nobody else's: a socket's path has 107 bytes
IDLE_S = 300  # seconds for which connections stand unused
LOOK_S = 1.0  # seconds between two looks whether the environment is still there
ANSWER_S = 5.0  # seconds in which a host answers on a connection of an earlier verb
START_S = 30.0  # seconds in which the process listens
VARIABLES = ("ANSIBLE_CONFIG", "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONPATH", "SSH_AUTH_SOCK", "USER")
CODE = ("plugins/**/*.py", "controller/**/*.py", ".config/requirements.txt", "ansible.cfg")
DONE, OTHER = b"done\n", b"other\n"


# ------------------------------------------------------------------ a verb


def environment() -> dict[str, str]:
    """The environment variables of the process, of which commands on this machine are started, too."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def key_of(state: pathlib.Path) -> str:
    """A name for all that connections and what is kept on them depend on, for an environment's state directory. Raises OSError."""
    known = [
        path
        for path in (state / "known_hosts", SOCKETS.parent / "known_hosts", SOCKETS.parent / "config")
        if path.is_file()
    ]
    files = sorted({path for pattern in CODE for path in ROOT.glob(pattern)}) + known
    depends = [
        sys.executable,
        sys.version,
        str(ROOT),
        sorted(environment().items()),
        [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files],
    ]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


class KeptModel(ansible_mitogen.process.ClassicWorkerModel):
    """Mitogen's model of a controller whose multiplexer was there before it, or outlives it."""

    def __init__(self, listener: str) -> None:
        """listener: the path of the multiplexer's socket."""
        ansible_mitogen.process.common_setup()
        ansible_mitogen.process.MuxProcess.cls_original_env = environment()
        self.listener = listener

    def _listener_for_name(self, name: str) -> str:
        return self.listener


class Session:
    """A verb's use of the process. The lock is held, and the process's connection open, until this process ends."""

    def __init__(self, control: socket.socket, lock: int, listener: str) -> None:
        self.control, self.lock, self.listener, self.complete = control, lock, listener, False
        atexit.register(self.end, os.getpid())

    def end(self, process: int) -> None:
        """Leave the connections to the next verb, where this one came to its end."""
        if self.complete and os.getpid() == process:
            self.control.sendall(DONE)


def greet(path: str, key: str) -> tuple[socket.socket, str] | None:
    """The process's connection and the path of its multiplexer's socket; None where no process listens or it has another key, and ends."""
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(ANSWER_S)
    try:
        control.connect(path)
        control.sendall(key.encode() + b"\n")
        answer = control.makefile("rb").readline()
    except OSError:  # nobody listens, or ends this very moment, or hangs
        answer = b""
    if answer in (b"", OTHER):
        control.close()
        return None
    return control, answer.decode().strip()


def session_of(state: pathlib.Path) -> Session | None:
    """The use of an environment's kept connections; None where another verb uses them. Starts the process where none has the right key."""
    lock_path = str(state.resolve() / "connections.lock")
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    SOCKETS.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, key = str(SOCKETS / hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]), key_of(state)
    if greeted := greet(path, key):
        return Session(greeted[0], lock, greeted[1])
    with open(state / "connections.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "controller.connections", path, lock_path, key],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdout
    listens = select.select([process.stdout], [], [], START_S)[0] and process.stdout.readline()
    process.stdout.close()
    if not listens:
        process.kill()
    greeted = greet(path, key) if listens else None
    if greeted:
        return Session(greeted[0], lock, greeted[1])
    os.close(lock)
    return None


# ------------------------------------------------------------------ the process


class Checked:
    """Makes Mitogen's service of connections ask a host for an answer before a verb uses a connection that an earlier one made."""

    def __init__(self) -> None:
        self.verb = 0  # number of the verb that is served
        self.answered: dict[Any, int] = {}  # {key: verb in which its host answered}
        self.locks: dict[Any, threading.Lock] = {}  # {key: lock}
        self.wait_or_start = ansible_mitogen.services.ContextService._wait_or_start
        ansible_mitogen.services.ContextService._wait_or_start = lambda service, spec, via=None: self.get(
            service, spec, via
        )

    def get(
        self, service: ansible_mitogen.services.ContextService, spec: dict, via: mitogen.core.Context | None
    ) -> mitogen.core.Latch:
        """In place of ContextService._wait_or_start."""
        key = ansible_mitogen.services.key_from_dict(via=via, **spec)
        with self.locks.setdefault(key, threading.Lock()):
            response = service._response_by_key.get(key)
            if response and self.answered.get(key) != self.verb and not self.answers(response["context"]):
                with service._lock:
                    service._shutdown_unlocked(response["context"])
            self.answered[key] = self.verb
        return self.wait_or_start(service, spec, via=via)

    @staticmethod
    def answers(context: mitogen.core.Context) -> bool:
        """Whether a host answers on its connection in time."""
        try:
            context.call_async(time.time).get(timeout=ANSWER_S).unpickle()
        except mitogen.core.Error:  # it was cut off, or is silent
            return False
        return True


class Multiplexer(ansible_mitogen.process.MuxProcess):
    """Mitogen's multiplexer, which this process itself is."""

    def __init__(self, path: str) -> None:
        super().__init__(None, 0)
        self.path = path
        self._setup_master()
        self._setup_services()

    def end_verb(self) -> None:
        """Let hosts ask for no file that only the verb that ended has registered."""
        service = self.pool.get_service("mitogen.service.FileService")
        service._paths.clear()
        service._prefixes.clear()


def await_end(control: socket.socket, lock: pathlib.Path) -> bool:
    """Wait for the end of a verb. Whether it said that it is done, and its environment is still there."""
    with control:
        message = control.makefile("rb").read()
    return message == DONE and lock.exists()


def serve(path: str, lock: pathlib.Path, key: str) -> None:
    """Serve verbs at a socket, until there is a reason to end."""
    listener = socket.socket(socket.AF_UNIX)
    pathlib.Path(path).unlink(missing_ok=True)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen()
    checked, multiplexer = Checked(), Multiplexer(f"{path}.{os.getpid()}")
    print("listens", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    unused, other = time.monotonic(), None
    while lock.exists() and time.monotonic() - unused < IDLE_S:
        if not select.select([listener], [], [], LOOK_S)[0]:
            continue
        control = listener.accept()[0]
        if control.makefile("rb").readline() != key.encode() + b"\n":
            other = control
            break
        checked.verb += 1
        control.sendall(multiplexer.path.encode() + b"\n")
        if not await_end(control, lock):
            break
        multiplexer.end_verb()
        unused = time.monotonic()
    pathlib.Path(path).unlink(missing_ok=True)
    if other:  # whoever asked starts the next process, which listens at the same path
        other.sendall(OTHER)
    multiplexer.broker.shutdown()
    multiplexer.broker.join()


def main(path: str, lock: str, key: str) -> None:
    """Serve until there is a reason to end."""
    init_plugin_loader()  # modules of collections import each other by it
    ansible_mitogen.process.common_setup()
    Imports(STATE)
    serve(path, pathlib.Path(lock), key)
    os._exit(0)  # threads of connections that hang are not waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
