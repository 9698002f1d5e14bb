"""Let visitors loose on a site, by its virtual IP, and tell what they got and which tier was out of what.

    load.py INVENTORY --locust PROGRAM [--users N] [--seconds N] [--anyway] [OPTION OF ANSIBLE-PLAYBOOK …]

Visitors are Locust's (controller/load/visitors.py); what they do is site_load of group_vars/all/site.yml. While they are at it every host is asked,
over the ssh that is there anyway, for its processor, memory, disks, and who waits at which door. The report goes to .state/ENV/load.html.
Real hosts of production are asked with --anyway only, and then nobody signs in or changes anything. Exits with 1 where a request failed,
with 2 where nobody could be let loose.
"""

import argparse
import csv
import datetime
import http.client
import http.cookies
import json
import os
import pathlib
import re
import secrets
import shlex
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

import jinja2

from controller import ansible, errors
from controller.commands import smoke
from controller.inventory import ROOT, state_of
from controller.report import table

PLAYBOOK = ROOT / "playbooks/queries/load.yml"
POOL = ROOT / "playbooks/queries/pool.yml"
VISITORS = ROOT / "controller/load/visitors.py"
REPORT = ROOT / "controller/templates/load.html.j2"

EVERY_S = 2          # seconds between two looks at a host
PAUSE = (0.5, 1.5)   # seconds a visitor reads
PATIENCE = 30        # seconds a visitor waits
RAMP_S = 10          # seconds at most in which visitors arrive; what they see until then does not count

# Of a host's processor, memory or time: what is more has nothing left.
CPU_FULL, IO_FULL, MEMORY_FULL = 0.85, 0.25, 0.95
WAITING = 0.5        # of those at a door, in the mean
TIERS = {"lb": "balancers", "app": "app hosts", "media": "media hosts", "cache": "cache", "db": "databases"}

# A look at a host, every $1 seconds, $2 times. $3: port of Apache's server-status, $4: whether there is a pgpool, $5: port of a PostgreSQL,
# $6: its database, $7: address/port of a memcached; or nothing.
LOOK = r"""
count=$2
while [ "$count" -gt 0 ]; do
  count=$((count - 1))
  echo "at $(cut -d ' ' -f 1 /proc/uptime)"
  echo "cores $(nproc)"
  sed -n 's/^cpu /stat /p' /proc/stat
  awk '$1 == "MemTotal:" || $1 == "MemAvailable:" {print $1, $2}' /proc/meminfo
  sed -n 's/^usage_usec /usage /p' /sys/fs/cgroup/cpu.stat 2>/dev/null
  sed 's/^/used /' /sys/fs/cgroup/memory.current 2>/dev/null
  sed -n 's/^inactive_file /inactive /p' /sys/fs/cgroup/memory.stat 2>/dev/null
  for what in cpu io; do
    sed -n "s/^some .*total=/own-$what /p" /sys/fs/cgroup/$what.pressure 2>/dev/null
    sed -n "s/^some .*total=/host-$what /p" /proc/pressure/$what 2>/dev/null
  done
  ss --no-header --listening --numeric --tcp --unix 2>/dev/null | awk '$3 > 0 {print "queue", $3, $5}'
  if [ -n "$3" ]; then
    curl --silent --max-time 1 "http://127.0.0.1:$3/server-status?auto" |
      sed -n 's/^Busy\(Workers\|Servers\): /apache-busy /p; s/^Idle\(Workers\|Servers\): /apache-idle /p'
  fi
  if [ -n "$4" ]; then
    PCPPASSFILE=/etc/pgpool2/pcppass timeout 2 pcp_proc_info --host=127.0.0.1 --username=follow --no-password --all --verbose 2>/dev/null | awk -F ' +: ' '
      $1 == "PID" {pid = $2; all[pid]} $1 == "Status" && $2 != "Wait for connection" {busy[pid]}
      END {print "pool-busy", length(busy); print "pool-all", length(all)}'
  fi
  if [ -n "$5" ]; then
    timeout 2 runuser -u postgres -- psql -qAtX -F ' ' -p "$5" -d postgres 2>/dev/null -c "select 'transactions', xact_commit + xact_rollback
      from pg_stat_database where datname = '$6' union all select 'rolled-back', xact_rollback from pg_stat_database where datname = '$6'"
  fi
  if [ -n "$7" ]; then
    timeout 2 bash -c 'exec 3<>"/dev/tcp/$1" && printf "stats\r\nquit\r\n" >&3 && tr -d "\r" <&3' - "$7" 2>/dev/null |
      sed -n 's/^STAT cmd_get /lookups /p; s/^STAT get_hits /found /p'
  fi
  echo .
  sleep "$1"  # between two looks
done
"""


