"""Measure this machine, with production as it is rehearsed here, and with `ladder`: prints one table.

The floor is what no configuration management can beat here: the packages the tier needs,
installed on all hosts at once by a plain shell. Ratios to it compare across machines; seconds do not.
"""

import http.client
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
STATE = ROOT / ".state/production-rehearsal"
INVENTORY = STATE / "inventory/production.yml"
ENV = dict(os.environ, ENV="production", REHEARSE="1", ANSIBLE_VAULT_PASSWORD_FILE=str(STATE / "vault-password"), MAKEFLAGS="")
LADDER = {"ENV": "ladder", "REHEARSE": "", "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / ".state/ladder/vault-password")}
LADDER_URL = ("172.30.30.100", 443)
VISITORS = 8        # at once, on a rung; each asks for one page after another
RUNG_S = 10         # seconds a rung is measured for
RECAP = re.compile(r"^\S+\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=0\s+failed=0\s+skipped=(\d+)", re.M)


def run(*command, **extra):
    """Run a command; return (seconds, standard output). Exits with the output where it fails."""
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**ENV, **extra}, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return time.monotonic() - start, done.stdout


def make(*words, **extra):
    """Run a verb of the Makefile."""
    return run("make", "--no-print-directory", *words, **extra)


def packages():
    """{host: its Debian packages}, as group_vars declare them."""
    _seconds, out = run("ansible", "all", "-i", str(INVENTORY), "-o", "-m", "ansible.builtin.debug",
                        "-a", "msg={{ host_packages | join(' ') }}",
                        ANSIBLE_STDOUT_CALLBACK="ansible.builtin.oneline", ANSIBLE_DISPLAY_OK_HOSTS="true",
                        ANSIBLE_LOAD_CALLBACK_PLUGINS="true", ANSIBLE_NOCOLOR="true", ANSIBLE_STRATEGY="linear")
    return {line.split(" ")[0]: json.loads(line.split("=>", 1)[1])["msg"].split()
            for line in out.splitlines() if "=>" in line}


def install(host, names):
    """Install packages on a bare host by a plain shell."""
    run("docker", "exec", f"production-{host}", "sh", "-c",
        "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && "
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "
        + " ".join(names))


def floor():
    """Seconds to install every host's packages, all hosts at once."""
    wanted = packages()
    start = time.monotonic()
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(install, wanted, wanted.values()))
    return time.monotonic() - start


def releases(row):
    """A release that is built, rolled out and taken back, on the tier that stands, as a multiple of a run that changes nothing."""
    idle = make("site")[0]
    source = ROOT / ".state/bench-source"
    run("cp", "--archive", str(ROOT / "demo"), str(source))
    with open(source / "newsbudget/static/newsbudget/site.css", "a", encoding="utf-8") as style:
        style.write("/* bench */\n")
    for name, words in (("deploy, built and rolled out", ["deploy", f"VARS=site_source={source}"]), ("rollback", ["rollback"])):
        seconds = make(*words)[0]
        row(name, seconds, f"{seconds / idle:.2f} x a run that changes nothing")
    run("rm", "-rf", str(source))


def nodes(row):
    """The fourth and the thirteenth app host, added to the tier that stands while the others serve; one of them removed. Leaves the inventory as it was."""
    written = INVENTORY.read_text()
    fewer = "VARS=app_threads=3"  # thirteen hosts have to fit into db_max_connections
    try:
        make("site", fewer)
        make("add-node", "POOL=app", "NODE=app3", fewer)
        fourth = make("add-node", "POOL=app", "NODE=app4", fewer)[0]
        row("the 4th app host, from command to end", fourth)
        for number in range(5, 13):
            run("python", "playbooks/nodes.py", "write", "add", str(INVENTORY), "app", f"app{number}")
        make("converge", fewer)
        thirteenth = make("add-node", "POOL=app", "NODE=app13", fewer)[0]
        row("the 13th app host", thirteenth, f"{thirteenth / fourth:.2f} x the 4th")
        row("the 13th app host, removed", make("remove-node", "NODE=app13", fewer)[0])
    finally:
        INVENTORY.write_text(written)


