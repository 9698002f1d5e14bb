"""The fault that each check of Nagios has to alarm about, the contact of the alarm, and the checks that stay silent.

Faults come in waves, all of a wave at once. None of them breaks what the check of another fault needs: that check would
be silent then.
"""

import dataclasses
from collections.abc import Callable

from faults import Act, engine
from target import Target

Hosts = Callable[[Target], list[str]]
Fault = tuple[Act, Act]  # (fault, repair) of a host


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A fault that a check has to alarm about."""

    check: str
    where: Hosts  # where(target) is the hosts on which the check is to alarm; ["tier"] for the tier as a whole
    contact: str
    fault: Act | None = None  # fault(target, host) breaks each of them …
    repair: Act | None = None  # … and repair(target, host) repairs it; None: another fault of the wave breaks it
    at: Hosts | None = None  # hosts that are broken, where others than those alarm
    silent: Callable[[Target], list[tuple[str, str]]] | None = None  # (host, check) that fail without an alarm
    may: tuple[str, ...] = ()  # checks of any host that may alarm besides: the fault is a cause for them, too
    after: tuple[str, ...] = ()  # checks that may alarm during the repair: they recover after what silenced them
    undeliverable: bool = False  # whether alarms cannot be sent before the repair


def shell(command: str) -> Act:
    """An act on a host: a shell command."""
    return lambda target, host: target.on(host, command)


def last(group: str) -> Hosts:
    """The last host of a group, as a list."""
    return lambda target: [target.groups[group][-1]]


def first(group: str) -> Hosts:
    """The first host of a group, as a list."""
    return lambda target: [target.groups[group][0]]


def every(group: str) -> Hosts:
    """All hosts of a group."""
    return lambda target: list(target.groups[group])


def tier(_target: Target) -> list[str]:
    """The tier as a whole."""
    return ["tier"]


def backup_balancer(target: Target) -> list[str]:
    """The balancer without the virtual IP."""
    return [host for host in target.groups["lb"] if host != target.holder()][:1]


def holder(target: Target) -> list[str]:
    """The balancer with the virtual IP."""
    return [target.holder()]


def standby(target: Target) -> list[str]:
    """A database that is not the primary."""
    return [target.standby()]


def on(hosts: list[str], *checks: str) -> list[tuple[str, str]]:
    """Every (host, check) of some hosts and checks."""
    return [(host, check) for host in hosts for check in checks]


BACKUP = "/etc/tier-backup.json"


def plugin_with(plugin: str, setting: str) -> Fault:
    """A plugin of munin-node that runs with another setting. No restart: munin-node is away for seconds then."""
    link = f"/etc/munin/plugins/{plugin}"
    return (
        shell(
            f"""real=$(readlink {link}); rm {link}; printf '#!/bin/sh\\nexport {setting}\\nexec %s "$@"\\n' "$real" > {link}; chmod 755 {link}"""
        ),
        shell(f"""real=$(sed -n 's/^exec \\([^ ]*\\) .*/\\1/p' {link}); ln -sf "$real" {link}"""),
    )


def units(*names: str) -> Fault:
    """Units that are stopped."""
    return shell(f"systemctl stop {' '.join(names)}"), shell(f"systemctl start {' '.join(names)}")


DROP_IN = "/run/systemd/system/pgbackrest.service.d"
FAILING_UNIT = r"[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=10ms\nRestartSteps=0\n"


def exhaust_restarts(target: Target, host: str) -> None:
    """Let a service fail whenever it starts, until systemd gives up: faster than with its own limits."""
    target.on(
        host,
        f"mkdir {DROP_IN} && printf '{FAILING_UNIT}' > {DROP_IN}/zz-alarm.conf && systemctl daemon-reload && systemctl restart pgbackrest",
    )
    target.wait(
        lambda: target.on(host, "systemctl show -P ActiveState pgbackrest") == "failed",
        f"end of all restarts on {host}",
        60,
    )


def restore_service(target: Target, host: str) -> None:
    """Undo exhaust_restarts."""
    target.on(
        host,
        f"rm -r {DROP_IN} && systemctl daemon-reload && systemctl reset-failed pgbackrest && systemctl start pgbackrest",
    )


def isolate(target: Target, host: str, peers: list[str], verb: str = "add") -> None:
    """Keep a host from reaching peers, by name or address."""
    target.on(host, " && ".join(f"ip route {verb} blackhole {target.address.get(peer, peer)}" for peer in peers))


def undo_isolate(target: Target, host: str, peers: list[str]) -> None:
    """Undo isolate."""
    isolate(target, host, peers, "del")


def detach(target: Target, host: str) -> None:
    """Detach a standby from pgpool, and stop the service that would attach it again."""
    node = target.groups["db"].index(target.standby())
    target.on(
        host,
        f"systemctl stop pgpool-follow && PCPPASSFILE=/etc/pgpool2/pcppass pcp_detach_node -h 127.0.0.1 -U follow -w -n {node}",
    )


def primary_to_cut(target: Target) -> str:
    """The name of the primary, remembered for the repair."""
    target.cut_from = target.primary()
    return target.cut_from


def all_peers(target: Target) -> list[str]:
    """The monitor's gateway, the virtual IP and all hosts but monitors."""
    return [
        target.gateway,
        target.facts["lb_vip"],
        *(host for host in target.groups["all"] if host not in target.groups["monitor"]),
    ]


