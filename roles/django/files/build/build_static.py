"""The static files of a release, and the site's own commands before and after they are collected."""

import concurrent.futures
import gzip
import json
import os
import pathlib
import shutil
import typing

from build_run import FILES, SCRATCH, Build, Failed, Log, commands_environment, project_directory, sha256

# Text, and fonts and images that are not compressed by themselves.
COMPRESSIBLE = frozenset(
    ".css .csv .eot .htm .html .ico .js .json .map .md .mjs .otf .rss .svg .ttf .txt .wasm .webmanifest .xml".split()
)


def settings_environment(build: Build, release: pathlib.Path) -> dict[str, str]:
    """The environment in which the project's settings are imported, with the tier's static storage over them."""
    static = release / "static"
    static.mkdir()
    project = project_directory(build, release / "src")
    site = SCRATCH / "site.json"
    own = build["build_environment"]
    site.write_text(
        json.dumps(
            {
                "settings": build["settings"],
                "environment": build["environment"] | own,
                "secrets": {name: "for building only" for name in build["secrets"] if name not in own},
                "static": build["static"],
            }
        ),
        encoding="utf-8",
    )
    return os.environ | {
        "PYTHONPATH": f"{project}:{FILES}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "DJANGO_SETTINGS_MODULE": "realworld.build_settings",
        "REALWORLD_SITE": str(site),
        "REALWORLD_STATIC_ROOT": str(static),
    }


def run_commands(log: Log, build: Build, release: pathlib.Path, when: str, environment: dict[str, str]) -> None:
    """The site's own commands before or after its static files are collected. What they write is shipped."""
    project = project_directory(build, release / "src")
    commands = [command["run"] for command in build["commands"] if command["when"] == when]
    for command in commands:
        log.run(
            ["sh", "-ec", command],
            f"run {command!r} of site_build_commands",
            cwd=project,
            env=environment | commands_environment(release),
        )


def warn_of_messages(log: Log, source: pathlib.Path) -> None:
    """Warn of translations that nobody compiled: the site would not be translated."""
    left = sorted(path for path in source.rglob("LC_MESSAGES/*.po") if not path.with_suffix(".mo").exists())
    if left:
        log.warn(
            f"{len(left)} translations are not compiled, as {left[0].relative_to(source)}: let site_build_commands run "
            "compilemessages before_static, with gettext in site_build_packages"
        )


def remove_node_modules(source: pathlib.Path, kept: set[pathlib.Path]) -> None:
    """Remove the packages of Node that a command installed, but for those that the source has itself."""
    for directory in list(source.rglob("node_modules")):
        if directory not in kept and directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)


def collect_static(log: Log, build: Build, release: pathlib.Path, environment: dict[str, str]) -> None:
    """The static files under their hashed names, and a look at the templates that name them."""
    python = {"cwd": project_directory(build, release / "src"), "env": environment}
    try:
        log.run(
            [release / "venv/bin/python", "-m", "django", "collectstatic", "--noinput", "--verbosity", "0"],
            "collect the static files",
            **python,
        )
    except Failed as error:
        if "Unknown command: 'collectstatic'" not in str(error):
            raise
        return  # a site without static files
    refuse_missing(log, build, release, python)


def refuse_missing(log: Log, build: Build, release: pathlib.Path, python: dict[str, typing.Any]) -> None:
    """Refuse templates of the site that name no static file, as their pages would lack it.

    Those of other packages, which may never be used, are a warning.
    """
    try:
        output = log.run(
            [
                release / "venv/bin/python",
                FILES / "build/static_names.py",
                release / "src",
                build["settings"].partition(".")[0],
            ],
            "look at the templates",
            **python,
        )
    except Failed as error:
        log.warn(f"{error}. Whether they name static files that are not there is not known")
        return
    missing = json.loads(output.splitlines()[-1])
    refused = []
    for path, name, own in missing:
        template = path.removeprefix(f"{release}/")
        if own:
            refused.append(f"{template} names {name}")
        else:
            log.warn(f"{template} names the static file {name}, which is not there: a page that uses it lacks it")
    if refused:
        more = f"; {len(refused) - 5} more" if refused[5:] else ""
        raise Failed(
            f"static files are not there, and pages that use them would lack them: {'; '.join(refused[:5])}{more}. "
            "Where the names are right like that, say manifest_strict: False in the OPTIONS of STORAGES['staticfiles']"
        )


def compress_static(log: Log, static: pathlib.Path) -> None:
    """A .gz and a .br beside every file that they make smaller."""
    same: dict[str, list[pathlib.Path]] = {}  # content: the paths that have it, as a plain and a hashed name mostly do
    for path in sorted(static.rglob("*")):
        if path.is_file() and path.suffix.lower() in COMPRESSIBLE:
            same.setdefault(sha256(path), []).append(path)
    if not same:
        return
    first = [paths[0] for paths in same.values()]

    def gzip_file(path: pathlib.Path) -> None:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        brotli = executor.submit(
            log.run, ["brotli", "--quality=11", "--keep", "--force", "--", *first], "compress the static files"
        )
        list(executor.map(gzip_file, first))
        brotli.result()
    for path, *others in same.values():
        for suffix in (".gz", ".br"):
            packed = path.with_name(path.name + suffix)
            if packed.stat().st_size >= path.stat().st_size:
                packed.unlink()
            else:
                for other in others:
                    shutil.copyfile(packed, other.with_name(other.name + suffix))
