"""What a site declares of its database: extensions (site_extensions) and the retention of rows (site_retention)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,62}")  # of an extension, as its control file is called
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian's policy
COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
TABLE = re.compile(rf"({COLUMN.pattern}\.)?{COLUMN.pattern}")
KEEP = re.compile(r"[0-9]{1,5} (minute|hour|day|week|month|year)s?")  # an interval of PostgreSQL
REQUIRED, OPTIONAL = {"table", "column", "keep"}, {"batch", "if_exists"}  # keys of a rule
MOST = 100_000  # rows of a batch

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


def retention_problems(rules: Any) -> list[str]:
    """Sentences about rules of site_retention that are wrong."""
    if not isinstance(rules, list):
        return ["site_retention must be a list, as [{table: django_session, column: expire_date, keep: 0 days}]."]
    problems = []
    for rule in rules:
        if not isinstance(rule, Mapping) or not REQUIRED <= set(rule) <= REQUIRED | OPTIONAL:
            problems.append(
                f"site_retention: {rule} must have {', '.join(sorted(REQUIRED))}, and may have {', '.join(sorted(OPTIONAL))}."
            )
            continue
        subject = f"site_retention: {rule['table']}"
        batch = rule.get("batch", 1)
        if not TABLE.fullmatch(str(rule["table"])):
            problems.append(f"{subject} is no name of a table, as visits or archive.visits.")
        if not COLUMN.fullmatch(str(rule["column"])):
            problems.append(f"{subject}: {rule['column']!r} is no name of a column.")
        if not KEEP.fullmatch(str(rule["keep"])):
            problems.append(f"{subject}: keep {rule['keep']!r} is no time, as 14 days or 36 hours.")
        if not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= MOST:
            problems.append(f"{subject}: batch {batch!r} must be a number of rows from 1 to {MOST}.")
        if not isinstance(rule.get("if_exists", False), bool):
            problems.append(f"{subject}: if_exists must be true or false.")
    return problems


class FilterModule:
    """What templates may call."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """{name: function}"""
        return {
            "extension_names": extension_names,
            "extension_packages": extension_packages,
            "extension_problems": extension_problems,
            "retention_problems": retention_problems,
        }
