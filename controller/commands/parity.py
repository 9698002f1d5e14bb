"""Compare what the hosts of environments are, tier by tier.

    parity.py parity INVENTORY OTHER    two environments: every host of a tier has to be like every other
    parity.py drift INVENTORY           one, with its own declaration, and the hosts of each pool with each other

Prints the differences and where they are set, and writes a page to read. Changes nothing on a host. What may differ is declared in
group_vars/all/parity.yml. Exits with 1 where something else does, with 2 where the hosts could not be asked.
"""

import base64
import concurrent.futures
import dataclasses
import datetime
import difflib
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import jinja2
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret

from controller import ansible
from controller.health import ORDER
from controller.inventory import ROOT, state_of, vault_of
from controller.waiting import waiting
from plugins.modules import preflight

PLAYBOOK = ROOT / "playbooks/queries/parity.yml"
SITE = ROOT / "playbooks/site.yml"
PAGE = ROOT / "controller/templates/parity.html.j2"
DECLARED = ROOT / "group_vars/all/parity.yml"
KINDS = [
    "host",
    "task",
    "fault",
    "pool",
    "package",
    "file",
    "unit",
    "timer",
    "port",
    "access",
    "user",
    "group",
    "kernel",
    "release",
    "setting",
    "role",
    "database",
    "schema",
]
ABSENT = "none"
MASK = re.compile(r"<[^<>\n]+>")
TINY = 4  # characters: with fewer, it is no secret but a word of every other file
SHORT = 8  # a secret with fewer is only masked where it stands alone
LINE = 16  # a line of a key with fewer is not masked by itself
SHOWN_LINES = 60  # of the difference of two files
SHOWN_LETTERS = 300  # of a value
SHOWN_HOSTS = 4


@dataclasses.dataclass
class Side:
    """One environment: what its hosts answered, and what is to be taken for the same in all."""

    name: str
    hosts: dict  # {host: result of host_snapshot, or why there is none under "msg"}
    secrets: dict = dataclasses.field(default_factory=dict)  # {name: text}
    variables: dict = dataclasses.field(default_factory=dict)  # {host: {variable: value, as it is written}}

    @property
    def known(self):
        """What the environment is told by."""
        return next((said["known"] for said in self.hosts.values() if "known" in said), {"groups": {}})

    def tier(self, host):
        """The groups of a host, as one word: cache+quorum."""
        return "+".join(group for group in ORDER if host in self.known["groups"].get(group, ())) or "?"


@dataclasses.dataclass
class Difference:
    """One thing that is not everywhere the same."""

    tier: str
    kind: str
    name: str
    values: list  # [(value, hosts)]
    why: str = ""  # it is declared
    where: str = ""
    diff: list = dataclasses.field(default_factory=list)


# ------------------------------------------------------------------ masks


