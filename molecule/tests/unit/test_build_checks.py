"""The site's checks of a release: what refuses it, with which settings they run, and that nothing of them ships."""

import contextlib
import json
import os
import pathlib
import subprocess
import types
from collections.abc import Callable, Iterator
from typing import Any

import build
import build_checks
import pytest
import yaml
from build_output import failed_tests
from build_run import Build, Failed, Log
from repository import ROOT

from plugins.modules import release_source

UNITTEST = """\
Found 3 test(s).
.F
======================================================================
FAIL: test_total (shop.tests.CartTests.test_total)
The total of a cart.
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/srv/shop/tests.py", line 9, in test_total
    self.assertEqual(1, 2)
AssertionError: 1 != 2
======================================================================
FAIL: test_total (shop.tests.CartTests.test_total) (size=3)
ERROR: shop.other (unittest.loader._FailedTest.shop.other)
Ran 3 tests in 0.001s

FAILED (failures=2, errors=1)
Destroying test database for alias 'default'...
"""

PYTEST = """\
E       assert 1 == 2
=========================== short test summary info ============================
FAILED tests/test_cart.py::test_total[3] - assert 1 == 2
ERROR tests/test_other.py - ImportError: no module
========================= 1 failed, 1 error in 0.12s ==========================
"""

DJANGO = """\
SystemCheckError: System check identified some issues:

WARNINGS:
?: (security.W004) You have not set a value for the SECURE_HSTS_SECONDS setting.
shop.Cart.owner: (fields.E300) Field defines a relation with model 'User', which is either not installed, or is abstract.

System check identified 2 issues (1 silenced).
"""


@pytest.mark.parametrize(
    ("output", "tells"),
    [
        (
            UNITTEST,
            "test_total (shop.tests.CartTests.test_total); test_total (shop.tests.CartTests.test_total) (size=3); "
            "shop.other (unittest.loader._FailedTest.shop.other)",
        ),
        (
            PYTEST,
            "tests/test_cart.py::test_total[3] - assert 1 == 2; tests/test_other.py - ImportError: no module",
        ),
        (
            DJANGO,
            "?: (security.W004) You have not set a value for the SECURE_HSTS_SECONDS setting.; "
            "shop.Cart.owner: (fields.E300) Field defines a relation with model 'User', which is either not installed, or is abstract.",
        ),
        (
            "".join(f"FAIL: test_{number} (shop.T)\n" for number in range(7)),
            "test_0 (shop.T); test_1 (shop.T); test_2 (shop.T); test_3 (shop.T); test_4 (shop.T); 2 more",
        ),
        ("looking\nfound\n3 files would be reformatted\n", "looking; found; 3 files would be reformatted"),
        ("", "it did not say why"),
    ],
    ids=["unittest", "pytest", "system checks", "many", "other", "nothing"],
)
def test_a_failed_check_is_reported_with_the_failing_tests(output: str, tells: str) -> None:
    assert failed_tests(output) == tells


