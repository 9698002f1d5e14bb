"""The restore drill: the proof that the backups restore."""

import contextlib
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import psycopg2.errors

from tier_backup.backups import Backups, Config, State
from tier_backup.common import MEDIA, MEDIA_KEY, Failed, run
from tier_backup.scratch import Fingerprints, Scratch, fingerprints, tables

LOCK_MS = 500  # milliseconds that writers may wait behind the drill's lock …
LOCK_TRIES = 60  # … which is tried for as often, a second apart
SERVE_WITHIN = 60.0  # seconds the site may take to serve its first page


def drill(backups: Backups, repository: str | None, key: str | None) -> State:
    """Restore, compare, serve. Returns what the state keeps of it; raises Failed with what is wrong."""
    settings = backups.config["drill"]
    scratch = Scratch(backups)
    config = configuration(scratch, repository, key)
    expected: Fingerprints | None
    if config == settings["config"]:
        marker, segment, expected = mark(backups)
        backups.await_segment(segment)
        label = backups.history()[-1]["label"]
    else:
        last = json.loads(pathlib.Path(backups.config["state"]).read_text(encoding="utf-8"))["drill"]
        marker, segment, label, expected = last["marker"], last["segment"], last["label"], None
    try:
        begun = time.monotonic()
        scratch.restore(config, ["--type=name", f"--target={marker}", "--target-action=promote"], label)
        restored = time.monotonic() - begun
        with contextlib.closing(scratch.connect("backup")) as connection:
            actual = fingerprints(connection)
        if expected is None:
            expected = actual
        if differ := sorted(
            table for table in expected.keys() | actual.keys() if expected.get(table) != actual.get(table)
        ):
            raise Failed(f"the restored database is not what the primary was: {', '.join(differ[:5])}")
        serve(settings)
    finally:
        scratch.clear()
        (scratch.directory / "pgbackrest.conf").unlink(missing_ok=True)
    check_media()
    return {
        "marker": marker,
        "segment": segment,
        "label": label,
        "restore_seconds": round(restored, 1),
        "tables": len(actual),
        "rows": sum(rows for rows, _ in actual.values()),
    }


def configuration(scratch: Scratch, repository: str | None, key: str | None) -> str:
    """Path of pgBackRest's configuration: the usual one, or one for a copy of the repository or another key."""
    usual: str = scratch.config["drill"]["config"]
    if not repository and not key:
        return usual
    text = pathlib.Path(usual).read_text(encoding="utf-8")
    if repository:
        text = re.sub(r"(?m)^(repo1-path)=.*$", rf"\1={repository}", text)
    if key:
        text = re.sub(
            r"(?m)^(repo1-cipher-pass)=.*$", rf"\1={pathlib.Path(key).read_text(encoding='utf-8').strip()}", text
        )
    other = scratch.directory / "pgbackrest.conf"
    other.write_text(text, encoding="utf-8")
    other.chmod(0o600)
    shutil.chown(other, "postgres", "postgres")
    return str(other)


def mark(backups: Backups) -> tuple[str, str, Fingerprints]:
    """(name of a restore point, the WAL segment with it, fingerprints of every table as it was at that very moment).

    Writers wait for a few milliseconds: a commit that is in the WAL before the point and not yet visible would be
    in the restored database and not among the fingerprints.
    """
    marker = f"drill_{int(time.time())}"
    with contextlib.closing(backups.connect()) as locker, contextlib.closing(backups.connect()) as reader:
        for _attempt in range(LOCK_TRIES):
            try:
                with locker.cursor() as cursor:
                    cursor.execute(f"set lock_timeout = {LOCK_MS}")
                    names = tables(cursor)
                    if names:
                        cursor.execute(f"lock table {', '.join(names)} in share mode")
                    reader.set_session(isolation_level="REPEATABLE READ", readonly=True)
                    with reader.cursor() as looks:
                        looks.execute("select 1")  # from now on it sees what is committed, and nothing later
                    cursor.execute("select pg_walfile_name(pg_create_restore_point(%s))", [marker])
                    segment = cursor.fetchone()[0]
                locker.rollback()
                break
            except psycopg2.errors.LockNotAvailable:
                locker.rollback()
                time.sleep(1)  # between two tries that make nobody wait for long
        else:
            raise Failed("some table was locked all the time: no moment to compare with")
        locker.autocommit = True
        with locker.cursor() as cursor:
            cursor.execute("select pg_switch_wal()")
        return marker, segment, fingerprints(reader)


def serve(settings: Config) -> None:
    """The site's release serves a page from the restored database."""
    subprocess.run(["systemctl", "restart", "restored-site"], check=True)
    request = urllib.request.Request(
        f"http://127.0.0.1:{settings['site_port']}{settings['page']}",
        headers={"Host": settings["host"], "X-Forwarded-Proto": "https"},
    )
    deadline = time.monotonic() + SERVE_WITHIN
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        while True:
            try:
                with open_url(request, timeout=SERVE_WITHIN) as answer:
                    answer.read()
                    return
            except urllib.error.HTTPError as error:
                raise Failed(
                    f"the site answers {error.code} to {settings['page']} on the restored database:"
                    " journalctl -u restored-site"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"the site does not serve on the restored database ({error}): journalctl -u restored-site"
                    ) from error
                time.sleep(0.5)  # between two tries with a deadline
    finally:
        subprocess.run(["systemctl", "stop", "restored-site"], check=True)


def check_media() -> None:
    """A part of the uploads' backup is read and is whole; another part each time."""
    part = int(time.time() / 86400) % 10 + 1
    try:
        run(
            "restic",
            "--no-cache",
            "--no-lock",
            "-r",
            MEDIA,
            "check",
            f"--read-data-subset={part}/10",
            user="restic-rest-server",
            RESTIC_PASSWORD_FILE=MEDIA_KEY,
            TMPDIR="/tmp",
        )
    except Failed as error:
        raise Failed(f"the backup of the uploads: {error}") from error
