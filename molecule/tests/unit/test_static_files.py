"""Static files of several releases in one directory of a media host."""

import os
import pathlib
import tarfile
from collections.abc import Callable
from typing import Any

import pytest
from fixtures import Execute

from plugins.modules import static_files

V1 = {"site.css": "one", "site.1.css": "one", "old/deep/a.1.png": "a", "shared.js": "js"}
V2 = {"site.css": "two", "site.2.css": "two", "shared.js": "js"}


class Site:
    """What is served, and the module that changes it."""

    def __init__(self, root: pathlib.Path, execute: Execute) -> None:
        self.root, self.execute = root, execute
        (root / "static").mkdir()

    def archive(self, files: dict[str, str]) -> str:
        """Path of an archive of files."""
        for name, text in files.items():
            path = self.root / "build" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with tarfile.open(self.root / "new.tar.gz", "w:gz") as tar:
            for name in files:
                tar.add(self.root / "build" / name, name)
        return str(self.root / "new.tar.gz")

    def call(self, version: str, files: dict[str, str] | None = None, **options: bool | list[str] | str) -> Any:
        """What the module returns."""
        given = {"archive": self.archive(files)} if files else {}
        return self.execute(static_files, root=str(self.root / "static"), version=version, **given, **options)

    def served(self) -> dict[str, str]:
        """{name: text} of all that visitors get; directories and what is not theirs must not be left over."""
        paths = [path for path in (self.root / "static").rglob("*") if ".releases" not in path.parts]
        assert all(any(path.iterdir()) for path in paths if path.is_dir())
        return {str(path.relative_to(self.root / "static")): path.read_text() for path in paths if path.is_file()}


@pytest.fixture(name="site")
def site_fixture(tmp_path: pathlib.Path, execute: Execute) -> Any:
    return Site(tmp_path, execute)


def test_files_are_published_once(site: Any) -> None:
    result = site.call("v1", V1, check=True)
    assert (result["changed"], result["complete"], result["releases"]) == (True, False, [])
    assert site.served() == {}
    kept = str(site.root / "static/.releases/v1.tar.gz")
    done = site.call("v1", V1)
    assert (done["changed"], done["complete"], done["releases"], done["archive"]) == (True, True, ["v1"], kept)
    assert site.served() == V1
    assert not site.call("v1", V1)["changed"] and site.call("v1")["complete"]
    assert not os.path.exists(site.root / "static/.incoming")


@pytest.mark.parametrize("damage", [lambda path: path.write_text("other"), lambda path: path.unlink()])
def test_a_file_that_is_damaged_is_published_again_from_the_archive_that_was_kept(
    site: Any, damage: Callable[..., Any]
) -> None:
    kept = site.call("v1", V1)["archive"]
    damage(site.root / "static/site.1.css")
    assert not site.call("v1")["complete"]
    assert site.call("v1", archive=kept)["changed"]
    assert site.served() == V1 and site.call("v1")["archive"] == kept


def test_files_of_the_current_release_are_unchanged_until_the_switch(site: Any) -> None:
    kept = site.call("v1", V1)["archive"]
    site.call("v2", V2, serving="v1")
    assert site.served() == V1 | V2 | {"site.css": "one"}
    assert not site.call("v2")["complete"]
    site.call("v2", V2)
    assert site.served() == V1 | V2
    site.call("v1", archive=kept)  # a rollback
    assert site.served() == V2 | V1


def test_files_are_removed_with_the_last_release_that_has_them(site: Any) -> None:
    site.call("v1", V1)
    site.call("v2", V2)
    assert site.call("v2", keep=["v2"], check=True)["changed"] and site.served() == V1 | V2
    assert site.call("v2", keep=["v2", "v9"])["releases"] == ["v2"]
    assert site.served() == V2
    assert sorted(path.name for path in (site.root / "static/.releases").iterdir()) == ["v2.json", "v2.tar.gz"]
    assert not site.call("v2", keep=["v2"])["changed"]


def test_an_archive_that_does_not_unpack_changes_nothing(site: Any) -> None:
    site.call("v1", V1)
    (site.root / "new").write_text("no archive")
    done = site.call("v2", archive=str(site.root / "new"))
    assert done["failed"] and done["msg"].startswith("The static files do not unpack: ")
    assert site.call("v1")["complete"] and site.call("v1")["releases"] == ["v1"]
    assert site.call("v2", V2)["complete"]


def test_an_interrupted_removal_is_finished(site: Any) -> None:
    site.call("v1", V1)
    site.call("v2", V2)
    (site.root / "static/site.1.css").unlink()
    (site.root / "static/.releases/v1.tar.gz").unlink()
    assert site.call("v2", keep=["v2"])["changed"] and site.served() == V2


def test_a_bare_host_is_refused_with_the_hint_to_converge(execute: Execute, tmp_path: pathlib.Path) -> None:
    given = {"root": str(tmp_path / "none"), "version": "v1"}
    assert execute(static_files, **given)["msg"].endswith("converge it before you deploy to it.")
    assert execute(static_files, check=True, **given)["releases"] == []
