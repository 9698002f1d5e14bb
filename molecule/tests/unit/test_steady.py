"""What runs Debian's plugins of Munin keeps what they say of themselves, and nothing else."""

import os
import pathlib
import subprocess

import pytest
from repository import ROOT


@pytest.fixture(name="ask")
def ask_fixture(tmp_path: pathlib.Path):
    """ask("config") runs a plugin that counts its starts; gives what it printed."""
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

    def ask(*words, code: int = 0):
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"MUNIN_PLUGSTATE": str(state), "MUNIN_CAP_DIRTYCONFIG": "1"},
        )
        assert done.returncode == code, done
        return done.stdout

    ask.plugin, ask.kept = plugins / "x", state / "config-x"
    return ask


def runs(ask):
    return (ask.plugin.with_name("x.runs")).read_text().count("run")


def test_descriptions_are_kept_and_values_are_not(ask) -> None:
    assert [ask("config"), ask("config")] == ["config clean\n"] * 2 and runs(ask) == 1
    assert [ask(), ask()] == [" clean\n"] * 2 and runs(ask) == 3


def test_what_is_old_or_was_forgotten_is_asked_again(ask) -> None:
    ask("config")
    ask.kept.write_text("1\nold\n")
    assert ask("config") == "config clean\n" and runs(ask) == 2
    ask.kept.unlink()
    assert ask("config") == "config clean\n" and runs(ask) == 3


def test_a_failure_is_not_kept(ask) -> None:
    ask.plugin.with_name("x.broken").touch()
    ask("config", code=1)
    assert not ask.kept.exists()


def test_without_a_place_to_keep_it_a_plugin_runs_all_the_same(ask) -> None:
    ask.kept.parent.rmdir()
    assert [ask("config"), ask("config")] == ["config clean\n"] * 2 and runs(ask) == 2
