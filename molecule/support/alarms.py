"""What breaks each check of Nagios, whom that alarms, and who has to stay silent.

Faults come in waves, all of a wave at once. None of them breaks what the check of another one needs: that would be silent then.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A fault that a check has to tell."""

    check: str
    where: object  # where(target) is the hosts on which the check is to alarm; ["tier"] for the tier as a whole
    tells: str  # the contact
    fault: object = None  # fault(target, host) breaks each of them …
    mend: object = None  # … and mend(target, host) mends it; None: another fault of the wave does
    at: object = None  # hosts that are broken, where they are others than those that alarm
    silent: object = None  # silent(target) is [(host, check)] that fail with it, and alarm nobody
    may: tuple = ()  # checks that may alarm besides, of whichever host, since they have a cause of their own in it
    after: tuple = ()  # checks that may alarm while it is mended: well a moment later than what silenced them
    deaf: bool = False  # whether nobody can be told before it is mended


def shell(command):
    """An act on a host: a command."""
    return lambda target, host: target.on(host, command)


def last(group):
    """The last host of a group."""
    return lambda target: [target.groups[group][-1]]


def first(group):
    """The first host of a group."""
    return lambda target: [target.groups[group][0]]


def every(group):
    """All hosts of a group."""
    return lambda target: list(target.groups[group])


def tier(_place):
    """The tier as a whole."""
    return ["tier"]


def standing_by(target):
    """The balancer without the virtual IP."""
    return [host for host in target.groups["lb"] if host != target.holder()][:1]


def holder(target):
    """The balancer with it."""
    return [target.holder()]


def standby(target):
    """A database that is not the primary."""
    return [target.standby()]


def on(hosts, *checks):
    """(host, check) of each of them."""
    return [(host, check) for host in hosts for check in checks]


BACKUP = "/etc/tier-backup.json"


def asked(plugin, setting):
    """(fault, mend): a plugin of munin-node's that runs with another setting. No restart: munin-node is away for seconds then."""
    link = f"/etc/munin/plugins/{plugin}"
    return (
        shell(
            f"""real=$(readlink {link}); rm {link}; printf '#!/bin/sh\\nexport {setting}\\nexec %s "$@"\\n' "$real" > {link}; chmod 755 {link}"""
        ),
        shell(f"""real=$(sed -n 's/^exec \\([^ ]*\\) .*/\\1/p' {link}); ln -sf "$real" {link}"""),
    )


def units(*names):
    """(fault, mend): units that are stopped."""
    return shell(f"systemctl stop {' '.join(names)}"), shell(f"systemctl start {' '.join(names)}")


HOPELESS = "/run/systemd/system/pgbackrest.service.d"
ENDS = r"[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=10ms\nRestartSteps=0\n"


def hopeless(target, host):
    """A service that ends whenever it is started, until systemd has tried as often as it may: only faster than it would."""
    target.on(
        host,
        f"mkdir {HOPELESS} && printf '{ENDS}' > {HOPELESS}/zz-alarm.conf && systemctl daemon-reload && systemctl restart pgbackrest",
    )
    target.wait(
        lambda: target.on(host, "systemctl show -P ActiveState pgbackrest") == "failed",
        f"end of all tries on {host}",
        60,
    )


def hopeful(target, host):
    """The service as it was."""
    target.on(
        host,
        f"rm -r {HOPELESS} && systemctl daemon-reload && systemctl reset-failed pgbackrest && systemctl start pgbackrest",
    )


def cut(target, host, others, verb="add"):
    """A host does not reach others, by name or address."""
    target.on(host, " && ".join(f"ip route {verb} blackhole {target.address.get(other, other)}" for other in others))


def uncut(target, host, others):
    """It does again."""
    cut(target, host, others, "del")


def engine(verb):
    """An act on the engine of a balancer."""
    return lambda target, host: target.on(host, f"systemctl {verb} {target.engine}")


def detach(target, host):
    """Let pgpool pass over a standby, with nobody to put that right."""
    node = target.groups["db"].index(target.standby())
    target.on(
        host,
        f"systemctl stop pgpool-follow && PCPPASSFILE=/etc/pgpool2/pcppass pcp_detach_node -h 127.0.0.1 -U follow -w -n {node}",
    )


def leader(target):
    """The name of the primary, for as long as a standby that is cut off from it has to know it."""
    target.cut_from = target.primary()
    return target.cut_from


def gateway(target):
    """Everybody whom the monitor reaches, and how it reaches them."""
    return [
        target.gateway,
        target.facts["lb_vip"],
        *(host for host in target.groups["all"] if host not in target.groups["monitor"]),
    ]


def fast(target, host):
    """A clock that is an hour ahead, for the plugin that asks it."""
    target.on(
        host,
        'printf \'#!/bin/sh\\nexec /usr/bin/date --date "1 hour" "$@"\\n\' > /usr/local/bin/date; chmod 755 /usr/local/bin/date',
    )
    asked("clock", "PATH=/usr/local/bin:/usr/bin:/bin")[0](target, host)


def right(target, host):
    """The right time again."""
    target.on(host, "rm /usr/local/bin/date")
    asked("clock", "")[1](target, host)


def uploads_again(target, host):
    """Take uploads in again."""
    target.on(host, "systemctl start restic-rest-server")
    for media in target.groups["media"]:
        target.try_on(media, "systemctl reset-failed media-backup.service")


