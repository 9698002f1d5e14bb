"""Releases of the demo site, each with a change of its own, and how they are deployed."""

import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest
from fixtures import Make
from tier import ROOT

from controller import browser


@pytest.fixture
def variant(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """variant(edit) is the directory of a copy of the demo that edit(directory) changes; never the same release twice."""

    def make_variant(edit: Callable[[pathlib.Path], object] | None = None) -> pathlib.Path:
        source = tmp_path / f"source{len(list(tmp_path.iterdir()))}"
        shutil.copytree(ROOT / "demo", source, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3", "media"))
        with open(source / "newsbudget/static/newsbudget/site.css", "a", encoding="utf-8") as css:
            css.write(f"/* {source} */\n")
        if edit:
            edit(source)
        return source

    return make_variant


@pytest.fixture(scope="module")
def chromium(request: pytest.FixtureRequest) -> None:
    """Debian's Chromium, installed if it is not there."""
    browser.install(request.config.get_terminal_writer().line)


@pytest.fixture
def deploy(make: Make) -> Callable[..., subprocess.CompletedProcess[str]]:
    """deploy(source, …) deploys that directory. Visitors' answers are judged by less than usual: a deploy asks for all of it twice."""
    few = {"site_smoke_most": 10, "site_smoke_sign_in": {}}
    return lambda source, *arguments, **values: make(
        "deploy", f"VARS={json.dumps(few | {'site_source': str(source), **values})}", *arguments
    )
