"""Measure this machine: how long every verb takes, as a ratio to one fixed piece of work measured beside it.

    bench.py [PART …]        build, verbs, idle, nodes, ladder; all of them where none is named

Production is rehearsed for it, and ladder built: neither may exist before, and both are gone afterwards, as are the releases of
the sources that it changed; those of anybody else stay.

Seconds depend on the machine and the hour; ratios compare. The yardstick is a program that compiles one file of the lock over and over, on one core;
it is timed before and after each measurement. The floor is what no configuration management can beat: the packages that the tier needs,
installed on all hosts at once by a plain shell.
"""

import functools
import http.client
import json
import pathlib
import re
import ssl
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from measurement import PRODUCTION, YARDSTICK_S, Table, make, run, yardstick

from controller.environment import RELEASES, ROOT, STATE, Environment

INVENTORY = PRODUCTION.inventory
SOURCE = STATE / "bench-source"  # the demo, changed a little for each release that is built
LADDER = Environment.named("ladder")
ON_LADDER = {**LADDER.own_variables, "REHEARSE": ""}
LADDER_URL = ("172.30.30.100", 443)
RUNS = 5  # of what is quick and leaves the tier as it was
VISITORS = 8  # at once, on a rung; each asks for one page after another
RUNG_S = 10  # seconds a rung is measured for
IDLE_S = 300  # seconds a tier is left alone for: one round of Munin's
RECAP = re.compile(r"^\S+\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=0\s+failed=0\s+skipped=(\d+)", re.M)
IDLE_CORES = 0.2


def packages() -> dict[str, list[str]]:
    """{host: its Debian packages}, as group_vars declare them."""
    _seconds, out = run(
        "ansible",
        "all",
        "-i",
        str(INVENTORY),
        "-o",
        "-m",
        "ansible.builtin.debug",
        "-a",
        "msg={{ host_packages | join(' ') }}",
        ANSIBLE_STDOUT_CALLBACK="ansible.builtin.oneline",
        ANSIBLE_DISPLAY_OK_HOSTS="true",
        ANSIBLE_LOAD_CALLBACK_PLUGINS="true",
        ANSIBLE_NOCOLOR="true",
        ANSIBLE_STRATEGY="linear",
    )
    return {
        line.split(" ")[0]: json.loads(line.split("=>", 1)[1])["msg"].split()
        for line in out.splitlines()
        if "=>" in line
    }


def install(host: str, names: list[str]) -> None:
    """Install packages on a bare host by a plain shell."""
    run(
        "docker",
        "exec",
        f"production-{host}",
        "sh",
        "-c",
        "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && "
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "
        + " ".join(names),
    )


def floor() -> float:
    """Seconds to install every host's packages, all hosts at once."""
    names = packages()
    start = time.monotonic()
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(install, names, names.values()))
    return time.monotonic() - start


def changed_source() -> str:
    """VARS of a release that is not built yet."""
    run("rm", "-rf", str(SOURCE))
    run("cp", "--archive", str(ROOT / "demo"), str(SOURCE))
    with open(SOURCE / "newsbudget/static/newsbudget/site.css", "a", encoding="utf-8") as style:
        style.write(f"/* bench {time.time_ns()} */\n")
    return f"VARS=site_source={SOURCE}"


def releases() -> list[pathlib.Path]:
    """The files of all releases that were built of changed_source: each manifest says of what."""
    built = [
        path.stem
        for path in RELEASES.glob("*.json")
        if json.loads(path.read_text(encoding="utf-8"))["source"]["from"] == SOURCE.name
    ]
    return [path for name in built for path in RELEASES.glob(f"{name}.*")]


def converge_production() -> None:
    """Build production as it is rehearsed here, where there is none."""
    if not run("docker", "ps", "--quiet", "--filter", "label=realworld=production")[1].strip():
        make("converge")


def build(table: Table) -> None:
    """From nothing to a page: the tools, the hosts, the packages alone, the tier."""
    directory = str(STATE / "bench-venv")
    venv = table.seconds("virtualenv from the lock", lambda: run("controller/venv.sh", directory)[0])
    run("rm", "-rf", directory)
    # No engine may be left to ask: then there is no image either.
    images = subprocess.run(
        ["docker", "image", "ls", "-q", "realworld/node"], capture_output=True, check=False
    ).stdout.strip()
    up = table.seconds(
        "engine, images and bare hosts",
        lambda: make("up", "IMAGE=bare")[0],
        note="; the images were there" if images else "",
    )
    floor_s = table.seconds("floor: the same packages, plain shell", floor)
    run("sh", "-c", "docker rm --force $(docker ps --all --quiet --filter label=realworld=production)")
    make("up", "IMAGE=bare")
    source = changed_source()
    cold = table.seconds("site from booted bare hosts", lambda: make("site", source)[0])
    table.row("the same as a multiple of the floor", f"{cold / floor_s:.2f} x")
    table.row("fresh machine to page", f"{venv + up + cold:.1f} s", "sum of the above")


