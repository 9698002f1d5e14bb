#!/usr/bin/python
"""Directories and files of a host, in one call."""

DOCUMENTATION = r"""
module: files
short_description: Directories and files of a host, in one call
description:
  - Makes directories, and writes files from templates and copies. It compares, predicts, shows differences and sets owner, group and mode as the
    modules C(file), C(template) and C(copy) do, which take one or two calls for each.
  - A file is replaced at once, never written in place.
options:
  directories:
    description: Paths of directories, in the order in which they are made. Their parents have to exist.
    type: list
    elements: str
    default: []
  directory_mode:
    description: The mode of the directories.
    type: str
    default: "0755"
  templates:
    description: "{path on the host: template of the role}."
    type: dict
  copies:
    description: "{path on the host: file of the role}. Text alone."
    type: dict
  contents:
    description: "{path on the host: text}; what the controller makes of templates and copies."
    type: dict
    default: {}
  owner:
    description: The user that owns all of it.
    type: str
  group:
    description: The group that owns all of it.
    type: str
  mode:
    description: The mode of the files.
    type: str
author: realworld
"""

EXAMPLES = r"""
- name: Configure the journal
  files:
    directories: [/etc/systemd/journald.conf.d]
    templates:
      /etc/systemd/journald.conf: journald.conf.j2
      /etc/systemd/journald.conf.d/syslog.conf: journald-syslog.conf.j2
    mode: "0644"
"""

RETURN = r"""
paths:
  description: What was made or changed, or would be.
  type: list
  returned: always
"""

import os
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_bytes, to_text


class Files:
    """What a task asks of a host's files, and what came of it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed: list[str] = []  # paths
        self.diff: list[dict[str, Any]] = []

    def attributes(self, path: str, mode: str) -> bool:
        """Set owner, group and mode of a path; whether they were different."""
        given = {name: self.module.params[name] for name in ("owner", "group")}
        arguments = self.module.load_file_common_arguments({"path": path, "mode": mode, **given})
        return bool(self.module.set_fs_attributes_if_different(arguments, False))

    def directory(self, path: str) -> None:
        """Make a directory."""
        made = not os.path.isdir(path)
        if made and os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there and is no directory.")
        if made and not self.module.check_mode:
            os.mkdir(path)
        if self.attributes(path, self.module.params["directory_mode"]) or made:
            self.changed.append(path)
            self.diff.append(
                {
                    "before_header": path,
                    "after_header": path,
                    "before": {"state": "absent" if made else "directory"},
                    "after": {"state": "directory"},
                }
            )

    def file(self, path: str, text: str) -> None:
        """Write a file where it is different."""
        content, before = to_bytes(text), None
        if os.path.isdir(path):
            self.module.fail_json(msg=f"{path} is a directory.")
        if os.path.exists(path):
            with open(path, "rb") as file:
                before = file.read()
        if before != content:
            self.diff.append(
                {
                    "before_header": path,
                    "after_header": path,
                    "before": to_text(before or b"", errors="replace"),
                    "after": text,
                }
            )
            if not self.module.check_mode:
                self.write(path, content)
        if self.attributes(path, self.module.params["mode"]) or before != content:
            self.changed.append(path)

    def write(self, path: str, content: bytes) -> None:
        """Put a content in the place of a file."""
        handle, name = tempfile.mkstemp(dir=self.module.tmpdir)
        with open(handle, "wb") as file:
            file.write(content)
        try:
            self.module.atomic_move(name, path)
        finally:
            self.module.add_cleanup_file(name)


def main() -> None:
    """Execute the module."""
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "directories": {"type": "list", "elements": "str", "default": []},
            "directory_mode": {"type": "str", "default": "0755"},
            "templates": {"type": "dict"},
            "copies": {"type": "dict"},
            "contents": {"type": "dict", "default": {}},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str"},
        },
    )
    files = Files(module)
    for path in module.params["directories"]:
        files.directory(path)
    for path, text in module.params["contents"].items():
        files.file(path, text)
    module.exit_json(changed=bool(files.changed), paths=files.changed, **({"diff": files.diff} if module._diff else {}))


if __name__ == "__main__":
    main()