@pytest.fixture
def release(tmp_path: pathlib.Path) -> pathlib.Path:
    """A release's directory, with a program in its virtualenv that prints where it runs."""
    path = tmp_path / "release"
    (path / "src/backend").mkdir(parents=True)
    (path / "venv/bin").mkdir(parents=True)
    (path / "venv/bin/python").write_text("#!/bin/sh\necho $PWD $DJANGO_SETTINGS_MODULE $COLOUR $SIZE > ran\n")
    (path / "venv/bin/python").chmod(0o755)
    return path


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Log:
    """A log of a build."""
    return Log(tmp_path / "build.log")


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the program writes; and no PostgreSQL is installed or started."""

    @contextlib.contextmanager
    def postgresql(_log: Log, _build: Build) -> Iterator[int]:
        yield 5433

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(build_checks, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setattr(build_checks, "install_postgresql", lambda _log, _version: None)
    monkeypatch.setattr(build_checks, "postgresql", postgresql)
    return tmp_path / "scratch"


def description(*checks: dict[str, Any], **values: Any) -> Build:
    """What a build is told, as far as checks of the site need it."""
    return {
        "site": "shop",
        "version": "1",
        "directory": "backend",
        "settings": "shop.settings",
        "static": {"url": "/static/", "storage": "some.Storage"},
        "media_url": "/media/",
        "own_settings": [],
        "cache_aliases": [],
        "database_aliases": [],
        "environment": {"COLOUR": "green"},
        "secrets": ["SHOP_KEY", "DATABASE_URL"],
        "build_environment": {"DATABASE_URL": "postgres://none/none"},
        "db_version": "17",
        "checks": list(checks),
        "checks_digest": "0123",
        "checks_timeout": 60,
    } | values


def test_checks_run_in_the_project_with_the_settings_of_the_hosts(
    release: pathlib.Path, scratch: pathlib.Path, log: Log
) -> None:
    check = {"name": "tests", "run": "python; env > variables", "environment": {"COLOUR": "red", "SIZE": 3}}
    build_checks.run_checks(log, description(check), release)
    variables = (release / "src/backend/variables").read_text().splitlines()
    assert {"PGPORT=5433", "PGUSER=shop", f"PIP_PYTHON={release}/venv/bin/python"} <= set(variables)
    assert (release / "src/backend/ran").read_text() == f"{release}/src/backend realworld.check_settings red 3\n"
    site = json.loads((scratch / "check.json").read_text())
    assert site["database"]["port"] == 5433 and site["secrets"] == {"SHOP_KEY": "for building only"}


def test_checks_have_every_value_that_the_settings_of_the_hosts_read(
    release: pathlib.Path, scratch: pathlib.Path
) -> None:
    build_checks.check_environment(description(), release, 5433)
    site = json.loads((scratch / "check.json").read_text())
    template = (ROOT / "roles/django/templates/site.json.j2").read_text()
    names = {line.split('"')[1] for line in template.splitlines() if line.startswith('  "')}
    assert names - {"managed", "wsgi"} == set(site)


def test_every_failed_check_is_named(release: pathlib.Path, log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    checks = [
        {"name": "tests", "run": "echo 'FAIL: test_total (shop.T)'; exit 1; true"},
        {"name": "style", "run": "true"},
        {"name": "types", "run": "echo Error: no types >&2; false", "environment": None},
    ]
    with pytest.raises(build_checks.Refused) as refused:
        build_checks.run_checks(log, description(*checks), release)
    assert str(refused.value) == "tests: test_total (shop.T) | types: Error: no types"
    assert capfd.readouterr().out.splitlines() == [
        "check tests (1 of 3)",
        "check style (2 of 3)",
        "check types (3 of 3)",
    ]
    assert "FAIL: test_total (shop.T)\n" in pathlib.Path(log.file.name).read_text()


def test_checks_that_take_too_long_are_ended_with_their_children(release: pathlib.Path, log: Log) -> None:
    checks = [
        {"name": "slow", "run": "sleep 300 & echo $! > child; wait"},
        {"name": "later", "run": "touch later"},
    ]
    with pytest.raises(
        build_checks.Refused, match=r"^slow: all checks together took longer than 0.5 s \(site_checks_timeout\)$"
    ):
        build_checks.run_checks(log, description(*checks, checks_timeout=0.5), release)
    child = (release / "src/backend/child").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False).stdout
    assert state[:1] in ("", "Z")  # killed; no init may be here that reaps it
    assert not (release / "src/backend/later").exists()


def test_a_check_for_which_no_time_is_left_refuses_the_release(
    monkeypatch: pytest.MonkeyPatch, release: pathlib.Path, log: Log
) -> None:
    clock = iter((0.0, 1.0, 60.0))  # the first check ends at the last moment
    monkeypatch.setattr(build_checks, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    checks = [{"name": "tests", "run": "true"}, {"name": "later", "run": "sleep 300"}]
    with pytest.raises(build_checks.Refused, match="^later: all checks together took longer than 60 s"):
        build_checks.run_checks(log, description(*checks), release)


def test_the_server_of_the_checks_is_removed_also_if_they_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.undo()  # the server that scratch replaces
    ran: list[str] = []

    def run(command: list[str | pathlib.Path], _attempt: str, **_options: Any) -> str:
        ran.append(" ".join(map(str, command)))
        if "stop" in command:
            raise Failed("it never started")
        return ""

    monkeypatch.setattr(build_checks, "DATABASE", tmp_path / "database")
    monkeypatch.setattr("build_checks.shutil.chown", lambda _path, user: ran.append(user))
    with (
        pytest.raises(build_checks.Refused),
        build_checks.postgresql(types.SimpleNamespace(run=run), description()) as port,
    ):
        assert (tmp_path / "database").is_dir()
        raise build_checks.Refused
    assert not (tmp_path / "database").exists()
    assert ran[0] == "postgres" and all(line.startswith("runuser -u postgres -- ") for line in ran[1:])
    assert "/usr/lib/postgresql/17/bin/initdb" in ran[1] and f"-c port={port} " in ran[2]
    assert 'CREATE ROLE "shop" LOGIN CREATEDB' in ran[3] and "pg_ctl stop" in ran[4]


def test_the_order_of_texts_is_that_of_the_database_hosts() -> None:
    [*initdb] = yaml.safe_load(
        (ROOT / "roles/patroni/templates/config.yml.j2").read_text().partition("  initdb:\n")[2].partition("\n\n")[0]
    )
    options = {f"--{name}={value}" for option in initdb if isinstance(option, dict) for name, value in option.items()}
    assert {option for option in options if not option.startswith("--auth")} < set(build_checks.INITDB)


# ------------------------------------------------------------------ which releases are checked


def test_passed_checks_are_recorded_beside_the_release(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, log: Log
) -> None:
    monkeypatch.setattr(build, "OUT", tmp_path)
    monkeypatch.setattr(build, "run_checks", lambda *_arguments: None)
    record = tmp_path / "shop-1.checks"
    build.check(log, description(), tmp_path)
    assert not record.exists()
    for digest in ("0123", "4567", "0123"):
        build.check(log, description({"name": "tests", "run": "true"}, checks_digest=digest), tmp_path)
    assert record.read_text() == "0123\n4567\n"

    def refuse(*_arguments: object) -> None:
        raise build_checks.Refused("tests")

    monkeypatch.setattr(build, "run_checks", refuse)
    with pytest.raises(build_checks.Refused):
        build.check(log, description({"name": "tests", "run": "false"}, checks_digest="89ab"), tmp_path)
    assert record.read_text() == "0123\n4567\n"


def test_a_built_release_is_checked_from_the_artifact_and_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    out, built = tmp_path / "out", tmp_path / "built"
    out.mkdir()
    (built / "src").mkdir(parents=True)
    (built / "venv/bin").mkdir(parents=True)
    (built / "venv/bin/python3").symlink_to("/usr/bin/python3")
    subprocess.run(["tar", "-czf", out / "shop-1.tar.gz", "-C", built, "."], check=True)
    (out / "shop-1.log").write_text("of the build\n")
    before = (out / "shop-1.tar.gz").read_bytes()
    check = {"name": "python", "run": "touch written; readlink $VIRTUAL_ENV/bin/python3; exit 4"}
    described = description(check, directory="", built=True, root=str(tmp_path / "srv"), packages=[], index={})
    monkeypatch.setenv("BUILD", json.dumps(described | {"build_environment": {}}))
    for name, path in {"OUT": out, "CACHE": tmp_path / "cache", "SCRATCH": tmp_path / "work"}.items():
        monkeypatch.setattr(build, name, path)
    for variable in ("PIP_CACHE_DIR", "npm_config_cache"):
        monkeypatch.setenv(variable, "")
    umask = os.umask(0o022)
    try:
        assert build.main() == build.REFUSED == 3  # tasks/collect.yml reads it
    finally:
        os.umask(umask)
    assert (tmp_path / "srv/releases/1/src/written").exists()
    last = (out / "shop-1.checks.log").read_text().splitlines()[-1]
    assert last == "Release 1 is refused by site_checks: python: /usr/bin/python3. All output is above"
    assert (out / "shop-1.tar.gz").read_bytes() == before and (out / "shop-1.log").read_text() == "of the build\n"
    assert sorted(path.name for path in out.iterdir()) == ["shop-1.checks.log", "shop-1.log", "shop-1.tar.gz"]


def test_other_checks_check_a_release_again_without_a_new_build(
    execute: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/a.py").touch()
    artifacts = tmp_path / "releases"
    artifacts.mkdir()

    def describe(checks: dict[str, Any], version: str = "") -> Any:
        options = {
            "source": str(tmp_path / "site"),
            "artifacts": str(artifacts),
            "site": "shop",
            "build": {},
            "code": [],
        }
        return execute(release_source, checks=checks, version=version, **options)

    tests = {"checks": [{"name": "tests", "run": "true"}], "db_version": "17"}
    other = tests | {"db_version": "18"}
    new = describe(tests)
    assert (new["built"], new["checked"], new["changed"]) == (False, False, True)
    for suffix in (".tar.gz", ".json"):
        (artifacts / f"shop-{new['version']}{suffix}").touch()

    built = describe(tests)
    assert built["version"] == new["version"] and built["checks"] == new["checks"]
    assert (built["built"], built["checked"], built["changed"]) == (True, False, True)
    (artifacts / f"shop-{new['version']}.checks").write_text(f"{new['checks']}\n")
    for checks, version, checked in (
        (tests, "", True),
        (other, "", False),
        ({}, "", True),
        (other, new["version"], True),  # a rollback, or a host that gets what the others have
    ):
        result = describe(checks, version)
        assert (result["version"], result["built"]) == (new["version"], True)
        assert (result["checked"], result["changed"]) == (checked, not checked), (checks, version)
