"""controller/environment: where files of an environment are, how hosts are logged in to; values are rendered once, and again after a change."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT

from controller import arguments, environment
from controller.commands import rehearse
from controller.environment import Environment, rendering
from controller.environment import login as logins
from controller.environment.login import Login, command
from controller.errors import Unusable

RENDERED = {"hosts": {"app1": {"values": {}, "login": {"address": "192.0.2.1"}}}, "groups": {"all": ["app1"]}}


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A checkout with an environment x, and nothing of Ansible's that counts in this process's own."""
    for name, text in {
        "inventories/x.yml": "all: {}\n",
        "group_vars/all/base.yml": "one: 1\n",
        "group_vars/x/main.yml": "two: 2\n",
        "group_vars/x/vault.yml": "$ANSIBLE_VAULT\n",
        "playbooks/vars/status.yml": "three: 3\n",
        "ansible.cfg": "[defaults]\n",
        ".state/x/vault-password": "pw\n",
        "controller/ssh.py": "\n",
        "plugins/filter/f.py": "\n",
        "packages/ansible_core-1.0.dist-info/METADATA": "\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "inventories/group_vars").symlink_to("../group_vars")
    for module in (environment, rendering):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(rendering.sysconfig, "get_path", lambda _kind: str(tmp_path / "packages"))
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def renders(checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The list that every rendering adds to."""
    done = []
    monkeypatch.setattr(rendering, "render", lambda *args: (done.append(args), (RENDERED, True))[1])
    return done


def load(checkout: pathlib.Path, *over: str) -> dict[str, environment.Host]:
    return Environment(checkout / "inventories/x.yml", over).hosts


def test_values_are_rendered_once(checkout: pathlib.Path, renders: list[Any]) -> None:
    for _ in range(3):
        assert load(checkout)["app1"].login == Login("192.0.2.1")
    assert len(renders) == 1
    kept = checkout / ".state/x/rendered.json"
    assert kept.stat().st_mode & 0o777 == 0o600


def rewrite(path: pathlib.Path, text: str) -> None:
    """Another content of the same size and age: only reading it tells."""
    status = path.stat()
    assert len(text) == status.st_size
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: rewrite(root / "inventories/x.yml", "all: []\n"),
        lambda root: rewrite(root / "group_vars/all/base.yml", "one: 2\n"),
        lambda root: rewrite(root / "group_vars/x/vault.yml", "$ANSIBLE_WAULT\n"),
        lambda root: rewrite(root / "playbooks/vars/status.yml", "three: 4\n"),
        lambda root: rewrite(root / "ansible.cfg", "[defaultz]\n"),
        lambda root: rewrite(root / ".state/x/vault-password", "pv\n"),
        lambda root: rewrite(root / "controller/ssh.py", " "),
        lambda root: rewrite(root / "plugins/filter/f.py", " "),
        lambda root: (root / "group_vars/x/more.yml").write_text(""),
        lambda root: (root / "group_vars/x/main.yml").unlink(),
        lambda root: (root / "group_vars/x/main.yml").rename(root / "group_vars/x/zz.yml"),
        lambda root: (
            (root / "inventories/host_vars").mkdir() or (root / "inventories/host_vars/app1.yml").write_text("a: 1\n")
        ),
        lambda root: (root / "packages/ansible_core-1.0.dist-info").rename(
            root / "packages/ansible_core-1.1.dist-info"
        ),
        lambda root: (root / ".state/x/rendered.json").write_text("{"),
        lambda root: (root / ".state/x/rendered.json").write_text('{"made_from": 1}'),
        lambda root: os.environ.update(ANSIBLE_PRIVATE_KEY_FILE="/k"),
    ],
    ids=[
        "inventory",
        "variables",
        "vault",
        "declared",
        "config",
        "password",
        "controller",
        "filter",
        "file more",
        "file less",
        "file renamed",
        "host_vars",
        "Ansible",
        "half a file",
        "another file",
        "setting",
    ],
)
def test_a_change_of_a_file_renders_the_values_again(
    checkout: pathlib.Path, renders: list[Any], change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    load(checkout)
    change(checkout)
    load(checkout)
    load(checkout)
    assert len(renders) == 2


def test_options_of_execution_and_display_do_not_render_again(
    checkout: pathlib.Path, renders: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(checkout)
    for name in rendering.INDIFFERENT:
        monkeypatch.setenv(name, "x")
    load(checkout)
    assert len(renders) == 1


def test_variables_that_are_laid_over_render_again(checkout: pathlib.Path, renders: list[Any]) -> None:
    load(checkout)
    load(checkout, "one=2")
    load(checkout, "one=2")
    load(checkout)
    assert [over for _inventory, over, _password in renders] == [(), ("one=2",), ()]


def test_values_are_not_cached_when_a_file_changes_during_rendering(
    checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(*_args: pathlib.Path | tuple[()]) -> tuple[dict[str, Any], bool]:
        (checkout / "group_vars/all/base.yml").write_text("one: 7\n")
        return RENDERED, True

    monkeypatch.setattr(rendering, "render", render)
    load(checkout)
    assert not (checkout / ".state/x/rendered.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "over"),
    [
        ("group_vars/all/base.yml", 'one: "{{ now() }}"', ()),
        ("group_vars/x/main.yml", 'one: "{{ [1, 2] | random }}"', ()),
        ("group_vars/x/main.yml", "one: \"{{ '/etc/x' is file }}\"", ()),
        ("inventories/x.yml", "plugin: cloud\n", ()),
        ("group_vars/x/main.yml", "", ("@/tmp/variables.yml",)),
        ("group_vars/x/main.yml", "", ("one={{ now() }}",)),
    ],
)
def test_values_that_depend_on_more_than_files_are_not_cached(
    checkout: pathlib.Path, renders: list[Any], name: str, text: str, over: tuple[str]
) -> None:
    (checkout / name).write_text(text)
    load(checkout, *over)
    load(checkout, *over)
    assert len(renders) == 2


def test_values_of_a_dynamic_inventory_are_not_cached(checkout: pathlib.Path, renders: list[Any]) -> None:
    (checkout / "inventories/x.yml").chmod(0o755)
    load(checkout)
    load(checkout)
    assert len(renders) == 2


@pytest.fixture
def production(checkout: pathlib.Path) -> pathlib.Path:
    """The same checkout with the repository's own production environment, and no vault."""
    shutil.rmtree(checkout / "group_vars")
    shutil.copytree(ROOT / "group_vars", checkout / "group_vars", ignore=shutil.ignore_patterns("vault.yml"))
    for name in ("inventories/production.yml", "playbooks/vars/status.yml", "ansible.cfg"):
        shutil.copy(ROOT / name, checkout / name)
    return checkout


def test_rendered_values_equal_those_of_ansible(production: pathlib.Path) -> None:
    tier = Environment(production / "inventories/production.yml", ('{"media_port": 8123, "ansible_port": 2222}',))
    host = tier.hosts[tier.groups["db"][0]]
    assert host.values["status_facts"]["env_name"] == "production"
    assert host.values["status_facts"]["media_port"] == 8123
    assert host.values["status_addresses"][host.name] == host.login.address
    assert host.login == Login(
        host.login.address, 2222, "ops", os.path.expanduser("~/.ssh/id_ed25519"), "-o IdentitiesOnly=yes", True
    )
    kept = json.loads((production / ".state/production/rendered.json").read_text())
    assert set(kept["rendered"]["hosts"][host.name]) == {"values", "login"}


def test_values_of_an_impure_lookup_are_not_cached(production: pathlib.Path) -> None:
    (production / "group_vars/all/logs.yml").write_text("log_dir: \"/{{ lookup('ansible.builtin.env', 'HOME') }}\"\n")
    assert Environment(production / "inventories/production.yml").hosts
    assert not (production / ".state/production/rendered.json").exists()


def test_a_missing_variable_is_named(production: pathlib.Path) -> None:
    (production / "group_vars/all/logs.yml").write_text("log_days: 1\n")
    with pytest.raises(Unusable, match="log_dir"):
        assert Environment(production / "inventories/production.yml").hosts


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Login("app1")),
        ({"ansible_host": "192.0.2.1", "ansible_port": "2222", "ansible_user": "ops"}, Login("192.0.2.1", 2222, "ops")),
        (
            {
                "ansible_ssh_private_key_file": "/k",
                "ansible_ssh_common_args": "-J gate",
                "ansible_ssh_extra_args": "-4",
            },
            Login("app1", key="/k", arguments="-J gate -4"),
        ),
        ({"ansible_host_key_checking": False}, Login("app1", check_host_key=False)),
        ({"ansible_host_key_checking": "no"}, Login("app1", check_host_key=False)),
    ],
)
def test_hosts_are_logged_in_to_as_ansible_does(variables: Any, expected: Any) -> None:
    assert logins.login("app1", variables) == expected


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_connection": "local"},
        {"ansible_password": "x"},
        {"ansible_become_method": "su"},
        {"ansible_ssh_executable": "/x"},
    ],
)
def test_an_unsupported_login_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(Unusable, match="app1 is reached with ansible_"):
        logins.login("app1", variables)


