#!/usr/bin/python
"""Static files of several releases in one directory, each file whole at every moment."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Collection, Mapping

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: static_files
short_description: Publish a release's static files on a media host
description:
  - Without archive or keep it only tells whether they are there.
  - Files of other releases stay, because visitors still have pages that name them, until their release is kept no longer.
  - What each release has is recorded in .releases/<version>.json of the directory. Its archive stays beside it, because names without a hash
    belong to whichever release was published last, and a rollback publishes an older one again.
options:
  root: {type: path, required: true, description: The directory that is served.}
  version: {type: str, required: true, description: The release.}
  archive: {type: path, description: "Its static files, on this host."}
  serving: {type: str, default: "", description: "Another release, whose files stay as they are where both have that name."}
  keep: {type: list, elements: str, description: Releases whose files stay; those of all others go.}
"""

RETURN = """
complete: {type: bool, returned: always, description: Whether every file of the release is there and right.}
releases: {type: list, returned: always, description: Releases that have files here.}
archive: {type: str, returned: always, description: "Where its archive is kept on this host, or empty."}
"""


def sha256(path: pathlib.Path) -> str:
    """sha256 of a file, '' if there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def kept(root: pathlib.Path, version: str) -> pathlib.Path:
    """Where the archive of a published release stays."""
    return root / ".releases" / f"{version}.tar.gz"


def records(root: pathlib.Path) -> dict[str, dict[str, str]]:
    """{release: {file name: sha256}} of every release that has files here."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / ".releases").glob("*.json"))
    }


def write(path: pathlib.Path, text: str) -> None:
    """Replace a file's content at once."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.chmod(0o644)
    partial.rename(path)


def publish(module: AnsibleModule, root: pathlib.Path, version: str, archive: str, spared: Collection[str]) -> None:
    """Put a release's files where they are served, but for the names in spared. Fails the module if they do not unpack."""
    staging = root / ".incoming"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    code, _out, errors = module.run_command(
        [
            "tar",
            "--extract",
            "--file",
            archive,
            "--directory",
            str(staging),
            "--no-same-owner",
            "--preserve-permissions",
        ]
    )
    if code:
        module.fail_json(msg=f"The static files do not unpack: {errors.strip()}")
    record = {}
    for directory, _directories, files in os.walk(staging):
        target_directory = root / os.path.relpath(directory, staging)
        target_directory.mkdir(mode=0o755, exist_ok=True)
        for name in files:
            new, target = pathlib.Path(directory, name), target_directory / name
            path = os.path.normpath(target.relative_to(root))
            record[path] = sha256(new)
            if path not in spared:
                # Also where nothing else changes: every media host gives a file the release's date.
                new.rename(target)
    (root / ".releases").mkdir(mode=0o755, exist_ok=True)
    write(root / ".releases" / f"{version}.json", json.dumps(record, indent=1, sort_keys=True))
    shutil.rmtree(staging)
    os.replace(archive, kept(root, version))


def remove(root: pathlib.Path, known: Mapping[str, Mapping[str, str]], keep: Collection[str]) -> None:
    """Remove the files that only releases outside keep have."""
    wanted = {name for version in keep for name in known.get(version, {})}
    for version in known.keys() - set(keep):
        for name in known[version].keys() - wanted:
            path = root / name
            path.unlink(missing_ok=True)
            while path.parent != root and path.parent.is_dir() and not any(path.parent.iterdir()):
                path = path.parent
                path.rmdir()
        kept(root, version).unlink(missing_ok=True)
        (root / ".releases" / f"{version}.json").unlink()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "serving": {"type": "str", "default": ""},
            "keep": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    p = module.params
    root = pathlib.Path(p["root"])
    os.umask(0o022)
    if not root.is_dir() and not module.check_mode:
        module.fail_json(msg=f"There is no {root} on this host: converge it before you deploy to it.")
    known = records(root)
    complete = p["version"] in known and all(
        sha256(root / name) == digest for name, digest in known[p["version"]].items()
    )
    changed = False
    if p["archive"] and not complete:
        changed = True
        if not module.check_mode:
            publish(module, root, p["version"], p["archive"], known.get(p["serving"], {}))
            known, complete = records(root), True
    if p["keep"] is not None and known.keys() - set(p["keep"]):
        changed = True
        if not module.check_mode:
            remove(root, known, p["keep"])
            known = records(root)
    archive = kept(root, p["version"])
    module.exit_json(
        changed=changed, complete=complete, releases=sorted(known), archive=str(archive) if archive.exists() else ""
    )


if __name__ == "__main__":
    main()
