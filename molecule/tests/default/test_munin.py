"""The graphs: what every host answers the monitor, what the monitor keeps and shows."""

import json
import shlex
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from target import Target
from testinfra.host import Host
from tier import Tier, inside

testinfra_hosts = ["ansible://monitor"]

# Run on the monitor: every plugin of every host, asked as the master asks. Prints
# {host: {plugin: [values]}}. Some plugins answer from the second question on.
ASK = """
import concurrent.futures, json, socket, sys, time

def ask(address, port):
    try:
        return answers(address, port)
    except OSError as error:
        return {str(error): ["U"]}

def answers(address, port):
    with socket.create_connection((address, port), timeout=30) as connection:
        lines = connection.makefile("rw", newline="\\n")
        def say(words):
            lines.write(words + "\\n"); lines.flush()
        lines.readline()
        say("cap multigraph"); lines.readline()
        say("list"); plugins = lines.readline().split()
        def values(plugin):
            say("fetch " + plugin)
            return [line.split()[1] for line in iter(lines.readline, ".\\n") if ".value " in line]
        found = {}
        for plugin in plugins:
            deadline = time.monotonic() + 10
            while not found.get(plugin) and time.monotonic() < deadline:
                found[plugin] = values(plugin)
        return found

hosts = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(json.dumps(dict(zip(hosts, pool.map(lambda name: ask(*hosts[name]), hosts)))))
"""

# Run on the monitor: {file: [time, value]} of every round-robin database.
LAST = """
import glob, json, subprocess
files = glob.glob("/var/lib/munin/*/*.rrd")
done = subprocess.run(["rrdtool", "-"], input="".join(f"lastupdate {name}\\n" for name in files),
                      capture_output=True, text=True, check=True)
answers = [line.split(": ") for line in done.stdout.splitlines() if ": " in line]
print(json.dumps(dict(zip(files, ([int(when), value] for when, value in answers)))))
"""


def run_python(host: Host, script: str, *arguments: str) -> Any:
    command = ["python3", "-c", script, *arguments]
    return json.loads(host.check_output(" ".join(map(shlex.quote, command))))


@pytest.fixture(scope="module")
def addresses(tier: Tier) -> dict[str, tuple[str, int]]:
    """{host: (address, port)} of every node."""
    return {node["name"]: (node["address"], tier.value("munin_node_port")) for node in tier.value("all_hosts")}


@pytest.fixture(scope="module")
def declared(tier: Tier) -> dict[str, set[str]]:
    """{host: plugins} as the inventory has them, without the network interfaces."""
    lists = tier.value("dict(groups['all'] | zip(groups['all'] | map('extract', hostvars, 'munin_node_plugins')))")
    return {name: {plugin.replace(" ", "") for plugin in plugins} for name, plugins in lists.items()}


@pytest.fixture(scope="module")
def answers(host: Host, addresses: dict[str, tuple[str, int]]) -> dict[str, dict[str, Any]]:
    return run_python(host, ASK, json.dumps(addresses))


@pytest.fixture(scope="module")
def web(tier: Tier) -> dict[str, Any]:
    """The pages' address and login."""
    monitor = tier.hosts("monitor")[0]
    port = tier.value("monitor_port")
    return {
        "url": f"https://{tier.address(monitor)}:{port}/munin/",
        "http": f"http://{tier.address(monitor)}/munin/",
        "auth": ("munin", tier.value("monitor_password", host=monitor)),
    }


@pytest.fixture(scope="module")
def run_once(host: Host) -> float:
    """One run of the master, by the unit the timer starts; when it began, by the monitor's clock."""
    if host.run("systemctl is-active munin-cron.service").stdout.strip() == "activating":
        host.check_output("systemctl start munin-cron.service")  # joins the run that is going on
    began = int(host.check_output("date +%s"))
    host.check_output("systemctl start munin-cron.service")
    return began


