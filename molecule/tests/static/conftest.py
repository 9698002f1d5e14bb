"""The repository's own modules import what Ansible brings to a host with them."""

import pathlib

import ansible.module_utils

ansible.module_utils.__path__.append(str(pathlib.Path(__file__).resolve().parents[3] / "playbooks/module_utils"))
