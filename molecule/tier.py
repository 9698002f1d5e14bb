"""An environment, as its inventory and group_vars describe it."""

import functools
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Tier:
    """The environment of an inventory file."""

    def __init__(self, inventory):
        self.inventory = str(inventory)
        # Variables that a scenario lays over the environment's own, as options of Ansible's.
        self.options = ["-e", os.environ["TIER_VARS"]] if os.environ.get("TIER_VARS") else []
        self.name = pathlib.Path(self.inventory).stem
        # A rehearsal's inventory lies in its state directory (playbooks/rehearsal.py).
        rehearsed = pathlib.Path(self.inventory).resolve().parents[1]
        self.rehearsed = rehearsed.parent.name == ".state"
        self.state = rehearsed if self.rehearsed else ROOT / ".state" / self.name
        self.words = [f"ENV={self.name}", *(["REHEARSE=1"] if self.rehearsed else [])]  # what a verb of the Makefile is told
        # Molecule's own configuration and colours are not those of the repository.
        self.env = dict(os.environ, ANSIBLE_CONFIG=str(ROOT / "ansible.cfg"), ANSIBLE_NOCOLOR="true", ANSIBLE_FORCE_COLOR="false")

    @functools.cache
    def value(self, expression, host="localhost"):
        """The value of an Ansible expression in a host's eyes, templated.

        Raises subprocess.CalledProcessError where Ansible cannot evaluate it.
        """
        done = subprocess.run(
            ["ansible", host, "-i", self.inventory, *self.options, "-o", "-m", "ansible.builtin.debug",
             "-a", "msg={{ {'value': " + expression + "} | to_json }}"],
            cwd=ROOT, capture_output=True, text=True, check=True,
            env=dict(self.env, ANSIBLE_STDOUT_CALLBACK="ansible.builtin.oneline", ANSIBLE_STRATEGY="linear",
                     ANSIBLE_DISPLAY_OK_HOSTS="true", ANSIBLE_LOAD_CALLBACK_PLUGINS="true"))
        found = json.loads(done.stdout.split("=>", 1)[1])["msg"]
        return (json.loads(found) if isinstance(found, str) else found)["value"]

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