def test_every_host_runs_exactly_the_declared_plugins(
    answers: dict[str, dict[str, Any]], declared: dict[str, set[str]]
) -> None:
    running = {
        name: {plugin for plugin in plugins if not plugin.startswith("if_")} for name, plugins in answers.items()
    }
    assert running == declared


def test_every_host_has_plugins_of_network_interfaces(answers: dict[str, dict[str, Any]]) -> None:
    assert [name for name, plugins in answers.items() if not any(p.startswith("if_") for p in plugins)] == []


def test_every_plugin_of_every_host_answers_with_values(answers: dict[str, dict[str, Any]]) -> None:
    silent = [
        f"{name}: {plugin}"
        for name, plugins in answers.items()
        for plugin, values in plugins.items()
        if not any(value != "U" for value in values)
    ]
    assert silent == []


def test_munin_node_answers_the_monitor_only(host: Host, tier: Tier, addresses: dict[str, tuple[str, int]]) -> None:
    def from_here() -> Iterator[str]:
        for address, port in addresses.values():
            try:
                with socket.create_connection((address, port), timeout=5) as connection:
                    yield connection.recv(200).decode()
            except ConnectionError:
                pass

    def answered(node: Host) -> list[str]:
        asked = "; ".join(
            f"timeout 5 bash -c 'head -1 </dev/tcp/{address}/{port}'" for address, port in addresses.values()
        )
        return [line.split()[-1] for line in node.run(asked).stdout.splitlines() if "munin node" in line]

    assert "".join(from_here()) == ""
    for name in tier.hosts("app")[:1] + tier.hosts("db")[-1:]:
        assert answered(tier.host(name)) == []
    assert answered(host) == list(addresses)


def test_the_master_records_every_plugin_of_every_host(
    host: Host, declared: dict[str, set[str]], run_once: float
) -> None:
    last = run_python(host, LAST)
    fresh = {
        path.rsplit("/", 1)[1]
        for path, (when, value) in last.items()
        if when >= run_once and value.lower() not in ("u", "nan", "-nan")
    }
    missing = [
        f"{name}: {plugin}"
        for name, plugins in declared.items()
        for plugin in plugins
        if not any(rrd.startswith(f"{name}-{plugin}") for rrd in fresh)
    ]
    assert missing == []


def test_a_timer_runs_the_master_every_five_minutes(host: Host, run_once: float) -> None:
    assert host.service("munin-cron.timer").is_enabled
    left = host.check_output("systemctl list-timers munin-cron.timer --output=json")
    # Microseconds since the epoch; the clock of Munin's databases ticks every five minutes.
    assert 0 < json.loads(left)[0]["next"] / 1e6 - time.time() <= 300
    assert not host.file("/etc/cron.d/munin").exists


@pytest.mark.needs(monitor=1)
def test_pages_of_munin_require_the_password(visitor: requests.Session, web: dict[str, Any]) -> None:
    assert visitor.get(web["url"]).status_code == 401
    assert visitor.get(web["url"], auth=("munin", "wrong")).status_code == 401
    assert visitor.get(web["url"] + "static/logo.png").status_code == 401


def test_pages_list_every_host_by_tier(
    visitor: requests.Session, web: dict[str, Any], tier: Tier, run_once: float
) -> None:
    page = visitor.get(web["url"], auth=web["auth"])
    assert page.status_code == 200
    missing = [
        f"{group}/{node['name']}"
        for group, nodes in tier.value("munin_tiers").items()
        for node in nodes
        if f'href="{group}/{node["name"]}/index.html"' not in page.text
    ]
    assert missing == []
    listed = [node["name"] for nodes in tier.value("munin_tiers").values() for node in nodes]
    assert sorted(listed) == sorted(tier.hosts("all"))


@pytest.mark.parametrize("graph", ["load-day", "load-week", "memory-day", "df-year"])
def test_graphs_are_png_images(
    visitor: requests.Session, web: dict[str, Any], tier: Tier, run_once: float, graph: str
) -> None:
    for group, nodes in tier.value("munin_tiers").items():
        if not nodes:
            continue  # a tier that this rung has not
        picture = visitor.get(f"{web['url']}{group}/{nodes[0]['name']}/{graph}.png", auth=web["auth"])
        assert picture.headers["Content-Type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG") and len(picture.content) > 2000


