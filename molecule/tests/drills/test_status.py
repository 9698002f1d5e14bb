"""`make status` on the standing tier: well, then with one thing wrong."""

from fixtures import Make
from target import Target


def test_status_of_a_healthy_environment(target: Target, make: Make, healthy: None) -> None:
    done = make("status")
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    for host in target.groups["all"]:
        assert f"\n  {host} " in done.stdout
    assert f"holds {target.facts['lb_vip']}" in done.stdout


def test_status_names_a_stopped_service_and_every_host_without_an_answer(
    target: Target, make: Make, healthy: None
) -> None:
    cache, apps = target.groups["cache"][-1], target.groups["app"]
    target.on(cache, "systemctl stop memcached")
    try:
        done = make("status")
    finally:
        target.on(cache, "systemctl start memcached")
    assert done.returncode != 0
    assert f"{cache}: memcached.service is not running" in done.stdout
    assert all(f"{app}: gets no answer from {cache} of its caches" in done.stdout for app in apps), done.stdout


def test_status_names_a_host_that_is_off(target: Target, make: Make, healthy: None) -> None:
    media = target.groups["media"][-1]
    target.kill(media)
    try:
        done = make("status")
    finally:
        target.start(media)
    assert done.returncode != 0
    assert f"{media} does not answer over SSH" in done.stdout
    assert all(f"{lb}: gets no answer from {media} of its files" in done.stdout for lb in target.groups["lb"]), (
        done.stdout
    )
    assert "SILENT" in done.stdout
