"""Jobs of an app host: runs of management commands. It needs no Ansible on the host: `make manage` and `make jobs` send it to a bare Python.

A job is a directory, which its id names: job.json (id, argv, who, release, started), output, and result.json once it has ended (roles/site_jobs/files/site-job).
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time

TYPE_CHECKING = False  # what is only for a type checker is not imported: that takes longer than all else
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LISTED = 50  # newest jobs of a host that are listed
CHUNK = 1 << 18  # bytes of output in an answer
POLL_S = 0.1
ACTIVE = ("active", "activating", "deactivating", "reloading")
# States by the word of systemd for how a unit ended; another one, or none, is "failed".
STATES = {"success": "succeeded", "signal": "killed", "core-dump": "killed", "watchdog": "killed"}
STATES |= {"timeout": "timed-out", "oom-kill": "out-of-memory"}


def unit(job: str) -> str:
    """The unit of a job."""
    return f"site-job@{job}.service"


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl."""
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def active(listed: str) -> set[str]:
    """Ids of the jobs that run. listed: what `systemctl list-units` prints of their units."""
    rows = [line.split() for line in listed.splitlines()]
    return {row[0].partition("@")[2].removesuffix(".service") for row in rows if len(row) > 2 and row[2] in ACTIVE}


def running() -> set[str]:
    """Ids of the jobs that run on this host."""
    return active(systemctl("list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager", unit("*")).stdout)


def state(result: Mapping[str, Any] | None, runs: bool) -> str:
    """running, succeeded, failed, killed, stopped, timed-out, out-of-memory, or lost: the host ended before the job did. result: of result.json."""
    if result is None:
        return "running" if runs else "lost"
    if result["result"] == "success" and result["signal"]:
        return "stopped"  # systemd asked the command to end, and it did
    return STATES.get(result["result"], "failed")


def read(path: pathlib.Path) -> Any:
    """What a file has as JSON; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None


def described(directory: pathlib.Path, jobs: set[str]) -> dict[str, Any] | None:
    """A job: what job.json has, and state, seconds, exit, signal; None where its directory is none. jobs: those that were running before."""
    job, result = read(directory / "job.json"), read(directory / "result.json")
    if job is None:
        return None
    ended = (result or {}).get("ended")
    how = state(result, directory.name in jobs)
    until = ended or (time.time() if how == "running" else None)
    return dict(
        job,
        state=how,
        seconds=None if until is None else max(0, round(until - job["started"])),
        exit=(result or {}).get("exit"),
        signal=(result or {}).get("signal"),
    )


def releases_in_use(directory: str) -> set[str]:
    """Names of the releases whose commands run on this host."""
    if not os.path.isdir(directory):
        return set()
    jobs = [read(pathlib.Path(directory, job, "job.json")) for job in running()]
    return {os.path.basename(job["release"]) for job in jobs if job}


def listing(directory: str) -> dict[str, Any]:
    """{ready: whether the host can run jobs, jobs: the newest, oldest first}."""
    if not os.path.isdir(directory):
        return {"ready": False, "jobs": []}
    jobs = running()
    newest = sorted(pathlib.Path(directory).iterdir(), key=lambda path: path.name)[-LISTED:]
    return {"ready": True, "jobs": [job for path in newest if (job := described(path, jobs))]}


def start(directory: str, root: str, job: str, argv: list[str], operator: str) -> dict[str, Any]:
    """Start a command with the current release of the site's directory: {started: whether it was, msg: why it was not}."""
    try:
        release = os.path.join(root, os.readlink(os.path.join(root, "current")))
    except OSError:
        return {"started": False, "msg": "there is no release yet: make deploy"}
    path = pathlib.Path(directory, job)
    path.mkdir()
    path.chmod(0o2750)  # whatever the umask is: the site's group reads
    described_job = {"id": job, "argv": argv, "who": operator, "release": release, "started": time.time()}
    for name, content in (("job.json", json.dumps(described_job)), ("output", "")):
        file = path / name
        file.write_text(content, encoding="utf-8")
        file.chmod(0o640)
    done = systemctl("start", unit(job))
    if done.returncode == 0 or (path / "result.json").exists():
        return {"started": True, "msg": ""}
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    return {"started": False, "msg": done.stderr.strip()}


def find(directory: str, job: str) -> dict[str, Any]:
    """{job: as it is, or None where it is not here}."""
    return {"job": described(pathlib.Path(directory, job), running())}


def stop(directory: str, job: str) -> dict[str, Any]:
    """Ask a job to end: {job: as it was before, or None where it is not here}."""
    before = find(directory, job)
    if before["job"] and before["job"]["state"] == "running":
        systemctl("stop", "--no-block", unit(job))
    return before


def follow(directory: str, job: str, offset: int, wait_s: float) -> dict[str, Any]:
    """{job: as it is, or None where it is not here; text: its output from an offset, in bytes; offset: where that ends}.

    Where a running job has no more output, this waits for some, or for its end, so many seconds. Bytes that are no UTF-8 are surrogates in the text.
    """
    path = pathlib.Path(directory, job)
    until = time.monotonic() + wait_s
    while True:
        # Before the output is read: what a job wrote before its end is in it then.
        now = described(path, running())
        if now is None:
            return {"job": None, "text": "", "offset": offset}
        with open(path / "output", "rb") as file:
            file.seek(offset)
            chunk = file.read(CHUNK)
        if chunk or now["state"] != "running" or time.monotonic() >= until:
            return {"job": now, "text": chunk.decode("utf-8", "surrogateescape"), "offset": offset + len(chunk)}
        while not (path / "result.json").exists() and os.stat(path / "output").st_size <= offset:
            if time.monotonic() >= until:
                break
            time.sleep(POLL_S)  # between two looks at the output: nothing tells when the job writes
