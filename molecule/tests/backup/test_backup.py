"""Backups are taken, watched and proven, and the tier goes back to a moment."""

import datetime
import json
import math
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator

import pytest
import requests
from fixtures import Backups, Make
from target import Target, png
from tier import Tier, inside, output_of

COPY = "/var/lib/postgresql/copy"
RESTIC = "runuser -u restic-rest-server -- restic --no-cache --repo /var/lib/media-backup --password-file /etc/restic-password"


def test_make_backup_backs_up_database_and_uploads(make: Make, backups: Backups) -> None:
    begun = time.time()
    done = make("backup")
    assert done.returncode == 0, output_of(done)
    state = backups.state()
    assert state["incr"]["at"] >= begun - 5 and state["media"]["at"] >= begun - 5
    assert state["wrong"] == []


@pytest.fixture(name="segment", scope="module")
def segment_fixture(target: Target) -> str:
    """A piece of WAL with a little in it, which nothing else completes."""
    target.sql("create table if not exists backup_test(said text, at timestamptz default now())")
    target.sql("insert into backup_test(said) values ('archived')")
    return target.sql("select pg_walfile_name(pg_current_wal_lsn())")


# The minute that it takes goes by in these.
@pytest.mark.usefixtures("segment")
def test_repositories_are_encrypted(backups: Backups) -> None:
    found = backups.on(f"pgbackrest --stanza={backups.stanza} info --output=json")
    assert json.loads(found)[0]["cipher"] == "aes-256-cbc"
    assert backups.on(
        "cd / && echo another > /tmp/key && restic --no-cache --no-lock -r /var/lib/media-backup --password-file /tmp/key snapshots 2>&1; "
        "rm /tmp/key"
    ).endswith("wrong password or no key found")


def test_an_old_backup_is_reported_by_status_and_munin(make: Make, backups: Backups) -> None:
    old = backups.state()["incr"]["at"]
    limits = "/etc/tier-backup.json"
    backups.on(f'cp -p {limits} {limits}.kept && sed -i \'s/"incr": [0-9]*/"incr": 0/\' {limits}')
    try:
        backups.await_state(
            lambda state: any("the last backup is" in one for one in state["wrong"]), "complaint about its age"
        )
        done = make("status")
        assert done.returncode != 0 and f"{backups.host}: the last backup is" in done.stdout
        graph = backups.on(f"state={backups.path} /usr/local/lib/munin/backup")
        assert "wrong.value 1" in graph
    finally:
        backups.on(f"mv {limits}.kept {limits}")
    backups.await_state(lambda state: state["wrong"] == [], "look that finds all well")
    assert backups.state()["incr"]["at"] == old


@pytest.mark.parametrize(
    ("moment", "reason"),
    [("2001-01-01 00:00", "is before it"), ("2999-01-01 00:00", "has not come yet"), ("soon", "invalid moment")],
)
def test_restore_refuses_invalid_times(make: Make, target: Target, moment: str, reason: str) -> None:
    before = target.sql("select timeline_id from pg_control_checkpoint()", superuser=True)
    done = make("restore", f"TO={moment}", "YES=1")
    assert done.returncode != 0 and "Nothing was touched." in output_of(done) and reason in output_of(done), output_of(
        done
    )
    assert target.sql("select timeline_id from pg_control_checkpoint()", superuser=True) == before


def test_a_partly_filled_wal_segment_is_archived(target: Target, backups: Backups, segment: str) -> None:
    target.wait(
        lambda: (
            segment
            in backups.on(
                f"runuser -u postgres -- pgbackrest --stanza={backups.stanza} repo-ls --recurse "
                f"archive/{backups.stanza}"
            )
        ),
        f"{segment} on the backup host",
        90,
    )


