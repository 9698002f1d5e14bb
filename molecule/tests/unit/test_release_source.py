"""Of which files a release is made: those of a directory, in a git working tree and elsewhere."""

import os
import pathlib
import socket
import subprocess
import types
from collections.abc import Callable
from typing import Any

import pytest

from plugins.modules import release_source


@pytest.fixture(scope="module")
def source() -> types.ModuleType:
    return release_source


def write(directory: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def git(directory: pathlib.Path, *arguments: pathlib.Path | str) -> None:
    subprocess.run(
        ["git", "-C", directory, "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
        check=True,
        capture_output=True,
    )


def names(source: types.ModuleType, directory: pathlib.Path) -> set[str]:
    return set(source.survey(directory, "", "")[1])


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """A working tree with something tracked, something new, and what git ignores."""
    write(
        tmp_path,
        {
            ".gitignore": "/.secret\nlogs/\n*.dump\n/copies\n",
            "a.py": "1",
            ".env": "tracked",
            "gone.py": "",
            "site/logs/kept.py": "",
            "site/b.py": "2",
        },
    )
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "--force", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    write(
        tmp_path,
        {
            ".secret/production": "PW=1",
            "logs/x.log": "",
            "site/all.dump": "",
            "site/new.py": "",
            "site/.env": "",
            "env/pyvenv.cfg": "",
            "env/x.py": "",
            "copies/one/c.py": "",
            "copies/one/x.log": "",
        },
    )
    (tmp_path / "gone.py").unlink()
    return tmp_path


def test_a_working_tree_has_the_files_that_git_does_not_ignore(
    source: types.ModuleType, checkout: pathlib.Path
) -> None:
    inside = {"logs/kept.py", "b.py", "new.py"}
    assert names(source, checkout) == {".gitignore", "a.py", ".env"} | {f"site/{name}" for name in inside}
    assert names(source, checkout / "site") == inside
    # Of a directory that is ignored as a whole git says nothing.
    assert names(source, checkout / "copies/one") == {"c.py"}


def test_ignored_files_do_not_change_the_release(source: types.ModuleType, checkout: pathlib.Path) -> None:
    def made() -> tuple[str, int]:
        _kind, paths, epoch = source.survey(checkout, "", "")
        return source.digest(paths), epoch

    first = made()
    write(checkout, {"logs/x.log": "another line", "other.dump": ""})
    assert made() == first
    write(checkout, {"site/new.py": "3"})
    assert made()[0] != first[0]


def test_a_working_tree_includes_submodules_of_any_owner(
    source: types.ModuleType,
    checkout: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = write(tmp_path_factory.mktemp("other"), {"d.py": "", ".gitignore": "e"})
    git(other, "init", "-q", "-b", "main")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "first")
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other, "sub")
    write(checkout, {"sub/e": "", "sub/f.py": ""})
    ran = checkout / "ran"
    git(checkout, "config", "core.fsmonitor", f"touch {ran}")
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as a hook of git sets it
    if os.geteuid() == 0:
        subprocess.run(["chown", "--recursive", "nobody", checkout], check=True)
    assert {name for name in names(source, checkout) if name.startswith("sub")} == {
        "sub/d.py",
        "sub/.gitignore",
        "sub/f.py",
    }
    assert not ran.exists()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda directory, monkeypatch: monkeypatch.setenv("PATH", str(directory / "nothing")),
            "is in a git working tree, and there is no git here .*apt-get install git",
        ),
        (
            lambda directory, monkeypatch: (directory / ".git/HEAD").unlink(),
            "git cannot say what it ignores of .*not a git repository.* Mend .*/.git",
        ),
    ],
    ids=["no git", "no repository"],
)
def test_a_working_tree_that_git_cannot_read_is_refused(
    source: types.ModuleType,
    checkout: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[..., Any],
    says: str,
) -> None:
    damage(checkout, monkeypatch)
    with pytest.raises(ValueError, match=says):
        source.survey(checkout, "", "")