def test_graphs_are_drawn_on_request_only(host: Host, run_once: float) -> None:
    assert (
        host.check_output(
            "find /var/cache/munin/www /var/lib/munin/cgi-tmp -name '*-month.png' -newermt @%s", str(run_once)
        )
        == ""
    )


@pytest.mark.needs(monitor=1)
def test_the_overview_has_a_graph_of_every_tier(
    visitor: requests.Session, web: dict[str, Any], tier: Tier, run_once: float
) -> None:
    """Of every tier that there is, drawn over all of its hosts."""
    address = f"{web['url']}overview/{tier.value('site_name')}/"
    shown = [name for name, graph in tier.value("munin_overview").items() if tier.value("munin_tiers")[graph["of"]]]
    page = visitor.get(address, auth=web["auth"]).text
    assert len(shown) > 3 and [name for name in shown if f"{name}-day.png" not in page] == []
    for name in shown:
        picture = visitor.get(f"{address}{name}-day.png", auth=web["auth"])
        assert picture.content.startswith(b"\x89PNG") and len(picture.content) > 2000, name


@pytest.mark.apart("lb", "monitor")
@pytest.mark.needs(monitor=1)
def test_the_private_key_of_the_site_is_on_balancers_only(tier: Tier, target: Target) -> None:
    """The monitor has its own. On a balancer the same search finds it."""
    key = target.on(tier.hosts("lb")[0], f"cat /etc/{target.engine}/site.pem").split("-----")[2].split()[0]
    search = [
        "grep",
        "--recursive",
        "--files-with-matches",
        "--devices=skip",
        "--binary-files=text",
        "--no-messages",
        "--fixed-strings",
        "--file=-",
        "/etc",
        "/home",
        "/opt",
        "/root",
        "/run",
        "/srv",
        "/tmp",
        "/usr/local",
        "/var",
    ]

    def files_with_key(name: str) -> list[str]:
        return subprocess.run(
            inside(target.container(name), *search), input=key, capture_output=True, text=True, check=False
        ).stdout.splitlines()

    assert {name for name in tier.hosts("all") if files_with_key(name)} == set(tier.hosts("lb"))
    shown = [
        ssl.get_server_certificate(where)
        for where in [
            (tier.address(tier.hosts("monitor")[0]), tier.value("monitor_port")),
            (tier.value("lb_vip", "lb[0]"), tier.value("lb_https_port")),
        ]
    ]
    keys = {
        subprocess.run(
            ["openssl", "x509", "-noout", "-pubkey"], input=one, capture_output=True, text=True, check=True
        ).stdout
        for one in shown
    }
    assert len(keys) == 2


@pytest.mark.needs(monitor=1)
def test_http_to_the_monitor_is_redirected(visitor: requests.Session, web: dict[str, Any]) -> None:
    answer = visitor.get(web["http"], allow_redirects=False)
    assert answer.status_code == 301
    assert answer.headers["Location"].startswith("https://")
    assert answer.headers["Location"].endswith("/munin/")


def test_a_restart_of_munin_node_restores_the_declared_plugins(
    host: Host, addresses: dict[str, tuple[str, int]], declared: dict[str, set[str]], tier: Tier
) -> None:
    host.check_output("ln -s /usr/share/munin/plugins/users /etc/munin/plugins/users")
    host.check_output("rm /etc/munin/plugins/uptime")
    host.check_output("ln -sf /usr/share/munin/plugins/load /etc/munin/plugins/load")
    host.check_output("systemctl restart munin-node")
    links = set(host.file("/etc/munin/plugins").listdir())
    assert {link for link in links if not link.startswith("if_")} == declared[tier.hosts("monitor")[0]]
    assert host.file("/etc/munin/plugins/load").linked_to == "/usr/local/lib/munin/load"
