"""What every host is asked, all at once."""

import collections.abc
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import socket
import ssl
import threading
import time
import typing

from status_page.settings import Config, Facts

Key = tuple[str, str]  # (subject, host)
Question = collections.abc.Callable[..., typing.Any]
Answers = dict[Key, typing.Any]  # None where there is none
Plugins = dict[str, dict[str, typing.Any]]  # {plugin: {graph.field: figure, or text}} of a munin-node

ANSWER_S = 2.0  # seconds anybody has to answer
SITE_S = 4.0  # seconds the site has, which asks others itself
MUNIN_S = 6.0  # seconds munin-node has for all its plugins together
TICK_S = 0.1  # seconds between two moments at which this process wants to be run
SLOW_S = 40.0  # seconds for which what changes slowly is believed: a fault is still on the page within a minute
DISK_FULL = 92.0  # percent of a file system

# What munin-node is asked for, besides what every host tells.
PLUGINS = {"lb": ["keepalived"], "app": ["pgpool"], "cache": ["memcached_hits"], "backup": ["backup"]}
EVERYWHERE = ["load", "df"]
SLOW = {
    "load",
    "df",
    "df_places",
    "backup",
    "backup_why",
}  # not at every look: what changes slowly, and what that led to
COMPLAINTS = ["backup_wrong.wrong", "backup_wrong.unproven"]  # about the backups, and about the restore drill


def http_get(
    address: str, port: int, path: str, within: float = ANSWER_S, name: str | None = None, tls: bool = False
) -> tuple[int, str]:
    """(status, body) of a request. Raises OSError and http.client.HTTPException."""
    connection: http.client.HTTPConnection
    if tls:
        # Asked by its address; Nagios watches the certificate. Without the authorities, which take long to load.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address, port, timeout=within, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=within)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": name} if name else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


def json_get(address: str, port: int, path: str, within: float = ANSWER_S) -> dict[str, typing.Any]:
    """The JSON that is answered, whatever the status. Raises as http_get, and ValueError."""
    answer = json.loads(http_get(address, port, path, within)[1])
    if not isinstance(answer, dict):
        raise ValueError(f"{path} is no description")
    return answer


class Munin:
    """A conversation with a munin-node, over in MUNIN_S."""

    def __init__(self, address: str, port: int) -> None:
        self.until = time.monotonic() + MUNIN_S
        self.socket = socket.create_connection((address, port), timeout=ANSWER_S)
        self.lines = self.socket.makefile("r", encoding="utf-8", errors="replace", newline="\n")
        if not self.line().startswith("# munin node"):
            raise ConnectionError("no munin-node")
        self.send("cap multigraph")
        self.line()

    def send(self, command: str) -> None:
        """Send a line."""
        self.socket.sendall(command.encode() + b"\n")

    def line(self) -> str:
        """The next line. Raises OSError where it does not come in time."""
        self.socket.settimeout(max(0.1, self.until - time.monotonic()))
        line = self.lines.readline()
        if not line:
            raise ConnectionError("munin-node hung up")
        return line.rstrip("\n")

    def attributes(self, command: str, plugin: str, attribute: str) -> dict[str, str]:
        """{graph.field: text} of an attribute, from a plugin's answer to a command."""
        self.send(f"{command} {plugin}")
        graph = plugin
        texts: dict[str, str] = {}
        while (line := self.line()) != ".":
            if line.startswith("multigraph "):
                graph = line.split()[1]
            elif match := re.match(rf"(\w+)\.{attribute} (.*)", line):
                texts[f"{graph}.{match[1]}"] = match[2].strip()
        return texts


def number(text: str) -> float | None:
    """A figure of munin's; None where it has none."""
    with contextlib.suppress(TypeError, ValueError):
        return float(text)
    return None


def ask_munin(address: str, port: int, plugins: list[str], believed: Plugins | None = None) -> Plugins:
    """What the plugins of a host answer; {} of a plugin that did not. What is believed is not asked. Raises OSError."""
    answered = dict(believed or {})
    node = Munin(address, port)
    with contextlib.closing(node.socket), contextlib.suppress(OSError):  # what came before it fell silent
        for plugin in plugins:
            if plugin in answered:
                continue
            answered[plugin] = {}
            answered[plugin] = {
                field: number(text) for field, text in node.attributes("fetch", plugin, "value").items()
            }
        if "df_places" not in answered and any(
            value is not None and value > DISK_FULL for value in answered.get("df", {}).values()
        ):
            answered["df_places"] = node.attributes("config", "df", "label")
        if "backup_why" not in answered and any(answered.get("backup", {}).get(field) for field in COMPLAINTS):
            answered["backup_why"] = node.attributes("config", "backup", "extinfo")
    return answered


