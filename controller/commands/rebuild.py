"""Destroy an environment and bring it back from nothing.

Without --from its data come back from its own backups: its backup host stays, everything else goes. With it everything goes, and what
comes is another environment's: the release that serves there, its uploads, and its rows as they are archived, scrubbed by site_scrub of
group_vars/all/site.yml before they leave its backup host.

Where hosts are containers they are removed; real ones have to be bare. Cut off anywhere, it can be typed again to the same end. Exits with 2
where it refuses, and nothing is touched then; with 1 where it fails or what came up is not as it should be.
"""

import argparse
import concurrent.futures
import datetime
import functools
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from controller import ansible, arguments, lock
from controller.environment import RELEASES, ROOT, Environment
from controller.errors import Refused, exit_code
from controller.inventory import Inventory

PLAYBOOK = ROOT / "playbooks/queries/rebuild.yml"
NEVER = "production"  # what visitors wrote there is nowhere else: no verb destroys it
PARTS = (".tar.gz", ".static.tar.gz", ".json")  # of a release


class Failed(Exception):
    """Which step failed."""


class Subject(Environment):
    """An environment that is rebuilt, or whose data are taken."""

    @property
    def note(self) -> pathlib.Path:
        """The file with the hosts of a rebuild that has not ended."""
        return self.state / "rebuild.json"

    @property
    def containers(self) -> bool:
        """Whether the hosts are containers of this machine."""
        return bool(self.declared["env_containers"])

    @functools.cached_property
    def listed(self) -> Inventory:
        """The inventory, which needs no vault to be read."""
        return Inventory(self.inventory.read_text())

    @property
    def groups(self) -> dict[str, list[str]]:
        """{group: names of hosts}."""
        return self.listed.groups

    @property
    def backup(self) -> str:
        """Name of the backup host."""
        return self.groups["backup"][0]

    def ask(self, tag: str) -> dict[str, dict[str, Any]]:
        """What hosts answer to the first task of rebuild.yml with a tag, as {host: result}."""
        variables = {"ENV": self.name, **self.password_variable}
        return ansible.results(str(self.inventory), PLAYBOOK, ["--tags", tag], **variables)[0]

    @property
    def tier_backup(self) -> str:
        """The command that reaches the program of the backup host, as a word of a shell."""
        return shlex.join([*self.ssh(self.backup), "sudo", "/usr/local/sbin/tier-backup"])


# ---------------------------------------------------------------- what is refused


def check_environments(env: Subject, other: Subject | None) -> None:
    """Raise Refused for what is never rebuilt, or not from there."""
    if env.name == NEVER and not env.containers:
        raise Refused(
            f"{NEVER} is never destroyed. Where all but its backup host is gone, onto bare hosts: make converge {env.make_args} "
            """VARS='{"backup_bootstrap": ["--type=default"]}'; try it first: """
            f"make rebuild {env.make_args} REHEARSE=1"
        )
    if other is not None and env.name == NEVER:
        raise Refused(f"{NEVER} gets its data from nobody but itself: leave FROM out.")
    if other is not None and env.name == other.name:
        raise Refused(f"FROM={other.name} is what would be destroyed. From its own backups: leave FROM out.")


def check_vault(env: Subject) -> None:
    """Raise Refused where nothing that is in the backups can be read."""
    if not env.vault.exists():
        raise Refused(
            f"The secrets of {env.name} are not here ({os.path.relpath(env.vault, ROOT)}): nothing else opens its backups."
        )


def check_rules(rules: Sequence[Any]) -> None:
    """Raise Refused for rules of site_scrub that cannot be meant."""
    setting = "group_vars/all/site.yml: site_scrub"
    if not rules:
        raise Refused(f"{setting} is empty: what of the site's rows is personal?")
    for rule in rules:
        if (
            not isinstance(rule, dict)
            or set(rule) not in ({"table"}, {"table", "column", "value"})
            or not all(isinstance(word, str) for word in rule.values())
        ):
            raise Refused(
                f"{setting} has {json.dumps(rule)}: a rule has table, column and value, or a table alone, to empty it."
            )