def site(**switch: str) -> tuple[float, str]:
    """(seconds, note) of a run that changes nothing. Exits where it changes something."""
    seconds, out = make("site", *(f"{name}={value}" for name, value in switch.items()))
    recap = RECAP.findall(out)
    changed, count = (
        sum(int(number) for _ok, number, _skipped in recap),
        sum(int(number) for number, _changed, _skipped in recap),
    )
    if changed:
        sys.exit(f"make site changed {changed}: the tier was not as declared.\n{out[-3000:]}")
    return seconds, f"; {count} host-tasks, {seconds / count:.3f} s each"


def matched(pattern: str, text: str) -> str:
    """The first group of a pattern in a text. Exits where there is none."""
    match = re.search(pattern, text)
    if not match:
        sys.exit(f"nothing like {pattern} in:\n{text}")
    return match[1]


def request_id() -> str:
    """The id of a request that the tier has just answered."""
    url = json.loads(
        run(
            "ansible",
            "localhost",
            "-i",
            str(INVENTORY),
            "-o",
            "-m",
            "ansible.builtin.debug",
            "-a",
            "var=hostvars[groups['lb'][0]].lb_vip",
            ANSIBLE_STDOUT_CALLBACK="ansible.builtin.oneline",
            ANSIBLE_DISPLAY_OK_HOSTS="true",
            ANSIBLE_STRATEGY="linear",
            ANSIBLE_NOCOLOR="true",
        )[1].split("=>", 1)[1]
    )["hostvars[groups['lb'][0]].lb_vip"]
    authority = str(PRODUCTION.certificate_authority)
    return requests.get(f"https://{url}/", verify=authority, timeout=60).headers["X-Request-Id"]


def build_release(source: str) -> float:
    """Seconds to build a release of changed_source()."""
    command = ["ansible-playbook", "-i", str(INVENTORY), "playbooks/parts/build.yml"]
    return run(*command, "-e", source.removeprefix("VARS="), ANSIBLE_STRATEGY="accelerated")[0]


def deploy(source: str) -> float:
    """Seconds to deploy a release of changed_source()."""
    return make("deploy", source)[0]


def verbs(table: Table) -> None:
    """What operators type every day, on the tier that stands."""
    converge_production()
    make("site")
    note = site()[1]
    table.seconds("no-change site", lambda: site()[0], RUNS, note)
    table.seconds("no-change site, plain Ansible", lambda: site(MITOGEN="0")[0])
    table.seconds("status", lambda: make("status")[0], RUNS)
    request = request_id()
    table.seconds("logs of a request", lambda: make("logs", f"REQUEST={request}")[0], RUNS)
    for number in range(3):
        source = changed_source()
        table.seconds(f"build of a release, {number + 1} of 3", functools.partial(build_release, source))
        table.seconds("deploy of a built release", functools.partial(deploy, source))
        table.seconds("rollback", lambda: make("rollback")[0])
    table.seconds("add-node POOL=app, from bare", lambda: make("add-node", "POOL=app", "NODE=app3", "IMAGE=bare")[0])
    table.seconds("remove-node", lambda: make("remove-node", "NODE=app3")[0])
    make("image", "LIMIT=app")
    table.seconds(
        "add-node POOL=app, from a golden image", lambda: make("add-node", "POOL=app", "NODE=app3", "IMAGE=golden")[0]
    )
    make("remove-node", "NODE=app3")


def processor(label: str) -> float:
    """Seconds of processor time that the hosts of an environment have had, all together."""
    names = run("docker", "ps", "--format", "{{.Names}}", "--filter", f"label=realworld={label}")[1].split()
    return sum(used(name) for name in names)


def used(container: str) -> float:
    """Seconds of processor time that a container has had."""
    statistics = run("docker", "exec", container, "cat", "/sys/fs/cgroup/cpu.stat")[1]
    return int(matched(r"usage_usec (\d+)", statistics)) / 1e6


def idle(table: Table) -> None:
    """Processor time of a tier without requests."""
    converge_production()
    before, started = processor("production"), time.monotonic()
    time.sleep(IDLE_S)  # it is left alone: there is nothing to await
    cores = (processor("production") - before) / (time.monotonic() - started)
    ratio = cores / yardstick() * YARDSTICK_S
    table.row(
        "a tier that nobody asks",
        f"{cores:.2f} cores",
        f"bound {IDLE_CORES}: {'held' if ratio <= IDLE_CORES else 'MISSED'}",
    )


