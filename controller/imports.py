"""Which modules each module imports, kept from one run to the next: Mitogen compiles all of them in every run to see that."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import ansible.release
import mitogen
import mitogen.master
from ansible_mitogen import module_finder


class Imports:
    """Keeps in a file which modules each module imports: Mitogen compiles all of them in every run to see that.

    The file: {name: [what was found, [[path of a file it depends on, nanoseconds of its last change], …]]}, for one version of Ansible and Mitogen.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        """directory: where the file is kept."""
        versions = "-".join([ansible.release.__version__, *map(str, mitogen.__version__)])
        self.path, self.find_related, self.scan = (
            directory / f"imports-{versions}.json",
            mitogen.master.ModuleFinder.find_related,
            module_finder.scan,
        )
        try:
            self.known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or a run was cut off
            self.known = {}
        mitogen.master.ModuleFinder.find_related = lambda finder, name: self.related(finder, name)
        module_finder.scan = self.scanned

    def kept(self, name: str, find: Callable[[], Any], paths: Callable[[Any], list[str]]) -> Any:
        """What is known under a name, or what is found now. paths: of what was found, the files that it depends on."""
        with contextlib.suppress(KeyError, OSError):
            result, files = self.known[name]
            if all(os.stat(path).st_mtime_ns == changed for path, changed in files):
                return result
        result = find()
        self.known[name] = result, [(path, os.stat(path).st_mtime_ns) for path in paths(result)]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=self.path.parent, delete=False) as file:
            json.dump(self.known, file)
        os.replace(file.name, self.path)
        return result

    def related(self, finder: mitogen.master.ModuleFinder, name: str) -> list[str]:
        """In place of ModuleFinder.find_related, which is asked for modules of Ansible and Mitogen alone."""
        result: list[str] = self.kept(f"related {name}", lambda: self.find_related(finder, name), lambda _names: [])
        return result

    def scanned(self, module_name: str, module_path: str, search_path: tuple[str, ...]) -> list[tuple[str, str, bool]]:
        """In place of ansible_mitogen.module_finder.scan."""
        modules = self.kept(
            f"scan {module_name} {module_path} {search_path}",
            lambda: self.scan(module_name, module_path, search_path),
            lambda modules: [module_path, *(path for _name, path, _package in modules)],
        )
        return [tuple(module) for module in modules]
