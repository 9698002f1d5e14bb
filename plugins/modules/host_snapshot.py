#!/usr/bin/python
"""Describe a host as plain data: what it is, in everything that another host of its tier has to be as well."""

import hashlib
import http.client
import json
import os
import pathlib
import pwd
import re
import socket
import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.snapshot_files import any_of, files
from ansible.module_utils.snapshot_queries import CLUSTER, DECLARED, SCHEMA, SETTINGS
from ansible.module_utils.snapshot_services import access, ports, timers, units

DOCUMENTATION = """
module: host_snapshot
short_description: Describe a host as plain data
description:
  - Nothing is changed; databases are asked in transactions that cannot write.
  - What only this host has (its keys, its machine-id) and what changes by itself (counters, caches) is left out.
options:
  tiers: {type: list, elements: str, required: true, description: Groups of the tier that the host is in.}
  facts: {type: dict, required: true, description: "Settings of the tier: address, ports, site_name, site_root."}
  known: {type: dict, required: true, description: What the environment is told by. Returned as it is.}
"""

RETURN = """
snapshot:
  type: dict
  returned: always
  description: "{kind: {name: value}}. The value of a file is a dict: owner, mode, and link, or sha256 and (of a small text) text and shown."
faults: {type: list, returned: always, description: "Sentences: what the host itself declares and is not."}
known: {type: dict, returned: always, description: As it was given.}
"""

PLACES = ["/etc", "/usr/local", "/opt", "/usr/lib/systemd/system", "/var/spool/cron", "/root/.ssh"]
ANSWER_S = 5  # seconds anybody has to answer
SLOW_S = 60  # seconds for what reads a lot

VOLATILE = [  # kernel settings that are none: counters, random numbers, one for each neighbour
    "kernel.random.*",
    "kernel.ns_last_pid",
    "kernel.pty.nr",
    "kernel.tainted",
    "kernel.hostname",
    "fs.dentry-state",
    "fs.inode-*",
    "fs.file-nr",
    "fs.aio-nr",
    "fs.quota.*",
    "fs.binfmt_misc.*",
    "net.ipv?.neigh.*",
    "net.netfilter.nf_conntrack_count",
    "net.ipv4.tcp_fastopen_key",
    "net.ipv6.conf.*.stable_secret",
    "dev.cdrom.*",
    "kernel.sched_domain.*",
    "kernel.usermodehelper.*",
    "kernel.firmware_config.*",
    "kernel.perf_event_max_sample_rate",
    "vm.stat_refresh",
    "vm.drop_caches",
    "vm.compact_memory",
]