def advance_clock(target: Target, host: str) -> None:
    """A clock that is an hour ahead, for the plugin that asks it."""
    target.on(
        host,
        'printf \'#!/bin/sh\\nexec /usr/bin/date --date "1 hour" "$@"\\n\' > /usr/local/bin/date; chmod 755 /usr/local/bin/date',
    )
    plugin_with("clock", "PATH=/usr/local/bin:/usr/bin:/bin")[0](target, host)


def restore_clock(target: Target, host: str) -> None:
    """Undo advance_clock."""
    target.on(host, "rm /usr/local/bin/date")
    plugin_with("clock", "")[1](target, host)


def restart_upload_archive(target: Target, host: str) -> None:
    """Take backups of uploads again."""
    target.on(host, "systemctl start restic-rest-server")
    for media in target.groups["media"]:
        target.try_on(media, "systemctl reset-failed media-backup.service")


# Lookups of missing keys until the repair: many at once, so that the next check finds them, then hundreds a second.
MISSES = """cat > /run/misses.py <<'END'
import itertools, re, socket, time
settings = dict(re.findall(r"^-([lp]) (\\S+)$", open("/etc/memcached.conf").read(), re.M))
with socket.create_connection((settings["l"], int(settings["p"])), 5) as connection:
    answers = connection.makefile("rb")
    for turn in itertools.count():
        connection.sendall(b"get " + b" ".join(b"nobody.%d" % number for number in range(100)) + b"\\r\\n")
        assert answers.readline() == b"END\\r\\n"
        time.sleep(0.2 if turn > 200 else 0)  # the pace of misses
END
systemd-run --quiet --collect --unit=alarm-misses python3 /run/misses.py"""

# Without its state the plugin counts from nothing.
HITS = "systemctl stop alarm-misses; rm -f /run/misses.py /var/lib/munin-node/plugin-state/*/memcached_hits-*"


SHORT_CERTIFICATE = """set -e; cp -p {path} {path}.kept
openssl req -x509 -key {key} -days 3 -subj /CN=short -out /run/short.crt
sed '/BEGIN CERT/,/END CERT/d' {path}.kept | cat - /run/short.crt > {path}; rm /run/short.crt; systemctl reload-or-restart {unit}"""


def expiring_certificate(path: str, unit: str = "{engine}", key: str = "") -> Fault:
    """A server shows a certificate that expires in three days. Its key is in the same file where none is named.

    {engine} is the balancers'.
    """

    def act(command: str) -> Act:
        return lambda target, host: target.on(
            host, command.format(path=path, unit=unit, key=key or path).format(engine=target.engine)
        )

    return act(SHORT_CERTIFICATE), act("mv {path}.kept {path} && systemctl reload-or-restart {unit}")


# A visitor who asks for the failing page until the repair: at once as often as is judged, then every second.
VISITOR = """systemd-run --quiet --collect --unit=alarm-visitor sh -c 'n=0; while true
do curl -sk -o /dev/null -m 20 --resolve {name}:{port}:{vip} https://{name}:{port}/ledger/; n=$((n+1)); [ $n -lt 30 ] || sleep 1; done'"""


def break_page(target: Target, host: str) -> None:
    """Let a page fail that no check asks for, and a visitor ask for it."""
    target.sql("alter table ledger_bank rename to ledger_bank_away")
    target.on(
        host,
        VISITOR.format(
            name=target.tier.value("site_hosts", host)[0],
            port=target.tier.value("lb_https_port", host),
            vip=target.facts["lb_vip"],
        ),
    )


def repair_page(target: Target, host: str) -> None:
    """Undo break_page."""
    target.sql("alter table ledger_bank_away rename to ledger_bank")
    target.on(host, "systemctl stop alarm-visitor")


OLD_BACKUP = f"""cp -p {BACKUP} {BACKUP}.kept && sed -i 's/"incr": [0-9]*/"incr": 0/; s/"drill": [0-9][0-9]*/"drill": 0/' {BACKUP}
systemctl start tier-backup@look"""

