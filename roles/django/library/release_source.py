#!/usr/bin/python
"""Name the release that a source makes, and pack that source when the release has yet to be built."""

import hashlib
import json
import os
import pathlib
import subprocess
import tarfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: release_source
short_description: Name the release that a source makes
description:
  - The same source and the same way of building it make the same version, on every controller.
  - When no artifact of that version exists, the source is packed for the builder, exactly as it was hashed.
options:
  source: {type: path, required: true, description: "A directory, a Git checkout (with commit) or a wheel."}
  commit: {type: str, default: "", description: The commit that is checked out in source.}
  requirements: {type: str, default: "", description: "Requirements file, relative to the source; beside it for a wheel."}
  build: {type: dict, required: true, description: Values that the artifact depends on.}
  code: {type: list, elements: path, required: true, description: Files of the tier that the artifact depends on.}
  artifacts: {type: path, required: true, description: Directory of the artifacts.}
  site: {type: str, required: true, description: Name of the site.}
  version: {type: str, default: "", description: Take this version rather than the source's. It must be built.}
"""

RETURN = """
version: {type: str, returned: always, description: The release's version.}
built: {type: bool, returned: always, description: Whether its artifact exists.}
manifest: {type: str, returned: always, description: "sha256 of its manifest, empty unless built."}
kind: {type: str, returned: unless built, description: "directory, git or wheel."}
epoch: {type: int, returned: unless built, description: The date of every file in the artifact.}
packed: {type: str, returned: unless built, description: The packed source.}
"""

# A developer's own, never the site's. A directory with pyvenv.cfg in it is a virtualenv by any name.
NOT_SOURCE = {".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
              ".ruff_cache", ".idea", ".vscode", ".DS_Store", ".env", "db.sqlite3"}


def directory_files(root):
    """Relative names of a directory's files and links."""
    for directory, directories, files in os.walk(root):
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        directories[:] = [name for name in directories if name not in NOT_SOURCE and name not in links
                          and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))]
        for name in files + links:
            if name not in NOT_SOURCE and not name.endswith(".pyc"):
                yield os.path.relpath(os.path.join(directory, name), root)


def git(root, *arguments):
    """What a git command says. Raises subprocess.CalledProcessError."""
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout


def git_files(root):
    """Relative names of the files a checkout tracks, those of submodules included."""
    return [name for name in git(root, "ls-files", "--recurse-submodules", "-z").split("\0") if name]


def read(path):
    """A file's mode and content as they count: whether it can be executed, and a link's target."""
    if path.is_symlink():
        return "link", os.readlink(path).encode()
    return "program" if os.access(path, os.X_OK) else "file", path.read_bytes()


def digest(paths):
    """sha256 over names, modes and contents of {name: pathlib.Path}."""
    total = hashlib.sha256()
    for name, path in sorted(paths.items()):
        mode, content = read(path)
        total.update(f"{name}\0{mode}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def survey(source, commit, requirements):
    """Kind, {name: path} and date of a source. Raises ValueError, in a sentence, and CalledProcessError."""
    if commit:
        names = git_files(source)
        return "git", {name: source / name for name in names}, int(git(source, "log", "-1", "--format=%ct"))
    if source.suffix == ".whl":
        names = [source.name] + ([requirements] if requirements else [])
        kind, root = "wheel", source.parent
    else:
        names, kind, root = list(directory_files(source)), "directory", source
    paths = {name: root / name for name in names}
    for path in [source, *paths.values()]:
        if not path.exists() and not path.is_symlink():
            hint = ("; a wheel that names its own requirements wants site_requirements: ''"
                    if kind == "wheel" and path != source else ": site_source in group_vars names it")
            raise ValueError(f"There is no {path}{hint}")
    if not paths:
        raise ValueError(f"{source} has no files: site_source in group_vars names it")
    return kind, paths, int(max(path.lstat().st_mtime for path in paths.values()))


def pack(paths, target):
    """Write {name: path} into a tar file that only its owner reads."""
    partial = target.with_name(target.name + ".partial")
    with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, path in sorted(paths.items()):
            tar.add(path, name, recursive=False)
    partial.rename(target)


def main():
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "commit": {"type": "str", "default": ""},
            "requirements": {"type": "str", "default": ""},
            "build": {"type": "dict", "required": True},
            "code": {"type": "list", "elements": "path", "required": True},
            "artifacts": {"type": "path", "required": True},
            "site": {"type": "str", "required": True},
            "version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    p = module.params
    artifacts = pathlib.Path(p["artifacts"])

    def found(version):
        manifest = artifacts / f"{p['site']}-{version}.json"
        built = (artifacts / f"{p['site']}-{version}.tar.gz").exists()
        return {"version": version, "built": built, "manifest": hashlib.sha256(manifest.read_bytes()).hexdigest() if built else ""}

    if p["version"]:
        result = found(p["version"])
        if not result["built"]:
            module.fail_json(msg=f"There is no release {p['version']} of {p['site']} in {artifacts}.")
        module.exit_json(changed=False, **result)

    try:
        kind, paths, epoch = survey(pathlib.Path(os.path.normpath(p["source"])), p["commit"], p["requirements"])
    except ValueError as error:
        module.fail_json(msg=f"{error}.")
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()}")
    way = hashlib.sha256(json.dumps(p["build"], sort_keys=True).encode())
    way.update(digest({path.name: path for path in map(pathlib.Path, p["code"])}).encode())
    if kind == "git":
        # The commit is what people call it; what it is built with makes it another release too.
        version = f"{p['commit'][:10]}-{way.hexdigest()[:6]}"
    else:
        way.update(digest(paths).encode())
        version = way.hexdigest()[:12]

    result = found(version)
    if not result["built"]:
        packed = artifacts / f".{p['site']}-{version}.source.tar"
        if not module.check_mode:
            artifacts.mkdir(parents=True, exist_ok=True)
            pack(paths, packed)
        result.update(kind=kind, epoch=epoch, packed=str(packed))
    module.exit_json(changed=not result["built"], **result)


if __name__ == "__main__":
    main()