def strings(value, name=""):
    """Yield (name, text) of every text in a value of the vault."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from strings(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for one in value:
            yield from strings(one, name)
    elif value is not None and not isinstance(value, bool):
        yield name, str(value)


def secret_masks(secrets):
    """[(regular expression, what stands for it)] of secrets {name: text}, in every form that they take in a file; the longest first."""
    found = {}
    for name, text in secrets.items():
        raw = text.encode()
        # The first and last line of a key are in every key.
        lines = [line for line in text.splitlines() if len(line) >= LINE and not line.startswith("-----")]
        for line in [text.strip(), *lines] if len(text.strip()) >= TINY else []:
            for form in (line, json.dumps(line)[1:-1]):
                found.setdefault(form, f"<secret {name}>")
        if len(text) >= SHORT:
            for form in (
                hashlib.md5(raw, usedforsecurity=False).hexdigest(),
                hashlib.sha256(raw).hexdigest(),
                base64.b64encode(raw).decode(),
            ):
                found.setdefault(form, f"<made of secret {name}>")
    return [
        (re.compile(re.escape(form) if len(form) >= SHORT else rf"(?<![\w-]){re.escape(form)}(?![\w-])"), word)
        for form, word in sorted(found.items(), key=lambda pair: -len(pair[0]))
    ]


# Whatever is a key and not in the vault: that it is another one shows, what it is does not.
KEYS = re.compile(r"-----BEGIN ([A-Z ]*(?:PRIVATE KEY|CERTIFICATE))-----.*?-----END \1-----", re.S)


def derived_masks(rules):
    """The masks of parity_derived."""
    return [(re.compile(rule["what"]), rule["as"]) for rule in rules]


def place_masks(side):
    """Masks of where an environment is: hosts by their tier, the virtual IP, the network, the names of the site, the operator's keys."""
    known, found = side.known, {}
    for host in known["groups"].get("all", ()):
        tier = f"<{side.tier(host).partition('+')[0]}>"
        for word in (known["addresses"].get(host), known["reached"].get(host), host):
            found[str(word)] = tier
            found[str(word).replace(".", r"\.")] = tier  # in a regular expression
    found |= {key: "<operator's key>" for keys in known.get("operator_keys", ()) for key in keys.splitlines()}
    # "localhost" is this machine's way to ask, and a word of every other file.
    found |= {name: "<site>" for name in known.get("site_hosts", ()) if name != "localhost"}
    found |= {known[name]: word for name, word in (("lb_vip", "<vip>"), ("network_cidr", "<network>")) if name in known}
    return [
        (
            re.compile(
                rf"(?<![\w.-]){re.escape(text)}(?![\w-]|\.\w)"
                + (r"(?:/\d+)?" if word in ("<vip>", "<network>") else "")
                if not text.startswith("ssh-")
                else re.escape(text)
            ),
            word,
        )
        for text, word in sorted(found.items(), key=lambda pair: -len(pair[0]))
    ]


def masked(text, masks):
    """A text with all masks applied."""
    for pattern, word in masks:
        text = pattern.sub(lambda _found, word=word: word, text)
    return KEYS.sub(
        lambda found: f"<{found[1].lower()} {hashlib.sha256(found[0].encode()).hexdigest()[:8]}, not of the vault>",
        text,
    )


REPEATED = re.compile(r"""("?[^\s",;|<>]*(?:<[^<>\n]+>[^\s",;|<>]*)+"?)(?:(?:,? +|[,|])\1)+(?![\w.:-])""")


def told_once(text):
    """A masked text in which what repeats itself for every host of a pool is there once: words of a line, and blocks of lines."""
    lines = [REPEATED.sub(r"\1", line) for line in text.splitlines()]
    # The last of a list has no comma.
    lines = [line.rstrip(",") if MASK.search(line) or line.strip() in ("},", "],") else line for line in lines]
    for size in range(1, 13):
        place = 0
        while place + 2 * size <= len(lines):
            block = lines[place : place + size]
            if block == lines[place + size : place + 2 * size] and any(MASK.search(line) for line in block):
                del lines[place : place + size]
            else:
                place += 1
    return "\n".join(lines)


# pgpool numbers its databases.
NUMBERED = re.compile(r"(?m)^(backend_[a-z_]+?)\d+ =")


class Eyes:
    """How a side is looked at: with its secrets and places masked, and what is declared of single lines taken out."""

    def __init__(self, side, declared, derived):
        self.masks, self.seen = [*secret_masks(side.secrets), *derived_masks(derived), *place_masks(side)], {}
        self.lines = [rule for rule in declared if "line" in rule]

    def see(self, text):
        """A text, masked. Most hosts say the same: it is looked at once."""
        if text not in self.seen:
            self.seen[text] = told_once(NUMBERED.sub(r"\1N =", masked(str(text), self.masks)))
        return self.seen[text]

    def file(self, path, said):
        """(what is compared of a file, its text for a diff or None, {line rule's place: what it took out})."""
        if "link" in said:
            return f"{said['owner']}, a link to {self.see(said['link'])}", None, {}
        text, taken = said.get("text"), {}
        if text is None:
            return f"{said['owner']} {said['mode']}, content {said['sha256'][:12]}", None, {}
        text = self.see(text)
        for number, rule in enumerate(self.lines):
            if fnmatch.fnmatchcase(f"file {path}", rule["what"]):
                pattern = re.compile(rule["line"], re.M)
                taken[number] = " ".join(
                    " ".join(one.split()) for one in (found[0] for found in pattern.finditer(text))
                )
                text = pattern.sub("<declared>", text)
        return (
            f"{said['owner']} {said['mode']}, content {hashlib.sha256(text.encode()).hexdigest()[:12]}",
            text if said.get("shown") else None,
            taken,
        )


