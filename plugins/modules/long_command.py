#!/usr/bin/python
"""Run a command that may take long, and tell meanwhile what it printed last."""

import os
import pathlib
import select
import shlex
import shutil
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: long_command
short_description: Run a command that may take long, and tell meanwhile what it printed last
description:
  - Starts the command, and returns when it has ended, or after I(report_s) seconds. Called again with the same I(run), it waits for that command.
    A task that repeats it until C(finished) ends with the command, and the controller shows between two calls what it printed last.
  - The command goes on when the connection is lost. The next one waits for its end.
options:
  cmd:
    type: str
    required: true
    description: The command, as words of a shell.
  run:
    type: str
    required: true
    description: What tells this run from every other one.
  directory:
    type: path
    default: /run/long-command
    description: Where commands that run keep what they print, one after the other.
  report_s:
    type: int
    default: 10
    description: Seconds until it is told that the command still runs.
"""

RETURN = """
finished: {type: bool, returned: always, description: Whether the command has ended.}
running_for: {type: int, returned: while it runs, description: For how many seconds.}
last_line: {type: str, returned: while it runs, description: "What it printed last, to either output."}
cmd: {type: str, returned: once it has ended, description: The command.}
rc: {type: int, returned: once it has ended, description: "Its exit code; -1 where it was killed."}
stdout: {type: str, returned: once it has ended, description: "Its standard output, or the last MiB of it."}
stderr: {type: str, returned: once it has ended, description: "Its standard error, or the last MiB of it."}
"""

FORGOTTEN = 3600  # seconds after which nobody asks any more how a command ended
MOST = 1 << 20  # bytes of what a command printed that are returned, from its end
# The exit code is there at once or not at all. Whatever the command leaves behind does not hold the lock.
SCRIPT = """
directory=$1
exec 9>>"$2"
shift 2
flock 9
"$@" >"$directory/stdout" 2>"$directory/stderr" 9>&-
echo $? >"$directory/rc.new"
mv "$directory/rc.new" "$directory/rc"
"""


def start(directory: pathlib.Path, arguments: list[str]) -> None:
    """Start a command that writes into a directory what it prints, and at last its exit code."""
    for other in directory.parent.glob("*/rc"):
        if time.time() - other.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(other.parent)
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir()
    process = subprocess.Popen(
        ["sh", "-c", SCRIPT, "long-command", str(directory), str(directory.parent / "lock"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (directory / "pid").write_text(str(process.pid))


def ends(directory: pathlib.Path, seconds: float) -> bool:
    """Whether the command ends within so many seconds."""
    try:
        process = os.pidfd_open(int((directory / "pid").read_text()))
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(process)


def printed(path: pathlib.Path) -> str:
    """What a command printed into a file, from its end."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - MOST, 0))
        return file.read().decode(errors="replace").rstrip("\n")


def last_line(directory: pathlib.Path) -> str:
    """What a command printed last, of both its outputs."""
    files = sorted(
        (path for path in (directory / "stdout", directory / "stderr") if path.exists()),
        key=lambda path: (path.stat().st_size > 0, path.stat().st_mtime),
    )
    if not files:
        return "it waits for the end of an earlier one"
    return (printed(files[-1]).splitlines() or [""])[-1]


def main() -> None:
    """Start the command, or wait for it."""
    module = AnsibleModule(
        argument_spec={
            "cmd": {"type": "str", "required": True},
            "run": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/run/long-command"},
            "report_s": {"type": "int", "default": 10},
        }
    )
    given = module.params
    directory = pathlib.Path(given["directory"], given["run"])
    if not directory.exists():
        start(directory, shlex.split(given["cmd"]))
    if not ends(directory, given["report_s"]):
        module.exit_json(
            changed=False,
            finished=False,
            running_for=int(time.time() - (directory / "pid").stat().st_mtime),
            last_line=last_line(directory),
        )
    code, stdout, stderr = (printed(directory / name) for name in ("rc", "stdout", "stderr"))
    shutil.rmtree(directory)
    result = {
        "changed": True,
        "finished": True,
        "cmd": given["cmd"],
        "rc": int(code or -1),
        "stdout": stdout,
        "stderr": stderr,
    }
    if result["rc"]:
        module.fail_json(msg="non-zero return code" if code else "it was killed", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
