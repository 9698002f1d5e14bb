#!/usr/bin/python
"""Make units run with their configuration as it is on disk."""

import datetime
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: fresh_units
short_description: Make units run with their configuration as it is on disk
description:
  - A handler reloads a service once its configuration has changed. A run that is cut off between the two leaves
    the old configuration running, and the next run finds nothing to change. This module compares times instead.
    A unit that is not active is started; one older than its files is reloaded or restarted.
options:
  units:
    type: list
    elements: dict
    required: true
    description: The units.
    suboptions:
      name: {type: str, required: true, description: The unit.}
      files: {type: list, elements: path, required: true, description: Its configuration; directories are walked.}
      action: {type: str, required: true, choices: [reload, restart], description: What takes a changed configuration over.}
  wait:
    type: bool
    default: true
    description: Await that the units are up. Without it a later look has to; it awaits those still on their way, too.
"""

RETURN = """
actions: {type: list, returned: always, description: "What was done, or would be, as an action and a unit: start, reload or restart."}
"""

FORMAT = "%a %Y-%m-%d %H:%M:%S.%f UTC"


def newest(paths: Iterable[str]) -> float:
    """Time of the last change, in seconds since the epoch, of any file or folder at or below paths; 0 where none exists."""
    latest = 0.0
    for path in map(pathlib.Path, paths):
        for file in [path, *(path.rglob("*") if path.is_dir() else [])]:
            if file.exists():
                latest = max(latest, file.stat().st_ctime)
    return latest


def parse(block: str) -> dict[str, str]:
    """Properties of one unit from `systemctl show`."""
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def needed(state: Mapping[str, str], unit: Mapping[str, Any]) -> str | None:
    """What a unit needs: "start", its own action, or None. state holds systemd's properties of it."""
    if state["ActiveState"] not in ("active", "reloading", "activating"):
        # Tried, and not meant for this host: a condition of the unit itself says no.
        unwanted = state["ConditionResult"] == "no" and state["ConditionTimestamp"]
        return None if unwanted else "start"
    if state["NeedDaemonReload"] == "yes" and unit["action"] == "restart":
        return "restart"
    since = datetime.datetime.strptime(state["StateChangeTimestamp"], FORMAT).replace(tzinfo=datetime.UTC)
    return unit["action"] if newest(unit["files"]) > since.timestamp() else None


def main() -> None:
    """Run as an Ansible module."""
    unit = {
        "name": {"required": True},
        "files": {"type": "list", "elements": "path", "required": True},
        "action": {"choices": ["reload", "restart"], "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "dict", "required": True, "options": unit},
            "wait": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    units, wait = module.params["units"], module.params["wait"]
    command = [
        "systemctl",
        "show",
        "--timestamp=us+utc",
        "--property",
        "LoadState,ActiveState,StateChangeTimestamp,NeedDaemonReload,ConditionResult,ConditionTimestamp",
        *(u["name"] for u in units),
    ]
    _rc, out, _err = module.run_command(command, check_rc=True)
    states = [parse(block) for block in out.strip().split("\n\n")]
    if not module.check_mode and any(state["NeedDaemonReload"] == "yes" for state in states):
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    done = []
    for wanted, state in zip(units, states):
        if state["LoadState"] == "not-found":
            continue  # a bare host, or TAGS left its role out: whoever installs it starts it
        action = needed(state, wanted)
        if action:
            done.append(f"{action} {wanted['name']}")
            if not module.check_mode:
                module.run_command(
                    ["systemctl", action, wanted["name"], *([] if wait else ["--no-block"])], check_rc=True
                )
        elif state["ActiveState"] == "activating" and wait and not module.check_mode:
            module.run_command(
                ["systemctl", "start", wanted["name"]], check_rc=True
            )  # joins the start that is under way
    module.exit_json(changed=bool(done), actions=done)


if __name__ == "__main__":
    main()
