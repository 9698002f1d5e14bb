"""The program that builds a release: what a failure says, and the site's own commands."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import build
import build_static
import pytest
from build_output import reason
from build_run import Build, Failed, Log

PROJECT = """
class ImproperlyConfigured(Exception):
    __module__ = "django.core.exceptions"

def environment(name):
    try:
        return {}[name]
    except KeyError as missing:
        raise %s

%s
environment("SHOP_KEY")
"""

# What pip says of a package whose setup.py fails.
PIP = """\
[notice] A new release of pip is available: 25.1 -> 25.3
  error: subprocess-exited-with-error
  
  × Getting requirements to build wheel did not run successfully.
  │ exit code: 1
  ╰─> [11 lines of output]
      Traceback (most recent call last):
        File "/tmp/_in_process.py", line 389, in <module>
          main()
          ~~~~^^
        File "<string>", line 2, in <module>
        File "<frozen os>", line 717, in __getitem__
      KeyError: 'ABACUS_HOME'
      [end of output]
  
  note: This error originates from a subprocess, and is likely not a problem with pip.
ERROR: Failed to build 'file:///tmp/abacus' when getting requirements to build wheel
"""


def stderr_of(program: str) -> str:
    """What Python says of a program that fails."""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode
    return done.stdout


@pytest.mark.parametrize(
    ("what", "before", "tells"),
    [
        # During handling of the above …
        (
            'ImproperlyConfigured(f"Set {name}")',
            "",
            "django.core.exceptions.ImproperlyConfigured: Set SHOP_KEY",
        ),
        # … the direct cause
        (
            'ImproperlyConfigured(f"Set {name}") from missing',
            "",
            "django.core.exceptions.ImproperlyConfigured: Set SHOP_KEY",
        ),
        ("ImproperlyConfigured", "", "django.core.exceptions.ImproperlyConfigured"),
        (
            r'ImproperlyConfigured("one\n\n  two\nthree\nfour")',
            "",
            "django.core.exceptions.ImproperlyConfigured: one; two; three",
        ),
        (
            'ImproperlyConfigured("first")',
            "class Late:\n    def __del__(self): raise TypeError('late')\nlate = Late()\n",
            "django.core.exceptions.ImproperlyConfigured: first",
        ),
        ("missing", "", "KeyError: 'SHOP_KEY'"),
        (
            "SystemExit('CommandError: no')",
            "import traceback\ntry: {}['x']\nexcept KeyError: traceback.print_exc()\n",
            "KeyError: 'x'; CommandError: no",
        ),
        ("missing", "exec('x = (')", "SyntaxError: '(' was never closed"),
    ],
    ids=["during", "cause", "bare", "lines", "ignored", "raised again", "logged", "syntax"],
)
def test_a_failed_command_is_reported_with_the_last_exception(what: str, before: str, tells: str) -> None:
    assert reason(stderr_of(PROJECT % (what, before))) == tells


@pytest.mark.parametrize(
    ("output", "tells"),
    [
        (
            PIP,
            "KeyError: 'ABACUS_HOME'; ERROR: Failed to build 'file:///tmp/abacus' when getting requirements to build wheel",
        ),
        (
            "looking\nERROR: Could not find a version\nERROR: No matching distribution found\n",
            "ERROR: Could not find a version; ERROR: No matching distribution found",
        ),
        ("E: Unable to locate package libnone\n", "E: Unable to locate package libnone"),
        (
            "npm ERR! code E404\nnpm ERR! 404 Not Found - GET none\nnpm ERR! 404  'none@1' is not in this registry.\nnpm ERR!\n"
            "npm notice New minor version\nnpm ERR! A complete log of this run can be found in:\nnpm ERR!     /cache/npm/_logs/x.log\n",
            "npm ERR! code E404; npm ERR! 404 Not Found - GET none; npm ERR! 404  'none@1' is not in this registry.",
        ),
        ("one\ntwo\n\nthree\nfour\n", "two; three; four"),
        ("", "it did not say why"),
    ],
)
def test_a_failed_command_is_reported_with_the_error_lines(output: str, tells: str) -> None:
    assert reason(output) == tells


# ------------------------------------------------------------------ commands of the site


@pytest.fixture
def release(tmp_path: pathlib.Path) -> pathlib.Path:
    """A release's directory, with a program in its virtualenv that prints where it runs."""
    path = tmp_path / "release"
    (path / "src").mkdir(parents=True)
    (path / "venv/bin").mkdir(parents=True)
    (path / "venv/bin/python").write_text("#!/bin/sh\necho $PWD $DJANGO_SETTINGS_MODULE $COLOUR > ran\n")
    (path / "venv/bin/python").chmod(0o755)
    return path