WAVES: dict[str, list[Alarm]] = {
    "of single hosts": [
        Alarm(
            "host",
            last("media"),
            "oncall",
            lambda target, host: target.kill(host),
            lambda target, host: target.start(host),
            # A host that starts answers pings before its services answer.
            after=("files", "munin", "memory"),
            silent=lambda target: (
                on(last("media")(target), "files", "munin", "memory")
                + on(holder(target), f"pools {last('media')(target)[0]} files")
            ),
        ),
        Alarm("balancer", backup_balancer, "oncall", engine("stop"), engine("start")),
        Alarm(
            "munin",
            backup_balancer,
            "ops",
            *units("munin-node"),
            silent=lambda target: on(backup_balancer(target), "pools", "memory", "units"),
        ),
        Alarm("health", last("app"), "oncall", *units("apache2")),
        Alarm(
            "cache",
            last("cache"),
            "oncall",
            *units("memcached"),
            silent=lambda target: on(last("cache")(target), "hit_rate"),
        ),
        Alarm("hit_rate", first("cache"), "ops", shell(MISSES), shell(HITS)),
        Alarm("etcd", last("quorum"), "ops", *units("etcd")),
        Alarm("disks", first("cache"), "oncall", *plugin_with("df", "critical=-1")),
        Alarm("memory", first("media"), "oncall", *plugin_with("vitals", "memory_critical=101:")),
        Alarm("load", first("app"), "ops", *plugin_with("load", "load_critical=-1")),
        Alarm("units", last("db"), "ops", exhaust_restarts, restore_service, may=("backups",)),
        Alarm("reboot", first("db"), "ops", shell("touch /run/reboot-required"), shell("rm /run/reboot-required")),
        Alarm(
            "replication",
            tier,
            "oncall",
            lambda target, host: isolate(target, host, [primary_to_cut(target)]),
            lambda target, host: undo_isolate(target, host, [target.cut_from]),
            at=standby,
        ),
        # Only what the plugin asks for the time: a container has its machine's clock.
        Alarm("clock", last("app"), "ops", advance_clock, restore_clock),
        Alarm(
            "backups",
            last("backup"),
            "ops",
            shell(OLD_BACKUP),
            shell(f"mv {BACKUP}.kept {BACKUP} && systemctl start tier-backup@look"),
        ),
        Alarm("restore_drill", last("backup"), "ops"),
        # A backup of the uploads that was due meanwhile has failed.
        Alarm(
            "archive_uploads",
            last("backup"),
            "ops",
            shell("systemctl stop restic-rest-server"),
            restart_upload_archive,
            may=("units",),
        ),
        # By its socket it would come back with the next line.
        Alarm(
            "logs",
            last("monitor"),
            "ops",
            shell("systemctl stop syslog.socket rsyslog"),
            shell("systemctl start syslog.socket rsyslog"),
        ),
        Alarm(
            "graphs",
            last("monitor"),
            "ops",
            shell(
                "systemctl stop munin-cron.timer munin-cron.service && touch --date '2 hours ago' /var/lib/munin/datafile"
            ),
            shell("touch /var/lib/munin/datafile && systemctl start munin-cron.timer"),
        ),
    ],
    "between hosts": [
        Alarm(
            "pools",
            backup_balancer,
            "oncall",
            lambda target, host: isolate(target, host, target.groups["app"][-1:]),
            lambda target, host: undo_isolate(target, host, target.groups["app"][-1:]),
        ),
        Alarm("certificate", tier, "ops", *expiring_certificate("/etc/{engine}/site.pem"), at=holder),
        Alarm("answers", holder, "oncall", break_page, repair_page),
        Alarm("pgpool", first("app"), "oncall", detach, shell("systemctl start pgpool-follow")),
        # nginx answers, with another page than requested.
        Alarm("web", last("monitor"), "ops", *units("fcgiwrap.socket", "fcgiwrap.service")),
        # The archive's own complaint about WAL may come, too.
        Alarm("archive", last("backup"), "ops", *units("pgbackrest"), may=("backups",)),
    ],
    "of the quorum and the virtual IP": [
        # The primary remains primary as long as it reaches all the others.
        Alarm("quorum", tier, "oncall", *units("etcd"), at=lambda target: target.groups["quorum"][:2]),
        Alarm("etcd", lambda target: target.groups["quorum"][:2], "ops"),
        Alarm(
            "web_certificate",
            last("monitor"),
            "ops",
            *expiring_certificate("/etc/munin-tls/certificate.pem", "nginx", "/etc/munin-tls/key.pem"),
        ),
        Alarm("virtual_ip", tier, "oncall", *units("keepalived"), at=every("lb")),
        Alarm("page", tier, "oncall", silent=lambda target: on(["tier"], "certificate")),
        Alarm(
            "files",
            last("media"),
            "oncall",
            *units("lighttpd"),
            silent=lambda target: on(target.groups["lb"], f"pools {last('media')(target)[0]} files"),
        ),
    ],
    "of all databases": [
        Alarm(
            "primary",
            tier,
            "oncall",
            *units("patroni"),
            at=every("db"),
            may=("page",),
            after=("replication",),
            silent=lambda target: on(target.groups["app"], "health") + on(["tier"], "replication"),
        ),
        Alarm("patroni", every("db"), "oncall"),
    ],
    "of the monitor": [
        Alarm(
            "tier",
            tier,
            "oncall",
            lambda target, host: isolate(target, host, all_peers(target)),
            lambda target, host: undo_isolate(target, host, all_peers(target)),
            at=last("monitor"),
            undeliverable=True,
            silent=lambda target: (
                on([host for host in target.groups["all"] if host not in target.groups["monitor"]], "host")
                + on(["tier"], "page")
            ),
        ),
    ],
}