def test_a_stopped_archive_is_reported(target: Target, backups: Backups) -> None:
    backups.on("systemctl stop pgbackrest")
    try:
        for _ in range(6):
            target.sql(
                "insert into public.backup_test(said) values ('nobody takes it'); select pg_switch_wal()",
                superuser=True,
            )
        backups.await_state(lambda state: any("WAL" in one for one in state.get("wrong", [])), "complaint about WAL")
    finally:
        backups.on("systemctl start pgbackrest")
    backups.await_state(lambda state: state["wal"]["result"] == "ok", "WAL that has come")


# Each runs as whoever calls it, and leaves a file where that is a superuser: by a name that the tier's own statements have, by a trigger, by a view.
TRAPS = """
create function public.trap(name text) returns void language plpgsql as $$ begin
  if (select usesuper from pg_catalog.pg_user where usename = current_user) then
    execute pg_catalog.format('copy (select 1) to program %L', 'touch /var/lib/postgresql/trapped-' || name);
  end if; end $$;
create function public.hashtextextended(text, integer) returns bigint language plpgsql as
  $$ begin perform public.trap('hash'); return pg_catalog.hashtextextended($1, $2::bigint); end $$;
create function public.concat_ws(text, text, text) returns text language plpgsql as
  $$ begin perform public.trap('concat'); return pg_catalog.concat_ws($1, $2, $3); end $$;
create function public.trap_row() returns trigger language plpgsql as $$ begin perform public.trap('trigger'); return new; end $$;
create trigger trap before update on auth_user for each row execute function trap_row();
create function public.trap_version() returns text language plpgsql as $$ begin perform public.trap('view'); return '1.11'; end $$;
create view public.pg_available_extension_versions as select 'pg_stat_statements'::text as name, public.trap_version() as version;
alter database {0} set search_path = public, pg_catalog;
"""
TRAPPED = "ls /var/lib/postgresql | grep ^trapped; true"


@pytest.fixture(name="traps")
def traps_fixture(target: Target) -> Iterator[Callable[[], list[str]]]:
    """The site's role has left in its database what a superuser might run. What a superuser who is caught leaves: a list of files."""

    def clear() -> None:
        target.sql(
            f"alter database {target.facts['site_name']} reset search_path; drop view if exists public.pg_available_extension_versions; "
            "drop function if exists public.trap_version(), public.trap_row(), public.concat_ws(text, text, text), "
            "public.hashtextextended(text, integer), public.trap(text) cascade"
        )

    clear()
    target.sql(TRAPS.format(target.facts["site_name"]))
    yield lambda: [
        f"{host}: {name}"
        for host in target.groups["db"] + target.groups["backup"]
        for name in target.on(host, TRAPPED).split()
    ]
    clear()


def test_superusers_execute_no_code_of_the_site_role(
    make: Make, target: Target, backups: Backups, traps: Callable[[], list[str]]
) -> None:
    target.sql("select public.trap('proof')", superuser=True)
    assert traps() == [f"{target.primary()}: trapped-proof"]
    target.on(target.primary(), "rm /var/lib/postgresql/trapped-proof")
    for verb in (["site", "TAGS=postgresql"], ["drift"], ["restore-drill"]):
        done = make(*verb)
        assert done.returncode == 0 or verb == ["drift"], output_of(done)
        assert traps() == [], verb
    rules = json.dumps([{"table": "auth_user", "column": "email", "value": "'scrubbed'"}])
    assert json.loads(backups.on(f"echo {shlex.quote(rules)} | tier-backup scrub"))["rows"] != [0]
    assert backups.on("tier-backup rows | wc -c") != "0"
    assert traps() == []


def test_no_password_is_in_the_statistics_of_statements(target: Target) -> None:
    found = "select count(*) from public.pg_stat_statements where query ~* 'password' and query ~* '^\\s*(create|alter)\\s+(role|user)'"
    assert target.sql(found, superuser=True) == "0"