@pytest.fixture
def log(tmp_path: pathlib.Path) -> Log:
    """A log of a build."""
    return Log(tmp_path / "build.log")


def description(**values: Any) -> Build:
    """What a build is told, as far as commands of the site need it."""
    return {
        "directory": "",
        "settings": "shop.settings",
        "static": {"url": "/static/", "storage": "some.Storage"},
        "environment": {"COLOUR": "green", "SIZE": "1"},
        "secrets": ["SHOP_KEY", "DATABASE_URL"],
        "build_environment": {"COLOUR": "red", "DATABASE_URL": "postgres://none/none"},
        "commands": [],
    } | values


def test_values_of_the_build_win_over_the_placeholder_of_a_secret(
    release: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_static, "SCRATCH", tmp_path)
    environment = build_static.settings_environment(description(), release)
    site = json.loads(pathlib.Path(environment["REALWORLD_SITE"]).read_text())
    assert site["environment"] == {"COLOUR": "red", "SIZE": "1", "DATABASE_URL": "postgres://none/none"}
    assert site["secrets"] == {"SHOP_KEY": "for building only"}
    assert environment["REALWORLD_STATIC_ROOT"] == str(release / "static")


def test_commands_run_in_the_source_with_the_python_of_the_release(release: pathlib.Path, log: Log) -> None:
    commands = [{"run": "python", "when": "after_static"}, {"run": "echo 1 > early", "when": "before_static"}]
    environment = {"DJANGO_SETTINGS_MODULE": "realworld.build_settings", "COLOUR": "red"}
    build_static.run_commands(log, description(commands=commands), release, "before_static", environment)
    assert sorted(path.name for path in (release / "src").iterdir()) == ["early"]
    build_static.run_commands(log, description(commands=commands), release, "after_static", environment)
    assert (release / "src/ran").read_text() == f"{release / 'src'} realworld.build_settings red\n"


def test_a_project_in_a_directory_of_the_source_runs_there(
    release: pathlib.Path, log: Log, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_static, "SCRATCH", tmp_path)
    (release / "src/backend").mkdir()
    described = description(directory="backend", commands=[{"run": "pwd > here", "when": "before_static"}])
    environment = build_static.settings_environment(described, release)
    assert environment["PYTHONPATH"].split(":")[0] == f"{release}/src/backend"
    build_static.run_commands(log, described, release, "before_static", environment)
    assert (release / "src/backend/here").read_text() == f"{release}/src/backend\n"


def test_a_command_that_fails_is_named_with_the_reason(release: pathlib.Path, log: Log) -> None:
    commands = [{"run": "echo 'Error: no entry module'; exit 3; echo later", "when": "before_static"}]
    with pytest.raises(Failed, match=r"could not run .*exit 3.* of site_build_commands: Error: no entry module$"):
        build_static.run_commands(log, description(commands=commands), release, "before_static", {})


def test_translations_that_are_not_compiled_are_a_warning(release: pathlib.Path, log: Log) -> None:
    messages = release / "src/shop/locale/de/LC_MESSAGES"
    messages.mkdir(parents=True)
    (messages / "django.po").touch()
    build_static.warn_of_messages(log, release / "src")
    (messages / "django.mo").touch()
    build_static.warn_of_messages(log, release / "src")
    warnings = pathlib.Path(log.file.name).read_text().splitlines()
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "Warning: 1 translations are not compiled, as shop/locale/de/LC_MESSAGES/django.po: let"
    )


def test_packages_of_node_ship_only_if_the_source_has_them(tmp_path: pathlib.Path) -> None:
    own, installed = tmp_path / "vendor/node_modules", tmp_path / "front/node_modules"
    for directory in (own, installed, installed / "a/node_modules"):
        (directory / "b").mkdir(parents=True)
    build_static.remove_node_modules(tmp_path, {own})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "front", "node_modules", "vendor"]


@pytest.mark.parametrize(
    ("index", "variables"),
    [
        ({"url": "", "extra_urls": []}, {}),
        ({}, {}),
        ({"url": "https://a/simple"}, {"PIP_INDEX_URL": "https://a/simple"}),
        ({"url": "", "extra_urls": ["https://a", "https://b"]}, {"PIP_EXTRA_INDEX_URL": "https://a https://b"}),
    ],
)
def test_pip_asks_the_indexes_of_the_site(
    monkeypatch: pytest.MonkeyPatch, index: dict[str, Any], variables: dict[str, str]
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    build.use_indexes({"index": index})
    assert environment == variables
