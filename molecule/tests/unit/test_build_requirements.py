"""What a build installs: locks as requirements with hashes, and what a pyproject.toml says."""

import pathlib
import sys
import tomllib
from typing import Any

import build_locks
import build_project
import pytest
from build_run import Failed

PDM = """
[metadata]
groups = ["default", "dev", "jobs", "postgres"]
strategy = ["inherit_metadata"]

[[package]]
name = "django"
version = "5.2"
groups = ["default"]
files = [{file = "django-5.2.whl", hash = "sha256:b"}, {file = "django-5.2.tar.gz", hash = "sha256:a"}]

[[package]]
name = "django"
version = "5.2"
extras = ["argon2"]
groups = ["default"]
files = [{file = "django-5.2.whl", hash = "sha256:b"}, {file = "django-5.2.tar.gz", hash = "sha256:a"}]

[[package]]
name = "celery"
version = "5.4"
groups = ["jobs"]
marker = "sys_platform != 'win32'"
files = [{file = "celery.whl", hash = "sha256:c"}]

[[package]]
name = "own"
version = "1"
groups = ["postgres"]
git = "https://example.org/own.git"
ref = "main"
revision = "0123"

[[package]]
name = "pytest"
version = "8"
groups = ["dev"]
files = [{file = "pytest.whl", hash = "sha256:d"}]
"""

PYLOCK = """
lock-version = "1.0"
extras = ["postgres"]
dependency-groups = ["dev", "jobs"]
default-groups = ["main"]

[[packages]]
name = "django"
version = "5.2"
sdist = {name = "django-5.2.tar.gz", hashes = {sha256 = "a", md5 = "no"}}
wheels = [{name = "django-5.2.whl", hashes = {sha256 = "b"}}]

[[packages]]
name = "celery"
version = "5.4"
marker = "'jobs' in dependency_groups"
wheels = [{name = "celery.whl", hashes = {sha256 = "c"}}]

[[packages]]
name = "own"
marker = "'postgres' in extras"
vcs = {type = "git", url = "https://example.org/own.git", commit-id = "0123"}

[[packages]]
name = "main"
marker = "'main' in dependency_groups and python_version >= '3'"
archive = {url = "https://example.org/main.zip", hashes = {sha256 = "e"}}

[[packages]]
name = "pytest"
version = "8"
marker = "'dev' in dependency_groups"
wheels = [{name = "pytest.whl", hashes = {sha256 = "d"}}]
"""

PIPFILE: dict[str, Any] = {
    "default": {
        "django": {"hashes": ["sha256:b", "sha256:a"], "version": "==5.2", "markers": "python_version >= '3.10'"},
        "own": {"git": "https://example.org/own.git", "ref": "0123"},
    },
    "jobs": {"celery": {"hashes": ["sha256:c"], "version": "==5.4"}},
    "develop": {"pytest": {"hashes": ["sha256:d"], "version": "==8"}},
}

DJANGO = "django==5.2 --hash=sha256:a --hash=sha256:b"
OWN = "own @ git+https://example.org/own.git@0123"


@pytest.mark.parametrize(
    ("extras", "groups", "lines"),
    [
        ([], [], [DJANGO]),
        (["postgres"], ["jobs"], [DJANGO, "celery==5.4 ; sys_platform != 'win32' --hash=sha256:c", OWN]),
    ],
)
def test_a_lock_of_pdm_brings_the_groups_that_are_named(extras: list[str], groups: list[str], lines: list[str]) -> None:
    assert build_locks.pdm(tomllib.loads(PDM), extras, groups) == lines


def test_a_lock_of_pdm_without_groups_is_refused() -> None:
    with pytest.raises(Failed, match="has no group or extra docs: pdm lock --group :all"):
        build_locks.pdm(tomllib.loads(PDM), ["docs"], [])
    with pytest.raises(Failed, match="pdm lock --strategy inherit_metadata"):
        build_locks.pdm({"metadata": {"strategy": []}}, [], [])


