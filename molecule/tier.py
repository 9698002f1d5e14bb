"""An environment, as its inventory and group_vars describe it."""

import functools
import json
import os
import pathlib

import testinfra

ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")  # not Molecule's own; before Ansible is imported


@functools.cache
def load_plugins():
    """Let Ansible find filters and lookups; once in a process."""
    from ansible.plugins.loader import init_plugin_loader
    init_plugin_loader()


class Tier:
    """The environment of an inventory file."""

    def __init__(self, inventory):
        self.inventory = str(inventory)
        # Variables that a scenario lays over the environment's own, as options of Ansible's.
        self.options = ["-e", os.environ["TIER_VARS"]] if os.environ.get("TIER_VARS") else []
        self.name = pathlib.Path(self.inventory).stem
        # A rehearsal's inventory lies in its state directory (playbooks/rehearsal.py).
        directory = pathlib.Path(self.inventory).resolve().parents[1]
        rehearsed = directory.parent.name == ".state"
        self.state = directory if rehearsed else ROOT / ".state" / self.name
        self.words = [f"ENV={self.name}", *(["REHEARSE=1"] if rehearsed else [])]  # what a verb of the Makefile is told
        self.env = dict(os.environ, ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")  # Molecule's own colours would be in what is read

    @functools.cached_property
    def variables(self):
        """Ansible's own view of the inventory, in this process: (loader, hosts, variables). A command of its own for each value takes a second."""
        from ansible import constants, context
        from ansible.cli import CLI
        from ansible.inventory.manager import InventoryManager
        from ansible.parsing.dataloader import DataLoader
        from ansible.vars.hostvars import HostVars
        from ansible.vars.manager import VariableManager
        load_plugins()
        loader = DataLoader()
        passwords = [constants.DEFAULT_VAULT_PASSWORD_FILE] if constants.DEFAULT_VAULT_PASSWORD_FILE else []
        loader.set_vault_secrets(CLI.setup_vault_secrets(loader, [], passwords, initialize_context=False))
        context.CLIARGS = {"extra_vars": self.options[1:]}
        hosts = InventoryManager(loader=loader, sources=[self.inventory])
        variables = VariableManager(loader=loader, inventory=hosts)
        HostVars(hosts, variables, loader)  # makes itself known to the variables
        return loader, hosts, variables

    @functools.cache
    def value(self, expression, host="localhost"):
        """The value of an Ansible expression in a host's eyes, templated.

        Raises ansible.errors.AnsibleError where Ansible cannot evaluate it.
        """
        from ansible.template import Templar, trust_as_template
        loader, hosts, variables = self.variables
        seen = variables.get_vars(host=hosts.get_hosts(host)[0])
        found = Templar(loader=loader, variables=seen).template(trust_as_template("{{ {'value': " + expression + "} | to_json }}"))
        return json.loads(found)["value"]

    @functools.cache
    def host(self, name):
        """A host, to run commands on as root: a container, asked through Docker in a third of the time that a log-in over SSH takes."""
        found = testinfra.get_host(f"docker://{self.name}-{name}")
        found.backend.host = name
        return found

    def hosts(self, group):
        """Names of the hosts of a group."""
        return self.value("groups")[group]

    def address(self, host):
        """Address peers reach a host at."""
        return {one["name"]: one["address"] for one in self.value("all_hosts")}[host]

    @property
    def key(self):
        """Path of the private key that opens the hosts."""
        return os.path.expanduser(self.value("hostvars[groups['all'][0]].ansible_ssh_private_key_file"))

    @property
    def authority(self):
        """Path of the certificate that the environment's own authority signs with."""
        return str(self.state / "ca.crt")

    @property
    def url(self):
        """The site as a visitor types it: https and the virtual IP."""
        return "https://" + self.value("hostvars[groups['lb'][0]].lb_vip")