# ------------------------------------------------------------------ comparison


def items(side, host, eyes):
    """({(kind, name): value}, {path: text}, {(path, number of a line rule): what it took out}) of a host."""
    found, texts, taken = {}, {}, {}
    for kind, values in side.hosts[host]["snapshot"].items():
        for name, value in values.items():
            seen = eyes.see(name)
            if kind == "file":
                value, text, rules = eyes.file(name, value)
                texts[seen] = text
                taken |= {(seen, number): one for number, one in rules.items()}
            elif kind == "access" and name != "packet filter":
                value = " ".join(sorted(set(eyes.see(value).split())))
            else:
                value = eyes.see(value)
            found[kind, seen] = value
    found |= {("fault", eyes.see(sentence)): "yes" for sentence in side.hosts[host].get("faults", ())}
    return found, texts, taken


def grouped(seen):
    """[(value, hosts)] of {host: value}; what most hosts have comes first."""
    found = {}
    for host, value in seen.items():
        found.setdefault(value, []).append(host)
    return sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))


def agreed(seen):
    """Whether the hosts of each environment agree. seen: {label: value}."""
    values = {}
    for label, value in seen.items():
        values.setdefault(label.rpartition(" ")[0], set()).add(value)
    return all(len(several) == 1 for several in values.values())


def holds(rule, seen):
    """Whether a rule declares what was seen: one between environments says nothing of hosts that differ within one."""
    return "only" not in rule or agreed(seen)


def several(hosts):
    """Names of hosts, the first few of many."""
    return ", ".join(
        hosts if len(hosts) <= SHOWN_HOSTS + 1 else [*hosts[:SHOWN_HOSTS], f"{len(hosts) - SHOWN_HOSTS} more"]
    )


def declared_why(kind, name, declared, seen):
    """Why something may differ; empty where nobody declared it."""
    return next(
        (
            rule["why"]
            for rule in declared
            if "line" not in rule and fnmatch.fnmatchcase(f"{kind} {name}", rule["what"]) and holds(rule, seen)
        ),
        "",
    )


def text_diff(seen):
    """Lines of the difference between the text that most hosts have and every other; empty where one may not be shown. seen: {host: text}."""
    if not seen or any(text is None for text in seen.values()):
        return []
    lines, [(most, hosts), *rest] = [], grouped(seen)
    for text, others in rest:
        lines += difflib.unified_diff(
            most.splitlines(), text.splitlines(), several(hosts), several(others), n=1, lineterm=""
        )
    return lines[:SHOWN_LINES] + (["…"] if len(lines) > SHOWN_LINES else [])


def shapes(sides, declared):
    """Yield a Difference for every tier that has not as many hosts on every side."""
    tiers = sorted({side.tier(host) for side in sides for host in side.hosts})
    for tier in tiers:
        seen = {side.name: str(sum(side.tier(host) == tier for host in side.hosts)) for side in sides}
        if len(set(seen.values())) > 1:
            yield Difference(tier, "pool", "hosts", grouped(seen), declared_why("pool", "hosts", declared, {}))


