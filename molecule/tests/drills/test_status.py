"""`make status` on the standing tier: well, then with one thing wrong."""


def test_says_that_all_is_well(place, make, mended):
    done = make("status")
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    for host in place.groups["all"]:
        assert f"\n  {host} " in done.stdout
    assert f"holds {place.facts['lb_vip']}" in done.stdout


def test_names_a_service_that_is_down_and_all_who_miss_it(place, make, mended):
    cache, apps = place.groups["cache"][-1], place.groups["app"]
    place.on(cache, "systemctl stop memcached")
    try:
        done = make("status")
    finally:
        place.on(cache, "systemctl start memcached")
    assert done.returncode != 0
    assert f"{cache}: memcached.service is not running" in done.stdout
    assert all(f"{app}: gets no answer from {cache} of its caches" in done.stdout for app in apps), done.stdout


def test_names_a_host_that_is_off(place, make, mended):
    media = place.groups["media"][-1]
    place.kill(media)
    try:
        done = make("status")
    finally:
        place.start(media)
    assert done.returncode != 0
    assert f"{media} does not answer over SSH" in done.stdout
    assert all(f"{lb}: gets no answer from {media} of its files" in done.stdout for lb in place.groups["lb"]), (
        done.stdout
    )
    assert "SILENT" in done.stdout
