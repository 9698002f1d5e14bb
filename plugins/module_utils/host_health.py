"""What a host does for the tier, and what is wrong with it. It needs no Ansible on the host: `make status` sends it to a bare Python.

Starting Python and importing modules is most of what a look costs a host: http.client, concurrent.futures and shutil alone were half of it.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping

from ansible.module_utils.host_probe import (
    ANSWER_S,
    Later,
    active,
    connects,
    http_get,
    json_get,
    memcached,
    output,
    size,
)
from ansible.module_utils.perlbal import console
from ansible.module_utils.service_health import (
    BACKUPS,
    LIGHTTPD,
    MEMCACHED,
    PGPOOL,
    etcd_problems,
    maintenance_state,
    patroni_problems,
    pgpool_nodes,
    site_problems,
)

TYPE_CHECKING = False  # what is only for a type checker is not imported: that takes longer than all else
if TYPE_CHECKING:
    from typing import Any

SITE_S = 2.5  # seconds the site has, which asks others itself
SITE_START_S = 10.0  # seconds it has where it may have just been started: the first request imports Django
DISK_FULL = 0.92  # part of a file system
LOOK_OLD_S = 300  # seconds: five looks at the backups
MUNIN_OLD_S = 900  # seconds: three rounds of munin-cron
LOGS_WAIT = 20 << 20  # bytes of log lines that a monitor has not yet
PAGE_OLD_S = 120  # seconds: eight looks of the monitor's page
CLOCKS = ("systemd-timesyncd", "chrony", "ntpsec")  # what sets a host's clock, one of them
CLOCK_S = 600  # seconds after a boot within which it is set
UNITS = ["ssh", "systemd-journald", "rsyslog", "munin-node"]  # that are active on every host


class Host:
    """This host, with what is found out about it."""

    def __init__(self, members: dict[str, dict[str, str]], facts: dict[str, Any]) -> None:
        self.members, self.facts = members, facts
        self.names = {address: name for name, address in members["all"].items()}
        self.does: dict[str, str] = {}
        self.sees: dict[str, dict[str, bool]] = {}
        self.wrong: list[str] = []
        self.unanswered: list[str] = []
        self.raw: dict[str, Any] = {}
        self.questions: list[tuple[str, dict[str, str], list[str], list[Later]]] = []

    def uses(self, pool: str, group: str, addresses: Iterable[str], answers: Callable[[str], object]) -> None:
        """Ask everybody in a pool of this host's, without waiting; answers(address) tells whether one answers."""
        addresses = list(dict.fromkeys(addresses))
        self.questions.append((pool, self.members[group], addresses, [Later(answers, a) for a in addresses]))

    def result(self) -> dict[str, Any]:
        """What is found out, as the module host_status documents it."""
        return {
            "does": self.does,
            "sees": self.sees,
            "wrong": self.wrong + self.unanswered,
            "wrong_itself": self.wrong,
            "raw": self.raw,
        }

    def record_answers(self) -> None:
        """Note who answered, and complain where the inventory says otherwise or one is silent."""
        for pool, declared, addresses, answers in self.questions:
            states = self.sees[pool] = {
                self.names.get(a, a): bool(answer.result()) for a, answer in zip(addresses, answers)
            }
            self.wrong += [
                f"does not know {name} of its {pool}: make converge" for name in sorted(set(declared) - set(states))
            ]
            self.wrong += [
                f"still has {name} among its {pool}, which the inventory has not: make converge"
                for name in sorted(set(states) - set(declared))
            ]
            self.unanswered += [f"gets no answer from {name} of its {pool}" for name, up in states.items() if not up]

    def services(self, units: Iterable[str]) -> None:
        """Every unit that has to be active, and those that failed."""
        states, failed = active(
            subprocess.run(
                ["systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        named = {unit if "." in unit else f"{unit}.service" for unit in units}
        down = {unit for unit in named if states.get(unit) not in ("active", "reloading")}
        self.clock(states)
        self.wrong += [
            f"{unit} {'failed' if unit in failed else 'is not running'}: systemctl status {unit}"
            for unit in sorted(failed | down)
        ]

    def clock(self, states: Mapping[str, str]) -> None:
        """Whether what sets the clock has been told the time, where it runs: in a container it does not."""
        running = [unit for unit in CLOCKS if states.get(f"{unit}.service") == "active"]
        if (
            running
            and time.clock_gettime(time.CLOCK_BOOTTIME) > CLOCK_S
            and "NTPSynchronized=no" in output("timedatectl", "show")
        ):
            self.wrong.append(f"no time server has told it the time: journalctl -u {running[0]}")

    def disks(self) -> None:
        """The file systems that can fill up."""
        for mount in sorted(
            {str(p) for p in map(pathlib.Path, ["/", "/var", self.facts["site_root"]]) if p.is_mount()}
        ):
            disk = os.statvfs(mount)
            used = disk.f_blocks - disk.f_bfree
            if used / (used + disk.f_bavail) > DISK_FULL:
                self.wrong.append(f"{mount} is {100 * used // (used + disk.f_bavail)} % full")

    def logs(self) -> None:
        """Whether its log lines reach the monitors."""
        monitors = {
            name: address for name, address in self.members["monitor"].items() if address != self.facts["address"]
        }
        sent = {
            name: bool(output("ss", "-Htn", "state", "established", "dst", f"{address}:{self.facts['log_port']}"))
            for name, address in monitors.items()
        }
        self.raw["logs"] = {"seconds": None, "to": sent}
        # Only then does it matter how long it has had to find the others: to itself, and to those whose lines do not come.
        if not all(sent.values()) or self.facts["address"] in self.members["monitor"].values():
            begun = output(
                "systemctl", "show", "--property=ActiveEnterTimestampMonotonic", "--value", "rsyslog"
            ).strip()
            self.raw["logs"]["seconds"] = time.clock_gettime(time.CLOCK_MONOTONIC) - int(begun or 0) / 1_000_000
        for name in monitors:
            waiting = sum(map(size, pathlib.Path("/var/spool/rsyslog").glob(f"to-{name}.0*")))
            if waiting > LOGS_WAIT:
                self.wrong.append(
                    f"{waiting >> 20} MiB of log lines wait for {name}; beyond log_queue_max new ones stay here: journalctl -u rsyslog"
                )

    def image(self, groups: Iterable[str], path: str = "/var/lib/realworld-image") -> None:
        """The golden image that the host came from, as {date, lacks: packages, spare: packages}, where it was made for its groups as they are."""
        if not pathlib.Path(path).exists():
            return
        image, packages = json.loads(pathlib.Path(path).read_text(encoding="utf-8")), set(self.facts["packages"])
        if image["groups"] == sorted(groups):
            self.raw["image"] = {
                "date": image["date"],
                "lacks": sorted(packages.difference(image["packages"])),
                "spare": sorted(set(image["packages"]) - packages),
            }

    def lb(self) -> None:
        """A balancer: the virtual IP, and the pools of its engine."""
        facts = self.facts
        holds = bool(output("ip", "-oneline", "address", "show", "to", facts["lb_vip"]).strip())
        self.raw["holds"] = holds
        self.does["lb"] = f"holds {facts['lb_vip']}" if holds else "stands by"
        self.raw["maintenance"] = maintenance = maintenance_state(time.time())
        if maintenance:
            mode = "read-only maintenance" if maintenance["readonly"] else "maintenance"
            self.does["lb"] += f", {mode} until {time.strftime('%H:%M:%S UTC', time.gmtime(maintenance['until']))}"
        self.raw["balances"] = http_get("127.0.0.1", facts["lb_http_port"], facts["lb_health_path"])[0] == 200
        if not self.raw["balances"]:
            self.wrong.append(f"its {facts['lb_engine']} does not answer: systemctl status {facts['lb_engine']}")
        pools = self.perlbal() if facts["lb_engine"] == "perlbal" else self.nginx()
        self.uses(
            "pages", "app", pools["pages"], lambda a: http_get(a, facts["app_port"], "/-/health", SITE_S)[0] == 200
        )
        self.uses("files", "media", pools["files"], lambda a: http_get(a, facts["media_port"], "/")[0] is not None)

    def nginx(self) -> dict[str, list[str]]:
        """{pool: addresses} of an nginx."""
        config = pathlib.Path("/etc/nginx/nginx.conf").read_text(encoding="utf-8")
        return {
            name: re.findall(r"^\s*server ([^\s:]+):", body, re.M)
            for name, body in re.findall(r"^\s*upstream (\w+) \{(.*?)^\s*\}", config, re.M | re.S)
        }

    def perlbal(self) -> dict[str, list[str]]:
        """{pool: addresses} of a Perlbal, as its console has them."""
        names = ["pages", "files"]
        live = dict(
            zip(
                names, console(self.facts["lb_console_port"], *(f"show pool {name}" for name in names), within=ANSWER_S)
            )
        )
        live = {name: sorted(line.split()[0] for line in lines) for name, lines in live.items()}
        config = pathlib.Path("/etc/perlbal/pools.conf").read_text(encoding="utf-8")
        if live != {name: sorted(re.findall(rf"^POOL {name} ADD (\S+)", config, re.M)) for name in names}:
            self.wrong.append(
                "its pools were changed on the console, and are as before at its next start: make converge"
            )
        return {name: [node.split(":")[0] for node in nodes] for name, nodes in live.items()}

    def app(self) -> None:
        """An app host: the site's own word, its pgpool, its caches, and where its uploads go."""
        facts = self.facts
        site = json.loads(pathlib.Path(f"/etc/{facts['site_name']}/site.json").read_text(encoding="utf-8"))
        answer = Later(json_get, facts["address"], facts["app_port"], "/-/health", SITE_S)
        self.uses(
            "caches",
            "cache",
            [address.rsplit(":", 1)[0] for address in site["caches"]],
            lambda a: memcached(a, facts["cache_port"]),
        )
        self.uses(
            "uploads",
            "media",
            [address.rsplit(":", 1)[0] for address in site["media"]["hosts"]],
            lambda a: connects(a, facts["media_upload_port"]),
        )
        nodes = pgpool_nodes(
            output("pcp_node_info", "-h", "127.0.0.1", "-U", "follow", "-w", "-a", PCPPASSFILE="/etc/pgpool2/pcppass")
        )
        up = {node["address"]: node["up"] for node in nodes}
        if nodes:
            self.uses("databases", "db", up, up.get)
            primaries = [node["address"] for node in nodes if node["primary"] and up[node["address"]]]
            self.raw["primaries"] = [self.names.get(address, address) for address in primaries]
        else:
            self.wrong.append(PGPOOL)
        health = answer.result()
        self.raw["release"] = health.get("release")
        self.does["app"] = f"serves {health.get('release') or 'nothing'}"
        self.wrong += site_problems(health)

    def media(self) -> None:
        """A media host: its files, and whether it keeps up with the others."""
        if http_get(self.facts["address"], self.facts["media_port"], "/")[0] is None:
            self.wrong.append(LIGHTTPD)
        index = pathlib.Path(self.facts["media_root"], ".sync/index")
        count = (
            sum(" -1 " not in line for line in index.read_text(encoding="ascii").splitlines()) if index.exists() else 0
        )
        self.does["media"] = f"{count} upload{'' if count == 1 else 's'}"

    def cache(self) -> None:
        """A cache host."""
        stats = memcached(self.facts["address"], self.facts["cache_port"])
        if not stats:
            self.wrong.append(MEMCACHED)
            return
        gets = int(stats["cmd_get"])
        self.does["cache"] = (
            f"{stats['curr_items']} items in {int(stats['bytes']) >> 20} of {int(stats['limit_maxbytes']) >> 20} MiB"
            + (f", {100 * int(stats['get_hits']) // gets} % hits" if gets else "")
        )

    def db(self) -> None:
        """A database: what its Patroni says of it and of all."""
        own = json_get(self.facts["address"], self.facts["patroni_port"], "/patroni")
        self.raw["cluster"] = json_get(self.facts["address"], self.facts["patroni_port"], "/cluster")
        self.wrong += patroni_problems(own)
        if not own:
            return
        self.raw["role"] = own.get("role")
        self.does["db"] = (
            f"{'primary' if own.get('role') == 'primary' else 'standby'}, timeline {own.get('timeline', '?')}"
        )
        if own.get("role") == "primary" and any(
            member["role"] != "leader" and member["state"] != "streaming"
            for member in self.raw["cluster"].get("members", [])
        ):
            self.raw["lost_slots"] = self.lost_slots()

    def lost_slots(self) -> list[str]:
        """Replication slots of standbys for which this primary has kept no WAL. Empty where it does not tell."""
        command = f"psql -XAtq -h /var/run/postgresql -p {self.facts['db_port']} -U monitor -d postgres -c".split()
        query = "select slot_name from pg_replication_slots where wal_status = 'lost'"
        result = subprocess.run([*command, query], capture_output=True, text=True, check=False, timeout=ANSWER_S)
        return result.stdout.split()

    def quorum(self) -> None:
        """A member of etcd."""
        problems = etcd_problems(json_get(self.facts["address"], self.facts["etcd_metrics_port"], "/health"))
        self.does["quorum"] = "etcd is silent" if problems else "etcd votes"
        self.wrong += problems

    def monitor(self) -> None:
        """The monitor."""
        everyone = set(self.members["all"].values())
        for watcher, path, line in (
            ("Munin", "/etc/munin/munin.conf", r"^\s*address (\S+)"),
            ("Nagios", "/etc/nagios4/tier.cfg", r"^\s*address +(\S+)\n\s*parents +tier$"),
        ):
            watched = set(re.findall(line, pathlib.Path(path).read_text(encoding="utf-8"), re.M))
            self.wrong += [
                f"{watcher} does not watch {self.names[a]}: make converge" for a in sorted(everyone - watched)
            ]
            self.wrong += [
                f"{watcher} still watches {a}, which the inventory has not: make converge"
                for a in sorted(watched - everyone)
            ]
        stamp = pathlib.Path("/var/lib/munin/datafile")
        age = time.time() - stamp.stat().st_mtime if stamp.exists() else None
        self.does["monitor"] = "no graphs yet" if age is None else f"graphs of {int(age // 60)} min ago"
        if age is not None and age > MUNIN_OLD_S:
            self.wrong.append("Munin has not looked for a while: journalctl -u munin-cron")
        page = pathlib.Path("/var/lib/status-page/index.html")
        if not page.exists() or time.time() - page.stat().st_mtime > PAGE_OLD_S:
            self.wrong.append("its page is blind: journalctl -u status-page")

    def backup(self) -> None:
        """The backup host: how old the backups are, and what is wrong with them."""
        path = pathlib.Path(self.facts["backup_state"])
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        ages = {
            kind: time.time() - state[kind]["at"]
            for kind in ("full", "incr", "media", "drill")
            if "at" in state.get(kind, {})
        }
        self.does["backup"] = (
            ", ".join(f"{kind} of {age / 3600:.1f} h ago" for kind, age in ages.items()) or "no backup yet"
        )
        if time.time() - state.get("looked", 0) > LOOK_OLD_S:
            self.wrong.append(BACKUPS)
        self.wrong += state.get("wrong", [])


def service_problems(tiers: Iterable[str], facts: dict[str, Any]) -> list[str]:
    """Problems of the services that others use of this host, in its tiers. facts: of the environment, with the host's address."""
    address, problems = facts["address"], []
    if "app" in tiers:
        problems += site_problems(json_get(address, facts["app_port"], "/-/health", SITE_START_S))
    if "media" in tiers and not all(connects(address, facts[port]) for port in ("media_port", "media_upload_port")):
        problems.append(LIGHTTPD)
    if "cache" in tiers and not connects(address, facts["cache_port"]):
        problems.append(MEMCACHED)
    if "quorum" in tiers:
        problems += etcd_problems(json_get(address, facts["etcd_metrics_port"], "/health"))
    return problems


def check(
    name: str,
    groups: Mapping[str, Iterable[str]],
    addresses: Mapping[str, str],
    facts: dict[str, Any],
    services_only: bool = False,
) -> dict[str, Any]:
    """Ask this host, by its name in the inventory. groups: {group: hosts}, those that are no tier are passed over; addresses: {host: address}; facts of the environment.

    services_only: whether only the services that others use are asked. {does, sees, wrong, wrong_itself, raw, asked}, as the module host_status
    documents them.
    """
    members = {
        group: {member: addresses[member] for member in names}
        for group, names in groups.items()
        if group in ("all", *facts["tiers"])
    }
    host = Host(members, facts | {"address": addresses[name]})
    tiers = [group for group, names in members.items() if name in names and group != "all"]
    if services_only:
        host.wrong += service_problems(tiers, host.facts)
        return host.result()
    host.services(sorted({*UNITS, *facts["active_units"]}))
    host.disks()
    host.logs()
    host.image(tiers)
    for tier in tiers:
        try:
            getattr(host, tier)()
        except (OSError, KeyError, ValueError, IndexError) as error:
            host.wrong.append(f"{tier} is not as the tier builds it ({type(error).__name__}: {error}): make converge")
    host.record_answers()
    asked = {"groups": {group: list(names) for group, names in members.items()}, "facts": facts}
    return {**host.result(), "asked": asked}