def test_a_stale_lock_of_the_repository_is_removed(target: Target, backups: Backups) -> None:
    # Killed while it holds its lock, which stays.
    backups.on(f"""{RESTIC} check --read-data > /dev/null & run=$!
        until ls /var/lib/media-backup/locks | grep -q .; do kill -0 $run || exit 1; done; pkill -KILL -u restic-rest-server -x restic; wait $run; true""")
    assert backups.on("ls /var/lib/media-backup/locks | wc -l") == "1"
    backups.on("systemctl start media-forget")
    assert backups.on("ls /var/lib/media-backup/locks | wc -l") == "0"
    target.on(target.groups["media"][0], "systemctl start media-backup")


@pytest.mark.parametrize("unit", ["media-backup", f"media-restore@{int(time.time())}"])
def test_lighttpd_cannot_read_the_secrets_of_the_upload_backup(tier: Tier, target: Target, unit: str) -> None:
    """While restic runs: of no process, and in no file. What every process of www-data knows is found, which proves the search."""
    media = target.groups["media"][-1]
    secrets = [tier.value(name, host=media) for name in ("backup_media_passphrase", "backup_media_password")]
    canary = uuid.uuid4().hex
    search = [
        "sh",
        "-c",
        f"PROBE={canary} grep --only-matching --no-filename --no-messages --binary-files=text --recursive --devices=skip --fixed-strings "
        "--file=- /proc/[0-9]*/environ /proc/[0-9]*/cmdline /etc /run /srv /tmp /usr/local /var",
    ]
    target.on(
        media,
        f"systemctl stop {unit}; systemctl start --no-block {unit}; timeout 30 sh -c 'until pkill -STOP -x restic; do :; done'",
    )
    try:
        user = target.on(media, "ps -o user:20= -C restic").strip()
        found = subprocess.run(
            inside(target.container(media), *search, user="www-data"),
            input="\n".join([canary, *secrets]),
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
    finally:
        target.on(media, f"pkill -CONT -x restic; systemctl start {unit}")
    assert set(found) == {canary} and user == "media-backup"


def test_restored_uploads_have_the_same_owners_and_modes(tier: Tier, target: Target) -> None:
    """Those that nobody else may read, too, and with the directories around them."""
    media, root = target.groups["media"][0], tier.value("media_root")
    look = f"cd {root} && find backup-test -printf '%p %u:%g %m\\n' | sort"
    target.on(media, "systemctl stop media-sync.timer media-sync")
    try:
        target.on(
            media,
            f"cd {root} && runuser -u www-data -- sh -c 'umask 022; mkdir -p backup-test/a; echo 1 > backup-test/a/open; umask 077; "
            "echo 2 > backup-test/a/closed'",
        )
        before = target.on(media, look)
        target.on(
            media,
            f"systemctl start media-backup && rm -r {root}/backup-test && systemctl start media-restore@$(( $(date +%s) + 1 ))",
        )
        assert target.on(media, look) == before and "closed www-data:www-data 600" in before
    finally:
        target.on(media, f"rm -rf {root}/backup-test; systemctl start media-sync.timer")


def test_a_snapshot_dated_in_the_future_is_reported(target: Target, backups: Backups) -> None:
    media = target.groups["media"][0]
    target.on(
        media,
        "export RESTIC_REPOSITORY_FILE=/etc/media-backup/repository RESTIC_PASSWORD_FILE=/etc/media-backup/passphrase "
        "RESTIC_CACERT=/etc/backup-tls/ca.pem; mkdir -p /tmp/later; restic --no-cache backup --tag media --time '2099-01-01 00:00:00' --host later /tmp/later",
    )
    try:
        backups.await_state(
            lambda state: any("dated in the future" in one for one in state["wrong"]), "complaint about its date"
        )
    finally:
        backups.on(
            f"""{RESTIC} forget $({RESTIC} snapshots --host later --json | grep -o '"short_id":"[0-9a-f]*"' | cut -d '"' -f 4)"""
        )
    backups.await_state(lambda state: state["wrong"] == [], "look that finds all well")


def test_restore_drill_succeeds(make: Make, backups: Backups) -> None:
    begun = time.time()
    done = make("restore-drill")
    assert done.returncode == 0, output_of(done)
    drill = backups.state()["drill"]
    assert drill["result"] == "ok" and drill["at"] >= begun - 5 and drill["seconds"] > 0 and drill["rows"] > 0
    assert backups.on("systemctl is-active restored-site; true") == "inactive"
    assert backups.on("pgrep -u postgres -x postgres; true") == ""


# On a copy of the repository, which repeats the drill before. The whole one shows that the copying harms nothing.
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("", ""),
        (
            f"find {COPY}/backup -type f -path '*F/bundle/*' -exec truncate -s -4096 {{}} +",
            "the backup does not restore, a file of it is damaged",
        ),
        (f"rm {COPY}/archive/*/*/*/$SEGMENT-*", "recovery ended before configured recovery target was reached"),
        ("echo another > /root/key; KEY='--key /root/key'", "the backup does not restore"),
    ],
    ids=["whole", "truncated", "without-a-segment", "wrong-key"],
)
def test_restore_drill_detects_a_damaged_repository(backups: Backups, damage: str, reason: str) -> None:
    segment = backups.state()["drill"]["segment"]
    try:
        said = backups.on(
            f"rm -rf {COPY}; cp -a {backups.repository} {COPY}; SEGMENT={segment}; KEY=; {damage}\n"
            f"/usr/local/sbin/tier-backup drill --repository {COPY} $KEY --state /tmp/state.json; cat /tmp/state.json"
        )
    finally:
        backups.on(f"rm -rf {COPY} /root/key /tmp/state.json")
    result = json.loads(said[said.index("{") :])["drill"]["result"]
    assert result == "ok" if not reason else reason in result, result
    assert backups.state()["drill"]["result"] == "ok"


