"""What the answers tell of the hosts, as plain data."""

import typing

# What `make status` judges by, too: plugins/module_utils/service_health.py, and controller/health.py.
import service_health
import status

from status_page.questions import COMPLAINTS, DISK_FULL, Answers, Plugins
from status_page.settings import ORDER, Config, Facts

BUSY_S = 1.0  # seconds by which it is run too late where the monitor is too busy to judge anybody's silence
LOOK_OLD_MIN = 5  # minutes: five looks at the backups

Answer = dict[str, typing.Any] | None  # JSON that a service answered
Release = dict[str, str]  # a line of the release log
Model = dict[str, typing.Any]  # what status.json has


class Host:
    """A host, with what is known about it. brief: two short lines for its box, by tier; marks: what sets it apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tiers: list[str] = []
        self.does: dict[str, str] = {}
        self.brief: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self.raw: dict[str, typing.Any] = {}  # what health judges beside the other hosts
        self.marks: list[str] = []
        self.silent = False

    def describe(self, tier: str, *lines: str) -> None:
        """Set what the host does in a tier."""
        self.does[tier], self.brief[tier] = ", ".join(lines), list(lines)

    def lb(self, answer: tuple[int, str] | None, munin: Plugins, facts: Facts) -> None:
        """A balancer."""
        held = munin.get("keepalived", {}).get("keepalived.held")
        self.raw["holds"] = None if held is None else held > 0
        if answer is None or not 200 <= answer[0] < 300:
            self.wrong.append("its engine does not answer: systemctl status nginx perlbal keepalived")
        lines = [
            "who knows whether it holds the virtual IP"
            if held is None
            else f"holds {facts['lb_vip']}"
            if held
            else "stands by"
        ]
        if answer is not None:
            self.raw["maintenance"], left = service_health.maintenance_left(answer[1])
            if left:
                mode = "read-only" if self.raw["maintenance"] == "readonly" else "maintenance"
                self.raw["maintenance_words"] = (
                    f"{mode}, {left} s left" if left < 120 else f"{mode}, {-(-left // 60)} min left"
                )
                lines.append(self.raw["maintenance_words"])
        self.describe("lb", *lines)

    def app(self, answer: Answer, munin: Plugins, config: Config) -> None:
        """An app host, with its pgpool."""
        self.raw["release"] = (answer or {}).get("release")
        pgpool = {
            field.rpartition(".")[2]: value for field, value in munin.get("pgpool", {}).items() if value is not None
        }
        lines = [f"serves {self.raw['release'] or 'nothing'}"]
        self.wrong += service_health.site_problems(answer)
        if "all" in pgpool:
            lines.append(f"pgpool: {pgpool.get('busy', 0):.0f} of {pgpool['all']:.0f} busy")
            count = len(config["tiers"]["db"])
            if not pgpool.get("primary"):
                self.wrong.append("its pgpool has no primary: journalctl -u pgpool-follow")
            elif pgpool.get("usable", 0) < count:
                self.wrong.append(
                    f"its pgpool uses {pgpool.get('usable', 0):.0f} of {count} databases: journalctl -u pgpool-follow"
                )
            if pgpool.get("busy", 0) >= pgpool["all"]:
                self.wrong.append("all sessions of its pgpool are taken: requests wait. make pool")
        elif munin:
            self.wrong.append(service_health.PGPOOL)
        self.describe("app", *lines)

    def media(self, answer: tuple[int, str] | None) -> None:
        """A media host."""
        self.describe("media", "serves files" if answer else "serves nothing")
        if answer is None:
            self.wrong.append(service_health.LIGHTTPD)

    def db(self, answer: Answer, cluster: Answer) -> None:
        """A database; health judges it beside the others."""
        self.raw.update(role=(answer or {}).get("role"), cluster=cluster or {})
        self.describe("db", "primary" if self.raw["role"] == "primary" else "standby" if answer else "no database")
        self.wrong += service_health.patroni_problems(answer)

    def cache(self, munin: Plugins) -> None:
        """A cache host."""
        figures = {
            field.rpartition(".")[2]: value
            for field, value in munin.get("memcached_hits", {}).items()
            if value is not None
        }
        if "items" in figures:
            self.describe("cache", f"{figures['items']:.0f} items", f"{figures.get('bytes', 0) / 2**20:.1f} MiB")
        else:
            self.describe("cache", "remembers nothing")
            if munin:
                self.wrong.append(service_health.MEMCACHED)

    def quorum(self, answer: Answer) -> None:
        """A member of etcd."""
        problems = service_health.etcd_problems(answer)
        self.describe("quorum", "etcd is silent" if problems else "etcd votes")
        self.wrong += problems

    def backup(self, munin: Plugins) -> None:
        """The backup host."""
        figures = {field: value for field, value in munin.get("backup", {}).items() if value is not None}
        ages = {
            kind: figures[f"backup_age.{kind}"]
            for kind in ("incr", "full", "media", "drill")
            if f"backup_age.{kind}" in figures
        }
        self.raw["ages"], self.raw["behind"] = ages, figures.get("backup_wal.behind")
        names = {"incr": "databases", "media": "uploads", "full": "full", "drill": "drill"}
        self.describe(
            "backup",
            *(
                [f"{names[kind]} {ages[kind]:.1f} h ago" for kind in ("incr", "media", "full", "drill") if kind in ages]
                or ["no backup yet"]
            ),
        )
        if figures.get("backup_wrong.looked", 0) > LOOK_OLD_MIN:
            self.wrong.append(service_health.BACKUPS)
        if wrong := sum(figures.get(field, 0) for field in COMPLAINTS):
            why = [text for field, text in munin.get("backup_why", {}).items() if text and field in COMPLAINTS]
            self.wrong += why or [
                f"{wrong:.0f} complaint{'' if wrong == 1 else 's'} about the backups: make status tells them"
            ]
        if munin and not figures:
            self.wrong.append("nobody tells how the backups are: journalctl -u munin-node")

    def every_host(self, munin: Plugins) -> None:
        """What holds for every host."""
        for field, value in munin.get("df", {}).items():
            if value is not None and value > DISK_FULL:
                self.wrong.append(f"{munin.get('df_places', {}).get(field, field)} is {value:.0f} % full")
        load = munin.get("load", {}).get("load.load")
        if load is not None:
            self.does["load"] = f"load {load:.2f}"


def busy(answers: Answers) -> bool:
    """Whether the monitor was too busy to judge who did not answer."""
    return bool(answers.get(("late", ""), 0.0) >= BUSY_S)


def look(config: Config, answers: Answers) -> dict[str, Host]:
    """{name: Host} of every host, each by its own answers."""
    hosts: dict[str, Host] = {}
    for tier in ORDER:
        for member in config["tiers"].get(tier, []):
            host = hosts.setdefault(member["name"], Host(member["name"]))
            host.tiers.append(tier)
    for name, host in hosts.items():
        own = {subject: answer for (subject, asked), answer in answers.items() if asked == name}
        munin = own.get("munin")
        if not any(answer is not None for answer in own.values()):
            host.silent = True
            host.wrong.append(
                "was not asked in time" if busy(answers) else "does not answer at all: it is off, frozen or cut off"
            )
            for tier in host.tiers:
                host.describe(tier, "silent")
            continue
        if munin is None:
            host.wrong.append("its munin-node does not answer: systemctl status munin-node")
            munin = {}
        calls: dict[str, tuple[typing.Any, ...]] = {
            "lb": (own.get("lb"), munin, config["facts"]),
            "app": (own.get("app"), munin, config),
            "media": (own.get("media"),),
            "db": (own.get("db"), own.get("cluster")),
            "cache": (munin,),
            "quorum": (own.get("quorum"),),
            "backup": (munin,),
        }
        for tier in host.tiers:
            if tier in calls:
                getattr(host, tier)(*calls[tier])
            else:
                host.describe(tier, "watches")
        host.every_host(munin)
    return hosts


def together(config: Config, hosts: dict[str, Host], answers: Answers) -> list[str]:
    """Sentences that only the answers of several hosts together tell. Marks the primary and the virtual IP's holder."""
    facts = config["facts"]
    wrong: list[str] = []
    groups = {tier: [member["name"] for member in members] for tier, members in config["tiers"].items()}
    balancers = [hosts[name] for name in groups["lb"]]
    site = answers.get(("site", ""))
    unknown = [host for host in balancers if host.raw.get("holds") is None]
    if len(unknown) == 1 and site and not any(host.raw.get("holds") for host in balancers):
        unknown[0].raw["holds"] = True  # somebody answers there, and the others say that they do not
    if any(host.raw.get("holds") is None for host in balancers) and not any(
        host.raw.get("holds") for host in balancers
    ):
        groups = groups | {"lb": []}  # nobody knows
    known = {name: {"raw": host.raw} for name, host in hosts.items() if not host.silent}
    roles, problems = status.problems_across_hosts(known, groups, facts)
    wrong += problems
    for name, role in roles.items():
        if name in hosts and "db" in hosts[name].tiers and not hosts[name].silent:
            lines = role.split(", ")
            hosts[name].describe("db", ", ".join(lines[:2]), *lines[2:])
    for host in hosts.values():
        host.marks += ["virtual IP"] * bool(host.raw.get("holds")) + ["primary"] * (host.raw.get("role") == "primary")
    url = f"https://{facts['lb_vip']}{facts['page']['path']}"
    if site is None:
        wrong.insert(0, f"{url} does not answer: visitors get nothing. make status {facts['make_args']}")
    elif site["status"] == 503 and any(host.raw.get("maintenance") == "closed" for host in balancers):
        pass  # what visitors get is the page of maintenance
    elif site["status"] != 200 or not site["says"]:
        but = "" if site["says"] else " and does not say what it should"
        wrong.insert(0, f"{url} answers {site['status']}{but}. make smoke {facts['make_args']}")
    return wrong


