"""Load a site with visitors, by its virtual IP, and tell what they got and which tier limits it.

Visitors are Locust's (controller/load/visitors.py); what they do is site_load of group_vars/all/site.yml. While they are at it every host is asked,
over the ssh that is there anyway, for its processor, memory, disks, and who waits at which door. The report goes to .state/ENV/load.html.
Real hosts of production are asked with --anyway only, and then nobody signs in or changes anything. Exits with 1 where a request failed,
with 2 where nobody could be let loose.
"""

import argparse
import csv
import datetime
import http.cookies
import json
import os
import pathlib
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3

from controller import ansible, arguments, browser, errors
from controller.commands import smoke
from controller.environment import ROOT, Environment
from controller.http import request
from controller.load.analysis import KINDS, TITLES, bottleneck, figures, history, requests
from controller.load.probe import EVERY_S, probe_output, samples, settled, start_probe
from controller.load.report import (
    HOST_HEAD,
    TIER_HEAD,
    VISITOR_HEAD,
    curve,
    host_rows,
    html,
    terminal_lines,
    tier_rows,
    visitor_rows,
)

PLAYBOOK = ROOT / "playbooks/queries/load.yml"
POOL = ROOT / "playbooks/queries/pool.yml"
VISITORS = ROOT / "controller/load/visitors.py"

PAUSE = (0.5, 1.5)  # seconds a visitor reads
PATIENCE = 30  # seconds a visitor waits
RAMP_S = 10  # seconds at most in which visitors arrive; what they see until then does not count


class Failed(Exception):
    """Why nothing was measured, as a sentence."""


def parse_limits(users: str, seconds: str) -> tuple[int, int]:
    """Both as numbers. Raises Refused."""
    for name, text, least in (("USERS", users, 1), ("SECONDS", seconds, 10)):
        if not re.fullmatch(r"\d+", text) or int(text) < least:
            raise errors.Refused(f"{name}={text} is no number from {least} on: make load USERS=50 SECONDS=60")
    return int(users), int(seconds)


def check_production(settings: Mapping[str, Any], anyway: bool) -> bool:
    """Whether this is production itself, which is asked and never changed. Raises Refused where it is not to be asked either."""
    production = settings["env_name"] == "production" and not settings["containers"]
    if production and not anyway:
        raise errors.Refused(
            "This is production: its visitors would wait behind these. Load a rehearsal of it: make converge load ENV=production "
            "REHEARSE=1; or all the same: make load ENV=production ANYWAY=1"
        )
    return production


def plan(settings: Mapping[str, Any], crawl: smoke.Crawl, cookies: str, production: bool) -> dict[str, Any]:
    """What load/visitors.py is told. Raises Failed where there is nothing to do."""
    load = settings["load"]
    paths: dict[str, list[str]] = {}
    for path, (kind, answer, _by) in crawl.answers.items():
        if isinstance(answer, smoke.Answer) and answer.status == 200:
            paths.setdefault(kind, []).append(path)
    has = {
        "page": paths.get("page"),
        "static": paths.get("static file"),
        "media": paths.get("upload"),
        "session": cookies and load.get("session"),
        "change": cookies and load.get("change") and not production,
    }
    unknown = set(load["mix"]) - set(has)
    if unknown:
        raise Failed(
            f"group_vars/all/site.yml: site_load.mix has {', '.join(sorted(unknown))}; there are {', '.join(has)}."
        )
    mix = {kind: share for kind, share in load["mix"].items() if has[kind] and share > 0}
    if not mix:
        raise Failed("group_vars/all/site.yml: nothing of site_load.mix is left to do.")
    return {
        "tiers": KINDS,
        "name": settings["smoke"]["name"],
        "address": settings["smoke"]["address"],
        "origin": smoke.origin(settings["smoke"]),
        "pause": PAUSE,
        "patience": PATIENCE,
        "mix": mix,
        "pages": has["page"],
        "statics": has["static"],
        "uploads": has["media"],
        "session": load.get("session", []),
        "change": load.get("change", {}),
        "cookies": cookies,
        "sign_in_page": load.get("sign_in", {}).get("page", "-"),
    }