def output(*command: str, within: float = ANSWER_S, **environment: str) -> str:
    """What a command prints; empty where there is no such command. Raises subprocess.SubprocessError where it fails or takes too long."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=within,
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        ).stdout
    except FileNotFoundError:
        return ""


def reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{' '.join(error.cmd[:3])}: {' '.join((error.stderr or '').split()[-20:])}"
    return f"{type(error).__name__}: {str(error)[:200]}"


def packages(listing: str) -> dict[str, str]:
    """{package: version}, from lines of state, name and version."""
    versions = {}
    for line in listing.splitlines():
        state, name, version = line.split("\t")
        if state[1] == "i":
            versions[name.partition(":")[0]] = version + (" (held)" if state[0] == "h" else "")
    return versions


def users(passwd: str, group: str, shadow: str) -> tuple[dict[str, str], dict[str, str]]:
    """({user: what it may}, {group: members}), from the texts of the three files. Numbers below 1000 are given out in the order of installation."""
    members = {line.split(":")[0]: line.split(":")[3] for line in group.splitlines() if line.count(":") == 3}
    locked = {line.split(":")[0]: line.split(":")[1] for line in shadow.splitlines() if line.count(":") > 2}
    result = {}
    for line in passwd.splitlines():
        name, _x, number, _group, _gecos, home, shell = line.split(":")
        word = locked.get(name, "")
        secret = "no password needed" if word == "" else "no password" if word[0] in "!*" else "has a password"
        among = sorted(group_name for group_name, names in members.items() if name in names.split(","))
        result[name] = "; ".join(
            [
                *([f"number {number}"] if int(number) in (0, *range(1000, 60000)) else []),
                home,
                shell,
                secret,
                *(["also in " + " ".join(among)] if among else []),
            ]
        )
    return result, {name: ",".join(sorted(names.split(","))) for name, names in members.items()}


def kernel(root: str = "/proc/sys") -> dict[str, str]:
    """{setting: value} of every kernel setting that can be read."""
    settings = {"release": os.uname().release}
    for parent, _directories, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            setting = os.path.relpath(path, root).replace("/", ".")
            if any_of(setting, VOLATILE):
                continue
            try:
                with open(path, encoding="utf-8") as file:
                    settings[setting] = " ".join(file.read().split())
            except (OSError, UnicodeDecodeError):
                continue  # to be written only
    return settings


def release(site_root: str) -> tuple[dict[str, str], list[str]]:
    """({what: value} of the current release, sentences about files that are not what its manifest says)."""
    current = pathlib.Path(site_root, "current")
    if not current.is_symlink():
        return {"current": "none"}, []
    directory = current.resolve()
    manifest = (directory / "manifest.json").read_bytes()
    wrong = []
    for name, known in json.loads(manifest)["files"].items():
        path = directory / name
        try:
            now = f"-> {os.readlink(path)}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            now = None
        if now != known:
            wrong.append(
                f"{name} of release {directory.name} is {'missing' if now is None else 'not what was built'}: make deploy builds and brings a new one"
            )
    return {"current": directory.name, "manifest": hashlib.sha256(manifest).hexdigest()}, wrong


def sql(port: int | str, database: str, query: str) -> Any:
    """What a query comes to, as JSON, in a session that cannot write, of a role that is no superuser and finds no function of the site."""
    return json.loads(
        output(
            "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "/var/run/postgresql",
            "-p",
            str(port),
            "-U",
            "monitor",
            "-d",
            database,
            "-c",
            query,
            within=SLOW_S,
            PGOPTIONS=f"-c search_path=pg_catalog -c default_transaction_read_only=on -c statement_timeout={SLOW_S}s",
        )
    )


def flat(value: Any, name: str = "") -> dict[str, str]:
    """{"a.b": value} of nested dicts."""
    if not isinstance(value, dict):
        return {name: json.dumps(value)}
    return {
        key: text
        for part, content in value.items()
        for key, text in flat(content, f"{name}.{part}" if name else part).items()
    }


def pool_status(listing: str) -> dict[str, str]:
    """{setting: value}, from what pcp_pool_status prints."""
    return dict(re.findall(r"^name\s*:\s*(\S+)\s*\nvalue\s*:\s*(.*?)\s*$", listing, re.M))


class Snapshot:
    """This host, part by part."""

    def __init__(self, tiers: list[str], facts: dict[str, Any]) -> None:
        self.tiers, self.facts = tiers, facts
        self.parts: dict[str, dict[str, Any]] = {}
        self.faults: list[str] = []

    def system(self) -> None:
        """What every host has."""
        tier_directory = f"{self.facts['site_root']}/tier"
        self.parts["package"] = packages(
            output("dpkg-query", "-W", "-f", r"${db:Status-Abbrev}\t${binary:Package}\t${Version}\n", within=SLOW_S)
        )
        homes = [f"{entry.pw_dir}/.ssh" for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000]
        self.parts["file"] = files([*PLACES, *homes, tier_directory])
        self.parts["user"], self.parts["group"] = users(
            *(pathlib.Path("/etc", name).read_text(encoding="utf-8") for name in ("passwd", "group", "shadow"))
        )
        self.parts["kernel"] = kernel()

    def services(self) -> None:
        """What runs, when, and who may reach it."""
        listed = output("systemctl", "list-unit-files", "--plain", "--no-legend", within=SLOW_S)
        self.parts["unit"] = units(
            listed,
            output(
                "systemctl",
                "show",
                "--all",
                "-p",
                "Id,Type,BusName,LoadState,ActiveState,UnitFileState,TriggeredBy",
                "*.service",
                "*.socket",
                "*.timer",
                "*.path",
                within=SLOW_S,
            ),
        )
        self.parts["timer"] = timers(
            output(
                "systemctl",
                "show",
                "--all",
                "-p",
                "Id,TimersCalendar,TimersMonotonic,RandomizedDelayUSec",
                "*.timer",
                within=SLOW_S,
            )
        )
        self.parts["port"] = ports(output("ss", "-Hltunp", within=SLOW_S))
        # By name: a pattern finds only units that systemd has in memory, and one that a timer starts is there now and then.
        services = [
            name
            for name in (line.split()[0] for line in listed.splitlines())
            if name.endswith(".service") and "@." not in name
        ]
        self.parts["access"] = access(
            output("systemctl", "show", "-p", "Id,IPAddressAllow,IPAddressDeny", *services, within=SLOW_S),
            output("nft", "list", "ruleset", within=SLOW_S),
        )

    def app(self) -> None:
        """An app host: its release, what that declares of the database, and its pool of connections."""
        self.parts["release"], wrong = release(self.facts["site_root"])
        self.faults += wrong
        if self.parts["release"]["current"] != "none":
            output_of_manage = output("/usr/local/bin/manage", "shell", "-v", "0", "-c", DECLARED, within=SLOW_S)
            [declared] = [
                line.removeprefix("snapshot:") for line in output_of_manage.splitlines() if line.startswith("snapshot:")
            ]
            self.faults += [
                f"{sentence} in the database: release {self.parts['release']['current']} declares it"
                for sentence in json.loads(declared)
            ]
        status = pool_status(
            output("pcp_pool_status", "-h", "127.0.0.1", "-U", "follow", "-w", PCPPASSFILE="/etc/pgpool2/pcppass")
        )
        self.parts["pool"] = {
            f"pgpool {name}": status[name]
            for name in ("num_init_children", "max_pool", "child_life_time", "load_balance_mode")
            if name in status
        }

    def cache(self) -> None:
        """A cache host: the shape of its memcached."""
        with socket.create_connection(
            (self.facts["address"], self.facts["cache_port"]), timeout=ANSWER_S
        ) as connection:
            connection.sendall(b"stats settings\r\n")
            answer = b""
            while not answer.endswith(b"END\r\n") and (more := connection.recv(65536)):
                answer += more
        settings = dict(
            line.split(" ", 2)[1:]
            for line in answer.decode().splitlines()
            if line.startswith("STAT ") and line.count(" ") >= 2
        )
        self.parts["pool"] = {
            f"memcached {name}": settings[name]
            for name in ("maxbytes", "maxconns", "item_size_max", "num_threads", "evictions")
            if name in settings
        }

    def db(self) -> None:
        """A database: its settings, its roles, and the schema of every database of it."""
        port = self.facts["db_port"]
        self.parts["setting"] = sql(port, "postgres", SETTINGS)
        cluster = sql(port, "postgres", CLUSTER)
        self.parts["role"], self.parts["database"] = cluster["roles"], cluster["databases"]
        self.parts["schema"] = {
            f"{name}: {what}": value for name in cluster["databases"] for what, value in sql(port, name, SCHEMA).items()
        }
        connection = http.client.HTTPConnection(self.facts["address"], self.facts["patroni_port"], timeout=ANSWER_S)
        connection.request("GET", "/config")
        self.parts["pool"] = {
            f"patroni {name}": value for name, value in flat(json.loads(connection.getresponse().read())).items()
        }
        connection.close()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "tiers": {"type": "list", "elements": "str", "required": True},
            "facts": {"type": "dict", "required": True},
            "known": {"type": "dict", "required": True, "no_log": False},
        },
    )
    params = module.params
    host = Snapshot(params["tiers"], params["facts"])
    for part in ("system", "services", *(tier for tier in params["tiers"] if hasattr(Snapshot, tier))):
        try:
            getattr(host, part)()
        except (OSError, KeyError, ValueError, IndexError, subprocess.SubprocessError) as error:
            host.faults.append(f"its {part} cannot be told ({reason(error)}): make status")
    module.exit_json(changed=False, snapshot=host.parts, faults=host.faults, known=params["known"])


if __name__ == "__main__":
    main()