def check_bare(env: Subject, begun: Iterable[str], taken: Iterable[str]) -> None:
    """Raise Refused for real hosts that are not bare, but for those that a rebuild which was cut off has begun.

    begun: hosts it was for; taken: hosts that let the operator in.
    """
    wrong = sorted(set(taken) - set(begun))
    if wrong:
        raise Refused(
            f"{', '.join(wrong)} of {env.name} {'are' if len(wrong) > 1 else 'is'} not bare, and nothing here empties a real host. Install Debian 13 "
            "anew there, with a key that lets root in, then type the same again."
        )


def release_of(
    other: Subject, answers: Mapping[str, Mapping[str, Any]], releases: pathlib.Path = RELEASES, site: str = "site"
) -> str:
    """The release that another environment serves, once all of it is known to be here.

    answers: {app host: what it says of it}. Raises Refused, with what to do.
    """
    silent = [host for host in other.groups["app"] if answers.get(host, {}).get("rc") != 0]
    if silent:
        raise Refused(
            f"{', '.join(silent)} of {other.name} did not tell which release it serves: make status {other.make_args}"
        )
    releases_served = {tuple(answers[host]["stdout"].split()[:2]) for host in other.groups["app"]}
    if len(releases_served) > 1:
        raise Refused(f"The app hosts of {other.name} serve different releases: make deploy {other.make_args}")
    [(version, manifest)] = releases_served
    files = [releases / f"{site}-{version}{part}" for part in PARTS]
    if not all(path.exists() for path in files):
        raise Refused(
            f"Release {version} of {other.name} is not in {os.path.relpath(RELEASES, ROOT)} of this machine. Copy {site}-{version}.* there from the machine that "
            f"deployed it, or deploy from here: make deploy {other.make_args}"
        )
    if hashlib.sha256(files[-1].read_bytes()).hexdigest() != manifest:
        raise Refused(
            f"Release {version} in {os.path.relpath(RELEASES, ROOT)} is not the one that {other.name} serves: their manifests differ. Copy {site}-{version}.* "
            f"from the machine that deployed it, or deploy from here: make deploy {other.make_args}"
        )
    return str(version)