@pytest.mark.parametrize(
    ("extras", "groups", "lines"),
    [
        ([], [], [DJANGO, "main @ https://example.org/main.zip --hash=sha256:e"]),
        (
            ["postgres"],
            ["jobs"],
            [DJANGO, "celery==5.4 --hash=sha256:c", OWN, "main @ https://example.org/main.zip --hash=sha256:e"],
        ),
    ],
)
def test_a_pylock_brings_the_packages_whose_markers_are_met(
    extras: list[str], groups: list[str], lines: list[str]
) -> None:
    assert build_locks.pylock(tomllib.loads(PYLOCK), extras, groups) == lines


def test_a_pylock_without_an_extra_or_a_group_is_refused() -> None:
    with pytest.raises(Failed, match="has no extra mysql"):
        build_locks.pylock(tomllib.loads(PYLOCK), ["mysql"], [])
    with pytest.raises(Failed, match="has no dependency group docs"):
        build_locks.pylock(tomllib.loads(PYLOCK), [], ["docs"])


def test_a_lock_of_pipenv_brings_the_groups_that_are_named() -> None:
    django = "django==5.2 ; python_version >= '3.10' --hash=sha256:a --hash=sha256:b"
    assert build_locks.pipfile(PIPFILE, [], []) == [django, OWN]
    assert build_locks.pipfile(PIPFILE, [], ["jobs"]) == [django, OWN, "celery==5.4 --hash=sha256:c"]
    with pytest.raises(Failed, match="has no group docs"):
        build_locks.pipfile(PIPFILE, [], ["docs"])


def test_an_exported_lock_is_read_a_line_for_each_requirement() -> None:
    text = "# by uv\n--extra-index-url https://example.org/simple\ndjango==5.2 ; python_version > '3' \\\n    --hash=sha256:a \\\n    --hash=sha256:b\n-e ./libs/own\n\n"
    lines = build_locks.lines_of(text)
    assert lines == [
        "--extra-index-url https://example.org/simple",
        "django==5.2 ; python_version > '3' --hash=sha256:a --hash=sha256:b",
        "./libs/own",
    ]
    assert build_locks.divide("uv.lock", lines) == (lines[:2], [lines[0], lines[2]])


@pytest.mark.parametrize("line", ["django==5.2", "own @ https://example.org/own.zip", "own @ https://e.org/a.whl ; x"])
def test_a_locked_version_without_a_hash_is_refused(line: str) -> None:
    with pytest.raises(Failed, match="uv.lock has no hash of .*: lock the project again, with hashes"):
        build_locks.divide("uv.lock", [DJANGO, line])
    assert build_locks.divide("uv.lock", [DJANGO, OWN]) == ([DJANGO], [OWN])


@pytest.mark.parametrize(
    ("requirements", "kind"),
    [
        ("uv.lock", "uv"),
        ("../poetry.lock", "poetry"),
        ("pylock.production.toml", "pylock"),
        ("Pipfile.lock", "pipfile"),
        ("requirements.txt", ""),
        ("pyproject.toml", ""),
        ("", ""),
    ],
)
def test_locks_are_known_by_name(requirements: str, kind: str) -> None:
    assert build_locks.lock_kind(requirements) == kind


# ------------------------------------------------------------------ pyproject.toml

BACKEND = "[build-system]\nbuild-backend = '%s'\n"


@pytest.mark.parametrize(
    ("pyproject", "file", "package"),
    [
        ("[project]\nname = 'shop'\n", None, False),
        ("[tool.ruff]\n", "setup.py", True),
        (BACKEND % "setuptools.build_meta", None, True),
        (BACKEND % "hatchling.build" + "[tool.uv]\npackage = false\n", None, False),
        ("[project]\nname = 'shop'\n[tool.uv]\npackage = true\n", None, True),
        (BACKEND % "poetry.core.masonry.api" + "[tool.poetry]\nname = 'the-shop'\n", None, False),
        (BACKEND % "poetry.core.masonry.api" + "[tool.poetry]\nname = 'the-shop'\n", "src/the_shop/__init__.py", True),
        (BACKEND % "poetry.core.masonry.api" + "[tool.poetry]\nname = 'The_-Shop'\n", "the_shop/__init__.py", True),
        (BACKEND % "poetry.core.masonry.api" + "[tool.poetry]\npackage-mode = false\n", None, False),
        (BACKEND % "pdm.backend" + "[tool.pdm]\ndistribution = false\n", None, False),
    ],
)
def test_applications_are_distinguished_from_packages(
    tmp_path: pathlib.Path, pyproject: str, file: str | None, package: bool
) -> None:
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "pyproject.toml").write_text(pyproject)
    assert build_project.is_package(tmp_path, build_project.read_project(tmp_path)) is package


