"""What the build of a release and the tier do with a project, as findings, with the variables of group_vars that fit it."""

import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from controller.site_check.packages import Requirements, debian_packages
from controller.site_check.project import Project, Settings

REFUSED, LOST, NOTE = "refused", "does not work", "note"

# {name in an image or a package: what the tier does about it}
NOT_THERE = "the tier has none: name one that runs elsewhere in site_environment"
SERVICES = {
    **dict.fromkeys(("redis", "valkey"), NOT_THERE),
    **dict.fromkeys(("rabbitmq", "mongo", "elasticsearch", "opensearch", "solr", "meilisearch", "minio"), NOT_THERE),
    **dict.fromkeys(
        ("mysql", "mariadb"), "the tier's database is PostgreSQL, and its settings take the place of this one"
    ),
}
# {package: what of it does not run}
WORKERS = {
    "celery": "Celery's workers and its schedule are not run: the tier runs the web process only, and has no broker",
    "django-rq": "workers of RQ are not run: the tier runs the web process only, and has no Redis",
    "rq": "workers of RQ are not run: the tier runs the web process only, and has no Redis",
    "dramatiq": "workers of Dramatiq are not run: the tier runs the web process only",
    "huey": "the consumer of Huey is not run: the tier runs the web process only",
    "django-q2": "the cluster of django-q2 is not run: the tier runs the web process only",
    "django-tasks": "db_worker of django-tasks is not run: the tier runs the web process only",
    "apscheduler": "APScheduler runs in every process of the site that starts it, on every app host: its jobs run several times",
    "django-crontab": "jobs of django-crontab are not run: no crontab is written",
}
ASGI = {"channels", "daphne", "uvicorn", "hypercorn"}


class Finding(NamedTuple):
    """What is to be known of a project. kind: REFUSED, LOST or NOTE; lines: {variable: value} that fit."""

    kind: str
    text: str
    lines: Mapping[str, Any] = {}


def command(run: str, when: str = "before_static") -> dict[str, Any]:
    """The value of site_build_commands with one command."""
    return {"site_build_commands": [{"run": run, "when": when}]}


def packages(needed: Requirements) -> Iterator[Finding]:
    """Packages that need libraries of Debian."""
    build, run = debian_packages(needed.packages)
    for name in sorted(build.keys() | run.keys()):
        lines = {"site_build_packages": build.get(name, []), "site_packages": run.get(name, [])}
        where = [where for where, of in (("to be built", build), ("to run", run)) if name in of]
        yield Finding(
            NOTE,
            f"{name}{needed.packages[name]} needs packages of Debian {' and '.join(where)}",
            {variable: value for variable, value in lines.items() if value},
        )


def front_end(project: Project) -> Iterator[Finding]:
    """A package.json with a build, which nobody runs unless site_build_commands does."""
    for name in project.named(r"(?:[^/]+/){0,2}package\.json"):
        try:
            content = json.loads(project.text(name))
        except ValueError:
            continue
        scripts = content.get("scripts") if isinstance(content, dict) else None
        if not isinstance(scripts, dict) or "build" not in scripts:
            continue
        directory = posixpath.dirname(name)
        start = f"cd {shlex.quote(directory)} && " if directory else ""

        def has(lock: str, directory: str = directory) -> bool:
            return project.has(posixpath.join(directory, lock))

        if has("yarn.lock"):
            tools, run = ["nodejs", "yarnpkg"], "yarnpkg install --frozen-lockfile && yarnpkg run build"
        elif has("pnpm-lock.yaml"):
            tools = ["nodejs", "npm"]
            run = "npx --yes pnpm install --frozen-lockfile && npx --yes pnpm run build"
        else:
            tools, run = ["nodejs", "npm"], f"npm {'ci' if has('package-lock.json') else 'install'} && npm run build"
        engine = (content.get("engines") or {}).get("node", "")
        wants = f", which wants Node {engine}: Debian has 20" if engine else ""
        yield Finding(
            NOTE,
            f"{name} has a build ({scripts['build']}){wants}",
            command(start + run) | {"site_build_packages": tools},
        )


