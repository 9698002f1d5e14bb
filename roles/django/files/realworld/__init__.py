"""What the tier lays over a Django project, so that the project goes on it unchanged.

The tier describes the site in one JSON file, which the environment variable REALWORLD_SITE names.
"""

import collections.abc
import contextvars
import importlib
import json
import logging
import os
import pathlib
import re
import types
import typing

from realworld import again

Execute = collections.abc.Callable[..., typing.Any]  # what a wrapper of Django's runs a statement by
Values = dict[str, typing.Any]

# Statements that build beside those who read and write.
CONCURRENTLY = re.compile(r"\s*(?:create\s+(?:unique\s+)?index|drop\s+index|reindex\b[^;]*?)\s+concurrently\b", re.I)
# The balancer's id of the request this thread is working on.
request_id = contextvars.ContextVar("request_id", default="-")
# What it has done: {"changed": whether it may have changed rows}. One object, which threads that work for it share.
done = contextvars.ContextVar[dict[str, bool] | None]("done", default=None)


def follow(environ: Values) -> None:
    """Know which request this thread is working on. What could end a comment of SQL is no id."""
    claimed = environ.get("HTTP_X_REQUEST_ID", "")
    request_id.set(claimed if re.fullmatch(r"[0-9A-Za-z-]{1,64}", claimed) else "-")


def follow_into_database(connection: typing.Any, **_signal: typing.Any) -> None:
    """Put the id of its request before every statement of a connection, and note which may change rows.

    PostgreSQL logs the id with the statement.
    """
    if connection.vendor == "postgresql" and commented not in connection.execute_wrappers:
        connection.execute_wrappers.append(commented)


def commented(execute: Execute, sql: typing.Any, params: typing.Any, many: bool, context: Values) -> typing.Any:
    """Run a statement behind a comment with the id of its request, and note whether it may change rows."""
    work = done.get()
    if work is not None and not work["changed"]:
        work["changed"] = again.changes(sql)
    identifier = request_id.get()
    if identifier != "-" and isinstance(sql, str):
        sql = f"/* request={identifier} */ {sql}"
    return execute(sql, params, many, context)


def patiently(execute: Execute, sql: typing.Any, params: typing.Any, many: bool, context: Values) -> typing.Any:
    """Run a statement that waits for transactions and keeps nobody waiting without the limit on locks.

    Cut off, it leaves an index that is not valid.
    """
    if not CONCURRENTLY.match(str(sql)):
        return execute(sql, params, many, context)
    with context["connection"].connection.cursor() as cursor:
        cursor.execute("show lock_timeout")
        [limit] = cursor.fetchone()
        cursor.execute("set lock_timeout = 0")
        result = execute(sql, params, many, context)
        cursor.execute(f"set lock_timeout = '{limit}'")  # where it failed, the release's command ends
        return result


def site() -> Values:
    """The site as the tier describes it."""
    described: Values = json.loads(pathlib.Path(os.environ["REALWORLD_SITE"]).read_text(encoding="utf-8"))
    return described


def project_settings(described: Values) -> Values:
    """The project's own settings.

    Its environment variables come first, because its settings may read them while they are imported.
    """
    variables = described["environment"] | described["secrets"]
    os.environ.update({name: str(value) for name, value in variables.items()})
    module = importlib.import_module if "DJANGO_CONFIGURATION" not in variables else import_configuration
    return storages({name: value for name, value in vars(module(described["settings"])).items() if name.isupper()})


def import_configuration(name: str) -> types.ModuleType:
    """A module of settings with the class that DJANGO_CONFIGURATION names, as django-configurations imports it."""
    tier = os.environ["DJANGO_SETTINGS_MODULE"]
    os.environ["DJANGO_SETTINGS_MODULE"] = name
    try:
        importlib.import_module("configurations.importer").install()
        return importlib.import_module(name)
    finally:
        os.environ["DJANGO_SETTINGS_MODULE"] = tier


def storages(project: Values) -> Values:
    """The project's settings with STORAGES in place of the two settings of before Django 4.2."""
    import django

    legacy = {"default": "DEFAULT_FILE_STORAGE", "staticfiles": "STATICFILES_STORAGE"}
    own = {alias: {"BACKEND": project[name]} for alias, name in legacy.items() if project.get(name)}
    # Django 4.2 and 5.0 refuse them beside STORAGES; later ones ignore them, and the project may read them itself.
    dropped = legacy.values() if django.VERSION < (5, 1) else ()
    kept = {name: value for name, value in project.items() if name not in dropped}
    return kept | {"STORAGES": own | project.get("STORAGES", {})}


def like(own: object, value: typing.Any) -> typing.Any:
    """A value of the tier's in the type of the project's own, which its code goes on from: a path object, a tuple."""
    kind = pathlib.Path if isinstance(own, pathlib.PurePath) else tuple if isinstance(own, tuple) else None
    return kind(value) if kind else value


def copies(project: Values, name: str, value: str) -> Values:
    """A setting of the tier's, and those that the project has copied from its own: COMPRESS_ROOT = STATIC_ROOT."""
    own, suffix = project.get(name) or "", name[name.index("_") :]
    copied = [other for other in project if own not in ("", "/") and other.endswith(suffix) and project[other] == own]
    return {other: like(project.get(other), value) for other in [name, *copied]}


def static_storage(project: Values, tier: str, serving: bool) -> Values:
    """The entry of STORAGES for static files: the tier's class or the project's own (static_storage.py)."""
    own = project["STORAGES"].get("staticfiles") or {"BACKEND": ""}
    return {
        "BACKEND": "realworld.static_storage.storage",
        "OPTIONS": {"tier": tier, "own": own["BACKEND"], "options": own.get("OPTIONS", {}), "serving": serving},
    }


def database_options(database: Values) -> Values | None:
    """OPTIONS of one of the project's databases that hold wherever it is; None where it is not PostgreSQL."""
    if "postg" not in database.get("ENGINE", ""):  # also PostGIS, and engines that wrap either
        return None
    # The pool on this host does what `pool` does, for all processes together.
    where = "pool service passfile host hostaddr port dbname user password channel_binding".split()
    options = database.get("OPTIONS", {})
    return {name: value for name, value in options.items() if name not in where and not name.startswith("ssl")}


class RequestId(logging.Filter):
    """Gives every log record the id of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True
