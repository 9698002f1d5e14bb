"""The repository's own modules import what Ansible brings to a host with them."""

import ansible.module_utils
from repository import ROOT

ansible.module_utils.__path__.append(str(ROOT / "plugins/module_utils"))
