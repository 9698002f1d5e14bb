"""The accelerated strategy executes a task for all hosts at once, and keeps what Jinja makes of templates: nothing comes out otherwise."""

import importlib
import os
import pathlib
import subprocess
import sys
import types
from typing import Any

import jinja2
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from repository import ROOT

QUOTED = r"{{ 'a\\b' }}"
HOSTS = ["one", "two", "three"]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Meet the other hosts
      ansible.builtin.shell: >-
        touch {{ place }}/{{ inventory_hostname }}; until [ $(ls {{ place }} | wc -l) = 3 ]; do sleep 0.1; done; echo {{ inventory_hostname }} {{ item }}
      loop: [a, b]
      register: met

    - name: Keep what belongs to a host
      ansible.builtin.assert:
        that: met.results | map(attribute='stdout') | list == [inventory_hostname ~ ' a', inventory_hostname ~ ' b']

    - name: Have a place alone
      ansible.builtin.shell: mkdir {{ place }}/alone && sleep 0.3 && rmdir {{ place }}/alone
      throttle: 1

    - name: Give up what takes too long
      block:
        - name: Take too long
          ansible.builtin.command: sleep 4
          timeout: 1
      rescue:
        - name: Write what was said
          ansible.builtin.shell: echo '{{ ansible_failed_result.msg }}' > {{ place }}/late-{{ inventory_hostname }}

    - name: Fail on a host
      ansible.builtin.command: "false"
      when: inventory_hostname == 'two'

    - name: Go on with the others
      ansible.builtin.shell: touch {{ place }}/end-{{ inventory_hostname }}
"""


def rendered() -> list[Any]:
    """What a worker makes of templates and conditions, of which some differ in nothing but how they are read."""
    templar = Templar(
        loader=DataLoader(),
        variables={"word": "tier", "words": ["lb", "app"], "nested": trust_as_template("{{ word }}s")},
    )
    templates = [
        ("{{ nested | upper }}", {}),
        (QUOTED, {}),
        (QUOTED, {"escape_backslashes": False}),
        ("{% for one in words %}{{ one }} {% endfor %}\n", {}),
        ("{{ words }}", {}),
        ("word", {}),
    ]
    return [templar.template(trust_as_template(text), **options) for text, options in templates] + [
        templar.evaluate_conditional(trust_as_template(text)) for text in ("word == 'tier'", "words | length > 2")
    ]


@pytest.fixture(name="strategy", scope="module")
def strategy_fixture() -> types.ModuleType:
    """The strategy, as Ansible loads it."""
    init_plugin_loader()
    return importlib.import_module("plugins.strategy.accelerated")


def test_templates_are_compiled_once(
    strategy: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile_template = [], strategy.KEPT.compile
    monkeypatch.setattr(strategy.KEPT, "cache", jinja2.FileSystemBytecodeCache(str(tmp_path)))
    monkeypatch.setattr(strategy.KEPT, "buckets", {})
    monkeypatch.setattr(strategy.KEPT, "compile", lambda *args: compiled.append(args) or compile_template(*args))
    first, many = rendered(), len(compiled)
    assert first == ["TIERS", "a\\\\b", "a\\b", "lb app \n", ["lb", "app"], "word", True, False]
    assert many == 8
    assert rendered() == first
    monkeypatch.setattr(strategy.KEPT, "buckets", {})  # as the next run begins
    assert rendered() == first
    assert len(compiled) == many


def test_imports_are_scanned_again_only_after_a_change(
    strategy: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, utility, scanned = tmp_path / "module.py", tmp_path / "utility.py", []
    module.write_text("import a")
    utility.write_text("")
    monkeypatch.setattr(
        strategy.Imports,
        "scan",
        lambda _self, *args: scanned.append(args) or [("a", str(utility), False)],
        raising=False,
    )
    kept = strategy.Imports.__new__(strategy.Imports)
    kept.path, kept.known = tmp_path / "imports.json", {}

    def imports() -> list[tuple[str, str, bool]]:
        return kept.scanned("module", str(module), (str(tmp_path),))

    for result, many in ((imports(), 1), (imports(), 1)):
        assert result == [("a", str(utility), False)]
        assert len(scanned) == many
    for changed in (module, utility):
        os.utime(changed, ns=(1, 1))
        before = len(scanned)
        assert imports() == [("a", str(utility), False)]
        assert len(scanned) == before + 1


def test_hosts_execute_a_task_in_parallel_with_separate_values(tmp_path: pathlib.Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "play.yml").write_text(PLAY)
    for host in HOSTS:  # Mitogen has one process for each interpreter
        (tmp_path / host).symlink_to("/usr/bin/python3")
    hosts = ", ".join(f"{host}: {{ansible_python_interpreter: {tmp_path}/{host}}}" for host in HOSTS)
    (tmp_path / "hosts.yml").write_text(f"all: {{vars: {{ansible_connection: local}}, hosts: {{{hosts}}}}}")
    done = subprocess.run(
        [
            pathlib.Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            tmp_path / "hosts.yml",
            "-e",
            f"place={tmp_path}/place",
            tmp_path / "play.yml",
        ],
        cwd=ROOT,
        env=dict(os.environ, ANSIBLE_STRATEGY="accelerated", ANSIBLE_CONFIG=str(ROOT / "ansible.cfg")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    left = sorted(path.name for path in (tmp_path / "place").iterdir())
    assert left == sorted([*HOSTS, *(f"late-{host}" for host in HOSTS), "end-one", "end-three"]), (
        done.stdout + done.stderr
    )
    assert all("1 second" in (tmp_path / f"place/late-{host}").read_text() for host in HOSTS)


def test_an_invalid_template_raises_and_is_not_cached(
    strategy: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategy.KEPT, "cache", jinja2.FileSystemBytecodeCache(str(tmp_path)))
    monkeypatch.setattr(strategy.KEPT, "buckets", {})
    templar = Templar(loader=DataLoader(), variables={"word": "tier"})
    for broken in ("word ==", "word word"):
        with pytest.raises(Exception, match="yntax error"):
            templar.evaluate_conditional(trust_as_template(broken))
    assert list(tmp_path.iterdir()) == []
    assert templar.template(trust_as_template("{{ word }}")) == "tier"


def test_the_login_becomes_root_where_sudo_asks_for_no_password(strategy: types.ModuleType) -> None:
    def stack(*specs: Any) -> Any:
        return [{"method": method, "kwargs": {"python_path": ["/usr/bin/python3"], **given}} for method, given in specs]

    login, root = (
        ("ssh", {"hostname": "192.0.2.1"}),
        ("sudo", {"username": "root", "password": None, "sudo_path": None}),
    )
    joined = strategy.as_root(stack(login, root))
    assert joined == stack(
        ("ssh", {"hostname": "192.0.2.1", "python_path": ["sudo", "-H", "-n", "-u", "root", "--", "/usr/bin/python3"]})
    )
    assert joined[:-1] == joined  # what is reset is the login
    for other in (
        stack(login),
        stack(("local", {}), root),
        stack(login, ("sudo", root[1] | {"password": "secret"})),
        stack(login, ("sudo", root[1] | {"username": "postgres"})),
        stack(login, root, root),
    ):
        assert strategy.as_root(other) is other
