"""Passwords of the vault that are not those in force are refused before a host is touched, whichever hosts LIMIT names."""

import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from repository import ROOT

# What PostgreSQL 17 made of "pencil".
VERIFIER = "SCRAM-SHA-256$4096:HYymnB8y8yTcs/TWtB03WQ==$nlEbRLbpNuLIcWLpjoEV3cTWIFKtSayrZwWxldQPzbA=:egI4iuwx164Pagm683Sm8FMd145Q2uOUBjhne5cuxlA="
SITE = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
CHECK = next(play for play in SITE if play["name"] == "Check the passwords of the databases")
DATABASE = re.compile(r"\bdb_[a-z]+_password\b")
# The first database is away, the second tells; the run is on the app hosts alone.
INVENTORY = {
    "all": {
        "vars": {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "env_name": "x",
            "site_name": "site",
            "db_port": 5432,
            "db_hosts": [{"name": "db1", "address": "192.0.2.1"}, {"name": "db2", "address": "192.0.2.2"}],
            **{f"db_{role}_password": "pencil" for role in ("superuser", "replication", "rewind", "monitor", "backup")},
        },
        "hosts": {
            "app1": None,
            "db1": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
            "db2": None,
            "app2": None,
        },
    }
}
PLAY = """
- hosts: db1:db2:app1:app2
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: postgresql, tasks_from: passwords}
    - ansible.builtin.file: {path: "{{ touched }}", state: touch, mode: "0600"}
"""
# Stands for psql as the user postgres.
RUNUSER = """#!/bin/sh
echo >>"$FAKE/asked"
cat "$FAKE/roles"
"""


def tasks_of(play: Any) -> list[dict[str, list[str] | str]]:
    """Every task of a play, with what is imported as {role, tags}."""
    return [{"role": entry["role"], "tags": entry.get("tags", [])} for entry in play.get("roles", [])] + [
        {"role": task["ansible.builtin.import_role"]["name"], "tags": task.get("tags", play.get("tags", []))}
        for task in play.get("tasks", [])
        if "ansible.builtin.import_role" in task
    ]


def test_every_host_with_a_database_password_is_checked() -> None:
    giving = {
        path.parents[1].name for path in (ROOT / "roles").glob("*/templates/*") if DATABASE.search(path.read_text())
    }
    assert giving == {"django", "patroni", "pgbackrest", "pgpool"}
    [checked] = tasks_of(CHECK)
    assert giving <= set(checked["tags"])
    for play in SITE:
        if any(task["role"] in giving for task in tasks_of(play)):
            assert set(play["hosts"].split(":")) <= set(CHECK["hosts"].split(":")), play["name"]


def test_passwords_are_compared_before_any_change() -> None:
    earlier = [play.get("ansible.builtin.import_playbook", play.get("hosts")) for play in SITE[: SITE.index(CHECK)]]
    assert earlier == ["parts/preflight.yml", "parts/connect.yml"]


def test_every_password_of_the_databases_is_compared() -> None:
    made = set(DATABASE.findall((ROOT / "playbooks/secrets.yml").read_text()))
    assert made and set(DATABASE.findall((ROOT / "roles/postgresql/tasks/passwords.yml").read_text())) == made


@pytest.fixture(name="play")
def play_fixture(tmp_path: pathlib.Path) -> Callable[..., Any]:
    """play(site's password) runs the check on two app hosts; (the finished process, whether a host went on, how often psql was started)."""
    (tmp_path / "runuser").write_text(RUNUSER)
    (tmp_path / "runuser").chmod(0o755)
    (tmp_path / "roles").write_text(json.dumps({"site": VERIFIER, "replicator": VERIFIER, "somebody": "md5"}))
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(INVENTORY))

    def run(password: str) -> tuple[subprocess.CompletedProcess[str], bool, int]:
        done = subprocess.run(
            [
                pathlib.Path(sys.executable).with_name("ansible-playbook"),
                "-i",
                tmp_path / "hosts.yml",
                "--limit",
                "app1,app2",
                "-e",
                f"touched={tmp_path}/touched",
                "-e",
                f"db_site_password={password}",
                tmp_path / "play.yml",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=dict(
                os.environ,
                ANSIBLE_STRATEGY="linear",
                ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"),
                ANSIBLE_STDOUT_CALLBACK="default",
                ANSIBLE_LOG_PATH=str(tmp_path / "log"),
                ANSIBLE_FILTER_PLUGINS=str(ROOT / "plugins/filter"),
                FAKE=str(tmp_path),
                PATH=f"{tmp_path}:{os.environ['PATH']}",
            ),
        )
        return done, (tmp_path / "touched").exists(), len((tmp_path / "asked").read_text().splitlines())

    return run


def test_a_run_on_app_hosts_alone_refuses_a_changed_password(play: Callable[..., Any]) -> None:
    done, went_on, _queries = play("another")
    assert done.returncode == 2 and not went_on, done.stdout + done.stderr
    output = " ".join(done.stdout.split())
    assert (
        "Nothing was touched. The password of site in the vault of x is not the one that the databases have" in output
    ), done.stdout
    assert "another" not in output.replace("Refuse another password than", "") and "SCRAM" not in output


def test_a_run_continues_with_the_current_password(play: Callable[..., Any]) -> None:
    done, went_on, queries = play("pencil")
    assert done.returncode == 0 and went_on and queries == 1, done.stdout + done.stderr
