"""The rules of the house, read off the files: no containers, about a second."""

import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from repository import ENVIRONMENTS, ROOT, load
from tier import search

from controller.tiers import TIERS

INVENTORIES = sorted(
    [
        *(ROOT / "inventories").glob("*.yml"),
        *(p for env in ENVIRONMENTS for p in (ROOT / "inventories" / env).glob("*.yml")),
    ]
)
ROLES = sorted(p.parent.parent for p in (ROOT / "roles").glob("*/tasks/main.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("demo/*.md")])
TEMPLATES = sorted((ROOT / "roles").glob("*/templates/**/*.j2"))


def group_files(environment: str | None = None) -> list[pathlib.Path]:
    """Files of group_vars for one environment, or those every environment shares."""
    if environment:
        return [p for p in (ROOT / "group_vars" / environment).glob("*.yml") if p.name != "vault.yml"]
    return sorted([*(ROOT / "group_vars/all").glob("*.yml"), *(ROOT / "group_vars").glob("*.yml")])


def tasks(path: pathlib.Path) -> Any:
    """Every task of a task file, blocks opened; every play of a playbook, too, and its tasks."""

    def opened(items: Any) -> Iterator[Any]:
        for task in items or []:
            yield task
            for part in ("pre_tasks", "tasks", "block", "rescue", "always"):
                yield from opened(task.get(part))

    return list(opened(load(path)))


def specs(role: pathlib.Path) -> Any:
    """{entry point: {variable: spec}} of a role."""
    entries = load(role / "meta/argument_specs.yml")["argument_specs"]
    return {entry: spec.get("options") or {} for entry, spec in entries.items()}


def test_no_variable_is_set_in_two_group_vars_files() -> None:
    paths: dict[str, pathlib.Path] = {}
    for path in [*group_files(), *group_files("local")]:
        for name in load(path) or {}:
            assert name not in paths, f"{name} is set in {paths[name]} and in {path}"
            paths[name] = path


def test_every_fact_that_is_read_is_gathered() -> None:
    """ansible_facts has what host_facts tells and nothing else; so nobody looks for a fact in all of it either."""
    gathered = set(re.findall(r'^ +"(\w+)":', (ROOT / "plugins/modules/host_facts.py").read_text(), re.M))
    assert gathered
    for path in [*group_files(), *TEMPLATES, *(ROOT / "roles").glob("*/*/*.yml"), *(ROOT / "playbooks").rglob("*.yml")]:
        read = set(re.findall(r"\bansible_facts\b\.?(\w*)", path.read_text()))
        assert read <= gathered, f"{path}: {read - gathered}"


def test_every_result_that_is_read_is_kept() -> None:
    """Also by those who read it with a default."""
    texts = [
        path.read_text()
        for path in [
            *group_files(),
            *TEMPLATES,
            *(ROOT / "roles").glob("*/*/*.yml"),
            *(ROOT / "playbooks").rglob("*.yml"),
        ]
    ]
    kept = {
        name
        for text in texts
        for name in re.findall(r"(?:register:|loop_var:|set) (__\w+)", text) + re.findall(r"(__\w+):", text)
    }
    assert {name for text in texts for name in re.findall(r"\b__\w+", text) if not name.endswith("__")} - kept == set()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments_have_the_same_variables(environment: str) -> None:
    def names(env: str) -> set[str]:
        return {name for path in group_files(env) for name in load(path)}

    assert names(environment) == names("local")


@pytest.mark.parametrize("inventory", INVENTORIES, ids=lambda path: path.stem)
def test_environments_have_the_same_groups(inventory: pathlib.Path) -> None:
    def groups(path: pathlib.Path) -> set[str]:
        [environment] = load(path)["all"]["children"].values()
        return set(environment["children"])

    assert groups(inventory) == groups(ROOT / "inventories/local.yml")


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_specs_match_defaults(role: pathlib.Path) -> None:
    """Options are the defaults and the required, nothing else; a spec's own default is never applied."""
    defaults = load(role / "defaults/main.yml") if (role / "defaults/main.yml").exists() else {}
    options = {name: spec for entry in specs(role).values() for name, spec in entry.items()}
    assert all("default" not in spec for spec in options.values())
    undeclared = set(defaults or {}) - set(options) - {n for n in defaults or {} if n.startswith("__")}
    assert not undeclared, f"defaults without a spec: {undeclared}"
    neither = {n for n, spec in options.items() if n not in (defaults or {}) and not spec.get("required")}
    assert not neither, f"neither a default nor required: {neither}"


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_every_variable_a_role_reads_is_declared(role: pathlib.Path) -> None:
    """A name in a template or a task that group_vars or defaults set is in the role's specs."""
    settable = {name for path in [*group_files(), *group_files("local")] for name in load(path) or {}}
    # What Ansible itself and the house give every role; and what none may read (the test after the next).
    settable -= {"dry_run_on_fresh_host", "ansible_managed", "ansible_user", "tiers"}
    options = {name for entry in specs(role).values() for name in entry}
    text = "\n".join(
        p.read_text() for d in ("tasks", "templates", "handlers") for p in (role / d).rglob("*") if p.is_file()
    )
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    read = {name for name in settable if re.search(rf"\b{name}\b", text)}
    assert read <= options, f"read and not declared: {sorted(read - options)}"


def test_daemons_that_debian_starts_are_stopped_until_roles_configure_them() -> None:
    """Every service whose unit a role tells something is in a group's list of daemons, but for those that every host has anyway and a socket starts."""
    engines = load(ROOT / "group_vars/lb.yml")["lb_engines"].values()
    listed = {name for tier in TIERS.values() for name in tier["daemons"] if "{{" not in name}
    listed |= {name for engine in engines for name in engine["daemons"]}
    pattern = re.compile(
        r"(?:/etc/systemd/system/(?=[\w-]+[.]service[.]d)|systemd_dropin_service: )([\w-]+)(?![\w@-])"
    )  # a unit with @ is a role's own
    stopped = {name for path in (ROOT / "roles").glob("*/tasks/*.yml") for name in pattern.findall(path.read_text())}
    assert listed == stopped - {"ssh", "rsyslog", "munin-node", "fcgiwrap"}


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_roles_name_no_group_and_read_no_other_host(role: pathlib.Path) -> None:
    for path in role.rglob("*"):
        if path.suffix in (".yml", ".j2"):
            assert not re.search(
                r"\bgroups\[|\bgroups\.|\bgroup_names\b|\bhostvars\b|\btiers( \||\.|\[)", path.read_text()
            ), path


def test_private_names_are_used_in_their_role_alone() -> None:
    """A name with a role's prefix belongs to the longest such role: __munin_node_x is munin_node's."""

    def owners(path: pathlib.Path) -> Any:
        names = re.findall(r"\b__([a-z]\w*)", path.read_text(encoding="utf-8"))
        matches = {
            name: [role.name for role in ROLES if name.startswith(f"{role.name}_")]
            for name in names
            if not name.endswith("__")
        }
        return {name: max(candidates, key=len, default=None) for name, candidates in matches.items()}

    for role in ROLES:
        for path in [*role.rglob("*.yml"), *role.rglob("*.j2")]:
            assert {name for name, owner in owners(path).items() if owner != role.name} == set(), path
    for folder in ("playbooks", "molecule"):
        for path in [*(ROOT / folder).rglob("*.yml"), *(ROOT / folder).rglob("*.j2")]:
            assert {name for name, owner in owners(path).items() if owner} == set(), path
    for path in (ROOT / "group_vars").rglob("*.yml"):
        assert path.name == "vault.yml" or owners(path) == {}, path


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_returned_variables_of_roles_are_declared(role: pathlib.Path) -> None:
    """What it registers or sets by a public name; an entry point of its specs says "Returns `ROLE_x`: ..."."""
    returned = set()
    for path in [*(role / "tasks").glob("*.yml"), *(role / "handlers").glob("*.yml")]:
        for task in tasks(path):
            returned |= {task.get("register", "__"), *task.get("ansible.builtin.set_fact", {})}
    returned = {name for name in returned if not name.startswith("__")}
    assert returned == set(
        re.findall(r"Returns `(\w+)`", (role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    )
    assert {name for name in returned if not name.startswith(f"{role.name}_")} == set()


def test_changes_with_the_hosts_are_in_members_yml() -> None:
    """Adding and removing a host include that file of every role that knows other hosts."""
    nodes = load(ROOT / "playbooks/vars/nodes.yml")
    roles = {
        role
        for part in ("node_allow_list_roles", "node_client_roles")
        for names in nodes[part].values()
        for role in names
    }
    roles |= set(load(ROOT / "group_vars/lb.yml").get("lb_engines", {}))
    assert {role for role in roles if not (ROOT / "roles" / role / "tasks/members.yml").exists()} == set()
    parts = {
        path.name
        for path in (ROOT / "roles").glob("*/tasks/*.yml")
        if "# What changes" in path.read_text(encoding="utf-8")
    }
    assert parts == {"members.yml"}


def test_roles_pass_declared_options_to_drop_ins() -> None:
    """Every variable is an option of its type, the required are there, and something is notified of a change."""
    options = specs(ROOT / "roles/systemd_dropin")["main"]
    types = {"str": str, "bool": bool, "dict": dict}
    imports = [
        (path, task)
        for path in sorted((ROOT / "roles").glob("*/tasks/*.yml"))
        for task in tasks(path)
        if task.get("ansible.builtin.import_role", {}).get("name") == "systemd_dropin"
    ]
    assert len(imports) > 10
    for path, task in imports:
        given = task["vars"]
        assert {name for name, spec in options.items() if spec.get("required")} <= set(given) <= set(options), path
        assert all(isinstance(value, types[options[name]["type"]]) for name, value in given.items()), path
        assert task["notify"], path


# Formats in which a comment would be an entry.
NO_COMMENTS = {"follow.json.j2", "pcppass.j2", "pool_passwd.j2"}


@pytest.mark.parametrize(
    "template", [t for t in TEMPLATES if t.name not in NO_COMMENTS], ids=lambda p: f"{p.parent.parent.name}/{p.name}"
)
def test_every_template_has_the_line_ansible_managed(template: pathlib.Path) -> None:
    assert "ansible_managed" in "\n".join(template.read_text().splitlines()[:3])


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_every_notified_handler_exists_and_every_handler_is_notified(role: pathlib.Path) -> None:
    handlers_file = role / "handlers/main.yml"
    handlers = tasks(handlers_file) if handlers_file.exists() else []
    names = {h["name"] for h in handlers} | {h["listen"] for h in handlers if "listen" in h}
    notified = set()
    for path in [*(role / "tasks").glob("*.yml"), *([handlers_file] if handlers else [])]:
        for task in tasks(path):
            notify = task.get("notify", [])
            notified |= {notify} if isinstance(notify, str) else set(notify)
    assert notified <= names, f"no such handler: {notified - names}"
    heard = {h["name"] for h in handlers if h["name"] in notified or h.get("listen") in notified}
    assert {h["name"] for h in handlers} == heard, "a handler nobody notifies"


# Words that name nothing without the text around them. A program's name may have one of them after a hyphen.
VAGUE = re.compile(r"(?<![-\w])(it|its|who|whom|told|said|found|one|place|anew|aside|everybody|nobody)(?![-\w])", re.I)


ROLE_TASKS = sorted(p for folder in ("tasks", "handlers") for p in (ROOT / "roles").glob(f"*/{folder}/*.yml"))
PLAYBOOKS = sorted(
    p for room in ("playbooks", "containers") for p in (ROOT / room).rglob("*.yml") if p.parent.name != "vars"
)
INCLUDES = ("ansible.builtin.import_playbook", "ansible.builtin.import_tasks", "ansible.builtin.include_tasks")


def with_parts(path: pathlib.Path) -> list[pathlib.Path]:
    """A playbook and all files that it imports and includes."""
    files, new = set[pathlib.Path](), {path}
    while new:
        files |= new
        names = [(file, str(task[key])) for file in new for task in tasks(file) for key in INCLUDES if key in task]
        # A name that a variable is part of stands for every file of that form; a name that is all variable is in no file.
        patterns = [(file, re.sub(r"{{.*?}}", "*", name)) for file, name in names]
        new = {
            part.resolve()
            for file, name in patterns
            if name != "*"
            for part in (file.parent / name).parent.glob(pathlib.Path(name).name)
        } - files
    return sorted(files)


@pytest.mark.parametrize("path", [*ROLE_TASKS, *PLAYBOOKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_tasks_stand_alone(path: pathlib.Path) -> None:
    """In a log each is read without the tasks around it."""
    names = [task.get("name", "") for task in tasks(path)]
    assert "" not in names and [name for name in names if VAGUE.search(re.sub(r"{{.*?}}", "", name))] == []


@pytest.mark.parametrize("path", [*ROLE_TASKS, *PLAYBOOKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_tasks_are_unique(path: pathlib.Path) -> None:
    """In a file of a role, and in a playbook with its parts; and so are those of plays."""
    files = with_parts(path) if path in PLAYBOOKS else [path]
    entries = [task for file in files for task in tasks(file) if "ansible.builtin.import_playbook" not in task]
    for plays in (True, False):
        names = [task["name"] for task in entries if ("hosts" in task) == plays]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", sorted((ROOT / "roles").glob("*/tasks/*.yml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_templates_have_a_mode(path: pathlib.Path) -> None:
    for task in tasks(path):
        for module in ("ansible.builtin.template", "ansible.builtin.copy"):
            if module in task:
                assert "mode" in task[module], f"{path}: {task.get('name')}"
        if {"templates", "copies"} & set(task.get("files", {})):
            assert "mode" in task["files"], f"{path}: {task.get('name')}"


def test_an_unreachable_host_ends_no_run() -> None:
    """A task that is run_once, or fatal for all, ends the run whatever ignore_unreachable says: Ansible's linear strategy looks at the result alone."""
    for path in [*(ROOT / "playbooks").rglob("*.yml"), *(ROOT / "roles").glob("*/tasks/*.yml")]:
        content = load(path)  # of variables, a mapping
        for play in content if isinstance(content, list) else []:
            everything = (
                [task for part in ("pre_tasks", "tasks", "post_tasks") for task in play.get(part) or []]
                if "hosts" in play
                else [play]
            )
            for task in everything:
                if task.get("ignore_unreachable"):
                    fatal = task.get("any_errors_fatal", play.get("any_errors_fatal", "roles" in path.parts))
                    assert not task.get("run_once") and not fatal, f"{path}: {task['name']}"


def test_every_verb_is_explained() -> None:
    """`make help` lists every verb; the README names every one of them."""
    verbs = re.findall(r"(?m)^([a-z-]+):.*## ", (ROOT / "Makefile").read_text())
    readme = (ROOT / "README.md").read_text()
    for verb in verbs:
        assert f"make {verb}" in readme, f"README.md does not mention make {verb}"


def test_every_scenario_has_tests() -> None:
    for path in (ROOT / "molecule").glob("*/molecule.yml"):
        config = load(path) or {}
        effect = config.get("ansible", {}).get("playbooks", {}).get("side_effect")
        sequence = config.get("scenario", {}).get("test_sequence", [])
        assert not any(s.startswith("side_effect") for s in sequence) or effect, path
        assert effect is None or (path.parent / effect).exists(), effect
        tests = path.parent / config.get("verifier", {}).get("directory", "../tests/default")
        assert list(tests.glob("test_*.py")), tests


def test_vars_may_hold_quotes() -> None:
    """They reach Ansible as they were typed."""
    typed = """{"said": "it's \\"so\\"; $$(true)"}"""
    command = [
        "make",
        "--no-print-directory",
        r"--eval=asked: ; @printf '%s\n' $(PLAY)",
        "asked",
        "ENV=local",
        f"VARS={typed}",
    ]
    output = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=dict(os.environ, MAKEFLAGS="")
    ).stdout
    assert output.splitlines()[-2:] == ["-e", typed.replace("$$", "$")]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("REF", "it's"),
        ("REF", "$(shell touch {0})"),
        ("REF", "$(touch {0})"),
        ("REF", "main ansible_user=root"),
        ("REF", "a\ntouch {0}"),
        ("RELEASE", "{{{{ lookup('pipe', 'touch {0}') }}}}"),
        ("REQUEST", 'x"; touch {0}; "'),
        ("LIMIT", "x'; touch {0}; '"),
        ("TO", "`touch {0}`"),
        ("NAME", "a\\b"),
        ("ENV", "x&touch {0}&"),
        ("DRILL", "x&touch {0}"),
    ],
)
@pytest.mark.parametrize("given", ["word", "environment"])
def test_arguments_of_make_are_never_executed(name: str, typed: str, given: str, tmp_path: pathlib.Path) -> None:
    typed = typed.format(tmp_path / "owned")
    arguments, environment = ([f"{name}={typed}"], {}) if given == "word" else ([], {name: typed})
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "deploy", "logs", "restore", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, MAKEFLAGS="", **environment),
    )
    assert done.returncode == 2 and f"Nothing was touched. {name}=" in done.stderr and done.stdout == ""
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "word",
    [
        "REF=feature/x~1^",
        "LIMIT=app:!app1,&lb",
        "CANARY=10%",
        "TO=2026-11-23 18:00",
        "SINCE=2026-11-23 18:00",
        "TESTS=backup/test_backup.py::test_x[a-b]",
    ],
)
def test_documented_arguments_of_verbs_are_accepted(word: str) -> None:
    subprocess.run(
        ["make", "-n", "site", word], cwd=ROOT, capture_output=True, check=True, env=dict(os.environ, MAKEFLAGS="")
    )


def test_every_argument_of_a_verb_is_checked() -> None:
    """What recipes read and the Makefile does not set itself."""
    makefile = (ROOT / "Makefile").read_text()
    looked_at = set(search(r"WORDS_APART := (.*)\nWORDS := (.*) \\\n(.*)", makefile).expand(r"\1 \2 \3").split())
    own = (
        set(re.findall(r"(?m)^(?:[a-z ]*: )?(?:override |export |define )*([A-Z_]+)\b *[:?]?(?:=|$)", makefile))
        - looked_at
    )
    read = set(re.findall(r"\$\(([A-Z_]+)\)", makefile))
    assert (
        read - own - {"CURDIR", "MAKE", "MAKECMDGOALS", "MAKEFILE_LIST", "MAKEOVERRIDES", "PATH", "VARS"}
        == looked_at & read
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_verbs_and_tests_named_in_docs_exist(page: pathlib.Path) -> None:
    """Files that it links to, verbs that it types, tests that it rests on."""
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    verbs = set(re.findall(r"^([a-z][\w-]*)(?: [a-z-]+)*:(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    typed = set(re.findall(r"(?:^    (?:\$ )?|`)make ([a-z][\w-]*)", text, re.M))
    assert typed - verbs == set()
    tests = {path.stem for path in (ROOT / "molecule/tests").rglob("test_*.py")}
    tests |= {
        name
        for path in (ROOT / "molecule/tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    }
    assert set(re.findall(r"`(test_\w+)`", text)) - tests == set()
