"""A release on an app host: it has its name only when it is whole and proven, and what is told of it."""

import hashlib
import json
import os
import pathlib
import shutil
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

from plugins.modules import release

FILES = {"site/app.py": "print()", "static.json": "{}"}


def artifact(
    root: pathlib.Path, files: dict[str, str] = FILES, manifest: Callable[..., Any] | None = None
) -> tuple[str, str]:
    """(path of an artifact with these files and a link, sha256 of its manifest)."""
    source = root / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "bin").symlink_to("site")
    listed = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()} | {"bin": "-> site"}
    (source / "manifest.json").write_text(
        json.dumps({"files": listed} if manifest is None else {"files": manifest(listed)})
    )
    with tarfile.open(root / "one.tar.gz", "w:gz") as tar:
        tar.add(source, ".")
    return str(root / "one.tar.gz"), hashlib.sha256((source / "manifest.json").read_bytes()).hexdigest()


@pytest.fixture(name="call")
def call_fixture(execute: Callable[..., Any], tmp_path: pathlib.Path) -> Callable[..., Any]:
    """call(option=value, …) is what the module returns for release v1 below tmp_path/site."""
    (tmp_path / "site/releases").mkdir(parents=True)
    return lambda **options: execute(release, **{"root": str(tmp_path / "site"), "version": "v1", "keep": 2} | options)


def test_a_release_is_installed_only_once(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "site/releases/v1"
    archive, manifest = artifact(tmp_path)
    given = {"archive": archive, "manifest": manifest, "prove": ["sh", "-c", 'test -f "$RELEASE/site/app.py"']}
    assert not call()["complete"]
    assert call(check=True, **given)["changed"] and not directory.exists()
    done = call(**given)
    assert (done["changed"], done["complete"], done["live"]) == (True, True, False)
    assert (directory / "bin/app.py").read_text() == "print()" and not os.path.exists(archive)
    assert [path.name for path in directory.parent.iterdir()] == ["v1"]
    assert not call(**given)["changed"] and call(manifest=manifest)["complete"]


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        (lambda listed: listed | {"static.json": "0"}, "static.json is not what was built"),
        (lambda listed: listed | {"gone": "0"}, "gone is missing"),
        (lambda listed: listed | {"bin": "-> /etc"}, "bin is not what was built"),
        (lambda _listed: {}, "bin is too many; site/app.py is too many"),
    ],
)
def test_an_incomplete_release_is_not_installed(
    call: Callable[..., Any], tmp_path: pathlib.Path, manifest: Callable[..., Any], wrong: str
) -> None:
    archive, _sha256 = artifact(tmp_path, manifest=manifest)
    done = call(archive=archive)
    assert done["failed"] and wrong in done["msg"]
    assert not call()["complete"] and os.path.exists(archive)
    assert call(archive=artifact(tmp_path)[0])["complete"]  # whatever the other one left


def test_a_release_that_fails_the_check_is_not_installed(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    archive, manifest = artifact(tmp_path)
    message = call(archive=archive, prove=["sh", "-c", "echo no such table >&2; exit 1"])["msg"]
    assert message == "sh -c echo no such table >&2; exit 1 found the release wanting: no such table"
    assert call(archive=archive, manifest="0")["msg"] == "The release that arrived is not the one that was built."
    assert not call()["complete"]
    assert call(archive=archive, manifest=manifest)["complete"]
    assert "is another build of v1 than this controller's" in call(manifest="0")["msg"]


def test_a_broken_archive_and_a_full_disk_are_refused(
    call: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.tar.gz").write_text("no archive" + "\0" * 4)
    assert call(archive=str(tmp_path / "broken.tar.gz"))["msg"].startswith("The release does not unpack: ")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    assert "has 0 MB free" in call(archive=artifact(tmp_path)[0])["msg"]
    assert not call()["complete"]


def test_a_bare_host_is_refused_with_the_hint_to_converge(execute: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    given = {"root": str(tmp_path), "version": "v1", "keep": 2}
    assert execute(release, **given)["msg"].endswith("converge it before you deploy to it.")
    assert not execute(release, check=True, **given)["complete"]


@pytest.mark.parametrize(
    ("version", "keep", "kept", "stale"),
    [
        ("v5", 2, ["v5", "v4"], ["v3", "v2", "v1", ".v2.partial"]),
        ("v5", 3, ["v5", "v4", "v3"], ["v2", "v1", ".v2.partial"]),
        (
            "v4",
            2,
            ["v4", "v1"],
            ["v3", "v2", ".v5.partial", ".v2.partial"],
        ),  # the current one again: the previous one stays
        ("v2", 1, ["v4", "v2"], ["v3", "v1", ".v5.partial"]),
    ],
)  # never fewer than the two
def test_current_previous_and_newest_releases_are_kept(
    call: Callable[..., Any], tmp_path: pathlib.Path, version: str, keep: int, kept: list[str], stale: list[str]
) -> None:
    releases = tmp_path / "site/releases"
    for age, name in enumerate([".v2.partial", "v1", "v2", "v3", "v4", ".v5.partial"]):
        (releases / name).mkdir()
        os.utime(releases / name, (age, age))
    (tmp_path / "site/current").symlink_to("releases/v4")
    (tmp_path / "site/previous").symlink_to("releases/v1")
    answer = call(version=version, keep=keep)
    assert (answer["current"], answer["previous"]) == ("v4", "v1")
    assert answer["kept"] == kept and sorted(answer["stale"]) == sorted(stale)


def test_the_release_of_a_running_job_is_kept_besides(
    call: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in enumerate(["v1", "v2", "v3", "v4"]):
        (tmp_path / "site/releases" / name).mkdir()
        os.utime(tmp_path / "site/releases" / name, (age, age))
    monkeypatch.setattr(release, "releases_in_use", lambda directory: {"v1"} if directory == "/jobs" else set())
    assert call(version="v4", jobs="/jobs")["kept"] == ["v4", "v3", "v1"]
    assert call(version="v4")["kept"] == ["v4", "v3"]


def test_a_release_is_live_after_a_restart_of_the_site(call: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    started = tmp_path / "site/tier/realworld/wsgi.py"
    started.parent.mkdir(parents=True)
    started.touch()
    (tmp_path / "site/current").symlink_to("releases/v1")
    os.utime(started, (1, 1))
    assert not call()["live"]
    os.utime(started)
    assert call()["live"] and not call(version="v2")["live"]
