"""The controller's part of the module files: renders templates and reads files, for one call of the module on the host."""

import os
from typing import Any

from ansible._internal._templating import _template_vars
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):
    """Source: ansible/plugins/action/template.py and copy.py, which take two calls for each file."""

    _VALID_ARGS = frozenset({"directories", "directory_mode", "templates", "copies", "owner", "group", "mode"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Execute the task for a host; the result of the module."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        given = self._task.args
        contents = {
            dest: self.rendered(source, dest, variables) for dest, source in (given.get("templates") or {}).items()
        }
        contents |= {
            dest: self._loader.get_text_file_contents(self._find_needle("files", source))
            for dest, source in (given.get("copies") or {}).items()
        }
        if contents and not given.get("mode"):
            raise AnsibleActionFail('files needs a mode, as a string: "0644".')
        passed = {
            name: given[name]
            for name in ("directories", "directory_mode", "owner", "group", "mode")
            if given.get(name) is not None
        }
        result: dict[str, Any] = self._execute_module(
            module_name="files", module_args=passed | {"contents": contents}, task_vars=task_vars
        )
        return result

    def rendered(self, source: str, dest: str, task_vars: dict[str, Any]) -> str:
        """A template's text, rendered as the module template does."""
        path = self._find_needle("templates", source)
        directories = [*task_vars.get("ansible_search_path", []), self._loader._basedir, os.path.dirname(path)]
        variables = task_vars | _template_vars.generate_ansible_template_vars(
            path=source, fullpath=path, dest_path=dest, include_ansible_managed="ansible_managed" not in task_vars
        )
        templar = self._templar.copy_with_new_env(
            searchpath=[
                candidate
                for directory in directories
                for candidate in (os.path.join(directory, "templates"), directory)
            ],
            available_variables=variables,
        )
        text = templar.template(
            trust_as_template(self._loader.get_text_file_contents(path)),
            escape_backslashes=False,
            overrides={"trim_blocks": True},
        )
        return "" if text is None else str(text)
