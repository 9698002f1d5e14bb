"""The repository's own modules import what Ansible brings to a host with them; what runs on the operator's machine is imported from the root."""

import json
import os
import pathlib
import sys

import ansible.module_utils
import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = pathlib.Path(__file__).resolve().parents[3]
ansible.module_utils.__path__.append(str(ROOT / "playbooks/module_utils"))
sys.path[:0] = [str(ROOT), str(ROOT / "playbooks")]
# Not into roles, which copy whole directories to hosts: what a test imports or runs would be a change for the next converge.
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache/bytecode")


@pytest.fixture
def execute(capsys):
    """execute(module, check=False, option=value, …): what an Ansible module that was loaded returns, executed on this machine."""
    def run(module, check=False, **options):
        with patch_module_args(options | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)
    return run
