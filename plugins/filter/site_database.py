"""What a site declares of its database: extensions (site_extensions) and the retention of rows (site_retention)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,62}")  # of an extension, as its control file is called
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian's policy

Extension = str | Mapping[str, str]  # a name, or {"name", "package"}


def extension_names(extensions: Sequence[Extension]) -> list[str]:
    """Names of the extensions, in the order of the list."""
    return [entry if isinstance(entry, str) else entry["name"] for entry in extensions]


def extension_packages(extensions: Any, known: Mapping[str, str]) -> list[str]:
    """Debian packages of the extensions, sorted. known: {name: package, or "" where PostgreSQL's own package has it}.

    An entry that extension_problems() refuses has none: packages are read before anything is refused.
    """
    if not isinstance(extensions, list):
        return []
    packages = {
        known.get(entry, "") if isinstance(entry, str) else str(entry.get("package", ""))
        for entry in extensions
        if isinstance(entry, (str, Mapping))
    }
    return sorted(packages - {""})


def extension_problems(extensions: Any, known: Mapping[str, str], refused: Sequence[str], version: str) -> list[str]:
    """Sentences about entries that are wrong. refused: names that need more than a package; version: PostgreSQL's major one."""
    if not isinstance(extensions, list):
        return ["site_extensions must be a list, as [pg_trgm, postgis]."]
    problems = []
    for entry in extensions:
        if not isinstance(entry, str) and not (isinstance(entry, Mapping) and set(entry) == {"name", "package"}):
            problems.append(f"site_extensions: {entry} must be a name, or have name and package and nothing else.")
            continue
        name, package = (entry, None) if isinstance(entry, str) else (str(entry["name"]), str(entry["package"]))
        if not NAME.fullmatch(name):
            problems.append(f"site_extensions: {name!r} is no name of an extension.")
        elif name in refused:
            problems.append(
                f"site_extensions: {name} works only in shared_preload_libraries, which is not supported: remove it."
            )
        elif package is None and name not in known:
            problems.append(
                f"site_extensions: the package of {name} is not known. Correct the name, or name the package:"
                f" {{name: {name}, package: postgresql-{version}-{name.replace('_', '-')}}}."
            )
        elif package is not None and not PACKAGE.fullmatch(package):
            problems.append(f"site_extensions: {package!r} is no name of a Debian package.")
    return problems


class FilterModule:
    """What templates may call."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}"""
        return {
            "extension_names": extension_names,
            "extension_packages": extension_packages,
            "extension_problems": extension_problems,
        }