def judge(config: Config, answers: Answers, now: float, releases: list[Release] | None = None) -> Model:
    """The page's content as plain data: what status.json has."""
    facts, hosts = config["facts"], look(config, answers)
    wrong = [{"host": "", "why": sentence} for sentence in together(config, hosts, answers)]
    wrong += [{"host": name, "why": sentence} for name, host in hosts.items() for sentence in host.wrong]
    others = [host for host in hosts.values() if "monitor" not in host.tiers]
    state = "wrong" if wrong else "well"
    if busy(answers) and any(host.silent for host in hosts.values()):
        state = "blind"
        late = f"The monitor is busy, and was run {answers['late', '']:.1f} s too late"
        wrong.insert(0, {"host": "", "why": f"{late}: who did not answer may well be there."})
    elif others and all(host.silent for host in others):
        state = "blind"
        nobody = "The monitor reaches nobody: it is cut off, or everything else is off."
        wrong.insert(0, {"host": "", "why": f"{nobody} Ask for the site from elsewhere."})
    backups = [host for host in hosts.values() if "backup" in host.tiers and host.raw.get("ages")]
    return {
        "at": int(now),
        "environment": facts["env_name"],
        "state": state,
        "maintenance": next(
            (host.raw["maintenance_words"] for host in hosts.values() if "maintenance_words" in host.raw), ""
        ),
        "wrong": wrong,
        "site": answers.get(("site", "")),
        "vip": facts["lb_vip"],
        "tiers": {tier: [member["name"] for member in members] for tier, members in config["tiers"].items()},
        "hosts": {
            name: {
                "tiers": host.tiers,
                "state": "silent" if host.silent else "wrong" if host.wrong else "ok",
                "does": host.does,
                "brief": host.brief,
                "marks": host.marks,
                "wrong": host.wrong,
            }
            for name, host in hosts.items()
        },
        "releases": list(releases or []),
        "backups": {
            "hours": {kind: round(age, 2) for kind, age in backups[0].raw["ages"].items()},
            "wal_behind": backups[0].raw["behind"],
        }
        if backups
        else {},
    }
