"""With the repository, the vault's key and the backup host alone, the same rows and pictures are served again."""

import functools
import time

import requests
from fixtures import Make
from target import Target, png
from tier import Tier, output_of
from visitors import CAUGHT_UP_S


def write(target: Target, text: str) -> None:
    """A row that is acknowledged."""
    target.sql(f"insert into rebuild_test(said) values ('{text}')")


def test_a_rebuild_without_yes_is_refused_and_names_the_hosts(target: Target, make: Make) -> None:
    running = ("ps", "--quiet", "--no-trunc", "--filter", f"label=realworld={target.env}")
    before = target.docker(*running)
    done = make("rebuild")
    assert done.returncode != 0 and "Nothing was touched. There was no yes" in output_of(done), output_of(done)
    for host in target.groups["all"]:
        assert (target.container(host) in done.stdout) == (host != target.groups["backup"][0]), host
    assert target.docker(*running) == before


def test_make_smoke_succeeds(make: Make) -> None:
    done = make("smoke")
    assert done.returncode == 0 and "/static/" in done.stdout, output_of(done)
    assert "works, in a browser" in done.stdout, output_of(done)


def test_rebuild_after_a_total_loss(target: Target, make: Make, visitor: requests.Session, tier: Tier) -> None:
    target.await_healthy()
    kept = target.groups["backup"][0]
    stamp = int(time.time())
    picture = f"rebuild/{stamp}.png"
    target.sql("create table if not exists rebuild_test(said text, at timestamptz default now())")
    write(target, f"{stamp} in the backup")
    target.upload(picture)
    assert make("backup").returncode == 0
    write(target, f"{stamp} in the archive")
    segment = target.sql("select pg_walfile_name(pg_switch_wal())", superuser=True)
    stanza = tier.value("backup_stanza")
    listed = f"runuser -u postgres -- pgbackrest --stanza={stanza} repo-ls --recurse archive/{stanza}"
    target.wait(lambda: segment in target.on(kept, listed), f"{segment} in the archive")
    acknowledged, end = 0, time.monotonic() + 5
    while time.monotonic() < end:  # what nobody has archived when it happens
        write(target, f"{stamp} at the end")
        acknowledged += 1

    others = [target.container(host) for host in target.groups["all"] if host != kept]
    target.docker("rm", "--force", *others)
    done = make("rebuild", "YES=1")
    print(done.stdout[done.stdout.rfind("is back") :])
    assert done.returncode == 0, output_of(done)[-3000:]

    target.await_healthy()
    rows = target.sql(f"select said from rebuild_test where said like '{stamp} %'").splitlines()
    assert {f"{stamp} in the backup", f"{stamp} in the archive"} <= set(rows)
    print(
        f"lost: {acknowledged - rows.count(f'{stamp} at the end')} of {acknowledged} rows of the last 5 s, which no WAL segment had brought away"
    )
    answer = visitor.get(f"{tier.url}/media/{picture}", timeout=10)
    assert answer.status_code == 200 and answer.content == png()
    for media in target.groups["media"]:
        target.wait(
            functools.partial(target.try_on, media, f"ls {target.facts['media_root']}/{picture}"),
            f"{picture} on {media}",
            CAUGHT_UP_S,
        )
    assert "lost" in done.stdout and "to the last change, of" in done.stdout