def after(target: Target) -> str:
    """A moment after what was written and before what will be, as people write it."""
    now = math.ceil(time.time())
    target.wait(lambda: time.time() > now + 1, "end of that second")
    return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")


def test_restore_to_a_time_and_to_a_later_time_of_the_old_timeline(
    target: Target, make: Make, visitor: requests.Session, tier: Tier
) -> None:
    target.sql("create table if not exists backup_test(said text, at timestamptz default now())")
    first, second, third = (f"{name}-{int(time.time())}" for name in ("first", "second", "third"))
    root, moments = tier.value("media_root"), []

    def write(name: str) -> None:
        target.sql(f"insert into backup_test(said) values ('{name}')")
        target.upload(f"{name}.png")
        moments.append(after(target))

    def expect(there: Collection[str], gone: Collection[str]) -> None:
        target.await_healthy()
        assert set(
            target.sql(f"select said from backup_test where said in ('{first}', '{second}', '{third}')").split()
        ) == set(there)
        assert visitor.get(f"{tier.url}/", timeout=10).status_code == 200
        for media in target.groups["media"]:
            assert all(target.on(media, f"ls {root}/{name}.png") for name in there)
            assert all(target.try_on(media, f"ls {root}/{name}.png") is None for name in gone)
        for name in there:
            assert visitor.get(f"{tier.url}/media/{name}.png", timeout=10).content == png()

    assert make("backup").returncode == 0
    write(first)
    target.sql(f"insert into backup_test(said) values ('{second}')")
    target.upload(f"{second}.png")
    assert make("backup").returncode == 0  # uploads come back from there
    moments.append(after(target))
    done = make("restore", f"TO={moments[0]}")
    assert done.returncode != 0 and "Nothing was touched: there was no yes" in output_of(done), output_of(done)
    expect([first, second], [])
    done = make("restore", f"TO={moments[0]}", "YES=1")
    assert done.returncode == 0, output_of(done)[-3000:]
    expect([first], [second])
    # What was given up is not lost: the timeline that was left leads there.
    write(third)
    done = make("restore", f"TO={moments[1]}", "YES=1")
    assert done.returncode == 0, output_of(done)[-3000:]
    expect([first, second], [third])