def test_a_directory_without_git_excludes_names_in_realworldignore(
    source: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # no git is needed for that
    write(
        tmp_path,
        {
            ".realworldignore": "# ours\n*.sql\n/media/\nsite/big*\n",
            "a.py": "",
            "dump.sql": "",
            "site/dump.sql": "",
            "media/x": "",
            "site/media/x": "",
            "site/big1": "",
            ".hidden/big2": "",
            ".envs/.production": "",
            "x.log": "",
        },
    )
    assert names(source, tmp_path) == {".realworldignore", "a.py", "site/media/x", ".hidden/big2"}


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: socket.socket(socket.AF_UNIX).bind(path)], ids=["pipe", "socket"]
)
def test_a_special_file_is_refused_by_name(
    source: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    write(tmp_path, {"site/a.py": ""})
    monkeypatch.chdir(tmp_path)  # the path of a socket is a short one
    make("site/door")
    with pytest.raises(ValueError, match="/site/door is no file, directory or link.*realworldignore"):
        source.survey(tmp_path, "", "")
    write(tmp_path, {".realworldignore": "door"})
    assert names(source, tmp_path) == {".realworldignore", "site/a.py"}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def test_pointers_of_git_lfs_are_refused_by_name(
    source: types.ModuleType, checkout: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write(checkout, {"static/pic.png": POINTER, "docs/lfs.md": "How: " + POINTER})
    kind, paths, _epoch = source.survey(checkout, "", "")
    with pytest.raises(ValueError, match=r"^static/pic.png: a pointer of Git LFS.*git -C .* lfs pull"):
        source.refuse_lfs_pointers(checkout, kind, paths)
    with pytest.raises(ValueError, match="apt-get install git-lfs"):
        source.refuse_lfs_pointers(checkout, "git", paths)
    write(checkout, {"static/pic.png": "the picture"})
    source.refuse_lfs_pointers(checkout, kind, paths)


@pytest.mark.parametrize(
    ("described", "version"),
    [
        ("v1.2.3-0-g0123abc", "1.2.3"),
        ("v1.2.3-4-g0123abc", "1.2.4.dev4+g0123abc"),
        ("release-2.0-4-g0123abc", "2.1.dev4+g0123abc"),
        ("1.2rc1-0-g0123abc", "1.2rc1"),
        ("1.2rc1-3-g0123abc", "1.2rc2.dev3+g0123abc"),
        ("shop/2026.11-1-g0123abc", "2026.12.dev1+g0123abc"),
        ("v3-0-g0123abc", "3"),
        ("v2.0.0-beta-0-g0123abc", "2.0.0b0"),
        ("v2.0.0-beta-2-g0123abc", "2.0.0b1.dev2+g0123abc"),
        ("2.0-RC.3-0-g0123abc", "2.0rc3"),
        ("2.0.pre-0-g0123abc", "2.0rc0"),
        ("2.0a1.post2-0-g0123abc", "2.0a1.post2"),
        ("v1.2-hotfix-0-g0123abc", "1.2"),
        ("v1.0.0.dev1-0-g0123abc", "1.0.0.dev1"),
        ("v1.0.0.dev1-4-g0123abc", "1.0.0.dev5+g0123abc"),
        ("release-2024-01-15-0-g0123abc", "2024"),
        ("py3-1.0-0-g0123abc", "1.0"),
        ("release1.0-0-g0123abc", "1.0"),
        ("2nd-try-0-g0123abc", ""),
        ("v1.2.x-0-g0123abc", ""),
        ("", ""),
    ],
)
def test_a_version_is_made_of_the_nearest_tag(source: types.ModuleType, described: str, version: str) -> None:
    assert source.version_of(described) == version


def test_a_tag_without_a_version_counts_as_none(source: types.ModuleType, checkout: pathlib.Path) -> None:
    write(checkout, {"pyproject.toml": "[tool.setuptools_scm]\n"})
    git(checkout, "tag", "2nd-try")
    assert source.vcs_version(checkout, "", "").startswith("0.1.dev1+g")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "# setuptools-scm would be too much\n[project]\ndependencies = ['pbr', 'hatch-vcs']\n"),
        ("pyproject.toml", "[project]\ndescription = 'not by [tool.pdm.version] source = \"scm\"'\n"),
        ("pyproject.toml", "[build-system]\nrequires = ['setuptools', 'pbr-helpers']\n"),
        ("pyproject.toml", "[tool.setuptools_scm\n"),
        ("pyproject.toml", "[tool]\npdm = {version = '1'}\nhatch = 'vcs'\n"),
        ("setup.cfg", "[options]\ninstall_requires =\n    pbr\n# use_scm_version\n"),
        ("setup.cfg", "setup_requires = pbr\n"),
        (
            "setup.py",
            "# no use_scm_version\nsetup(install_requires=['pbr', 'setuptools_scm'], use_scm_version=False)\n",
        ),
        ("setup.py", "setup(extras_require={'pbr': ['pbr'], **more})\n"),
        ("setup.py", "print 'setuptools_scm'\n"),
    ],
)
def test_a_mere_mention_takes_no_version_from_git(
    source: types.ModuleType, checkout: pathlib.Path, file: str, text: str
) -> None:
    write(checkout, {file: text})
    assert source.vcs_version(checkout, "", "") == ""


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", "[build-system]\nrequires = ['setuptools', 'setuptools-scm>=8']\n"),
        (
            "pyproject.toml",
            "[tool.hatch.version]\nsource = 'vcs'\n[build-system]\nrequires = ['hatchling', 'hatch-vcs']\n",
        ),
        ("pyproject.toml", "[tool.pdm.version]\nsource = 'scm'\n"),
        ("pyproject.toml", "[build-system]\nrequires = ['poetry-core', 'poetry-dynamic-versioning']\n"),
        ("setup.py", "setup(setup_requires=['pbr'], pbr=True)\n"),
        ("setup.py", "setup(use_scm_version=True)\n"),
        ("setup.py", "setup(use_scm_version={'write_to': path}, name=name)\n"),
        ("setup.py", "setup(**{'setup_requires': ['setuptools_scm[toml]>=6']})\n"),
        ("setup.cfg", "[options]\nsetup_requires =\n    wheel\n    Setuptools_SCM>=6\n"),
        ("pyproject.toml", "[tool.hatch.version]\nsource = 'vcs'\n"),
        ("pyproject.toml", "[tool.poetry-dynamic-versioning]\nenable = true\n"),
    ],
)
def test_git_describe_makes_the_version_of_a_project(
    source: types.ModuleType, checkout: pathlib.Path, file: str, text: str
) -> None:
    assert source.vcs_version(checkout, "", "") == ""  # nothing asks for one
    write(checkout, {f"backend/{file}": text})
    git(checkout, "add", "backend")
    git(checkout, "commit", "-q", "-m", "project", "backend")
    assert source.vcs_version(checkout, "backend", "").startswith("0.1.dev2+g")
    git(checkout, "tag", "v1.0", "HEAD~1")
    git(checkout, "checkout", "-q", "--", ".")
    assert source.vcs_version(checkout, "backend", "").startswith("1.1.dev1+g")
    assert source.vcs_version(checkout, "backend", "").isascii() and source.vcs_version(checkout, "", "") == ""


