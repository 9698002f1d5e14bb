#!/usr/bin/python
"""A release in its place on an app host, proven before it gets its name."""

import hashlib
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Collection, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.site_jobs import releases_in_use

DOCUMENTATION = """
module: release
short_description: Put a release in its place on an app host
description:
  - Without archive it only tells what is there.
  - With one it unpacks the release, compares every file with the manifest, runs a proof, and only then
    gives it its name, by one rename. A directory releases/<version> is complete, always.
options:
  root: {type: path, required: true, description: The site's directory.}
  version: {type: str, required: true, description: The release.}
  manifest: {type: str, default: "", description: "sha256 of its manifest as it was built, if known."}
  keep: {type: int, required: true, description: "Releases to keep, the current and the previous one included."}
  jobs: {type: path, description: "The directory of the jobs (make manage): the releases of those that run are kept besides."}
  archive: {type: path, description: "The artifact, on this host. Removed when it has been unpacked."}
  prove: {type: list, elements: str, default: [], description: "A command that must succeed with RELEASE=<its directory>."}
"""

RETURN = """
current: {type: str, returned: always, description: "The release that is current, or empty."}
previous: {type: str, returned: always, description: "The one before, or empty."}
complete: {type: bool, returned: always, description: Whether the release is in its place.}
live: {type: bool, returned: always, description: Whether it is current and the site was started anew since.}
commands_run: {type: bool, returned: always, description: Whether its commands were run from this host.}
breaking: {type: bool, returned: always, description: "Whether the current release's migrations broke the one before it."}
kept: {type: list, returned: always, description: "Releases to keep once this one is current."}
stale: {type: list, returned: always, description: Entries of releases/ to remove then.}
"""


def linked(link: pathlib.Path) -> str:
    """Name of the release a link points to, or ''."""
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def state_of(root: pathlib.Path, version: str, keep: int, in_use: Collection[str] = ()) -> dict[str, Any]:
    """What is on this host (see RETURN). in_use: releases that are kept besides."""
    releases = root / "releases"
    current, previous = linked(root / "current"), linked(root / "previous")
    live = current == version
    if live:
        # Cut off between the two, a deploy has changed the link and not started the site anew.
        started = root / "tier/realworld/wsgi.py"
        live = started.exists() and started.stat().st_mtime_ns >= (root / "current").lstat().st_mtime_ns
    entries = (
        sorted(releases.iterdir(), key=lambda path: path.lstat().st_mtime, reverse=True) if releases.is_dir() else []
    )
    names = [path.name for path in entries if not path.name.startswith(".")]
    # As it will be when this version is current.
    bound = {version, current if current != version else previous} - {""}
    kept = [name for name in names if name in bound]
    kept += [name for name in names if name not in bound][: max(0, keep - len(bound))]
    kept += [name for name in names if name in in_use and name not in kept]
    here = releases / version
    return {
        "current": current,
        "previous": previous,
        "complete": (here / "manifest.json").exists(),
        "live": live,
        "breaking": bool(current) and (releases / current / "breaking").exists(),
        "commands_run": (here / "commands-run").exists(),
        "kept": kept if version in kept else [version, *kept],
        "stale": [path.name for path in entries if path.name not in kept and not path.name.startswith(f".{version}.")],
    }


def sha256(path: str | os.PathLike[str]) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(directory: pathlib.Path) -> list[str]:
    """Files of an unpacked release that are not what its manifest says, as a list of sentences."""
    listed = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["files"]
    present = {}
    for parent, directories, files in os.walk(directory):
        for name in files + [name for name in directories if os.path.islink(os.path.join(parent, name))]:
            path = os.path.join(parent, name)
            present[os.path.relpath(path, directory)] = (
                f"-> {os.readlink(path)}" if os.path.islink(path) else sha256(path)
            )
    present.pop("manifest.json")
    return [
        f"{name} is {'not what was built' if name in present and name in listed else 'missing' if name in listed else 'too many'}"
        for name in sorted(present.keys() | listed.keys())
        if present.get(name) != listed.get(name)
    ]


def unpack(module: AnsibleModule, directory: pathlib.Path, manifest: str, archive: str, prove: Sequence[str]) -> None:
    """Unpack and prove a release under a name of its own; fails the module where it is not good."""
    shutil.rmtree(directory, ignore_errors=True)
    with open(archive, "rb") as file:
        file.seek(-4, os.SEEK_END)
        size = struct.unpack("<I", file.read(4))[0]  # gzip ends with the length of what it holds
    free = shutil.disk_usage(directory.parent).free
    if free < size * 1.2:
        module.fail_json(
            msg=f"{directory.parent} has {free // 2**20} MB free; the release needs {int(size * 1.2) // 2**20} MB."
        )
    directory.mkdir(mode=0o755)
    code, _out, errors = module.run_command(
        [
            "tar",
            "--extract",
            "--file",
            archive,
            "--directory",
            str(directory),
            "--no-same-owner",
            "--preserve-permissions",
        ]
    )
    if code:
        module.fail_json(msg=f"The release does not unpack: {errors.strip()}")
    if manifest and sha256(directory / "manifest.json") != manifest:
        module.fail_json(msg="The release that arrived is not the one that was built.")
    wrong = differences(directory)
    if wrong:
        module.fail_json(msg=f"The release did not arrive whole: {'; '.join(wrong[:5])}")
    if prove:
        code, out, errors = module.run_command(prove, environ_update={"RELEASE": str(directory)})
        if code:
            module.fail_json(msg=f"{' '.join(prove)} found the release wanting: {(errors or out).strip()}")
        for line in errors.splitlines():
            if line.startswith("?:") or "WARNING" in line and not line.startswith("WARNINGS"):
                module.warn(line.removeprefix("?: "))


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "manifest": {"type": "str", "default": ""},
            "keep": {"type": "int", "required": True},
            "jobs": {"type": "path"},
            "archive": {"type": "path"},
            "prove": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    p = module.params
    root = pathlib.Path(p["root"])
    if not (root / "releases").is_dir() and not module.check_mode:
        module.fail_json(msg=f"There is no {root}/releases on this host: converge it before you deploy to it.")
    in_use = releases_in_use(p["jobs"]) if p["jobs"] else set()
    state = state_of(root, p["version"], p["keep"], in_use)
    directory = root / "releases" / p["version"]
    if state["complete"] and p["manifest"] and sha256(directory / "manifest.json") != p["manifest"]:
        module.fail_json(
            msg=f"{directory} is another build of {p['version']} than this controller's: deploy from the controller "
            "that built it, or remove that version here from .state/releases and from the hosts."
        )
    changed = bool(p["archive"]) and not state["complete"]
    if changed and not module.check_mode:
        partial = directory.with_name(f".{p['version']}.partial")
        unpack(module, partial, p["manifest"], p["archive"], p["prove"])
        os.utime(partial)  # its age as a release of this host
        partial.rename(directory)
        os.unlink(p["archive"])
        state = state_of(root, p["version"], p["keep"], in_use)
    module.exit_json(changed=changed, **state)


if __name__ == "__main__":
    main()
