"""The repository's own modules import what Ansible brings to a host with them; what runs on the operator's machine is imported from the root."""

import os
import pathlib
import sys

import ansible.module_utils

ROOT = pathlib.Path(__file__).resolve().parents[3]
ansible.module_utils.__path__.append(str(ROOT / "playbooks/module_utils"))
sys.path[:0] = [str(ROOT), str(ROOT / "playbooks")]
# Not into roles, which copy whole directories to hosts: what a test imports or runs would be a change for the next converge.
sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".pytest_cache/bytecode")