def test_to_take_the_version_from_git_changes_and_runs_nothing(
    source: types.ModuleType, checkout: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ran = tmp_path_factory.mktemp("filter") / "ran"
    write(checkout, {"pyproject.toml": "[tool.setuptools_scm]\n", ".gitattributes": "a.py filter=own\n"})
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "project")
    git(checkout, "tag", "v1.2")
    git(checkout, "config", "filter.own.clean", f"touch {ran}; cat")
    os.utime(checkout / "a.py", (1, 1))  # git has to read the file to know whether the content is another
    index = (checkout / ".git/index").read_bytes()
    assert source.vcs_version(checkout, "", "") == "1.2"
    assert (checkout / ".git/index").read_bytes() == index and not ran.exists()


def test_a_version_from_git_is_part_of_the_name_of_the_release(
    source: types.ModuleType,
    checkout: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
    execute: Callable[..., Any],
) -> None:
    write(checkout, {"pyproject.toml": "[tool.setuptools_scm]\n"})
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "project")

    def named() -> Any:
        artifacts = str(tmp_path_factory.mktemp("artifacts"))
        return execute(source, source=str(checkout), build={}, code=[], artifacts=artifacts, site="shop")

    first = named()
    git(checkout, "tag", "v3")
    second = named()
    assert (second["vcs_version"], second["version"] != first["version"]) == ("3", True)