class Failed(Exception):
    """Why nothing was measured, as a sentence."""


# ------------------------------------------------------------------ what visitors do

def bounds(users, seconds):
    """Both as numbers. Raises Refused."""
    for name, text, least in (("USERS", users, 1), ("SECONDS", seconds, 10)):
        if not re.fullmatch(r"\d+", text) or int(text) < least:
            raise errors.Refused(f"{name}={text} is no number from {least} on: make load USERS=50 SECONDS=60")
    return int(users), int(seconds)


def spared(told, anyway):
    """Whether this is production itself, which is asked and never changed. Raises Refused where it is not to be asked either."""
    production = told["env_name"] == "production" and not told["containers"]
    if production and not anyway:
        raise errors.Refused("This is production: its visitors would wait behind these. Load a rehearsal of it: make converge load ENV=production "
                            "REHEARSE=1; or all the same: make load ENV=production ANYWAY=1")
    return production


def plan(told, crawl, cookies, production):
    """What load/visitors.py is told. Raises Failed where there is nothing to do."""
    load, found = told["load"], {}
    for path, (kind, answer, _by) in crawl.seen.items():
        if isinstance(answer, smoke.Answer) and answer.status == 200:
            found.setdefault(kind, []).append(path)
    has = {"page": found.get("page"), "static": found.get("static file"), "media": found.get("upload"),
           "session": cookies and load.get("session"), "change": cookies and load.get("change") and not production}
    unknown = set(load["mix"]) - set(has)
    if unknown:
        raise Failed(f"group_vars/all/site.yml: site_load.mix has {', '.join(sorted(unknown))}; there are {', '.join(has)}.")
    mix = {kind: share for kind, share in load["mix"].items() if has[kind] and share > 0}
    if not mix:
        raise Failed("group_vars/all/site.yml: nothing of site_load.mix is left to do.")
    return {"tiers": KINDS, "name": told["smoke"]["name"], "address": told["smoke"]["address"], "origin": smoke.origin(told["smoke"]), "pause": PAUSE, "patience": PATIENCE,
            "mix": mix, "pages": has["page"], "statics": has["static"], "uploads": has["media"], "session": load.get("session", []),
            "change": load.get("change", {}), "cookies": cookies, "sign_in_page": load.get("sign_in", {}).get("page", "-")}