def plan_of(env: Subject, answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the backup host can bring back. Raises Refused where it cannot."""
    if answer.get("unreachable") or "rc" not in answer:
        why = "does not answer over SSH" + (f": docker start {env.name}-{env.backup}" if env.containers else "")
        raise Refused(f"{env.backup} has the only backups of {env.name}, and {why}.")
    if answer["rc"]:
        raise Refused(f"{env.backup}: {(answer['stderr'].splitlines() or ['it gave no reason'])[-1]}")
    result: dict[str, Any] = json.loads(answer["stdout"])
    return result


# ---------------------------------------------------------------- what is told


def moment(seconds: float | None) -> str:
    """A moment as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "an unknown time"


def minutes(seconds: float) -> str:
    """A time as people read it."""
    return f"{seconds / 60:.1f} min"


def announcement(
    env: Subject,
    other: Subject | None,
    goes: Sequence[str],
    plan: Mapping[str, Any],
    bounds: tuple[int, int],
) -> list[str]:
    """What is destroyed, what comes, and what is lost, as lines.

    goes: names of containers; plan: of the backup host, empty with other; bounds: (archive_timeout in seconds, minutes between two backups of uploads).
    """
    lines = [
        f"Destroyed is, of {env.name}: {', '.join(goes)}."
        if goes
        else f"Nothing of {env.name} stands that would be destroyed."
    ]
    if other is not None:
        return [
            *lines,
            f"With {env.backup} go its backups." if goes else "",
            f"What comes is {other.name}'s: its release, its rows as they are archived, scrubbed, and its uploads.",
        ]
    return [
        *lines,
        f"{env.backup} stays. Databases come back from its backup of {plan['backup']} and all WAL after it, "
        f"uploads from that of {moment(plan.get('uploads'))}.",
        f"The last WAL came at {moment(plan.get('archived'))}. Lost is what was written since: at most {bounds[0]} s, and the moment it takes to send it; "
        f"and uploads of the last {bounds[1]} min."
        + (f" What answers still: make backup {env.make_args} brings it along." if goes else ""),
        f"Beware: the archive lacks {plan['gap']}, and nothing after it comes back." if plan["gap"] else "",
    ]


def scrubbed(rules: Sequence[Mapping[str, str]], rows: Sequence[int]) -> list[str]:
    """What each rule did, as lines."""
    return [
        f"{rule['table']}{'.' + rule['column'] if 'column' in rule else ' emptied'}: {count} rows"
        for rule, count in zip(rules, rows, strict=True)
    ]


def last_change(answer: Mapping[str, Any]) -> str:
    """When the last change was made that came back, as PostgreSQL tells it; nothing where it does not."""
    match = re.search(r"at log time (\S+ \S+)", answer.get("stdout", ""))
    return match[1] if match else ""


# ---------------------------------------------------------------- what is done


def standing(env: Subject, kept: Sequence[str]) -> list[str]:
    """Names of the containers of an environment, but for those of kept hosts. Raises Refused where one of those is gone."""
    command = ["docker", "ps", "--all", "--filter", f"label=realworld={env.name}", "--format", "{{.Names}}"]
    done = subprocess.run(
        [*([] if os.geteuid() == 0 else ["sudo"]), *command], capture_output=True, text=True, check=True
    )
    names, own = sorted(done.stdout.split()), [f"{env.name}-{host}" for host in kept]
    if not set(own) <= set(names):
        raise Refused(
            f"{kept[0]} of {env.name} is gone, and with it the only backups: there is nothing to bring back. make converge {env.make_args} begins anew."
        )
    return [name for name in names if name not in own]


def converged(env: Subject, hosts: Sequence[str]) -> list[str]:
    """Those hosts that let the operator in: they are not bare."""

    def lets_in(login: Sequence[str]) -> bool:
        return subprocess.run([*login, "true"], capture_output=True, check=False).returncode == 0

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        return [host for host, reached in zip(hosts, threads.map(lets_in, list(map(env.ssh, hosts)))) if reached]


def step(title: str, *command: str, quiet: bool = False, fails: bool = True) -> int:
    """Do a step, and say how long it took; its exit code. Raises Failed."""
    begun = time.monotonic()
    print(f"\nrebuild: {title}", flush=True)
    variables = dict(os.environ, MAKEFLAGS="")
    stdout, stderr = (subprocess.PIPE, subprocess.STDOUT) if quiet else (None, None)
    done = subprocess.run(command, cwd=ROOT, env=variables, check=False, text=True, stdout=stdout, stderr=stderr)
    if done.returncode and fails:
        raise Failed(f"{title} failed{': ' + done.stdout[-3000:] if quiet else ''}")
    print(f"rebuild: {title}: {time.monotonic() - begun:.0f} s", flush=True)
    return done.returncode


def take_over(other: Subject, rules: Sequence[Mapping[str, str]]) -> tuple[dict[str, Any], list[str]]:
    """What the other environment hands over: (variables for the converge, lines about it). Raises Failed."""
    print(
        f"\nrebuild: the newest backup of {other.name} is restored on its {other.backup} and scrubbed there", flush=True
    )
    answer = other.ask("scrub")[other.backup]
    if answer.get("rc") != 0:
        raise Failed(
            f"Nothing was destroyed. {other.backup} of {other.name}: "
            f"{(answer.get('stderr', '').splitlines() or [answer.get('msg', 'it gave no reason')])[-1]}"
        )
    result = json.loads(answer["stdout"])
    return {"backup_taken_from": other.tier_backup}, [
        f"rows      {other.name}'s backup of {result['backup']} and all WAL after it, scrubbed:",
        *(f"            {line}" for line in scrubbed(rules, result["rows"])),
        *([f"beware    the archive lacks {result['gap']}, and nothing after it came"] if result["gap"] else []),
    ]


def restore(
    env: Subject,
    other: Subject | None,
    plan: Mapping[str, Any],
    version: str,
    rules: Sequence[Mapping[str, str]],
    options: Sequence[str],
) -> list[str]:
    """Destroy and build; lines about it. Raises Failed."""
    if other is not None:
        chosen, lines = take_over(other, rules)
        chosen["django_version"] = version
        lines = [f"release   {version}, as {other.name} serves it", *lines]
    else:
        chosen, lines = {"backup_bootstrap": [f"--set={plan['label']}", "--type=default"]}, []
    kept = [] if other is not None else [env.backup]
    play = ["ansible-playbook", "-i", str(env.inventory)]
    env.note.write_text(json.dumps(list(env.listed.lines)) + "\n", encoding="utf-8")
    if env.containers:
        step("destroy", *play, "containers/destroy.yml", "-e", json.dumps({"platform_kept": kept}), quiet=True)
    step("boot", "make", "--no-print-directory", "up", *env.make_args.split())
    step("converge", *play, *options, "-e", json.dumps(chosen), "playbooks/site.yml")
    env.note.unlink()
    if other is None:
        change = last_change(next(iter(env.ask("came").values())))
        lines += [
            f"rows      from the backup of {plan['backup']} and all WAL after it{', to the last change, of ' + change if change else ''}",
            f"lost      what was written after the last WAL, of {moment(plan.get('archived'))}, and uploads after {moment(plan.get('uploads'))}",
        ]
    return lines


def rebuild(env: Subject, other: Subject | None, args: argparse.Namespace) -> int:
    """Ask, and do it; the exit code. Raises Refused and Failed."""
    site = yaml.safe_load((ROOT / "group_vars/all/site.yml").read_text())
    backup = yaml.safe_load((ROOT / "group_vars/all/backup.yml").read_text())
    rules = site["site_scrub"]
    check_environments(env, other)
    plan: dict[str, Any] = {}
    version, kept = "", []
    if other is not None:
        check_rules(rules)
        version = release_of(other, other.ask("release"), site=site["site_name"])
    else:
        check_vault(env)
        kept = [env.backup]
    goes = standing(env, kept) if env.containers else []
    if not env.containers:
        begun = json.loads(env.note.read_text(encoding="utf-8")) if env.note.exists() else []
        check_bare(env, begun, converged(env, [host for host in env.listed.lines if host not in kept]))
    if other is None:
        plan = plan_of(env, env.ask("plan")[env.backup])
    bounds = backup["backup_archive_timeout_s"], backup["backup_media_every_min"]
    print(
        "\n".join(["", *(f"  {line}" for line in announcement(env, other, goes, plan, bounds) if line), ""]), flush=True
    )
    if args.check:
        return 0
    if not args.yes:
        try:
            answer = input("  Type yes to do it: ")
        except EOFError:
            answer = ""
        if answer.strip() != "yes":
            raise Refused("There was no yes. Without a question: the same with YES=1")
    # Those of hosts that go end with them; nobody can hold one of a host without an operator.
    _held, busy = lock.take(env, "make rebuild")
    if busy:
        raise Refused(busy)
    begun = time.monotonic()
    lines = restore(env, other, plan, version, rules, arguments.extra_vars(args))
    took = time.monotonic() - begun
    python, own = (sys.executable, "-m"), ("--inventory", str(env.inventory))
    wrong = step("smoke", *python, "controller.commands.smoke", *own, fails=False)
    if other is not None:
        command = [*python, "controller.commands.parity", "parity", *own, "--other", str(other.inventory)]
        wrong = step("parity", *command, fails=False) or wrong
    verdict = f"is back{', and not as it should be: see above' if wrong else ''}"
    print(f"\n  {env.name} {verdict}, at {datetime.datetime.now(datetime.UTC).strftime('%Y-%m-%d %H:%M:%S UTC')}\n")
    print(f"  serves    after {minutes(took)}; looked at after {minutes(time.monotonic() - begun)}")
    print("\n".join([*(f"  {line}" for line in lines), ""]))
    return 1 if wrong else 0


def main() -> int:
    """Rebuild, or print why not."""
    parser = arguments.parser_of(__doc__)
    parser.add_argument(
        "--from", dest="other", type=pathlib.Path, help="inventory of the environment whose data are taken"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--check", action="store_true", help="print what would be destroyed, and nothing else")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    other = Subject(args.other.resolve(), other=True) if args.other else None
    try:
        return exit_code(lambda: rebuild(Subject(args.inventory.resolve()), other, args))
    except Failed as reason:
        print(f"\n{reason}\nMend that and type the same again: it begins anew.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