def test_extras_of_the_project_itself_are_opened() -> None:
    table = {
        "name": "The.Shop",
        "dependencies": ["Django"],
        "optional-dependencies": {"all": ["the-shop[pg_sql]"], "pg-sql": ["psycopg"]},
    }
    assert build_project.dependencies({"project": table}, ["all"]) == ["Django", "psycopg"]
    with pytest.raises(Failed, match="has no extra mail: site_extras"):
        build_project.dependencies({"project": table}, ["mail"])


@pytest.mark.parametrize(
    ("project", "problem"),
    [
        ({"tool": {"poetry": {}}}, "no .project. .*site_requirements must name its lock"),
        ({"project": {"dynamic": ["dependencies"]}}, "from another file: site_requirements"),
    ],
)
def test_dependencies_that_are_elsewhere_are_refused(project: dict[str, Any], problem: str) -> None:
    with pytest.raises(Failed, match=problem):
        build_project.dependencies(project, [])


@pytest.mark.parametrize(
    "tool",
    [
        {"setuptools_scm": {"version_file": "shop/_version.py"}},
        {"setuptools_scm": {"write_to": "shop/_version.py"}},
        {"hatch": {"build": {"hooks": {"vcs": {"version-file": "shop/_version.py"}}}}},
    ],
)
def test_the_file_with_the_version_is_known(tool: dict[str, Any]) -> None:
    assert build_project.version_files({"tool": tool}) == ["shop/_version.py"]
    assert build_project.version_files({}) == []


@pytest.mark.parametrize(
    ("poetry", "standard"),
    [
        ("^3.11", ">=3.11,<4"),
        ("~3.12", ">=3.12,<3.13"),
        ("~3", ">=3,<4"),
        (">=3.11,<3.13", ">=3.11,<3.13"),
        (">=3.11 <3.13", ">=3.11,<3.13"),
        ("3.11.*", "==3.11.*"),
        ("~=3.11", "~=3.11"),
        ("*", ""),
        (">= 3.11", ">=3.11"),
        (">= 3.10, < 4.0", ">=3.10,<4.0"),
        (">= 3.10 < 4.0, != 3.12.*", ">=3.10,<4.0,!=3.12.*"),
        ("^ 3.11", ">=3.11,<4"),
        ("~ 3.12", ">=3.12,<3.13"),
        ("=3.11", "==3.11"),
        ("= 3.11.*", "==3.11.*"),
        ("3.x", ""),
        ("~=3", ""),
    ],
)
def test_ranges_of_poetry_become_those_of_pip(poetry: str, standard: str) -> None:
    assert build_project.poetry_range(poetry) == standard


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        (
            "pyproject.toml",
            "[project]\nrequires-python = '>=3.10,<3.13'\n",
            "pyproject.toml wants Python >=3.10,<3.13, and",
        ),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '~3.12'\n", "wants Python >=3.12,<3.13"),
        ("setup.cfg", "[options]\npython_requires = <3.12\n", "setup.cfg wants Python <3.12, and the hosts have"),
        ("pyproject.toml", "[project]\nrequires-python = 'new'\n", "says of Python what nobody can read"),
        ("pyproject.toml", "[project]\nrequires-python = '>=3.10'\n", None),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '^3.9 || ^4'\n", None),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '>= 3.11, < 4.0'\n", None),
        ("pyproject.toml", "[tool.poetry.dependencies]\npython = '3.x'\n", None),
        ("setup.cfg", "[metadata]\nname = shop\n", None),
        ("pyproject.toml", "[project\n", "cannot be read"),
    ],
)
def test_a_project_for_another_python_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, problem: str | None
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 5, "final", 0))
    (tmp_path / file).write_text(text)
    if problem is None:
        build_project.refuse_python({"kind": "git"}, tmp_path)
    else:
        with pytest.raises(Failed, match=problem):
            build_project.refuse_python({"kind": "git"}, tmp_path)
