"""What runs Debian's plugins of Munin keeps what they say of themselves, and nothing else."""

import os
import pathlib
import subprocess

import pytest
from repository import ROOT


class Ask:
    """ask("config") runs a plugin that counts its starts; gives what it printed."""

    def __init__(self, program: pathlib.Path, state: pathlib.Path, plugin: pathlib.Path, kept: pathlib.Path) -> None:
        self.program, self.state, self.plugin, self.kept = program, state, plugin, kept

    def __call__(self, *args: str, code: int = 0) -> str:
        done = subprocess.run(
            [self.program, *args],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"MUNIN_PLUGSTATE": str(self.state), "MUNIN_CAP_DIRTYCONFIG": "1"},
        )
        assert done.returncode == code, done
        return done.stdout


@pytest.fixture(name="ask")
def ask_fixture(tmp_path: pathlib.Path) -> Ask:
    """A plugin, and where its descriptions are kept."""
    plugins, state = tmp_path / "plugins", tmp_path / "state"
    plugins.mkdir()
    state.mkdir()
    (plugins / "x").write_text(
        '#!/bin/sh\necho run >>"$0.runs"\necho "$* ${MUNIN_CAP_DIRTYCONFIG:-clean}"\n[ ! -e "$0.broken" ]\n'
    )
    (plugins / "x").chmod(0o755)
    program = tmp_path / "x"
    program.write_text(
        (ROOT / "roles/munin_node/files/steady").read_text().replace("/run/munin-node/plugins", str(plugins))
    )
    program.chmod(0o755)

    return Ask(program, state, plugins / "x", state / "config-x")


def runs(ask: Ask) -> int:
    return (ask.plugin.with_name("x.runs")).read_text().count("run")


def test_descriptions_are_cached_and_values_are_not(ask: Ask) -> None:
    assert [ask("config"), ask("config")] == ["config clean\n"] * 2 and runs(ask) == 1
    assert [ask(), ask()] == [" clean\n"] * 2 and runs(ask) == 3


def test_an_old_or_missing_description_is_read_again(ask: Ask) -> None:
    ask("config")
    ask.kept.write_text("1\nold\n")
    assert ask("config") == "config clean\n" and runs(ask) == 2
    ask.kept.unlink()
    assert ask("config") == "config clean\n" and runs(ask) == 3


def test_a_failure_is_not_cached(ask: Ask) -> None:
    ask.plugin.with_name("x.broken").touch()
    ask("config", code=1)
    assert not ask.kept.exists()


def test_a_plugin_runs_without_a_cache_directory(ask: Ask) -> None:
    ask.kept.parent.rmdir()
    assert [ask("config"), ask("config")] == ["config clean\n"] * 2 and runs(ask) == 2
