"""What a build asks pip for: the project itself alone where its version comes from git, and the file with that version."""

import pathlib
from typing import Any

import build
import pytest
from build_run import PIP, Build, Failed

PROJECT = """
[build-system]
requires = ["setuptools", "setuptools-scm"]
build-backend = "setuptools.build_meta"
[project]
name = "shop"
dynamic = ["version"]
dependencies = ["Django"]
[tool.setuptools_scm]
version_file = "shop/made/_version.py"
"""


class Pip:
    """A log whose commands are those of pip: it writes the wheels, and the version of a project that it builds.

    calls: (what it gets or builds, each requirement a line of its file; whether dependencies are left out; the versions
    that it was given) of each `pip wheel`.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], bool, dict[str, str]]] = []
        self.warnings: list[str] = []
        self.problem = ""

    def warn(self, problem: str) -> None:
        """Keep a warning."""
        self.warnings.append(problem)

    def run(self, command: list[str | pathlib.Path], attempt: str, cwd: pathlib.Path, env: dict[str, str]) -> str:
        """Do what `pip wheel` does."""
        words = [str(word) for word in command[len(PIP) :]]
        assert words[:3] == ["wheel", "--quiet", "--wheel-dir"]
        directory, arguments = pathlib.Path(words[3]), words[4:]
        wanted = [word for word in arguments if not word.startswith("--")]
        if "--requirement" in arguments:
            wanted = [line for name in wanted for line in (cwd / name).read_text().splitlines()]
        versions = {name: value for name, value in env.items() if name in build.VERSION_VARIABLES}
        self.calls.append((wanted, "--no-deps" in arguments, versions))
        directory.mkdir(parents=True, exist_ok=True)
        if wanted == ["."]:
            if self.problem:
                raise Failed(f"could not {attempt}: {self.problem}")
            (cwd / "shop/made").mkdir(parents=True, exist_ok=True)
            (cwd / "shop/made/_version.py").write_text(env["SETUPTOOLS_SCM_PRETEND_VERSION"])
            (directory / "shop-1-py3-none-any.whl").touch()
        else:
            for name in ("django", "psycopg", "pymemcache"):
                (directory / f"{name}-1-py3-none-any.whl").touch()
        return ""


@pytest.fixture(name="pip")
def pip_fixture(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Stands for pip; a build's scratch directory is below tmp_path, and the source has a project."""
    monkeypatch.setattr(build, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(build, "WHEELS", tmp_path / "scratch/wheels")
    for name in ("scratch", "source", "shipped"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/pyproject.toml").write_text(PROJECT)
    for name in build.VERSION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Pip()


def collect(pip: Pip, tmp_path: pathlib.Path, **values: Any) -> None:
    """Collect the wheels of the source."""
    description: Build = {"kind": "git", "directory": "", "requirements": "", "extras": [], "dependency_groups": []}
    description |= {"epoch": 1, "vcs_version": "1"}
    log: Any = pip
    build.collect_wheels(log, description | values, tmp_path / "source", tmp_path / "shipped")


@pytest.mark.parametrize(
    ("line", "installed"),
    [
        (".", "{own}"),
        ("-e .[postgres]", "{own}[postgres]"),
        ("--editable=./", "{own}"),
        (". ; python_version > '3'", "{own} ; python_version > '3'"),
        ("./[postgres]  # all of it", "{own}[postgres]  # all of it"),
    ],
)
def test_dependencies_of_a_requirements_file_get_no_version_of_the_project(
    pip: Pip, tmp_path: pathlib.Path, line: str, installed: str
) -> None:
    (tmp_path / "source/requirements.txt").write_text(f"Django\n{line}\n./libs/till\n-e ../other\n")
    collect(pip, tmp_path, requirements="requirements.txt")
    own = tmp_path / "scratch/own/shop-1-py3-none-any.whl"
    assert pip.calls == [
        (["."], True, dict.fromkeys(build.VERSION_VARIABLES, "1")),
        (["Django", installed.format(own=own), "./libs/till", "-e ../other"], False, {}),
    ]
    assert (tmp_path / "source/requirements.txt").read_text().splitlines()[1] == line


def test_a_requirements_file_is_unchanged_without_a_version_from_git(pip: Pip, tmp_path: pathlib.Path) -> None:
    (tmp_path / "source/requirements.txt").write_text("Django\n.\n")
    collect(pip, tmp_path, requirements="requirements.txt", vcs_version="")
    assert pip.calls == [(["Django", "."], False, {})]


@pytest.mark.parametrize("requirements", ["", "requirements.txt", "pyproject.toml"])
def test_the_version_file_ships_with_all_kinds_of_requirements(
    pip: Pip, tmp_path: pathlib.Path, requirements: str
) -> None:
    (tmp_path / "source/requirements.txt").write_text("Django\n")
    collect(pip, tmp_path, requirements=requirements)
    assert (tmp_path / "shipped/shop/made/_version.py").read_text() == "1"
    own = [call for call in pip.calls if call[0] == ["."]]
    assert own == [(["."], True, dict.fromkeys(build.VERSION_VARIABLES, "1"))]
    assert [versions for wanted, _alone, versions in pip.calls if wanted != ["."]] == [{}]
    installed = {path.name.split("-")[0] for path in (tmp_path / "scratch/wheels").iterdir()}
    assert "shop" not in installed  # by that build


def test_a_version_file_that_cannot_be_made_is_a_warning(pip: Pip, tmp_path: pathlib.Path) -> None:
    (tmp_path / "source/requirements.txt").write_text("Django\n")
    pip.problem = "two packages"
    collect(pip, tmp_path, requirements="requirements.txt")
    [warning] = pip.warnings
    assert warning.startswith("shop/made/_version.py may be missing in the release: could not build")
    assert warning.endswith(": two packages")


def test_a_project_with_a_version_file_is_not_built(pip: Pip, tmp_path: pathlib.Path) -> None:
    (tmp_path / "source/requirements.txt").write_text("Django\n")
    (tmp_path / "source/shop/made").mkdir(parents=True)
    (tmp_path / "source/shop/made/_version.py").write_text("own")
    collect(pip, tmp_path, requirements="requirements.txt")
    assert pip.calls == [(["Django"], False, {})]


def test_dependency_groups_of_a_wheel_are_refused(pip: Pip, tmp_path: pathlib.Path) -> None:
    (tmp_path / "source/pyproject.toml").unlink()
    (tmp_path / "source/shop-1-py3-none-any.whl").touch()
    with pytest.raises(Failed, match="^a wheel knows no site_dependency_groups: site_requirements must name a lock"):
        collect(pip, tmp_path, kind="wheel", vcs_version="", dependency_groups=["jobs"])
    assert pip.calls == []
