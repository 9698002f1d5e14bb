"""With the repository, the vault's key and the backup host alone, the same rows and pictures are served again."""

import time

import drill


def words(done):
    """What a finished command said, in one line."""
    return " ".join((done.stdout + done.stderr).split())


def write(place, said):
    """A row that is acknowledged."""
    place.sql(f"insert into rebuild_test(said) values ('{said}')")


def test_refuses_without_a_yes_and_names_what_goes(place, make):
    running = ("ps", "--quiet", "--no-trunc", "--filter", f"label=realworld={place.env}")
    before = place.docker(*running)
    done = make("rebuild")
    assert done.returncode != 0 and "Nothing was touched. There was no yes" in words(done), words(done)
    for host in place.groups["all"]:
        assert (place.container(host) in done.stdout) == (host != place.groups["backup"][0]), host
    assert place.docker(*running) == before


def test_smoke(make):
    done = make("smoke")
    assert done.returncode == 0 and "/static/" in done.stdout, words(done)
    assert "works, in a browser" in done.stdout, words(done)


def test_total_loss(place, make, visitor, tier):
    place.whole()
    kept = place.groups["backup"][0]
    stamp = int(time.time())
    picture = f"rebuild/{stamp}.png"
    place.sql("create table if not exists rebuild_test(said text, at timestamptz default now())")
    write(place, f"{stamp} in the backup")
    place.upload(picture)
    assert make("backup").returncode == 0
    write(place, f"{stamp} in the archive")
    segment = place.sql("select pg_walfile_name(pg_switch_wal())", superuser=True)
    stanza = tier.value("backup_stanza")
    listed = f"runuser -u postgres -- pgbackrest --stanza={stanza} repo-ls --recurse archive/{stanza}"
    place.wait(lambda: segment in place.on(kept, listed), f"{segment} in the archive")
    acknowledged, end = 0, time.monotonic() + 5
    while time.monotonic() < end:  # what nobody has archived when it happens
        write(place, f"{stamp} at the end")
        acknowledged += 1

    others = [place.container(host) for host in place.groups["all"] if host != kept]
    place.docker("rm", "--force", *others)
    done = make("rebuild", "YES=1")
    print(done.stdout[done.stdout.rfind("is back") :])
    assert done.returncode == 0, words(done)[-3000:]

    place.whole()
    rows = place.sql(f"select said from rebuild_test where said like '{stamp} %'").splitlines()
    assert {f"{stamp} in the backup", f"{stamp} in the archive"} <= set(rows)
    print(
        f"lost: {acknowledged - rows.count(f'{stamp} at the end')} of {acknowledged} rows of the last 5 s, which no WAL segment had brought away"
    )
    answer = visitor.get(f"{tier.url}/media/{picture}", timeout=10)
    assert answer.status_code == 200 and answer.content == drill.picture()
    for media in place.groups["media"]:
        place.wait(
            lambda media=media: place.on(media, f"ls {place.facts['media_root']}/{picture}", check=False),
            f"{picture} on {media}",
            drill.CAUGHT_UP,
        )
    assert "lost" in done.stdout and "to the last change, of" in done.stdout