def compare_tier(tier, hosts, declared):
    """Yield a Difference for everything that is not the same on every host.

    hosts: {label: what items() returned}.
    """
    line_rules = [rule for rule in declared if "line" in rule]
    for kind, name in sorted(
        {key for found, _texts, _taken in hosts.values() for key in found},
        key=lambda key: (KINDS.index(key[0]), key[1]),
    ):
        seen = {label: found.get((kind, name), ABSENT) for label, (found, _texts, _taken) in hosts.items()}
        if kind == "fault":
            yield Difference(tier, kind, name, [("yes", [label for label, value in seen.items() if value == "yes"])])
        elif len(set(seen.values())) > 1:
            # A file that is not there is shown against nothing.
            texts = (
                {
                    label: "" if seen[label] == ABSENT else texts.get(name)
                    for label, (_found, texts, _taken) in hosts.items()
                }
                if kind == "file"
                else {}
            )
            yield Difference(
                tier, kind, name, grouped(seen), declared_why(kind, name, declared, seen), diff=text_diff(texts)
            )
    for name, number in sorted({key for _found, _texts, taken in hosts.values() for key in taken}):
        seen = {label: taken.get((name, number), ABSENT) or ABSENT for label, (_found, _texts, taken) in hosts.items()}
        if len(set(seen.values())) > 1:
            yield Difference(
                tier, "file", name, grouped(seen), line_rules[number]["why"] if holds(line_rules[number], seen) else ""
            )


def compare(sides, declared, derived=()):
    """Every Difference between the hosts of one or two sides, tier by tier in the order in which a request passes them."""
    found, tiers = [], {}
    for side in sides:
        eyes = Eyes(side, declared, derived)
        for host, said in side.hosts.items():
            label = f"{side.name} {host}" if len(sides) > 1 else host
            if "snapshot" not in said:
                reason = (
                    "does not answer over SSH"
                    if said.get("unreachable")
                    else f"cannot tell: {eyes.see(said.get('msg', ''))[:200]}"
                )
                found.append(Difference(side.tier(host), "host", host, [(reason, [label])]))
                continue
            tiers.setdefault(side.tier(host), {})[label] = items(side, host, eyes)
    if len(sides) > 1:
        found += shapes(sides, declared)
    for tier, hosts in tiers.items():
        found += compare_tier(tier, hosts, declared)
    return sorted(
        found,
        key=lambda one: (
            next((place for place, group in enumerate(ORDER) if one.tier.startswith(group)), 9),
            one.tier,
            bool(one.why),
            KINDS.index(one.kind),
        ),
    )


# ------------------------------------------------------------------ where it is set


