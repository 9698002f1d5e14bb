"""Run a command while no other one changes the same environment.

    python -m controller.lock INVENTORY VERB COMMAND …

Every app host holds a lock for as long as this command lives: an ssh session has it, whose input is a pipe that
the command inherits. However the command ends, and with it this machine, the lock is gone. Hosts that cannot be
reached are passed over. Exits with 3 where somebody else has the lock, with 2 where the inventory cannot be read.
"""

import getpass
import os
import pathlib
import select
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from controller.environment import Environment
from controller.errors import Unusable

PATIENCE = 15  # seconds a host has to answer
RELEASE_S = 5  # seconds a host has to end the session that holds its lock
# A file that every host has and nobody else locks. What is held is told by the process that holds it.
HOLD = r"""
exec 9</etc/hostname
if flock --nonblock 9; then echo held; cat; exit; fi
echo "busy: $(pgrep --full --list-full '[h]old-the-tier' | sed -n 's/.*hold-the-tier //p' | grep -v -F "$1" | head -n 1)"
"""


def hold(command: Sequence[str], holder: str) -> subprocess.Popen[bytes]:
    """A process that asks a host for its lock, and keeps it while its input is open. command: logs in to the host, on a connection of its own."""
    return subprocess.Popen(
        [*command, shlex.join(["sh", "-c", HOLD, "hold-the-tier", holder])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def take(environment: Environment, verb: str) -> tuple[dict[str, subprocess.Popen[bytes]], str]:
    """(the processes that hold the locks while this one has their input, who else has one, as a sentence or nothing)."""
    holder = f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()} ({verb}, pid {os.getpid()})"
    try:
        held = {name: hold(environment.ssh(name), holder) for name in environment.groups.get("app", [])}
    except Unusable as reason:
        print(reason, file=sys.stderr)
        sys.exit(2)
    for name, process in held.items():
        assert process.stdout
        ready, _w, _x = select.select([process.stdout], [], [], PATIENCE)
        answer = process.stdout.readline().decode().strip() if ready else ""
        if answer.startswith("busy:"):
            return held, (
                f"{answer.removeprefix('busy:').strip() or 'Somebody'} is changing this environment (on {name}). "
                "Its lock ends with it: type the same again then."
            )
    return held, ""


def release(held: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Give the locks back before this process ends."""
    for process in held.values():
        assert process.stdin
        process.stdin.close()
    for process in held.values():
        try:
            process.wait(RELEASE_S)
        except subprocess.TimeoutExpired:  # a host that cannot be reached
            process.kill()
            process.wait()
        assert process.stdout
        process.stdout.close()


def main() -> int:
    """Take the locks and become the command."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    inventory, verb, *command = sys.argv[1:]
    held, busy = take(Environment(pathlib.Path(inventory)), verb)
    if busy:
        print(f"Nothing was touched. {busy}", file=sys.stderr)
        return 3
    for process in held.values():
        assert process.stdin
        os.set_inheritable(process.stdin.fileno(), True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
