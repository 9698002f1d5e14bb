"""What the backup host keeps of the databases and uploads, and how that is."""

import collections.abc
import contextlib
import fcntl
import json
import pathlib
import re
import subprocess
import time
import typing

import psycopg2

from tier_backup.common import MEDIA, MEDIA_KEY, Failed, fingerprint, number, run, seconds, when

ARCHIVE_WITHIN = 120.0  # seconds within which WAL has to arrive
MEDIA_AHEAD = 300  # seconds that a media host's clock may be ahead of this one's
MEDIA_AGAIN = 3600  # seconds after which restic is asked again though nothing has changed

Config = dict[str, typing.Any]  # /etc/tier-backup.json
State = dict[str, typing.Any]  # the state, or what it has of one kind
Info = dict[str, typing.Any]  # what pgBackRest or restic lists


class Backups:
    """What this host keeps of the databases."""

    def __init__(self, config: Config, state: str | None) -> None:
        self.config, self.state_file = config, pathlib.Path(state or config["state"])

    def pgbackrest(self, *arguments: str, config: str = "/etc/pgbackrest.conf") -> str:
        """Output of pgBackRest."""
        return run("pgbackrest", f"--config={config}", f"--stanza={self.config['stanza']}", *arguments)

    def info(self) -> Info:
        """What pgBackRest knows of the databases: backups and the newest WAL. Raises Failed where there is nothing."""
        info: Info
        [info] = json.loads(self.pgbackrest("info", "--output=json"))
        if info["status"]["code"] not in (0, 2):  # 2: no backup yet
            raise Failed(info["status"]["message"])
        return info

    def state(self) -> State:
        """The state as it was noted."""
        with contextlib.suppress(OSError, ValueError):
            state: State = json.loads(self.state_file.read_text(encoding="utf-8"))
            return state
        return {}

    def note(self, **changes: typing.Any) -> None:
        """Put something into the state, whoever else does the same. A dict is laid over the one that is there."""
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.state_file.with_suffix(".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state()
            for name, value in changes.items():
                state[name] = state.get(name, {}) | value if isinstance(value, dict) else value
            new = self.state_file.with_suffix(".new")
            new.write_text(json.dumps(state, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            new.chmod(0o644)
            new.rename(self.state_file)

    def noted(self, kind: str, work: collections.abc.Callable[[], State | None]) -> None:
        """Do some work and note its result, with what it returns. Raises Failed where it failed."""
        begun = time.time()
        try:
            more = work() or {}
        except (Failed, OSError, subprocess.SubprocessError, psycopg2.Error) as error:
            self.note(**{kind: {"result": " ".join(str(error).split()), "tried": int(begun)}})
            raise Failed(str(error)) from error
        now = time.time()
        self.note(
            **{kind: {"result": "ok", "tried": int(begun), "at": int(now), "seconds": round(now - begun, 1), **more}}
        )

    def connect(self, **more: typing.Any) -> typing.Any:
        """A connection to the primary."""
        try:
            return psycopg2.connect(
                **self.config["database"] | {"connect_timeout": 3, "target_session_attrs": "read-write"} | more
            )
        except psycopg2.Error as error:
            raise Failed(f"no primary answers: {' '.join(str(error).split())[:200]}") from error

    # ---------------------------------------------------------------- backups

    def back_up(self, kind: str) -> None:
        """Take a backup; old ones go when a new one is complete."""
        self.pgbackrest(f"--type={kind}", "backup")

    def gave_up(self, moment: int | None) -> list[int] | None:
        """The restore that gave a moment up; None where the databases still come from it."""
        for restore in self.restores():
            if moment is not None and restore[1] < moment <= restore[0]:
                return restore
        return None

    def restores(self) -> list[list[int]]:
        """Restores of the databases, as [when, to which moment, from which timeline]."""
        restores: list[list[int]] = self.state().get("restores", [])
        return restores

    def history(self, moment: int | None = None) -> list[Info]:
        """Backups that lead to a moment, or to what the databases are now, oldest first.

        None is from a future that a restore gave up before.
        """
        taken_back = self.gave_up(moment)
        others = [restore for restore in self.restores() if restore != taken_back]
        return [
            backup
            for backup in self.info()["backup"]
            if not backup["error"] and not any(to < backup["timestamp"]["stop"] <= at for at, to, _timeline in others)
        ]

    def plan(self, moment: int | None) -> dict[str, typing.Any]:
        """What a restore to a moment, or to all that is there (None), begins with and comes to. Raises Failed."""
        now = int(time.time())
        backups, taken_back = self.history(moment), self.gave_up(moment)
        if not backups:
            raise Failed("there is no backup")
        if moment is not None and moment > now:
            raise Failed(f"{when(moment)} has not come yet")
        early = [backup for backup in backups if moment is None or backup["timestamp"]["stop"] <= moment]
        if moment is not None and not early:
            oldest = when(backups[0]["timestamp"]["stop"])
            raise Failed(f"the oldest backup is of {oldest}: {when(moment)} is before it")
        gaps = self.gaps(early[-1])
        return {
            "label": early[-1]["label"],
            "backup": when(early[-1]["timestamp"]["stop"]),
            "to": when(moment or now),
            "timeline": taken_back[2] if taken_back else "latest",
            "leaves": self.timeline(),
            "archived": self.archived(),
            "uploads": self.media().get("at"),
            "moment": moment or now,
            "seconds": now - (moment or now),
            "gap": ", ".join(gaps[:3]),
            "megabytes": early[-1]["info"]["size"] >> 20,
        }

    def seal(self) -> None:
        """Bring all WAL so far into the archive; where no primary answers, say so: what it had not sent is lost."""
        try:
            primary = self.connect()
        except Failed as error:
            print(f"What came after the last WAL that is archived is lost: {error}")
            return
        with contextlib.closing(primary), primary.cursor() as cursor:
            primary.autocommit = True
            cursor.execute(
                "select pg_current_xact_id()"
            )  # a commit after every moment that may be wanted: recovery stops before it
            cursor.execute("select pg_walfile_name(pg_current_wal_lsn())")
            segment = cursor.fetchone()[0]
            cursor.execute("select pg_switch_wal()")
        self.await_segment(segment)

    def timeline(self) -> int:
        """Number of the timeline of the newest WAL."""
        return int(((self.info()["archive"] or [{}])[-1].get("max") or "00000001")[:8], 16)

    def remember(self, moment: int, timeline: int) -> None:
        """Note that the databases were taken back to a moment, and which timeline that left."""
        self.note(restores=self.restores()[-50:] + [[int(time.time()), moment, timeline]])

    # ---------------------------------------------------------------- how they are

    def segments(self, since: str) -> list[str]:
        """Names of all WAL segments here, from that of a name on."""
        archives = self.archives()
        if not archives:
            return []
        [archive], names = archives, []
        for directory in re.findall(r"[0-9A-F]{16}", self.pgbackrest("repo-ls", archive)):
            if directory[8:] >= since[8:16]:
                names += re.findall(r"^([0-9A-F]{24})-", self.pgbackrest("repo-ls", f"{archive}/{directory}"), re.M)
        return sorted(names)

    def archives(self) -> list[str]:
        """Path of the newest archive of WAL in the repository; none where there is none."""
        return [f"archive/{self.config['stanza']}/{archive['id']}" for archive in self.info()["archive"][-1:]]

    def archived(self) -> int:
        """When the newest WAL came; 0 where there is none."""
        listings = [
            json.loads(self.pgbackrest("repo-ls", "--recurse", "--output=json", path)) for path in self.archives()
        ]
        entries = [entry for listing in listings for entry in listing.values()]
        return max((entry["time"] for entry in entries if entry["type"] == "file"), default=0)

    def gaps(self, backup: Info) -> list[str]:
        """Names of the WAL segments that are missing since a backup began.

        Those of a timeline that was left stand for none of the next one.
        """
        have = {
            number(name): name[:8] for name in self.segments(backup["archive"]["start"])
        }  # the highest timeline of each
        first, newest = number(backup["archive"]["start"]), ""
        missing: list[str] = []
        last = max((segment for segment in have if have[segment] == max(have.values())), default=first)
        for segment in range(first, max(last, first + 1)):  # a backup without its first segment does not restore
            if have.get(segment, "") < newest or segment not in have:
                missing.append(f"segment {segment >> 8:08X}{segment & 255:08X}")
            newest = max(newest, have.get(segment, ""))
        return missing

    def look(self) -> None:
        """See how everything is, and note what is wrong."""
        now, limits = time.time(), self.config["limits"]
        complaints: dict[str, str] = {}  # kind of backup: sentence
        try:
            info = self.info()
            self.aged(info["backup"])
            self.note(wal=self.wal(info))
        except Failed as error:
            self.note(wal={"result": str(error)})
        try:
            self.note(media=self.media())
        except Failed as error:
            self.note(media={"result": str(error)})
        state = self.state()
        for kind, title in {
            "full": "full backup",
            "incr": "backup",
            "media": "backup of the uploads",
            "drill": "restore drill",
            "wal": "WAL",
        }.items():
            known = state.get(kind, {})
            age = now - known["at"] if "at" in known else None
            if known.get("result", "ok") != "ok":
                complaints[kind] = f"{title}: {known['result']}"
            elif kind in limits and age is None and now - state.get("since", now) > limits[kind]:
                complaints[kind] = f"there has been no {title} yet"
            elif kind in limits and age is not None and age > limits[kind]:
                complaints[kind] = f"the last {title} is {age / 3600:.1f} hours old"
        wrong, unproven = list(complaints.values()), [complaints[kind] for kind in complaints if kind == "drill"]
        self.note(looked=int(now), limits=limits, wrong=wrong, unproven=unproven, since=state.get("since", int(now)))

    def aged(self, backups: list[Info]) -> None:
        """Note when the last backups were taken, as the repository has it; a failure of a later one stays."""
        for kind, kinds in {"full": ["full"], "incr": ["full", "diff", "incr"]}.items():
            ends = [
                backup["timestamp"]["stop"] for backup in backups if backup["type"] in kinds and not backup["error"]
            ]
            if ends:
                known = self.state().get(kind, {})
                result = known.get("result", "ok") if known.get("tried", 0) > ends[-1] else "ok"
                self.note(**{kind: {"at": ends[-1], "result": result}})

    def wal(self, info: Info) -> State:
        """{last, behind, result} of the WAL that is here, compared with where the primary is."""
        last = (info["archive"] or [{}])[-1].get("max") or ""
        with contextlib.closing(self.connect()) as primary, primary.cursor() as cursor:
            cursor.execute(
                "select pg_walfile_name(pg_current_wal_lsn()),"
                " coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)"
                " from pg_stat_archiver"
            )
            current, failing = cursor.fetchone()
        behind = max(0, number(current) - number(last) - 1) if last else number(current)
        gaps = self.gaps(info["backup"][-1]) if info["backup"] else []
        result = "ok"
        if failing or behind > self.config["segments_behind"]:
            result = (
                f"{behind} segments have not come, the last is {last or 'none'}. On the primary: journalctl -u patroni"
            )
        if gaps:
            more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
            result = f"{gaps[0]} is missing{more}: nothing restores to a moment after it. make backup"
        return {
            "last": last,
            "behind": behind,
            "result": result,
            **({"at": int(time.time())} if result == "ok" else {}),
        }

    def snapshots(self, *arguments: str) -> list[Info]:
        """Backups of the uploads, as restic lists them."""
        command = ["restic", "--no-cache", "--no-lock", "-r", MEDIA, "snapshots", "--json", *arguments]
        snapshots: list[Info] = json.loads(run(*command, user="restic-rest-server", RESTIC_PASSWORD_FILE=MEDIA_KEY))
        return snapshots

    def media(self) -> State:
        """When the uploads were last backed up.

        restic takes most of a look to derive its key: as long as nothing that it reads has changed, its last answer
        holds.
        """
        now, parts = int(time.time()), [pathlib.Path(MEDIA, name) for name in ("config", "keys", "snapshots")]
        read = fingerprint([pathlib.Path(MEDIA_KEY), *parts])
        known: State = self.state().get("media", {})
        if known.get("result") == "ok" and known.get("read") == read and 0 <= now - known.get("asked", 0) < MEDIA_AGAIN:
            return known
        latest = {snapshot["hostname"]: seconds(snapshot["time"]) for snapshot in self.snapshots("--latest", "1")}
        ahead = sorted(host for host, at in latest.items() if at > now + MEDIA_AHEAD)
        result = "ok"
        if ahead:
            remedy = "look at its clock, then restic forget that one"
            result = f"{', '.join(ahead)} sent one that is dated in the future: {remedy}"
        return {"result": result, "read": read, "asked": now, **({"at": int(max(latest.values()))} if latest else {})}

    def await_segment(self, name: str) -> None:
        """Await that a WAL segment is here."""
        deadline = time.monotonic() + ARCHIVE_WITHIN
        while name not in self.segments(name):
            if time.monotonic() > deadline:
                raise Failed(f"WAL segment {name} did not come within {ARCHIVE_WITHIN:.0f} s")
            time.sleep(1)  # between two looks with a deadline
