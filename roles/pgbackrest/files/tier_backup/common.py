"""What the modules of tier-backup share: commands, complaints, and times as their programs write them."""

import datetime
import hashlib
import pathlib
import re
import subprocess
import time

MEDIA = "/var/lib/media-backup"
MEDIA_KEY = "/etc/restic-password"


class Failed(Exception):
    """Why something did not work, as a sentence."""


def run(*command: str, user: str = "postgres", **environment: str) -> str:
    """Output of a command run as a user. Raises Failed with its complaints."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment},
    )
    if done.returncode:
        raise Failed(complaint(done.stdout + done.stderr) or f"{command[0]} failed with {done.returncode}")
    return done.stdout


def fingerprint(paths: list[pathlib.Path]) -> str:
    """A hash that stays the same as long as no file at these paths, or in these directories, changes, comes or goes."""
    seen: list[tuple[str, int | None, int | None]] = []
    for path in paths:
        for file in [path, *(sorted(path.iterdir()) if path.is_dir() else [])]:
            status = file.stat() if file.exists() else None
            seen.append((str(file), status and status.st_size, status and status.st_mtime_ns))
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def complaint(text: str) -> str:
    """The lines of a log that say what is wrong, as one line."""
    lines = text.splitlines()
    complaints: list[str] = []
    for line in lines:
        if re.search(r"ERROR|FATAL|PANIC|Fatal|WARN.*Error\]", line):
            message = re.sub(r"^.*?(ERROR|FATAL|PANIC|Fatal|WARN)", r"\1", line).strip()
            if message not in complaints and "the database system is" not in message:
                complaints.append(message)
    return "; ".join(complaints[:4]) or " ".join(lines[-2:])


def number(segment: str) -> int:
    """The number of a WAL segment of 16 MiB, whatever its timeline."""
    return (int(segment[8:16], 16) << 8) + int(segment[16:24], 16)


def seconds(text: str) -> float:
    """Seconds since 1970 of a time as restic writes it."""
    # Python reads microseconds at most.
    return datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text)).timestamp()


def moment(text: str) -> int:
    """Seconds since 1970 of a time as people write it, in UTC where it does not say. Raises ValueError."""
    if text.isdigit():
        return int(text)
    parsed = datetime.datetime.fromisoformat(text)
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp())


def when(stamp: float) -> str:
    """A moment as pgBackRest takes it and people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(stamp))
