"""The files of a host that no package has put there as they are, for the module host_snapshot."""

import fnmatch
import grp
import hashlib
import os
import pathlib
import pwd
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any

TEXT_BYTES = 1 << 16  # a larger file is compared, but not shown
MARK = "Managed by Ansible"

LEFT_OUT = [
    # Told as users and groups, as units and as kernel settings.
    "/etc/passwd*",
    "/etc/group*",
    "/etc/shadow*",
    "/etc/gshadow*",
    "/etc/subuid*",
    "/etc/subgid*",
    "/etc/systemd/system/*.wants/*",
    "/etc/systemd/system/*.requires/*",
    "/etc/rc?.d/*",
    # A host's own.
    "/etc/machine-id",
    "/etc/ssh/ssh_host_*",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem",
    # Written by programs from what is compared.
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/etc/.pwd.lock",
    "/etc/.updated",
    "/etc/ssl/certs/*",
    "/etc/adjtime",
    "/etc/udev/hwdb.bin",
    "*/__pycache__/*",
    "*.pyc",
]


def any_of(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of several patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def packaged(root: str = "/") -> tuple[dict[str, str], set[str]]:
    """({path: md5 that its package gives it}, paths that belong to a package)."""
    info, sums, owned = pathlib.Path(root, "var/lib/dpkg"), {}, set()
    for path in info.glob("info/*.md5sums"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _space, name = line.partition("  ")
            sums[f"/{name}"] = digest
    for path in info.glob("info/*.list"):
        owned.update(path.read_text(encoding="utf-8", errors="replace").splitlines())
    for line in (info / "status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(" /"):
            name, _space, digest = line[1:].removesuffix(" obsolete").removesuffix(" remove-on-upgrade").rpartition(" ")
            sums[name] = digest
    return sums, owned


def name_of(number: int, table: Callable[[int], Sequence[Any]]) -> str:
    """Name of a user or a group; its number where it has none."""
    try:
        return str(table(number)[0])
    except KeyError:
        return str(number)


def described(path: pathlib.Path) -> dict[str, Any]:
    """What a file is, and its content."""
    status = path.lstat()
    entry: dict[str, Any] = {"owner": f"{name_of(status.st_uid, pwd.getpwuid)}:{name_of(status.st_gid, grp.getgrgid)}"}
    if stat.S_ISLNK(status.st_mode):
        return entry | {"link": os.readlink(path)}
    content = path.read_bytes()
    entry |= {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "sha256": hashlib.sha256(content).hexdigest()}
    if len(content) <= TEXT_BYTES and b"\0" not in content:
        try:
            entry["text"] = content.decode()
        except UnicodeDecodeError:
            return entry
        # What others may read is no secret, and the secrets of what is managed are known.
        entry["shown"] = bool(status.st_mode & stat.S_IROTH) or MARK in entry["text"]
    return entry


def files(roots: Iterable[str], root: str = "/") -> dict[str, dict[str, Any]]:
    """{path: what it is} of every file below some places that no package has put there as it is."""
    sums, owned = packaged(root)
    result = {}
    for directory in roots:
        for parent, directories, names in os.walk(os.path.join(root, directory.lstrip("/"))):
            links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
            for name in names + links:
                path = pathlib.Path(parent, name)
                known = "/" + os.path.relpath(path, root)
                if any_of(known, LEFT_OUT) or not (path.is_symlink() or path.is_file()):
                    continue
                if path.is_symlink():
                    if known in owned:
                        continue
                elif known in sums and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == sums[known]:
                    continue
                result[known] = described(path)
    return result
