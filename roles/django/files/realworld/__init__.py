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
    module = importlib.import_module(described["settings"])
    return {name: value for name, value in vars(module).items() if name.isupper()}


def like(own: object, path: str | pathlib.Path) -> str | pathlib.Path:
    """A path of the tier's as the project's own is written: an object, where its code goes on from that, or text."""
    return pathlib.Path(path) if isinstance(own, pathlib.PurePath) else str(path)


def static_storage(project: Values, tier: str) -> Values:
    """The entry of STORAGES for static files: the tier's class, and the project's own options (static_storage.py)."""
    own = project.get("STORAGES", {}).get("staticfiles") or {"BACKEND": project.get("STATICFILES_STORAGE", "")}
    if not own["BACKEND"]:
        return {"BACKEND": tier}
    return {
        "BACKEND": "realworld.static_storage.storage",
        "OPTIONS": {"tier": tier, "own": own["BACKEND"], "options": own.get("OPTIONS", {})},
    }


class RequestId(logging.Filter):
    """Gives every log record the id of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True