class Repository:
    """Where this repository says what."""

    def __init__(self, root=ROOT):
        self.root = root
        places = [
            *sorted((root / "group_vars").glob("*.yml")),
            *sorted((root / "group_vars/all").glob("*.yml")),
            *(
                path
                for part in ("defaults", "tasks", "templates", "files")
                for path in sorted(root.glob(f"roles/*/{part}/**/*"))
            ),
        ]
        self.texts = {
            path.relative_to(root).as_posix(): path.read_text(errors="replace")
            for path in places
            if path.is_file() and path.name != "parity.yml"
        }
        self.plain = {
            name: value
            for path, text in self.texts.items()
            if re.match(r"group_vars/|roles/\w+/defaults/", path)
            for name, value in (yaml.load(text, preflight.VaultLoader) or {}).items()
            if isinstance(value, str)
        }
        self.written = [
            one
            for path, text in self.texts.items()
            if re.match(r"roles/\w+/tasks/", path)
            for task in self.opened(yaml.load(text, preflight.VaultLoader))
            for one in self.destinations(path, task)
        ]

    def opened(self, tasks):
        """Yield every task, those of blocks too."""
        for task in tasks or []:
            yield task
            for part in ("block", "rescue", "always"):
                yield from self.opened(task.get(part))

    def destinations(self, path, task):
        """Yield (pattern of a path, letters of it that are sure, file that it is made of) of everything that a task writes."""
        role = path.split("/")[1]
        for kind, folder in (("templates", "templates"), ("copies", "files")):
            together = task.get("files", {}).get(kind) or {}
            for dest, source in together.items() if isinstance(together, dict) else ():
                yield re.compile(re.escape(dest)), len(dest), f"roles/{role}/{folder}/{source}"
            for directory in (
                task["files"].get("directories", []) if isinstance(together, str) else ()
            ):  # computed: which, the task tells
                yield re.compile(f"{re.escape(directory)}/[^/]+"), len(directory), path
        service = (task.get("vars") or {}).get("systemd_dropin_service")
        if service:
            dest = f"/etc/systemd/system/{service}.service.d/tier.conf"
            yield re.compile(re.escape(dest)), len(dest), path
        for module, folder in (("template", "templates"), ("copy", "files")):
            given = task.get(f"ansible.builtin.{module}")
            if not isinstance(given, dict):
                continue
            loop = task.get("loop")
            for item in loop if isinstance(loop, list) else [None]:

                def word(text, item=item):
                    def value(found):
                        key = found[1]
                        if key in self.plain:
                            return word(self.plain[key])
                        if key == "item" and isinstance(item, str):
                            return item
                        return (
                            str(item[key[5:]])
                            if isinstance(item, dict) and key.startswith("item.") and key[5:] in item
                            else "\0"
                        )

                    return re.sub(r"\{\{\s*(.*?)\s*\}\}", value, str(text))

                source, dest = word(given.get("src", "")), word(given.get("dest", ""))
                if dest.endswith("/"):
                    dest += source.rpartition("/")[2]
                made_of = f"roles/{role}/{folder}/{source}" if source and "\0" not in source else path
                if not dest.strip("\0"):
                    continue  # it could be any file
                yield (
                    re.compile(re.escape(dest).replace("\0", ".*")),
                    len(dest.replace("\0", "")),
                    made_of if made_of in self.texts else path,
                )

    def source(self, path):
        """The template, file or task that makes a file; None where there is none."""
        fitting = [(sure, made_of) for pattern, sure, made_of in self.written if pattern.fullmatch(path)]
        return max(fitting)[1] if fitting else None

    def line(self, word):
        """First line that has a word, as file:number; None."""
        pattern = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])")
        for path, text in self.texts.items():
            for number, line in enumerate(text.splitlines(), 1):
                if pattern.search(re.sub(r"(^|\s)#.*", "", line)):
                    return f"{path}:{number}"
        return None

    def set_in(self, name, env):
        """Where an environment sets a variable, as file:number."""
        for path in sorted((self.root / "group_vars" / env).glob("*.yml")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if path.name != "vault.yml" and line.startswith(f"{name}:"):
                    return f"{path.relative_to(self.root)}:{number}"
        return None


def words(value):
    """The words of a value."""
    return set(re.findall(r"[a-z_]\w*", json.dumps(value)))


def differing(text, sides_variables):
    """Variables that a text reads, be it through others, and that are not written the same on both sides. sides_variables: two {variable: value}."""
    one, other = sides_variables
    seen, ahead = set(), words(text) & set(one)
    while ahead:
        seen |= ahead
        ahead = {word for name in ahead for word in words(one[name]) & set(one)} - seen
    return sorted(name for name in seen if one[name] != other.get(name))


def key_word(kind, name):
    """The word by which a repository names what is compared."""
    if kind == "port":
        return name.rpartition(":")[2]
    if kind == "pool":
        return name.split()[-1].rpartition(".")[2]
    return re.sub(r"\.(service|socket|timer|path)$", "", name.split()[0])


def where(difference, sides, repository):
    """Where what differs is set, as a sentence; empty where only its host knows."""
    kind, name = difference.kind, difference.name
    if kind in ("host", "task", "fault"):
        return ""
    if kind == "pool" and name == "hosts":
        return "; ".join(f"inventories/{side.name}.yml" for side in sides)
    if kind in ("schema", "release"):
        return "set by the migrations of the release" if kind == "schema" else "set by make deploy"
    source = repository.source(name) if kind == "file" else repository.line(key_word(kind, name))
    if source is None:
        return f"nothing in this repository {'writes' if kind == 'file' else 'names'} it"
    said = f"set by {source}"
    if len(sides) > 1 and kind == "file":
        variables = [
            next(
                (
                    side.variables[host]
                    for host in side.hosts
                    if side.tier(host) == difference.tier and host in side.variables
                ),
                {},
            )
            for side in sides
        ]
        text = repository.texts[source] if source in repository.texts else ""
        # Those that say where an environment is, and its secrets, are taken for the same.
        same = {
            "private_address",
            "state_dir",
            *sides[0].known,
            *(secret.partition(".")[0] for side in sides for secret in side.secrets),
        }
        names = [
            one
            for one in differing(text, variables)
            if one not in same and not one.startswith(("ansible_", "inventory_"))
        ]
        said += "".join(
            f"; {one} ({', '.join(repository.set_in(one, side.name) or 'inventory' for side in sides)})"
            for one in names
        )
        if not names and not difference.why:
            said += "; no variable that it reads differs: changed by hand, or not converged"
    return said


# ------------------------------------------------------------------ asking


def vault(inventory, password_file):
    """{name: text} of every secret of an environment; empty where it has no vault. Raises OSError and AnsibleError where it does not open."""
    path = vault_of(inventory)
    if not path.exists():
        return {}
    lock = VaultLib([("default", VaultSecret(pathlib.Path(password_file).read_bytes().strip()))])
    found = {}
    for name, text in strings(yaml.safe_load(lock.decrypt(path.read_text()))):
        found[name if name not in found else f"{name}'"] = text
    return found


def look(inventory, password_file):
    """A Side, asked now."""
    with concurrent.futures.ThreadPoolExecutor() as at_once:
        hosts = at_once.submit(ansible.ask, str(inventory), PLAYBOOK, ANSIBLE_VAULT_PASSWORD_FILE=str(password_file))
        variables = ansible.hosts(str(inventory), "all", ANSIBLE_VAULT_PASSWORD_FILE=str(password_file))
        return Side(inventory.stem, hosts.result(), vault(inventory, password_file), variables)


def foretold(inventory, options):
    """Differences with the declaration: what site.yml would change. Exits where it does not get to its end."""
    with waiting("A dry run of the declaration", state_of(inventory), "foretold"):
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), "--check", "--diff", *options, str(SITE)],
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json"),
        )
    try:
        said = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        sys.exit(2)
    return would_change(said)