def asked(until):
    """How many pages one visitor is given until a moment (monotonic seconds). Exits where one is no page."""
    trust = ssl.create_default_context(cafile=str(ROOT / ".state/ladder/ca.crt"))
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


def worked():
    """{host: seconds of processor time it has had} of the ladder."""
    names = run("docker", "ps", "--format", "{{.Names}}", "--filter", "label=realworld=ladder")[1].split()
    return {name.removeprefix("ladder-"): int(re.search(r"usage_usec (\d+)", run("docker", "exec", name, "cat", "/sys/fs/cgroup/cpu.stat")[1])[1]) / 1e6
            for name in names}


def serves():
    """(pages a second, pages for a second of processor time of the host that needs most of it, that host), after a while to warm up."""
    with ThreadPoolExecutor(VISITORS) as visitors:
        for seconds in (RUNG_S / 2, RUNG_S):
            before, begun = worked(), time.monotonic()
            pages = sum(visitors.map(asked, [begun + seconds] * VISITORS))
            rate, after = pages / (time.monotonic() - begun), worked()
    used = {host: after[host] - before[host] for host in after}
    busiest = max(used, key=used.get)
    return rate, pages / used[busiest], busiest


def ladder(row):
    """Every rung, climbed from the one below while it serves: how long that takes, and what it serves then. Leaves nothing.

    All hosts share the cores of this machine. What real ones would serve is bounded by the host that is out of processor time first.
    """
    rungs = sorted(path.stem for path in (ROOT / "inventories/ladder").glob("*.yml"))
    make("down", **LADDER)
    first = 0.0
    for rung in rungs:
        seconds = make("climb" if first else "converge", f"RUNG={rung}", **LADDER)[0]
        rate, bound, busiest = serves()
        first = first or bound
        row(f"rung {rung}", seconds, f"{rate:.0f} pages/s here; {bound:.0f} with a core for each host, {bound / first:.2f} x the first rung ({busiest} is busiest)")
    make("down", **LADDER)


def main():
    """Print the table; only the part of it that is named on the command line, if one is: nodes or ladder."""
    rows = []

    def row(name, seconds, note=""):
        rows.append((name, f"{seconds:.1f} s", note))
        print(f"  {name}: {seconds:.1f} s {note}", flush=True)

    if sys.argv[1:] == ["ladder"]:
        ladder(row)
        return
    if sys.argv[1:] == ["nodes"]:
        make("converge")
        nodes(row)
        make("down")
        return
    make("down")
    venv = run("molecule/shared/venv.sh", str(ROOT / ".state/bench-venv"))[0]
    run("rm", "-rf", str(ROOT / ".state/bench-venv"))
    row("virtualenv from the lock", venv)
    # No engine may be left to ask: then there is no image either.
    cold_image = not subprocess.run(["docker", "image", "ls", "-q", "realworld/node"], capture_output=True, check=False).stdout.strip()
    up, _ = make("up")
    row("engine, images and bare hosts", up, "" if cold_image else "(images were there)")
    floor_seconds = floor()
    row("floor: the same packages, plain shell", floor_seconds, "1.0 x")
    run("sh", "-c", "docker rm --force $(docker ps --all --quiet --filter label=realworld=production)")
    make("up")
    subprocess.run("rm -rf .state/releases", shell=True, cwd=ROOT, check=True)
    cold, _ = make("site")
    row("converge from booted hosts", cold, f"{cold / floor_seconds:.2f} x floor")
    row("fresh machine to page", venv + up + cold, "sum of the above")
    for name, switch in (("", {}), (", plain Ansible", {"MITOGEN": "0"})):
        seconds, out = make("site", *(f"{k}={v}" for k, v in switch.items()))
        recap = RECAP.findall(out)
        changed = sum(int(c) for _ok, c, _s in recap)
        count = sum(int(ok) for ok, _c, _s in recap)
        row(f"no-change converge{name}", seconds, f"changed={changed}, {count} host-tasks, {seconds / count:.3f} s each")
    releases(row)
    nodes(row)
    make("down")
    ladder(row)
    width = max(len(name) for name, _s, _n in rows)
    print("\n" + "\n".join(f"{name:{width}}  {seconds:>8}  {note}" for name, seconds, note in rows))


if __name__ == "__main__":
    main()
