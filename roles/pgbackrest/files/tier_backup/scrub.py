"""What the backup host hands over to another environment: scrubbed rows, and uploads."""

import contextlib
import pathlib
import shutil
import subprocess
import sys
import typing

import psycopg2
import psycopg2.sql

from tier_backup.backups import Backups
from tier_backup.common import MEDIA, MEDIA_KEY, Failed, run, seconds, when
from tier_backup.scratch import Scratch


class Rule(typing.TypedDict):
    """What is done to a table: a column gets a value, an SQL expression; without a column the table is emptied."""

    table: str
    column: typing.NotRequired[str]
    value: typing.NotRequired[str]


def scrub(backups: Backups, rules: list[Rule]) -> dict[str, typing.Any]:
    """Restore the newest backup and all WAL after it, scrub that, dump it.

    Returns {label, backup, gap, rows: a number for each rule}; raises Failed.
    """
    scratch, history = Scratch(backups), backups.history()
    if not history or not backups.snapshots():
        raise Failed(f"there is no backup{' of the uploads' if history else ''}")
    dump = scratch.directory / "scrubbed.dump"
    dump.unlink(missing_ok=True)
    try:
        # No primary is asked, and none need be there.
        scratch.restore(backups.config["drill"]["config"], ["--type=default"], history[-1]["label"])
        site = backups.config["database"]["dbname"]
        with contextlib.closing(scratch.connect(site)) as connection, connection:
            counts = apply(connection, rules)
            # The other environment has these already, and there a superuser owns all of site_extensions.
            with connection.cursor() as cursor:
                cursor.execute(
                    "select extname from pg_extension join pg_roles on pg_roles.oid = extowner"
                    " where rolsuper or extname = any(%s)",
                    [backups.config["extensions"]],
                )
                extensions = [f"--exclude-extension={name}" for (name,) in cursor.fetchall()]
        run(
            f"{backups.config['bin_dir']}/pg_dump",
            "--host",
            str(scratch.directory),
            "--port",
            str(backups.config["drill"]["port"]),
            "--username",
            site,
            *extensions,
            "--exclude-schema=pg_catalog",
            "--format=custom",
            "--file",
            str(dump),
            site,
        )
    except psycopg2.Error as error:
        raise Failed(" ".join(str(error).split())) from error
    finally:
        scratch.clear()
    return {
        "label": history[-1]["label"],
        "backup": when(history[-1]["timestamp"]["stop"]),
        "gap": ", ".join(backups.gaps(history[-1])[:3]),
        "rows": counts,
    }


def rows(backups: Backups) -> None:
    """Write the scrubbed dump to standard output. Raises Failed where there is none."""
    dump = pathlib.Path(backups.config["drill"]["directory"]) / "scrubbed.dump"
    if not dump.exists():
        raise Failed("nothing is scrubbed: tier-backup scrub")
    with dump.open("rb") as file:
        dump.unlink()  # whoever is cut off begins with another scrub
        shutil.copyfileobj(file, sys.stdout.buffer)


def uploads(backups: Backups) -> None:
    """Write the newest backup of the uploads to standard output. Raises Failed where there is none."""
    # A backup of a host that had lost everything is none.
    newest = max(
        backups.snapshots(),
        key=lambda snapshot: (snapshot["summary"]["total_files_processed"] > 0, seconds(snapshot["time"])),
        default=None,
    )
    if newest is None:
        raise Failed("there is no backup of the uploads")
    done = subprocess.run(
        ["restic", "--no-cache", "--no-lock", "-r", MEDIA, "dump", f"{newest['id']}:{newest['paths'][0]}", "/"],
        check=False,
        cwd="/",
        user="restic-rest-server",
        group="restic-rest-server",
        extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "RESTIC_PASSWORD_FILE": MEDIA_KEY},
    )
    if done.returncode:
        raise Failed(f"restic failed with {done.returncode}")


def apply(connection: typing.Any, rules: list[Rule]) -> list[int]:
    """Apply all rules. Returns the number of rows that each was for.

    Raises Failed where the database has not what a rule names, and applies none then.
    """
    with connection.cursor() as cursor:
        missing = []
        for rule in rules:
            cursor.execute(
                "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
                [rule["table"]],
            )
            names = [name for (name,) in cursor.fetchall()]
            if not names or rule.get("column", names[0]) not in names:
                missing.append(".".join(filter(None, [rule["table"], rule.get("column")])))
        if missing:
            raise Failed(f"the database has no {', '.join(missing)}")
        counts = []
        for rule in rules:
            table = psycopg2.sql.Identifier(*rule["table"].split("."))
            if "column" in rule:
                statement = psycopg2.sql.SQL("update {} set {} = {}").format(
                    table, psycopg2.sql.Identifier(rule["column"]), psycopg2.sql.SQL(rule["value"])
                )
            else:
                statement = psycopg2.sql.SQL("delete from {}").format(table)
            cursor.execute(statement)
            counts.append(cursor.rowcount)
        return counts