def written(result):
    """Path that a task would write, or the name of what it would change; empty where it does not say."""
    diffs = result.get("diff") or []
    headers = [
        one.get("before_header") or ""
        for one in (diffs if isinstance(diffs, list) else [diffs])
        if isinstance(one, dict)
    ]
    item = result.get("item")
    item = item.get("dest") or item.get("name") if isinstance(item, dict) else item
    return next(
        (str(word) for word in (result.get("dest"), *headers, result.get("path"), result.get("name"), item) if word), ""
    ).partition(" (")[0]


def would_change(said):
    """({host: [task, with the files that it would write]}, sentences about what failed), from what the JSON callback printed."""
    changes, wrong = {}, []
    for play in said["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                name = task["task"]["name"]
                if result.get("unreachable") or result.get("failed"):
                    wrong.append(f"{host}: {name}: {str(result.get('msg', ''))[:300]}")
                elif result.get("changed") and host != "localhost":
                    parts = [one for one in result.get("results", [result]) if one.get("changed")]
                    paths = sorted({path for one in parts for path in [written(one)] if path})
                    changes.setdefault(host, []).append(name + (f" ({', '.join(paths)})" if paths else ""))
    return changes, wrong


def tasks_of(changes, side):
    """A Difference for every task that would change hosts of a tier."""
    found = {}
    for host, tasks in changes.items():
        for task in tasks:
            found.setdefault((side.tier(host), task), []).append(host)
    return [Difference(tier, "task", task, [("it would change", hosts)]) for (tier, task), hosts in found.items()]


# ------------------------------------------------------------------ telling


def short(value):
    """A value as one line."""
    line = " ".join(str(value).split())
    return line if len(line) <= SHOWN_LETTERS else f"{line[:SHOWN_LETTERS]} …"


def page(title, differences):
    """The lines that are printed."""
    open_ones = [one for one in differences if not one.why]
    lines = ["", f"  {title}   {counted(len(open_ones), 'difference')}, {len(differences) - len(open_ones)} declared"]
    tier = None
    for one in open_ones:
        if one.tier != tier:
            tier = one.tier
            lines += ["", f"  {tier}"]
        lines.append(f"    {one.kind} {one.name}")
        if one.kind != "fault" or len(one.values) > 1:
            lines += [f"      {several(hosts)}: {short(value)}" for value, hosts in one.values]
        else:
            lines.append(f"      {several(one.values[0][1])}")
        lines += [f"      | {line}" for line in one.diff]
        if one.where:
            lines.append(f"      {one.where}")
    declared = sorted({f"{one.kind} {one.name}: {one.why}" for one in differences if one.why})
    if declared:
        lines += ["", "  declared (group_vars/all/parity.yml)", *(f"    {line}" for line in declared)]
    return "\n".join([*lines, ""])


def counted(number, word):
    """ "1 difference", "2 differences"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def html(title, sides, differences):
    """The page to read: one file, without anything from elsewhere."""
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE.read_text())
    tiers, open_ones = {}, [one for one in differences if not one.why]
    for one in open_ones:
        tiers.setdefault(one.tier, []).append(one)
    return template.render(
        title=title,
        tiers=tiers,
        short=short,
        several=several,
        differences=open_ones,
        declared=[one for one in differences if one.why],
        counted=counted,
        when=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        sides=[(side.name, len(side.hosts)) for side in sides],
    )


def scrub(text, sides):
    """A text in which no secret is left, whatever way it came."""
    for side in sides:
        text = masked(text, secret_masks(side.secrets))
    return text


def tell(title, name, sides, differences, path):
    """Print and write the report; the exit code."""
    print(scrub(page(title, differences), sides))
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(scrub(html(title, sides, differences), sides))
    print(f"  to read   {os.path.relpath(path)}\n")
    if any(one.kind == "host" for one in differences):
        return 2
    return 1 if any(not one.why for one in differences) else 0


def main():
    """Compare, tell, and say by the exit code whether all is as declared."""
    verb, *given = sys.argv[1:] or [""]
    if verb not in ("parity", "drift") or len(given) < (2 if verb == "parity" else 1):
        sys.exit(__doc__)
    rules = yaml.safe_load(DECLARED.read_text())
    declared, derived = rules["parity_declared"], rules["parity_derived"]
    inventories = [pathlib.Path(path) for path in given[: 2 if verb == "parity" else 1]]
    own = os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE", state_of(inventories[0]) / "vault-password")
    # The other environment has a vault of its own.
    passwords = [
        own,
        *(path if (path := state_of(inventory) / "vault-password").exists() else own for inventory in inventories[1:]),
    ]
    try:
        with concurrent.futures.ThreadPoolExecutor() as at_once:
            expected = at_once.submit(foretold, inventories[0], given[1:]) if verb == "drift" else None
            sides = list(at_once.map(look, inventories, passwords))
            changes, wrong = expected.result() if expected else ({}, [])
    except (OSError, AnsibleError) as error:
        print(f"Nothing was compared. {error}", file=sys.stderr)
        return 2
    differences = compare(sides, declared, derived)
    repository = Repository()
    for one in differences:
        one.where = where(one, sides, repository)
    differences = [
        *tasks_of(changes, sides[0]),
        *(Difference("?", "host", sentence, [("stopped the look at its declaration", [])]) for sentence in wrong),
        *differences,
    ]
    title = " with ".join(side.name for side in sides) if verb == "parity" else f"{sides[0].name} with its declaration"
    return tell(title, verb, sides, differences, state_of(inventories[0]) / f"{verb}.html")


if __name__ == "__main__":
    sys.exit(main())