def manage(variables, words, entered=""):
    """Run a management command on a host. Raises Failed where it fails."""
    done = subprocess.run([*ansible.ssh(variables), shlex.join(["sudo", "/usr/local/bin/manage", *words])], input=entered, capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise Failed(f"manage {words[0]} failed on {variables['ansible_host']}: {' '.join((done.stdout + done.stderr).split())[-400:]}")


def sign_in(asked, form, password):
    """The cookies of who has signed in, as a header. Raises Failed where that fails."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the smoke test has just checked it
    jar = http.cookies.SimpleCookie()

    def fetch(method, body=None, **headers):
        connection = http.client.HTTPSConnection(asked["name"], asked["port"], timeout=PATIENCE)
        connection.sock = context.wrap_socket(socket.create_connection((asked["address"], asked["port"]), timeout=PATIENCE), server_hostname=asked["name"])
        sent = "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())
        connection.request(method, form["page"], body, {"Cookie": sent, "Referer": smoke.origin(asked) + form["page"], **headers})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        for line in answer.headers.get_all("Set-Cookie", []):
            jar.load(line)
        connection.close()
        return answer.status, text
    _status, text = fetch("GET")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', text)
    fields = form["fields"] | {form["password"]: password} | ({"csrfmiddlewaretoken": token[1]} if token else {})
    code, _text = fetch("POST", urllib.parse.urlencode(fields), **{"Content-Type": "application/x-www-form-urlencoded"})
    if code not in (302, 303):
        raise Failed(f"nobody can sign in at {form['page']}: {code} (site_load.sign_in of group_vars/all/site.yml)")
    return "; ".join(f"{name}={morsel.value}" for name, morsel in jar.items())


# ------------------------------------------------------------------ looking meanwhile

def looking(variables, count, *of_tier):
    """(a process that looks at a host, or at this machine where variables are None; the file it writes to). It ends by itself, sooner or later."""
    words = ["sh", "-c", LOOK, "load-look", str(EVERY_S), str(count), *map(str, of_tier), *[""] * (5 - len(of_tier))]
    command = words if variables is None else [*ansible.ssh(variables), shlex.join(["sudo", *words])]
    told = tempfile.TemporaryFile("w+")
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.DEVNULL), told


def seen_by(look):
    """What a look has said so far; it is over."""
    process, told = look
    process.terminate()
    process.wait()
    told.seek(0)
    return told.read()


def samples(text, doors):
    """[{name: figure}] of what a host said; queues are added up by the doors they are at, as queue-DOOR. doors: {port, or address:port: DOOR}."""
    found, one = [], {}
    for line in text.splitlines():
        words = line.split()
        if words == ["."]:
            found.append(one)
            one = {}
        elif words[:1] == ["stat"] and len(words) > 8:
            user, nice, system, idle, iowait, *rest = map(int, words[1:9])
            one |= {"busy": user + nice + system + sum(rest), "idle": idle, "iowait": iowait}
        elif words[:1] == ["queue"] and len(words) == 3:
            door = "wsgi" if "/wsgi." in words[2] else doors.get(words[2]) or doors.get(words[2].rpartition(":")[2])
            if door:
                one[f"queue-{door}"] = one.get(f"queue-{door}", 0.0) + float(words[1])
        elif len(words) == 2:
            try:
                one[words[0].rstrip(":")] = float(words[1])
            except ValueError:
                continue
    return found


def settled(seen, ramp):
    """Samples of the time after the visitors had arrived."""
    return [one for one in seen if one["at"] >= seen[0]["at"] + ramp]


def rate(seen, name, scale=1.0):
    """What a counter grew by in a second, in the mean and at most; (None, None) where there is none."""
    steps = [(after[name] - before[name]) * scale / (after["at"] - before["at"]) for before, after in zip(seen, seen[1:])
             if name in before and name in after and after["at"] > before["at"]]
    return (statistics.mean(steps), max(steps)) if steps else (None, None)


def figures(seen, contained):
    """What a host's samples come to: parts of 1 for cpu (of the machine's cores), memory, io; cores used; who waits where; None where nobody tells."""
    if len(seen) < 2:
        return None
    cores = seen[-1].get("cores", 1.0)
    told = {"cores": cores, "queues": {}}
    if contained and "usage" in seen[-1]:
        mean, most = rate(seen, "usage", 1e-6)
        told |= {"used": mean, "cpu": mean / cores, "cpu_most": most / cores}
        told["memory"] = max(((one["used"] - one.get("inactive", 0)) / 1024 / one["MemTotal"] for one in seen if "used" in one and "MemTotal" in one), default=None)
    else:
        ticks = [(after["busy"] - before["busy"], after["busy"] + after["idle"] + after["iowait"] - before["busy"] - before["idle"] - before["iowait"])
                 for before, after in zip(seen, seen[1:])]
        shares = [busy / total for busy, total in ticks if total > 0] or [0.0]
        told |= {"cpu": statistics.mean(shares), "cpu_most": max(shares), "used": statistics.mean(shares) * cores,
                 "memory": max(1 - one["MemAvailable"] / one["MemTotal"] for one in seen)}
    own = "own" if contained else "host"
    told["io"] = rate(seen, f"{own}-io", 1e-6)[0]
    told["cpu_wait"] = rate(seen, f"{own}-cpu", 1e-6)[0]
    for door in sorted({name for one in seen for name in one if name.startswith("queue-")}):
        waiting = [one.get(door, 0.0) for one in seen]
        told["queues"][door.removeprefix("queue-")] = (statistics.mean(waiting), max(waiting))
    for name in ("transactions", "rolled-back", "lookups", "found"):
        counts = [one[name] for one in seen if name in one]
        if len(counts) > 1:
            told[name], told[f"{name}-rate"] = counts[-1] - counts[0], rate(seen, name)[0]
    for name in ("apache-busy", "apache-idle", "pool-busy", "pool-all"):
        values = [one[name] for one in seen if name in one]
        if values:
            told[name] = statistics.mean(values)
    return told


def waiting(host, door):
    """How many waited at a door of a host, in the mean."""
    return host["queues"].get(door, (0.0, 0.0))[0] if host else 0.0


def bottleneck(hosts, tiers, machine, visitors, contained):
    """(tier, or "visitors", "machine", "" for none; why, as a sentence).

    hosts: {name: figures or None}; machine: figures of this machine; visitors: cores that the visitors themselves used.
    """
    known = {name: told for name, told in hosts.items() if told}
    if not known:
        return "", "No host told how it was."
    if visitors >= 0.9:
        return "visitors", (f"The visitors themselves used {visitors:.2f} of the one core they can use: what the tier could do is more than this. "
                            "Ask from several machines, or with longer pauses.")

    def of(tier):
        return {name: known[name] for name in tiers.get(tier, []) if name in known}

    def hardest(among, what):
        return max(among, key=lambda name: among[name].get(what) or 0.0)
    saturated = bool(contained and machine and machine["cpu"] >= CPU_FULL)
    database = of("db")
    database_full = bool(database) and max(told["cpu"] for told in database.values()) >= CPU_FULL
    at_pool = max((waiting(told, "pgpool") for told in of("app").values()), default=0.0)
    if at_pool >= WAITING and not database_full and not saturated:
        name = max(of("app"), key=lambda one: waiting(known[one], "pgpool"))
        return "app", (f"{waiting(known[name], 'pgpool'):.1f} requests waited for a session of pgpool on {name}, and no database was out of processor: "
                       f"the pool is too small. group_vars/all/pgpool.yml: pool_children, and db_max_connections")
    by_tier = {tier: hardest(of(tier), "used" if contained else "cpu") for tier in TIERS if of(tier)}
    if contained and saturated:
        tier = max(by_tier, key=lambda one: known[by_tier[one]]["used"])
        return tier, (f"This machine's {machine['cores']:.0f} cores were {machine['cpu']:.0%} busy, and all hosts share them. {by_tier[tier]} used most, "
                      f"{known[by_tier[tier]]['used']:.2f} cores: with machines of their own the {TIERS[tier]} would be out of processor first.")
    tier = max(by_tier, key=lambda one: known[by_tier[one]]["cpu"])
    told = known[by_tier[tier]]
    if told["cpu"] >= CPU_FULL:
        return tier, f"{by_tier[tier]} was out of processor: {told['cpu']:.0%} of its {told['cores']:.0f} cores busy in the mean."
    for what, full, words in (("io", IO_FULL, "waited for its disk {:.0%} of the time"), ("memory", MEMORY_FULL, "had {:.0%} of its memory in use")):
        tier = max(by_tier, key=lambda one: max((told.get(what) or 0.0 for told in of(one).values()), default=0.0))
        name = hardest(of(tier), what)
        if (known[name].get(what) or 0.0) >= full:
            return tier, f"{name} {words.format(known[name][what])}."
    threads = max(of("app"), key=lambda one: waiting(known[one], "wsgi"), default="")
    if threads and waiting(known[threads], "wsgi") >= WAITING:
        return "app", (f"{waiting(known[threads], 'wsgi'):.1f} requests waited for a thread of the site on {threads}, whose processor was not out of time: "
                       "group_vars/app.yml: app_threads, app_processes")
    return "", "No tier was out of anything: let more visitors loose (USERS)."


# ------------------------------------------------------------------ what visitors got

KINDS = {"page": "app", "session": "app", "change": "app", "static": "media", "media": "media"}


def requests(lines):
    """(rows of the kinds, {tier: row}) of Locust's statistics; a row: {kind, requests, failures, rate, p50 … worst} in seconds.

    The kinds come first and all of them together last; that is the balancers' row, too: they see them all.
    """
    kinds, tiers = [], {}
    for said in csv.DictReader(lines):
        if not said["Name"] or not int(said["Request Count"]):
            continue
        row = {"kind": "all" if said["Name"] == "Aggregated" else said["Name"], "requests": int(said["Request Count"]), "failures": int(said["Failure Count"]),
               "rate": float(said["Requests/s"])}
        row |= {name: float(said[share]) / 1000 for name, share in (("p50", "50%"), ("p95", "95%"), ("p99", "99%"), ("worst", "100%"))}
        if said["Type"] == "tier":
            tiers[said["Name"]] = row
        else:
            kinds.append(row)
    every = [row for row in kinds if row["kind"] == "all"]
    return kinds, tiers | ({"lb": every[-1]} if every else {})


def history(lines):
    """[(seconds since it began, requests a second, 95th percentile in seconds)], while visitors were there."""
    found = []
    for row in csv.DictReader(lines):
        if row["Name"] == "Aggregated" and float(row["User Count"]) > 0:
            slow = float(row["95%"]) / 1000 if row["95%"] not in ("N/A", "") else 0.0
            found.append((float(row["Timestamp"]), float(row["Requests/s"]), slow))
    return [(at - found[0][0], per_second, slow) for at, per_second, slow in found]


def curve(points, place, width=820, height=110):
    """A curve as SVG's points: place says which of a point's figures; and the highest of them."""
    highest = max((point[place] for point in points), default=0.0) or 1.0
    longest = points[-1][0] if points and points[-1][0] else 1.0
    return " ".join(f"{width * point[0] / longest:.0f},{height - (height - 8) * point[place] / highest:.0f}" for point in points), highest


def part(value):
    """A part of 1 as people read it."""
    return "-" if value is None else f"{value:.0%}"


def host_rows(hosts, tiers, seen):
    """Cells about every host; seen: {host: (requests, failures) as the balancers saw them}."""
    rows = []
    for tier in TIERS:
        for name in tiers.get(tier, []):
            told = hosts.get(name)
            if not told:
                rows.append((TIERS[tier], name, "did not tell", "", "", "", "", ""))
                continue
            queues = ", ".join(f"{door} {mean:.1f} (at most {most:.0f})" for door, (mean, most) in told["queues"].items())
            more = [f"apache {told['apache-busy']:.0f} of {told['apache-busy'] + told.get('apache-idle', 0):.0f}"] if "apache-busy" in told else []
            more += [f"pgpool {told['pool-busy']:.0f} of {told['pool-all']:.0f}"] if "pool-all" in told else []
            requests_seen, failed = seen.get(name, (None, None))
            rows.append((TIERS[tier], name, f"{part(told['cpu'])} (most {part(told['cpu_most'])})", part(told["memory"]), part(told["io"]),
                         queues or "nobody", ", ".join(more) or "-", "-" if requests_seen is None else f"{requests_seen}, {failed} failed"))
    return rows


HOST_HEAD = ("tier", "host", "processor", "memory", "disk wait", "waiting at", "busy", "requests")


def visitor_rows(rows):
    """Cells about what visitors got."""
    return [(row["kind"], str(row["requests"]), str(row["failures"]), f"{row['rate']:.1f}", *times(row)) for row in rows]


def times(row):
    """Cells about how long it took."""
    return [f"{row[name]:.3f}" for name in ("p50", "p95", "p99", "worst")]


VISITOR_HEAD = ("kind", "requests", "failed", "a second", "half within", "95 %", "99 %", "slowest, s")


def tier_rows(tiers, rows, hosts):
    """Cells about what each tier did: for visitors, and for the app hosts, by the servers' own counts, which have no times.

    tiers: {tier: hosts}; rows: {tier: row} of requests(); hosts: {name: figures or None}.
    """
    def summed(tier, name):
        return sum(told.get(name) or 0 for host in tiers.get(tier, []) if (told := hosts.get(host)))
    found = [(TIERS[tier], "requests", f"{rows[tier]['requests']}", f"{rows[tier]['failures']}", f"{rows[tier]['rate']:.1f}", *times(rows[tier]))
             for tier in ("lb", "app", "media") if tier in rows]
    for tier, what, failed in (("cache", "lookups", ""), ("db", "transactions", "rolled-back")):
        if count := summed(tier, what):
            words = what if failed else f"{what}, {summed(tier, 'found') / count:.0%} found"
            found.append((TIERS[tier], words, f"{count:.0f}", f"{summed(tier, failed):.0f}" if failed else "-", f"{summed(tier, f'{what}-rate'):.1f}", *["-"] * 4))
    return found


TIER_HEAD = ("tier", "of what", "how many", "failed", *VISITOR_HEAD[3:])


def html(report):
    """The report to read: one file, without anything from elsewhere."""
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(REPORT.read_text(encoding="utf-8"))
    return template.render(**report)


def told_rows(report):
    """The report's lines for a terminal."""
    tier, why = report["bottleneck"]
    errors = ", ".join(f"{TIERS[name]} {failed} of {count}" for name, (count, failed) in report["errors"].items())
    return ["", f"  {report['title']}", "", *table([VISITOR_HEAD, *report["visitors"]]), "", *table([TIER_HEAD, *report["by_tier"]]), "",
            *table([HOST_HEAD, *report["hosts"]]), "",
            f"  failed     {errors or 'nothing was asked for'}", *(f"             {line}" for line in report["failures"][:5]),
            f"  bottleneck {TIERS.get(tier, tier) or 'none'}: {why}", ""]