def nodes(table: Table) -> None:
    """The fourth and the thirteenth app host, added to the tier under load; the last is removed. Leaves the inventory as before."""
    converge_production()
    inventory = INVENTORY.read_text()
    fewer_threads = "VARS=app_threads=3"  # thirteen hosts have to fit into db_max_connections
    try:
        make("site", fewer_threads)
        make("add-node", "POOL=app", "NODE=app3", fewer_threads)
        fourth = table.seconds(
            "the 4th app host, from command to end", lambda: make("add-node", "POOL=app", "NODE=app4", fewer_threads)[0]
        )
        for number in range(5, 13):
            run(
                "python",
                "-m",
                "controller.commands.node",
                "add",
                "--write-only",
                f"--inventory={INVENTORY}",
                "--pool=app",
                f"--node=app{number}",
            )
        make("converge", fewer_threads)
        thirteenth = table.seconds(
            "the 13th app host", lambda: make("add-node", "POOL=app", "NODE=app13", fewer_threads)[0]
        )
        table.row("the same as a multiple of the 4th", f"{thirteenth / fourth:.2f} x")
        table.seconds("the 13th app host, removed", lambda: make("remove-node", "NODE=app13", fewer_threads)[0])
    finally:
        INVENTORY.write_text(inventory)


def count_pages(until: float) -> int:
    """How many pages a visitor gets until a moment (monotonic seconds). Exits where an answer is no page."""
    trust = ssl.create_default_context(cafile=str(LADDER.certificate_authority))
    # By hand: a library takes two to four times the processor for a request, and the hosts that are measured have the same one.
    connection = http.client.HTTPSConnection(*LADDER_URL, context=trust, timeout=60)
    pages = 0
    while time.monotonic() < until:
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"https://{LADDER_URL[0]}/ answered {answer.status}")
        pages += 1
    connection.close()
    return pages


def processor_seconds() -> dict[str, float]:
    """{host: seconds of processor time it has had} of the ladder."""
    names = run("docker", "ps", "--format", "{{.Names}}", "--filter", "label=realworld=ladder")[1].split()
    return {name.removeprefix("ladder-"): used(name) for name in names}


def measure_throughput() -> tuple[float, float, str]:
    """(pages a second, pages for a second of processor time of the host that needs most of it, that host), after a while to warm up."""
    with ThreadPoolExecutor(VISITORS) as visitors:
        for seconds in (RUNG_S / 2, RUNG_S):
            before, started = processor_seconds(), time.monotonic()
            pages = sum(visitors.map(count_pages, [started + seconds] * VISITORS))
            rate, after = pages / (time.monotonic() - started), processor_seconds()
    spent = {host: after[host] - before[host] for host in after}
    busiest = max(spent, key=lambda host: spent[host])
    return rate, pages / spent[busiest], busiest


def ladder(table: Table) -> None:
    """Every rung, climbed from the rung below under load: the duration, and the throughput afterwards. Leaves nothing.

    All hosts share the cores of this machine. What real ones would serve is bounded by the host that is out of processor time first.
    """
    rungs = sorted(path.stem for path in (ROOT / "inventories/ladder").glob("*.yml"))
    first = 0.0
    for rung in rungs:
        seconds = make("climb" if first else "converge", f"RUNG={rung}", **ON_LADDER)[0]
        rate, bound, busiest = measure_throughput()
        first = first or bound
        table.row(
            f"rung {rung}",
            f"{seconds:.1f} s",
            f"{rate:.0f} pages/s here; {bound:.0f} with a core for each host, {bound / first:.2f} x the first rung ({busiest} is busiest)",
        )
    make("down", **ON_LADDER)


PARTS = {part.__name__: part for part in (build, verbs, idle, nodes, ladder)}


def main() -> int:
    """Measure the parts that are named on the command line, or all; the exit code."""
    unknown = [name for name in sys.argv[1:] if name not in PARTS]
    if unknown:
        print(f"No part '{unknown[0]}'. There are: {', '.join(PARTS)}. make bench PART=verbs", file=sys.stderr)
        return 2
    wanted = sys.argv[1:] or list(PARTS)
    for environment in (PRODUCTION, LADDER):
        containers = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"label=realworld={environment.name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if containers.stdout.strip():
            print(
                f"Nothing was touched. {environment.make_args} stands, and this measures one of its own: make down {environment.make_args}",
                file=sys.stderr,
            )
            return 2
    table = Table()
    table.row(
        "yardstick",
        f"{statistics.median(yardstick() for _number in range(RUNS)):.2f} s",
        f"{YARDSTICK_S:.2f} s where the bounds were set",
    )
    try:
        for name in wanted:
            PARTS[name](table)
    finally:
        if set(wanted) - {"ladder"}:
            make("down")
        run("rm", "-rf", str(SOURCE), *map(str, releases()))
    table.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