@pytest.mark.parametrize(
    ("name", "rehearsed", "inventory", "state", "make_args"),
    [
        ("local", False, "inventories/local.yml", ".state/local", "ENV=local"),
        ("production", False, "inventories/production.yml", ".state/production", "ENV=production"),
        (
            "production",
            True,
            ".state/production-rehearsal/inventory/production.yml",
            ".state/production-rehearsal",
            "ENV=production REHEARSE=1",
        ),
    ],
)
def test_files_of_an_environment_have_fixed_paths(
    name: str, rehearsed: bool, inventory: str, state: str, make_args: str
) -> None:
    found = Environment.named(name, rehearsed)
    assert (found.inventory, found.state) == (ROOT / inventory, ROOT / state)
    assert (found.name, found.rehearsed, found.make_args) == (name, rehearsed, make_args)
    assert found.vault == (ROOT / inventory).parent / f"group_vars/{name}/vault.yml"
    assert found.certificate_authority == ROOT / state / "ca.crt"
    assert found.own_variables == {
        "ENV": name,
        "INVENTORY": str(ROOT / inventory),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(ROOT / state / "vault-password"),
    }


@pytest.mark.parametrize("args", [("local",), ("production",), ("production", True)])
def test_an_environment_agrees_with_make(args: tuple[Any, ...]) -> None:
    found = Environment.named(*args)
    command = ["make", "--eval", "paths: ; @echo $(INVENTORY) $(STATE) $(VAULT)", "paths", *found.make_args.split()]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [ROOT / word for word in output.split()] == [found.inventory, found.state, found.vault]