def balancers_saw(inventory, minutes, options):
    """{host: (requests, failures)} of those behind the balancers, all balancers together."""
    found = {}
    for said in ansible.ask(inventory, POOL, [*options, "-e", f"pool_minutes={minutes:g}"]).values():
        for host in said.get("hosts", []):
            had = found.get(host["name"], (0, 0))
            found[host["name"]] = (had[0] + host["requests"], had[1] + host["failed"])
    return found


# ------------------------------------------------------------------ doing it

def let_loose(locust, plan_file, place, users, seconds, ramp):
    """Run Locust; (its exit code, the cores it used)."""
    words = [locust, "--headless", "--locustfile", str(VISITORS), "--users", str(users), "--spawn-rate", f"{users / ramp:g}",
             "--run-time", f"{seconds + ramp}s", "--stop-timeout", "10", "--reset-stats", "--only-summary", "--loglevel", "WARNING", "--exit-code-on-error", "0",
             "--csv", str(place / "locust")]
    with open(place / "locust.log", "w", encoding="utf-8") as log:
        begun = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(os.environ, LOAD_PLAN=str(plan_file)))
        _pid, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    return process.returncode, (used.ru_utime + used.ru_stime) / (time.monotonic() - begun)


def run(inventory, told, given):
    """Let visitors loose and look meanwhile; the report. Raises Refused and Failed."""
    users, seconds = bounds(given.users, given.seconds)
    production = spared(told, given.anyway)
    if not smoke.held(told["smoke"]):
        raise errors.Refused(f"Nobody answers at {told['smoke']['address']}: on a balancer, journalctl -u keepalived")
    crawl = smoke.Crawl(told["smoke"], smoke.visitor(told["smoke"])).run()
    if crawl.wrong:
        raise errors.Refused(f"The site is not well, and a load would measure that: {next(iter(crawl.wrong.values()))}. make smoke {told['make_args']}")
    variables = ansible.hosts(inventory, "all")
    first, load = variables[told["tiers"]["app"][0]], told["load"]
    signs_in = bool(load.get("sign_in")) and not production
    place = state_of(pathlib.Path(inventory)) / "load"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    plan_file, cookies, looks, made = place / "plan.json", "", {}, False
    ramp = max(1, min(RAMP_S, seconds // 5))
    try:
        if signs_in:
            password = secrets.token_urlsafe(16)
            manage(first, load["before"], f"{password}\n")
            made = True
            cookies = sign_in(told["smoke"], load["sign_in"], password)
        plan_file.touch(mode=0o600)
        plan_file.write_text(json.dumps(plan(told, crawl, cookies, production)), encoding="utf-8")
        print(f"load: {users} visitors at https://{told['smoke']['address']}/ for {seconds} s", flush=True)
        count = (seconds + ramp) // EVERY_S + 10
        for name in sorted({one for members in told["tiers"].values() for one in members}):
            serves, stores, caches = (name in told["tiers"][tier] for tier in ("app", "db", "cache"))
            looks[name] = looking(variables[name], count, told["apache_status"] if serves else "", "yes" if serves else "",
                                  told["database"]["port"] if stores else "", told["database"]["name"],
                                  f"{told['addresses'][name]}/{told['cache_port']}" if caches else "")
        looks[""] = looking(None, count)
        code, visitors = let_loose(given.locust, plan_file, place, users, seconds, ramp)
        seen = {name: settled(samples(seen_by(look), told["doors"]), ramp) for name, look in looks.items()}
        if code:
            raise Failed(f"Locust failed with {code}: {place / 'locust.log'}")
    finally:
        plan_file.unlink(missing_ok=True)
        for process, _told in looks.values():
            process.terminate()
        if made and load.get("after"):
            manage(first, load["after"])
    machine = figures(seen.pop(""), False)
    hosts = {name: figures(found, told["containers"]) for name, found in seen.items()}
    rows, tiers = requests((place / "locust_stats.csv").read_text(encoding="utf-8").splitlines())
    failures = [f"{row['Occurrences']} times {row['Name']}: {row['Error']}"[:200] for row in
                csv.DictReader((place / "locust_failures.csv").read_text(encoding="utf-8").splitlines())]
    points = history((place / "locust_stats_history.csv").read_text(encoding="utf-8").splitlines())
    per_second, slow = curve(points, 1), curve(points, 2)
    return {
        "title": f"{told['env_name']} under {users} visitors for {seconds} s", "when": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "visitors": visitor_rows(rows), "visitor_head": VISITOR_HEAD, "hosts": host_rows(hosts, told["tiers"], balancers_saw(
            inventory, (seconds + ramp) / 60, given.options)), "host_head": HOST_HEAD,
        "errors": {tier: (row["requests"], row["failures"]) for tier, row in tiers.items()}, "by_tier": tier_rows(told["tiers"], tiers, hosts),
        "tier_head": TIER_HEAD, "tiers": TIERS, "failures": failures,
        "bottleneck": bottleneck(hosts, told["tiers"], machine, visitors, told["containers"]), "machine": machine, "cores": visitors,
        "contained": told["containers"], "curves": [("requests a second", *per_second), ("95 % of them within, in seconds", *slow)],
        "longest": points[-1][0] if points else 0.0, "asked": any(row["requests"] for row in rows), "failed": any(row["failures"] for row in rows),
    }


def load(given):
    """Let loose and tell; the exit code. Raises Refused and Failed."""
    told = next((found["msg"] for found in ansible.ask(given.inventory, PLAYBOOK, given.options).values() if isinstance(found.get("msg"), dict)), None)
    if told is None:
        raise errors.Refused("group_vars do not say what visitors do: make converge says why.")
    report = run(given.inventory, told, given)
    print("\n".join(told_rows(report)))
    path = state_of(pathlib.Path(given.inventory)) / "load.html"
    path.write_text(html(report), encoding="utf-8")
    print(f"  to read    {os.path.relpath(path)}\n")
    return 1 if report["failed"] or not report["asked"] else 0


def main():
    """Say by the exit code whether every request was answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], usage=__doc__)
    parser.add_argument("inventory")
    parser.add_argument("--locust", required=True)
    parser.add_argument("--users", default="50")
    parser.add_argument("--seconds", default="60")
    parser.add_argument("--anyway", action="store_true")
    given, given.options = parser.parse_known_args()
    try:
        return errors.told(lambda: load(given))
    except (Failed, OSError, http.client.HTTPException) as reason:
        print(f"Nothing was measured. {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
