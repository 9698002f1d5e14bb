"""Take backups of the databases, prove that they restore, and tell how they are.

    tier-backup full | incr    back the databases up
    tier-backup look           see how old everything is, and whether WAL arrives without a gap
    tier-backup drill          restore the newest backup here, compare it with the primary, serve a page from it
    tier-backup plan [TIME]    what a restore to a moment begins with and loses, as JSON; TIME as 2026-11-23 18:00, UTC
    tier-backup seal           bring all that the primary has written so far into the archive
    tier-backup restored TIME  remember that the databases were taken back to a moment
    tier-backup scrub          restore the newest backup here, scrub it by rules from standard input, and keep a dump
                               of that for another environment; tells what was done as JSON. Rules: [{table, column,
                               value}, …], value an SQL expression; a table without a column is emptied
    tier-backup rows           hand that dump over on standard output, once
    tier-backup uploads        hand the newest backup of the uploads over, as tar

Everything is read from /etc/tier-backup.json, and what was found goes into one small file, the state, that monitoring
reads: {full, incr, wal, media, drill: {at, result, …}, limits, looked, wrong}. Times are seconds since 1970; at is when
it last went well; result is "ok" or why it did not; wrong holds sentences, unproven those of them about the drill.

--repository DIRECTORY and --key FILE let a drill repeat the last one from a copy of the repository or with another key,
--state FILE keep its result elsewhere.
"""

import argparse
import json
import pathlib
import sys

from tier_backup import scrub
from tier_backup.backups import Backups
from tier_backup.common import Failed, moment
from tier_backup.drill import drill

CONFIG = pathlib.Path("/etc/tier-backup.json")


def main() -> int:
    """Return 1 where something failed, with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], usage=__doc__)
    parser.add_argument(
        "verb", choices=["full", "incr", "look", "drill", "plan", "seal", "restored", "scrub", "rows", "uploads"]
    )
    parser.add_argument("moment", nargs="?", type=moment)
    parser.add_argument("timeline", nargs="?", type=int)
    parser.add_argument("--repository")
    parser.add_argument("--key")
    parser.add_argument("--state")
    arguments = parser.parse_args()
    backups = Backups(json.loads(CONFIG.read_text(encoding="utf-8")), arguments.state)
    try:
        match arguments.verb:
            case "full" | "incr":
                backups.noted(arguments.verb, lambda: backups.back_up(arguments.verb))
            case "drill":
                backups.noted("drill", lambda: drill(backups, arguments.repository, arguments.key))
            case "plan":
                print(json.dumps(backups.plan(arguments.moment)))
            case "seal":
                backups.seal()
            case "restored":
                backups.remember(arguments.moment, arguments.timeline)
            case "scrub":
                print(json.dumps(scrub.scrub(backups, json.load(sys.stdin))))
            case "rows":
                scrub.rows(backups)
            case "uploads":
                scrub.uploads(backups)
    except Failed as error:
        print(f"{arguments.verb}: {error}", file=sys.stderr)
        return 1
    finally:
        if arguments.verb not in ("plan", "seal", "scrub", "rows", "uploads") and not arguments.state:
            backups.look()
    return 0
