"""The repository's own modules import what Ansible brings to a host with them; what runs on the operator's machine is imported from the root."""

import importlib
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args
from repository import ROOT

ansible.module_utils.__path__.append(str(ROOT / "plugins/module_utils"))
# Not into roles, which copy whole directories to hosts: what a test imports or runs would be a change for the next converge.
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache/bytecode")


@pytest.fixture
def execute(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """execute(module, check=False, option=value, …): what an Ansible module that was loaded returns, executed on this machine."""

    def run(module: types.ModuleType, check: bool = False, **options: Any) -> Any:
        with patch_module_args(options | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture(name="program")
def program_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> types.ModuleType:
    """tier-backup's module of backups, without the driver that only the backup host has; its paths below tmp_path."""
    for name in ("psycopg2", "psycopg2.errors", "psycopg2.sql"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    parts = {"errors": sys.modules["psycopg2.errors"], "sql": sys.modules["psycopg2.sql"], "Error": Exception}
    vars(sys.modules["psycopg2"]).update(parts)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tier_backup"]:
        monkeypatch.delitem(sys.modules, name)  # an import of another test, with its own stand-in for the driver
    module = importlib.import_module("tier_backup.backups")
    for part in ("keys", "snapshots"):
        (tmp_path / "media" / part).mkdir(parents=True)
        (tmp_path / "media" / part / "one").write_text("x")
    (tmp_path / "media/config").write_text("x")
    (tmp_path / "key").write_text("x")
    monkeypatch.setattr(module, "MEDIA", str(tmp_path / "media"))
    monkeypatch.setattr(module, "MEDIA_KEY", str(tmp_path / "key"))
    return module
