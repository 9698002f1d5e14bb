"""controller/environment.py: values are rendered once, and again as soon as anything they are made from is another one."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from repository import ROOT

from controller import arguments, environment
from controller.ssh import Login

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
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda _kind: str(tmp_path / "packages"))
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def renders(checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The list that every rendering adds to."""
    done = []
    monkeypatch.setattr(environment, "render", lambda *args: (done.append(args), (RENDERED, True))[1])
    return done


def load(checkout: pathlib.Path, *over: str) -> Any:
    return environment.load(checkout / "inventories/x.yml", over)


def test_values_are_rendered_once(checkout: pathlib.Path, renders: list[Any]) -> None:
    for _ in range(3):
        assert load(checkout).hosts["app1"].login == Login("192.0.2.1")
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
    for name in environment.INDIFFERENT:
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

    monkeypatch.setattr(environment, "render", render)
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
    tier = environment.load(production / "inventories/production.yml", ('{"media_port": 8123, "ansible_port": 2222}',))
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
    environment.load(production / "inventories/production.yml")
    assert not (production / ".state/production/rendered.json").exists()


def test_a_missing_variable_is_named(production: pathlib.Path) -> None:
    (production / "group_vars/all/logs.yml").write_text("log_days: 1\n")
    with pytest.raises(environment.Unusable, match="log_dir"):
        environment.load(production / "inventories/production.yml")


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
    assert environment.login("app1", variables) == expected


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
    with pytest.raises(environment.Unusable, match="app1 is reached with ansible_"):
        environment.login("app1", variables)


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