def test_the_state_directory_of_another_inventory_is_in_the_same_checkout(tmp_path: pathlib.Path) -> None:
    assert Environment(tmp_path / "inventories/x.yml").state == tmp_path / ".state/x"
    assert not Environment(pathlib.Path("/x.yml")).rehearsed


@pytest.mark.parametrize(
    ("other", "given", "own", "expected"),
    [
        (False, True, True, "given"),
        (False, True, False, "given"),
        (False, False, True, "own"),
        (False, False, False, None),
        (True, True, True, "own"),
        (True, True, False, "given"),
    ],
)
def test_another_environment_has_another_password(
    checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch, other: bool, given: bool, own: bool, expected: str | None
) -> None:
    """The variable of this process is that of the environment that make was given."""
    files = {"given": checkout / "password", "own": checkout / ".state/x/vault-password"}
    files["given"].write_text("pw")
    if given:
        monkeypatch.setenv(environment.PASSWORD_VARIABLE, str(files["given"]))
    if not own:
        files["own"].unlink()
    found = Environment(checkout / "inventories/x.yml", other=other)
    assert found.password_file == (files[expected] if expected else None)
    assert found.password_variable == ({environment.PASSWORD_VARIABLE: str(files[expected])} if expected else {})


def test_variables_of_a_rehearsal_replace_those_of_the_environment(checkout: pathlib.Path) -> None:
    rehearsal = Environment(checkout / ".state/x-rehearsal/inventory/x.yml")
    assert rehearsal.declared == {"make_args": "ENV=x REHEARSE=1", "two": 2}
    rehearsal.rehearsal_variables.parent.mkdir(parents=True)
    rehearsal.rehearsal_variables.write_text("two: 3\n")
    assert Environment(rehearsal.inventory).declared == {"make_args": "ENV=x REHEARSE=1", "two": 3}
    assert Environment(checkout / "inventories/x.yml").declared == {"make_args": "ENV=x", "two": 2}


def test_group_vars_agree_about_paths_and_arguments(production: pathlib.Path) -> None:
    real = Environment(production / "inventories/production.yml")
    shutil.copytree(ROOT / "playbooks/vars", production / "playbooks/vars", dirs_exist_ok=True)
    state = production / ".state/production-rehearsal"
    rehearse.build(real.inventory, state, production)
    for found in (real, Environment(state / "inventory/production.yml")):
        host = found.groups["db"][0]
        assert found.value("state_dir", host) == str(found.state)
        assert found.value("make_args", host) == found.make_args
        # Whether host keys are checked is what ansible_ssh_common_args says.
        user = found.value("operator_name", host)
        login = dataclasses.replace(found.hosts[host].login, user=user, check_host_key=True)
        assert shlex.split(found.value("operator_ssh", host)) == command(login, connect_s=10, session=True)
        assert found.value("[lb_vip, env_containers, network_cidr]", host) == [
            found.declared[name] for name in ("lb_vip", "env_containers", "network_cidr")
        ]


def test_a_session_waits_longer_for_a_silent_host() -> None:
    """The first of two equal options counts."""
    words = command(Login("app1", arguments="-o ServerAliveInterval=60"), connect_s=5, session=True)
    options = [words[index + 1] for index, word in enumerate(words) if word == "-o"]
    first = dict(option.split("=", 1) for option in reversed(options))
    assert first == {
        "BatchMode": "yes",
        "ControlMaster": "no",
        "ControlPath": "none",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": "5",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "LogLevel": "ERROR",
    }


def test_other_options_are_refused() -> None:
    parser = arguments.parser_of(None)
    arguments.add_extra_vars(parser)
    assert arguments.extra_vars(parser.parse_args(["--inventory=x", "-e", "a=1", "-e", "b=2"])) == [
        "-e",
        "a=1",
        "-e",
        "b=2",
    ]
    for options in (["--limit", "app"], ["-e"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["--inventory=x", *options])