def manage(environment: Environment, host: str, command: Sequence[str], entered: str = "") -> None:
    """Run a management command on a host. Raises Failed where it fails."""
    done = subprocess.run(
        [*environment.ssh(host), shlex.join(["sudo", "/usr/local/bin/manage", *command])],
        input=entered,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(
            f"manage {command[0]} failed on {environment.hosts[host].login.address}: {' '.join((done.stdout + done.stderr).split())[-400:]}"
        )


def sign_in(site: Mapping[str, Any], form: Mapping[str, Any], password: str) -> str:
    """The cookies of who has signed in, as a header. Raises Failed where that fails."""
    context, jar = browser.trust(site["authority"]), http.cookies.SimpleCookie()

    def fetch(method: str, fields: Mapping[str, str] | None = None) -> tuple[int, str]:
        sent = "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())
        headers = {"Cookie": sent, "Referer": smoke.origin(site) + form["page"]}
        response = request(site, context, PATIENCE, method, form["page"], headers, fields)
        for line in response.headers.getlist("Set-Cookie"):
            jar.load(line)
        return response.status, response.data.decode(errors="replace")

    _status, text = fetch("GET")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text)
    fields = form["fields"] | {form["password"]: password} | ({"csrfmiddlewaretoken": token[1]} if token else {})
    code, _text = fetch("POST", fields)
    if code not in (302, 303):
        raise Failed(f"nobody can sign in at {form['page']}: {code} (site_load.sign_in of group_vars/all/site.yml)")
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())


def balancer_counts(inventory: pathlib.Path, minutes: float, options: Sequence[str]) -> dict[str, tuple[int, int]]:
    """{host: (requests, failures)} of those behind the balancers, all balancers together."""
    counts: dict[str, tuple[int, int]] = {}
    for answer in ansible.ask(inventory, POOL, [*options, "-e", f"pool_minutes={minutes:g}"]).values():
        for host in answer.get("hosts", []):
            before = counts.get(host["name"], (0, 0))
            counts[host["name"]] = (before[0] + host["requests"], before[1] + host["failed"])
    return counts


def run_locust(
    locust: str, plan_file: pathlib.Path, directory: pathlib.Path, users: int, seconds: int, ramp: int
) -> tuple[int, float]:
    """Run Locust; (its exit code, the cores it used)."""
    command = [
        locust,
        "--headless",
        "--locustfile",
        str(VISITORS),
        "--users",
        str(users),
        "--spawn-rate",
        f"{users / ramp:g}",
        "--run-time",
        f"{seconds + ramp}s",
        "--stop-timeout",
        "10",
        "--reset-stats",
        "--only-summary",
        "--loglevel",
        "WARNING",
        "--exit-code-on-error",
        "0",
        "--csv",
        str(directory / "locust"),
    ]
    with open(directory / "locust.log", "w", encoding="utf-8") as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ, LOAD_PLAN=str(plan_file))
        )
        _pid, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    return process.returncode, (used.ru_utime + used.ru_stime) / (time.monotonic() - begun)


