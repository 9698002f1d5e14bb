"""The documentation of the repository's own modules and plugins: it is valid, and says what their code takes and returns."""

import ast
import importlib
import pathlib
import re
from typing import Any

import pytest
import yaml
from repository import ROOT

MODULES = sorted((ROOT / "plugins/modules").glob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
BLOCKS = ("DOCUMENTATION", "EXAMPLES", "RETURN")
RESULT = {"changed", "diff", "msg"}  # what every module may return
TYPES = {"str", "int", "float", "bool", "list", "dict"}


class Specification(Exception):
    """What a module gives AnsibleModule."""


def blocks(path: pathlib.Path) -> Any:
    """{block: its content} of a Python file. A name of a block that is no text is used for something else."""
    documents = {}
    for node in ast.parse(path.read_text()).body:
        for name in {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}.intersection(
            BLOCKS
        ):
            value = getattr(node, "value", None)
            assert isinstance(value, ast.Constant) and isinstance(value.value, str), (
                f"{path}: {name} is no text: name it otherwise"
            )
            documents[name] = yaml.safe_load(value.value)
    return documents


def argument_spec(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The argument_spec that a module gives AnsibleModule."""

    def record(**given: Any) -> None:
        raise Specification(given)

    module = importlib.import_module(f"plugins.modules.{path.stem}")
    monkeypatch.setattr(module, "AnsibleModule", record)
    with pytest.raises(Specification) as given:
        module.main()
    return given.value.args[0]["argument_spec"]


def comparable(options: Any, below: str) -> dict[str, Any]:
    """{option: what Ansible does with it}, of options as documented or of an argument_spec; below names the options of an option."""
    return {
        name: {
            "type": option.get("type", "str"),
            "required": option.get("required", False),
            "default": option.get("default"),
            "choices": option.get("choices"),
            "elements": option.get("elements"),
            "below": comparable(option.get(below, {}), below),
        }
        for name, option in options.items()
    }


def undescribed(options: Any, prefix: str = "") -> list[Any]:
    """Names of the documented options that have no description."""
    return [
        name
        for option, spec in options.items()
        for name in [
            *([] if spec.get("description") else [prefix + option]),
            *undescribed(spec.get("suboptions", {}), f"{prefix}{option}."),
        ]
    ]


def returned(path: pathlib.Path) -> Any:
    """({name: keys of its value where they are written there}, whether there is more), of all calls of exit_json in a module."""
    keys_of_values, more = {}, False
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "exit_json":
            for word in node.keywords:
                more |= word.arg is None
                if word.arg:
                    keys = word.value.keys if isinstance(word.value, ast.Dict) else []
                    assert all(isinstance(key, ast.Constant) for key in keys), (
                        f"{path}: {word.arg} has a key that is no text"
                    )
                    keys_of_values[word.arg] = {key.value for key in keys if isinstance(key, ast.Constant)}
    return keys_of_values, more


def texts(path: pathlib.Path) -> Any:
    """The names and texts in the code of a module, its documentation left out, and of what it imports from module_utils."""
    constants = set()
    for node in ast.parse(path.read_text()).body:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and (used := ROOT / "plugins/module_utils" / f"{node.module.split('.')[-1]}.py").exists()
        ):
            constants |= texts(used)
        for part in ast.walk(node):
            constants |= (
                {part.value}
                if isinstance(part, ast.Constant)
                else {part.arg}
                if isinstance(part, ast.keyword)
                else set()
            )
    return constants


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_documented_options_equal_the_argument_spec(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = blocks(path)["DOCUMENTATION"]
    assert about["module"] == path.stem and about["short_description"]
    assert about.keys() <= {"module", "short_description", "description", "options", "author", "notes"}
    assert comparable(about["options"], "suboptions") == comparable(argument_spec(path, monkeypatch), "options")
    assert undescribed(about["options"]) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_documented_results_equal_the_returned_keys(path: pathlib.Path) -> None:
    documented = blocks(path).get("RETURN", {})
    keys, more = returned(path)
    assert keys.keys() - RESULT == documented.keys() if not more else keys.keys() - RESULT <= documented.keys() != set()
    assert documented.keys() <= texts(path)
    for name, documentation in documented.items():
        assert documentation["description"] and documentation["returned"] and documentation["type"] in TYPES, name
        assert keys.get(name, set()) == documentation.get("contains", {}).keys()
        assert all(part["description"] and part["type"] in TYPES for part in documentation.get("contains", {}).values())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_use_documented_options_only(path: pathlib.Path) -> None:
    about = blocks(path)
    for task in about.get("EXAMPLES", []):
        assert task["name"] and task[path.stem].keys() <= about["DOCUMENTATION"]["options"].keys()


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.stem)
def test_plugins_have_valid_documentation_or_none(path: pathlib.Path) -> None:
    about = blocks(path).get("DOCUMENTATION")
    assert (
        about is None
        or path in MODULES
        or about["name"] == path.stem
        and about["short_description"]
        and about["description"]
    )


def test_the_action_files_takes_the_documented_options_of_the_module() -> None:
    """Its contents are what the action makes of templates and copies."""
    [valid] = re.findall(r"_VALID_ARGS = frozenset\((.*)\)", (ROOT / "plugins/action/files.py").read_text())
    assert (
        ast.literal_eval(valid) | {"contents"}
        == blocks(ROOT / "plugins/modules/files.py")["DOCUMENTATION"]["options"].keys()
    )