# Lookups of what nobody has, until it is mended: many at once, so that the next look finds them, then some hundreds a second.
MISSES = """cat > /run/misses.py <<'END'
import itertools, re, socket, time
told = dict(re.findall(r"^-([lp]) (\\S+)$", open("/etc/memcached.conf").read(), re.M))
with socket.create_connection((told["l"], int(told["p"])), 5) as connection:
    answers = connection.makefile("rb")
    for turn in itertools.count():
        connection.sendall(b"get " + b" ".join(b"nobody.%d" % number for number in range(100)) + b"\\r\\n")
        assert answers.readline() == b"END\\r\\n"
        time.sleep(0.2 if turn > 200 else 0)  # the pace of misses
END
systemd-run --quiet --collect --unit=alarm-misses python3 /run/misses.py"""

# The plugin begins to count anew.
HITS = "systemctl stop alarm-misses; rm -f /run/misses.py /var/lib/munin-node/plugin-state/*/memcached_hits-*"


SHORT = """set -e; cp -p {path} {path}.kept
openssl req -x509 -key {key} -days 3 -subj /CN=short -out /run/short.crt
sed '/BEGIN CERT/,/END CERT/d' {path}.kept | cat - /run/short.crt > {path}; rm /run/short.crt; systemctl reload-or-restart {unit}"""


def short(path, unit="{engine}", key=""):
    """(fault, mend): a server shows a certificate that runs out in three days. Its key is in the same file where none is named.

    {engine} is the balancers'.
    """

    def act(command):
        return lambda target, host: target.on(
            host, command.format(path=path, unit=unit, key=key or path).format(engine=target.engine)
        )

    return act(SHORT), act("mv {path}.kept {path} && systemctl reload-or-restart {unit}")


# A visitor who asks for that page until it is mended: at once as often as is judged, then every second.
VISITOR = """systemd-run --quiet --collect --unit=alarm-visitor sh -c 'n=0; while true
do curl -sk -o /dev/null -m 20 --resolve {name}:{port}:{vip} https://{name}:{port}/ledger/; n=$((n+1)); [ $n -lt 30 ] || sleep 1; done'"""


def unread(target, host):
    """A page that fails, which no check looks at, and a visitor who wants it."""
    target.sql("alter table ledger_bank rename to ledger_bank_away")
    target.on(
        host,
        VISITOR.format(
            name=target.tier.value("site_hosts", host)[0],
            port=target.tier.value("lb_https_port", host),
            vip=target.facts["lb_vip"],
        ),
    )


def read(target, host):
    """It can be read again, and the visitor has left."""
    target.sql("alter table ledger_bank_away rename to ledger_bank")
    target.on(host, "systemctl stop alarm-visitor")


LATE = f"""cp -p {BACKUP} {BACKUP}.kept && sed -i 's/"incr": [0-9]*/"incr": 0/; s/"drill": [0-9][0-9]*/"drill": 0/' {BACKUP}
systemctl start tier-backup@look"""

WAVES = {
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
        Alarm("balancer", standing_by, "oncall", engine("stop"), engine("start")),
        Alarm(
            "munin",
            standing_by,
            "ops",
            *units("munin-node"),
            silent=lambda target: on(standing_by(target), "pools", "memory", "units"),
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
        Alarm("disks", first("cache"), "oncall", *asked("df", "critical=-1")),
        Alarm("memory", first("media"), "oncall", *asked("vitals", "memory_critical=101:")),
        Alarm("load", first("app"), "ops", *asked("load", "load_critical=-1")),
        Alarm("units", last("db"), "ops", hopeless, hopeful, may=("backups",)),
        Alarm("reboot", first("db"), "ops", shell("touch /run/reboot-required"), shell("rm /run/reboot-required")),
        Alarm(
            "replication",
            tier,
            "oncall",
            lambda target, host: cut(target, host, [leader(target)]),
            lambda target, host: uncut(target, host, [target.cut_from]),
            at=standby,
        ),
        # Only what the plugin asks for the time: a container has its machine's clock.
        Alarm("clock", last("app"), "ops", fast, right),
        Alarm(
            "backups",
            last("backup"),
            "ops",
            shell(LATE),
            shell(f"mv {BACKUP}.kept {BACKUP} && systemctl start tier-backup@look"),
        ),
        Alarm("restore_drill", last("backup"), "ops"),
        # A backup of the uploads that was due meanwhile has failed.
        Alarm(
            "archive_uploads",
            last("backup"),
            "ops",
            shell("systemctl stop restic-rest-server"),
            uploads_again,
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
            standing_by,
            "oncall",
            lambda target, host: cut(target, host, target.groups["app"][-1:]),
            lambda target, host: uncut(target, host, target.groups["app"][-1:]),
        ),
        Alarm("certificate", tier, "ops", *short("/etc/{engine}/site.pem"), at=holder),
        Alarm("answers", holder, "oncall", unread, read),
        Alarm("pgpool", first("app"), "oncall", detach, shell("systemctl start pgpool-follow")),
        # nginx answers as ever, and not what is asked for.
        Alarm("web", last("monitor"), "ops", *units("fcgiwrap.socket", "fcgiwrap.service")),
        # The archive's own complaint about WAL may come, too.
        Alarm("archive", last("backup"), "ops", *units("pgbackrest"), may=("backups",)),
    ],
    "of the quorum and the virtual IP": [
        # The primary stays what it is as long as it reaches all the others.
        Alarm("quorum", tier, "oncall", *units("etcd"), at=lambda target: target.groups["quorum"][:2]),
        Alarm("etcd", lambda target: target.groups["quorum"][:2], "ops"),
        Alarm(
            "web_certificate",
            last("monitor"),
            "ops",
            *short("/etc/munin-tls/certificate.pem", "nginx", "/etc/munin-tls/key.pem"),
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
            lambda target, host: cut(target, host, gateway(target)),
            lambda target, host: uncut(target, host, gateway(target)),
            at=last("monitor"),
            deaf=True,
            silent=lambda target: (
                on([host for host in target.groups["all"] if host not in target.groups["monitor"]], "host")
                + on(["tier"], "page")
            ),
        ),
    ],
}