def run(environment: Environment, settings: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Let visitors loose and look meanwhile; the report. Raises Refused and Failed."""
    users, seconds = parse_limits(args.users, args.seconds)
    production = check_production(settings, args.anyway)
    if not smoke.held(settings["smoke"]):
        raise errors.Refused(
            f"Nobody answers at {settings['smoke']['address']}: on a balancer, journalctl -u keepalived"
        )
    crawl = smoke.Crawl(settings["smoke"], smoke.visitor(settings["smoke"])).run()
    if crawl.wrong:
        raise errors.Refused(
            f"The site is not well, and a load would measure that: {next(iter(crawl.wrong.values()))}. make smoke {settings['make_args']}"
        )
    first, load = settings["tiers"]["app"][0], settings["load"]
    signs_in = bool(load.get("sign_in")) and not production
    directory = environment.state / "load"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    plan_file, cookies, probes, made = directory / "plan.json", "", {}, False
    ramp = max(1, min(RAMP_S, seconds // 5))
    try:
        if signs_in:
            password = secrets.token_urlsafe(16)
            manage(environment, first, load["before"], f"{password}\n")
            made = True
            cookies = sign_in(settings["smoke"], load["sign_in"], password)
        plan_file.touch(mode=0o600)
        plan_file.write_text(json.dumps(plan(settings, crawl, cookies, production)), encoding="utf-8")
        print(f"load: {users} visitors at https://{settings['smoke']['address']}/ for {seconds} s", flush=True)
        count = (seconds + ramp) // EVERY_S + 10
        for name in sorted({host for members in settings["tiers"].values() for host in members}):
            serves, stores, caches = (name in settings["tiers"][tier] for tier in ("app", "db", "cache"))
            probes[name] = start_probe(
                environment.ssh(name),
                count,
                settings["apache_status"] if serves else "",
                "yes" if serves else "",
                settings["database"]["port"] if stores else "",
                settings["database"]["name"],
                f"{settings['addresses'][name]}/{settings['cache_port']}" if caches else "",
            )
        probes[""] = start_probe([], count)
        code, visitors = run_locust(args.locust, plan_file, directory, users, seconds, ramp)
        measured = {
            name: settled(samples(probe_output(probe), settings["doors"]), ramp) for name, probe in probes.items()
        }
        if code:
            raise Failed(f"Locust failed with {code}: {directory / 'locust.log'}")
    finally:
        plan_file.unlink(missing_ok=True)
        for process, _output in probes.values():
            process.terminate()
        if made and load.get("after"):
            manage(environment, first, load["after"])
    machine = figures(measured.pop(""), False)
    hosts = {name: figures(host_samples, settings["containers"]) for name, host_samples in measured.items()}
    rows, tiers = requests((directory / "locust_stats.csv").read_text(encoding="utf-8").splitlines())
    failures = [
        f"{row['Occurrences']} times {row['Name']}: {row['Error']}"[:200]
        for row in csv.DictReader((directory / "locust_failures.csv").read_text(encoding="utf-8").splitlines())
    ]
    points = history((directory / "locust_stats_history.csv").read_text(encoding="utf-8").splitlines())
    per_second, slow = curve(points, 1), curve(points, 2)
    return {
        "title": f"{settings['env_name']} under {users} visitors for {seconds} s",
        "when": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "visitors": visitor_rows(rows),
        "visitor_head": VISITOR_HEAD,
        "hosts": host_rows(
            hosts,
            settings["tiers"],
            balancer_counts(environment.inventory, (seconds + ramp) / 60, arguments.extra_vars(args)),
        ),
        "host_head": HOST_HEAD,
        "errors": {tier: (row["requests"], row["failures"]) for tier, row in tiers.items()},
        "by_tier": tier_rows(settings["tiers"], tiers, hosts),
        "tier_head": TIER_HEAD,
        "tiers": TITLES,
        "failures": failures,
        "bottleneck": bottleneck(hosts, settings["tiers"], machine, visitors, settings["containers"]),
        "machine": machine,
        "cores": visitors,
        "contained": settings["containers"],
        "curves": [("requests a second", *per_second), ("95 % of them within, in seconds", *slow)],
        "longest": points[-1][0] if points else 0.0,
        "asked": any(row["requests"] for row in rows),
        "failed": any(row["failures"] for row in rows),
    }


def load(args: argparse.Namespace) -> int:
    """Let loose and tell; the exit code. Raises Refused and Failed."""
    settings = next(
        (
            answer["msg"]
            for answer in ansible.ask(args.inventory, PLAYBOOK, arguments.extra_vars(args)).values()
            if isinstance(answer.get("msg"), dict)
        ),
        None,
    )
    if settings is None:
        raise errors.Refused("group_vars do not say what visitors do: make converge says why.")
    environment = Environment(args.inventory, tuple(args.extra_vars))
    report = run(environment, settings, args)
    print("\n".join(terminal_lines(report)))
    path = environment.state / "load.html"
    path.write_text(html(report), encoding="utf-8")
    print(f"  to read    {os.path.relpath(path)}\n")
    return 1 if report["failed"] or not report["asked"] else 0


def main() -> int:
    """Say by the exit code whether every request was answered."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument("--locust", required=True)
    parser.add_argument("--users", default="50")
    parser.add_argument("--seconds", default="60")
    parser.add_argument("--anyway", action="store_true")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    try:
        return errors.exit_code(lambda: load(args))
    except (Failed, OSError, urllib3.exceptions.HTTPError) as reason:
        print(f"Nothing was measured. {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