def translations(project: Project) -> Iterator[Finding]:
    """Translations that are not compiled in the source."""
    sources = project.named(r"(.*/)?LC_MESSAGES/.*\.po")
    left = [name for name in sources if not project.has(f"{name.removesuffix('.po')}.mo")]
    if left:
        yield Finding(
            NOTE,
            f"translations are not compiled: {len(left)}, as {left[0]}",
            command("python manage.py compilemessages") | {"site_build_packages": ["gettext"]},
        )


def compressor(needed: Requirements, settings: Settings) -> Iterator[Finding]:
    """django-compressor, which cannot write where the site runs."""
    if "compressor" not in settings.strings("INSTALLED_APPS") and "django-compressor" not in needed.packages:
        return
    yield Finding(
        NOTE, "django-compressor writes in the build only", command("python manage.py compress", "after_static")
    )
    if not settings.true("COMPRESS_OFFLINE"):
        yield Finding(
            LOST, "COMPRESS_OFFLINE is not True in the settings: pages would be compressed on a read-only disk"
        )


def release_commands(text: str) -> list[str] | None:
    """Management commands of a line, as site_release_commands has them; None where it has others."""
    commands = []
    for part in re.split(r"&&|;", text):
        match = re.fullmatch(r"\s*(?:python3? )?(?:\./)?manage\.py (.+?)\s*", part)
        if not match:
            return None
        commands.append(match[1])
    return commands


def procfile(project: Project) -> Iterator[Finding]:
    """Processes that a Procfile names."""
    for line in project.text("Procfile").splitlines():
        match = re.fullmatch(r"([\w-]+):\s*(.+?)\s*", line)
        if not match or match[1] == "web":
            continue
        name, run = match.groups()
        commands = release_commands(run) if name == "release" else None
        if commands:
            yield Finding(NOTE, f"Procfile: release runs {run}", {"site_release_commands": commands})
        elif name == "release":
            yield Finding(LOST, f"Procfile: release runs {run}; site_release_commands takes commands of manage.py only")
        else:
            yield Finding(LOST, f"Procfile: {name} ({run}) is not run: the tier runs the web process only")


def services(project: Project) -> Iterator[Finding]:
    """Services beside the site that a file of Docker Compose names and the tier does not have."""
    shown: set[str] = set()
    for name in project.named(r"(docker-)?compose[\w.-]*\.ya?ml"):
        try:
            content = yaml.safe_load(project.text(name))
        except yaml.YAMLError:
            continue
        listed = content.get("services") if isinstance(content, dict) else None
        for service, value in (listed if isinstance(listed, dict) else {}).items():
            image = str(value.get("image", "")) if isinstance(value, dict) else ""
            for known, answer in SERVICES.items():
                if known in re.split(r"[/:._-]", image) and known not in shown:
                    shown.add(known)
                    yield Finding(LOST, f"{name}: {service} ({image}): {answer}")


def processes(needed: Requirements) -> Iterator[Finding]:
    """Packages that want a process beside the web's."""
    yield from (Finding(LOST, text) for name, text in WORKERS.items() if name in needed.packages)


def asgi(project: Project, settings: Settings, needed: Requirements) -> Iterator[Finding]:
    """Websockets and what else ASGI alone serves."""
    names = sorted(ASGI & ({*settings.strings("INSTALLED_APPS")} | needed.packages.keys()))
    if names or settings.values.get("CHANNEL_LAYERS"):
        yield Finding(
            LOST,
            f"{', '.join(names) or 'CHANNEL_LAYERS'}: ASGI is not served, so websockets do not connect; "
            "pages are served by WSGI",
        )


