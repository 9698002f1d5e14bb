"""The database that a backup is restored to on the backup host."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import time
import typing

import psycopg2

from tier_backup.backups import Backups
from tier_backup.common import Failed, complaint, run

START_WITHIN = 86400  # seconds a restored database may take to come up

Fingerprints = dict[str, tuple[int, str]]  # {table: (rows, sum of the hashes of all rows)}


class Scratch:
    """The database on this host that a backup is restored to, for as long as this process lives."""

    def __init__(self, backups: Backups) -> None:
        """Raises Failed where another process has it."""
        self.backups, self.config = backups, backups.config
        self.directory = pathlib.Path(self.config["drill"]["directory"])
        # Held until the process ends: nothing closes it.
        self.lock = os.open(self.directory / "turn", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed(
                "a drill or another environment has the place to restore to: try again when it is done"
            ) from error

    def restore(self, config: str, target: list[str], label: str) -> None:
        """Restore a backup, and start the database that recovers from it to a target (options of pgBackRest)."""
        data = self.directory / "data"
        self.clear()
        try:
            # Once: the repository is on this host, and what is damaged there stays so. (Else twice more, 15 s apart.)
            self.backups.pgbackrest(
                *target, "--archive-mode=off", "--job-retry=0", f"--set={label}", "restore", config=config
            )
        except Failed as error:
            raise Failed(
                f"the backup does not restore, a file of it is damaged or the key is another one's: {error}"
            ) from error
        # No superuser: what the site left in its database would run as one.
        access, names, site = (
            self.directory / "pg_hba.conf",
            self.directory / "pg_ident.conf",
            self.config["database"]["dbname"],
        )
        access.write_text(
            f"local {site} backup,{site} peer map=drill\nhost {site} {site} 127.0.0.1/32 scram-sha-256\n",
            encoding="ascii",
        )
        names.write_text(f"drill root backup\ndrill root {site}\ndrill postgres {site}\n", encoding="ascii")
        access.chmod(0o644)
        names.chmod(0o644)
        # On top of what the database brings along from where it was: it is small here, alone, and waits for no standby.
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.config["drill"]["port"],
            "unix_socket_directories": self.directory,
            "hba_file": access,
            "ident_file": names,
            "shared_buffers": "64MB",
            "synchronous_standby_names": "",
            "hot_standby": "off",
            "archive_mode": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
            "cluster_name": "drill",
            "max_parallel_workers": 0,
            "primary_conninfo": "",
            "primary_slot_name": "",
        }
        with contextlib.suppress(Failed):  # connect() says why
            run(
                f"{self.config['bin_dir']}/pg_ctl",
                "--pgdata",
                str(data),
                "--log",
                str(self.directory / "log"),
                "--no-wait",
                "--options",
                " ".join(f"-c {name}='{value}'" for name, value in settings.items()),
                "start",
            )

    def connect(self, user: str) -> typing.Any:
        """A connection of a role to the restored database, once it has recovered to its target."""
        log = self.directory / "log"
        deadline = time.monotonic() + START_WITHIN
        while True:
            try:
                return psycopg2.connect(
                    host=str(self.directory),
                    port=self.config["drill"]["port"],
                    user=user,
                    dbname=self.config["database"]["dbname"],
                )
            except psycopg2.OperationalError as error:
                text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else str(error)
                if "database system is shut down" in text or "could not start" in text or time.monotonic() > deadline:
                    segments = re.findall(r'restored log file "(\w+)"', text)
                    raise Failed(
                        f"the backup does not recover to the moment that is asked for: {complaint(text)}"
                        f" (the last WAL it got: {segments[-1] if segments else 'none'})"
                    ) from error
                time.sleep(0.5)  # between two tries with a deadline

    def clear(self) -> None:
        """End the restored database, and remove it."""
        data = self.directory / "data"
        if (data / "postmaster.pid").exists():
            with contextlib.suppress(Failed):  # it has ended
                run(f"{self.config['bin_dir']}/pg_ctl", "--pgdata", str(data), "--mode", "immediate", "--wait", "stop")
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres", "postgres")
        (self.directory / "log").unlink(missing_ok=True)


def tables(cursor: typing.Any) -> list[str]:
    """Every table of a database that is not PostgreSQL's own, quoted."""
    cursor.execute(
        "select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = relnamespace"
        " where relkind = 'r' and relpersistence = 'p' and nspname !~ '^pg_' and nspname <> 'information_schema'"
        " order by 1"
    )
    return [name for (name,) in cursor.fetchall()]


def fingerprints(connection: typing.Any) -> Fingerprints:
    """The fingerprints of all tables, in the transaction that is open or a new one.

    By a role that finds no function of the site.
    """
    prints: Fingerprints = {}
    with connection.cursor() as cursor:
        for name in tables(cursor):
            cursor.execute(
                "select count(*), coalesce(sum(pg_catalog.hashtextextended(t::text, 0::bigint)), 0)::text"
                f" from {name} t"
            )
            prints[name] = cursor.fetchone()
    return prints
