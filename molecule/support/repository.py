"""What tests read of the repository: its files, and programs of hosts as modules."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from typing import Any
from unittest import mock

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENTS = sorted(p.parent.name for p in (ROOT / "group_vars").glob("*/main.yml"))


def load(path: pathlib.Path) -> Any:
    """A YAML file's content; Ansible's own tags read as None."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    return yaml.load(path.read_text(), Loader)


def program(path: str, **beside: types.ModuleType) -> types.ModuleType:
    """A program that the repository copies to hosts, as a new module.

    beside: {name: module} of what the program imports and has beside it there.
    """
    loader = importlib.machinery.SourceFileLoader(
        f"program_{pathlib.Path(path).stem.replace('-', '_')}", str(ROOT / path)
    )
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses ask for it
    with mock.patch.dict(sys.modules, beside):
        loader.exec_module(module)
    return module