def databases(project: Project, settings: Settings, needed: Requirements) -> Iterator[Finding]:
    """Another database than the tier's."""
    texts = " ".join(settings.strings("DATABASES"))
    if "sqlite" in texts or project.named(r"(.*/)?[\w-]+\.sqlite3"):
        yield Finding(
            NOTE,
            "the database is SQLite: PostgreSQL takes its place and is empty. Take the rows along by "
            "manage.py dumpdata --natural-foreign here and sudo manage loaddata on an app host",
        )
    for name in ("mysql", "oracle"):
        if f"backends.{name}" in texts or name == "mysql" and "mysqlclient" in needed.packages:
            yield Finding(LOST, f"the database is {name}: PostgreSQL takes its place, and SQL of {name} fails there")
    if "postgis" in texts or "django.contrib.gis" in settings.strings("INSTALLED_APPS"):
        yield Finding(
            LOST, "django.contrib.gis needs the extension postgis: no database has it", {"site_packages": ["gdal-bin"]}
        )
    if settings.strings("DATABASE_ROUTERS"):
        yield Finding(NOTE, "DATABASE_ROUTERS: databases besides default are left as the settings have them")


def replaced(settings: Settings) -> Iterator[Finding]:
    """Settings that the tier's take the place of."""
    names = {
        "MEDIA_ROOT": "uploads go to the media hosts by Django's storage; code that writes below MEDIA_ROOT by hand fails",
        "DEFAULT_FILE_STORAGE": "uploads go to the media hosts, and not to this storage",
        "SESSION_ENGINE": "sessions are in the cache and the database (cached_db)",
    }
    yield from (Finding(NOTE, f"{name} is replaced: {why}") for name, why in names.items() if name in settings.values)
    storages = [
        text for text in settings.strings("STORAGES") if re.search(r"s3|boto|gcloud|azure|cloudinary", text, re.I)
    ]
    if storages:
        yield Finding(NOTE, f"STORAGES: {storages[0]} is replaced: uploads go to the media hosts")
    caches = [text for text in settings.strings("CACHES") if re.search(r"redis|locmem|filebased", text, re.I)]
    if caches:
        yield Finding(NOTE, f"CACHES: {caches[0]} is replaced in the default cache: memcached on the cache hosts")
    if settings.values.get("SITE_ID"):
        yield Finding(NOTE, "SITE_ID: the row of django_site has example.com until it is changed: sudo manage shell")
    if users := settings.strings("AUTH_USER_MODEL"):
        yield Finding(
            NOTE, f"AUTH_USER_MODEL is {users[-1]}: name its columns in site_scrub before a make rebuild FROM="
        )


def variables(settings: Settings, given: Mapping[str, Any]) -> Iterator[Finding]:
    """Environment variables that the settings read without a default."""
    known = {*given.get("site_environment", {}), *given.get("site_secrets", {}), "DJANGO_SETTINGS_MODULE"}
    missing = {name: kind for name, kind in settings.needed.items() if name not in known}
    secret = [name for name in missing if re.search(r"KEY|SECRET|PASS|TOKEN|DSN", name)]
    url = [
        name for name in missing if name not in secret and (missing[name] in ("db", "db_url") or "DATABASE_URL" in name)
    ]
    plain = [name for name in missing if name not in (*secret, *url)]
    if url:
        yield Finding(
            NOTE,
            f"the settings read {', '.join(url)}: any value that can be read, as the tier's database takes its place",
            {"site_environment": dict.fromkeys(url, "postgres://none:none@127.0.0.1/none")},
        )
    if plain:
        yield Finding(
            NOTE,
            f"the settings read {', '.join(plain)}, which have no default",
            {"site_environment": dict.fromkeys(plain, "")},
        )
    if secret:
        yield Finding(
            NOTE,
            f"the settings read {', '.join(secret)}: set them as site_secrets in group_vars/ENV/vault.yml; where they "
            "parse one, site_build_environment needs a harmless value",
        )


def versions(project: Project) -> Iterator[Finding]:
    """Files that name another Python than the hosts have, and refuse nothing."""
    for name, pattern in (
        (".python-version", r"^(3\.\d+)"),
        ("runtime.txt", r"python-(3\.\d+)"),
        ("Dockerfile", r"FROM python:(3\.\d+)"),
    ):
        match = re.search(pattern, project.text(name), re.M | re.I)
        if match and match[1] != "3.13":
            yield Finding(NOTE, f"{name} names Python {match[1]}: hosts have Debian's 3.13")
