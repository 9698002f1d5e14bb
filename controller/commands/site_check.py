"""Show what a Django project needs to be served here, from its files alone: nothing of it is imported or executed.

The source is the site_source of an environment's group_vars, or --site: a directory, a wheel or a Git URL that is described nowhere yet.
With --stdin a build asks, with the site's description as JSON; then only why it would be refused is printed.
Exits with 1 where the build would be refused, with 2 where the source cannot be read.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

from controller import arguments
from controller.errors import Refused, exit_code
from controller.site_check.project import Project
from controller.site_check.report import Report, inspect, text
from plugins.modules import release_source

URL = re.compile(r"[a-z+]+://|[^/]+@[^/]+:")
VARIABLES = (
    "site_name site_source site_ref site_directory site_requirements site_extras site_dependency_groups site_wsgi site_settings "
    "site_environment site_packages site_build_packages site_build_commands site_release_commands"
).split()


def files(root: pathlib.Path, kind: str, commit: str = "") -> Project:
    """The files that a release of a directory would have. Raises Refused."""
    try:
        _kind, paths, _epoch = release_source.survey(root, commit, "")
        release_source.refuse_lfs_pointers(root, kind, paths)
    except (ValueError, OSError) as error:
        raise Refused(f"{error}.") from error
    except subprocess.CalledProcessError as error:
        raise Refused(f"git cannot list the files of {root}: {error.stderr.strip()}") from error
    return Project(root, frozenset(name for name, path in paths.items() if path.is_file()))


@contextlib.contextmanager
def opened(source: str, ref: str) -> Iterator[tuple[Project, str]]:
    """(files of a source, its kind), copied to where they can be read as long as they are. Raises Refused."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch, "source")
        if ref or URL.match(source):
            # An option is no source; git reads one from the first word that begins with a dash.
            words = [["clone", "--quiet", "--recurse-submodules", "--", source, str(directory)]]
            words += [["-C", str(directory), "checkout", "--quiet", "--recurse-submodules", ref, "--"]] if ref else []
            for arguments_of_git in words:
                done = subprocess.run(
                    ["git", *arguments_of_git],
                    capture_output=True,
                    text=True,
                    check=False,
                    env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
                )
                if done.returncode:
                    raise Refused(f"{source} {ref}: {(done.stderr.strip().splitlines() or ['git failed'])[-1]}")
            yield files(directory, "git", release_source.git(directory, "rev-parse", "HEAD").strip()), "git"
        elif source.endswith(".whl"):
            try:
                with zipfile.ZipFile(source) as wheel:
                    wheel.extractall(directory)
            except (OSError, zipfile.BadZipFile) as error:
                raise Refused(f"{source} cannot be read: {error}.") from error
            yield files(directory, "wheel"), "wheel"
        else:
            yield files(pathlib.Path(os.path.normpath(source)), "directory"), "directory"


def described(args: argparse.Namespace) -> dict[str, Any]:
    """{variable: value} of the site, as an environment or standard input describe it. Raises Refused."""
    if args.stdin:
        return dict(json.load(sys.stdin))
    from ansible.errors import AnsibleError  # which takes a second, and only an environment needs

    from controller.environment import Environment

    environment = Environment(args.inventory, tuple(args.extra_vars))
    values = "{" + ", ".join(f"'{name}': {name}" for name in VARIABLES) + ", 'site_secrets': site_secrets | list}"
    try:
        host = next(iter(environment.view.inventory.get_hosts("all"))).name
        return dict(environment.value(values, host))
    except (AnsibleError, StopIteration) as error:
        raise Refused(f"The site of {args.inventory.stem} cannot be read: {error}") from error


def check(args: argparse.Namespace) -> tuple[Report, str]:
    """(what the source has, the title of that). Raises Refused."""
    if args.site:
        source = args.site if URL.match(args.site) else os.path.abspath(os.path.expanduser(args.site))
        given: dict[str, Any] = {}
    else:
        given = described(args)
        source = str(given["site_source"])
    ref = str(given.get("site_ref") or "")
    with opened(source, ref) as (project, kind):
        return inspect(project, given, kind, source), f"{source} {ref}".strip()


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--site", help="directory, wheel or Git URL of a project that is described nowhere yet")
    source.add_argument(
        "--stdin", action="store_true", help="read the site's description as JSON; print why it is refused"
    )
    source.add_argument("--inventory", type=pathlib.Path, help="inventory of the environment")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    report, title = check(args)
    print("\n".join(report.refused if args.stdin else text(report, title)))
    return 1 if report.refused else 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