def ask_site(facts: Facts) -> dict[str, typing.Any]:
    """Whether a visitor gets a page at the virtual IP, as {status, seconds, says}.

    Raises OSError and http.client.HTTPException.
    """
    begun = time.monotonic()
    code, body = http_get(
        facts["lb_vip"], facts["lb_https_port"], facts["page"]["path"], SITE_S, facts["site_host"], tls=True
    )
    return {
        "status": code,
        "seconds": round(time.monotonic() - begun, 3),
        "says": bool(re.search(facts["page"]["says"], body)),
    }


def questions(config: Config, believed: dict[str, Plugins] | None = None) -> dict[Key, Question]:
    """{(subject, host): a function that asks it}. A host in several tiers is asked once for each.

    believed: {host: what it need not be asked}.
    """
    facts = config["facts"]
    asked: dict[Key, Question] = {("site", ""): lambda: ask_site(facts)}

    def add(subject: str, host: dict[str, str], ask: Question, *arguments: typing.Any, **more: typing.Any) -> None:
        asked[subject, host["name"]] = lambda: ask(host["address"], *arguments, **more)

    plugins: dict[str, tuple[dict[str, str], list[str]]] = {}
    for tier, hosts in config["tiers"].items():
        for host in hosts:
            plugins.setdefault(host["name"], (host, []))[1].extend(PLUGINS.get(tier, []))
    for host, own in plugins.values():
        add(
            "munin",
            host,
            ask_munin,
            facts["munin_node_port"],
            own + EVERYWHERE,
            believed=(believed or {}).get(host["name"]),
        )
    for host in config["tiers"]["lb"]:
        add("lb", host, http_get, facts["lb_http_port"], facts["health_path"], name=facts["site_host"])
    for host in config["tiers"]["app"]:
        add("app", host, json_get, facts["app_port"], "/-/health", within=SITE_S)
    for host in config["tiers"]["media"]:
        add("media", host, http_get, facts["media_port"], "/")
    for host in config["tiers"]["db"]:
        add("db", host, json_get, facts["patroni_port"], "/patroni")
        add("cluster", host, json_get, facts["patroni_port"], "/cluster")
    for host in config["tiers"]["quorum"]:
        add("quorum", host, json_get, facts["etcd_metrics_port"], "/health")
    return asked


def ask_all(config: Config, believed: dict[str, Plugins] | None = None) -> Answers:
    """All answers, and how late this process was run, as that of ("late", ""). believed: as questions() takes it."""

    def answer(ask: Question) -> typing.Any:
        try:
            return ask()
        except (OSError, http.client.HTTPException, ValueError):
            return None

    asked, over = questions(config, believed), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(len(asked) + 1) as executor:
        late = executor.submit(lateness, over)
        answers = dict(zip(asked, executor.map(answer, asked.values())))
        over.set()
        return answers | {("late", ""): late.result()}


def lateness(over: threading.Event) -> float:
    """Seconds by which this process was run too late at worst, until something is over."""
    worst = 0.0
    while not over.is_set():
        due = time.monotonic() + TICK_S
        if not over.wait(TICK_S):
            worst = max(worst, time.monotonic() - due)
    return worst


def lately(path: pathlib.Path, now: float) -> tuple[float, dict[str, Plugins]]:
    """(when, {host: answers of SLOW plugins}) that an earlier look wrote; (now, {}) where these are old or none."""
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if 0 <= now - kept["at"] < SLOW_S:
            return kept["at"], kept["hosts"]
    return now, {}


def slow(answers: Answers) -> dict[str, Plugins]:
    """{host: answers of SLOW plugins}, of hosts that answered those they were asked for."""
    answered = {
        name: {plugin: fields for plugin, fields in answer.items() if plugin in SLOW}
        for (subject, name), answer in answers.items()
        if subject == "munin" and answer is not None
    }
    return {
        name: plugins
        for name, plugins in answered.items()
        if plugins.get("df") and plugins.get("load") and plugins.get("backup", True)
    }
