"""What Apache runs: the current release, and this node's health at /-/health.

Touching this file makes every process start anew with the release that is current then.
"""

import collections.abc
import contextlib
import fcntl
import gc
import http
import importlib
import json
import logging
import os
import pathlib
import signal
import site
import sys
import threading
import time
import typing

import realworld
from realworld import again, health

Environ = dict[str, typing.Any]
StartResponse = collections.abc.Callable[..., typing.Any]
Body = typing.Any  # an iterable of bytes, which may have close()
Application = collections.abc.Callable[[Environ, StartResponse], Body]

ROOT = pathlib.Path(__file__).resolve().parents[2]
AGAIN = 15  # seconds a page is tried again for after it has lost the database, which may have kept it waiting before …
LAST = 22  # … and seconds since its visitor asked after which it is not begun again: balancers wait 30 s
RETRY = 10  # seconds after which a process whose site did not start makes room for another try


def activate(release: pathlib.Path) -> None:
    """Make the release's virtualenv and code this interpreter's.

    By the release's own name, never through `current`: a process that imports something late, after
    the next deploy switched, must not get it from another release.
    """
    venv = release / "venv"
    link = release / "project"  # which releases of before have not
    project_directory = link.resolve() if link.is_symlink() else release / "src"
    # Debian's own Python packages are not the site's.
    sys.path[:] = [str(project_directory)] + [path for path in sys.path if not path.endswith("/dist-packages")]
    site.addsitedir(str(venv / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"))
    sys.prefix = sys.exec_prefix = str(venv)
    sys.executable = str(venv / "bin/python")
    # Where manage.py is run: a project may name its templates from there.
    os.chdir(project_directory)


def start(release: pathlib.Path) -> Application:
    """The project's WSGI application."""
    os.environ.update(DJANGO_SETTINGS_MODULE="realworld.settings", REALWORLD_RELEASE=str(release))
    activate(release)
    import django

    django.setup()  # before the project's own module can name other settings
    from django.core.signals import got_request_exception
    from django.db.backends.signals import connection_created

    got_request_exception.connect(note, weak=False)
    connection_created.connect(realworld.follow_into_database, weak=False)
    application: Application = importlib.import_module(realworld.site()["wsgi"]).application
    return application


def answer(start_response: StartResponse, status: http.HTTPStatus, content_type: str, text: str) -> list[bytes]:
    """Answer a request by the tier itself."""
    body = text.encode()
    start_response(
        f"{status.value} {status.phrase}",
        [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")],
    )
    return [body]


def note(**_signal: typing.Any) -> None:
    """Remember that a request of this thread failed because the database was lost."""
    failed.by_database = again.lost(sys.exc_info()[1])


def hang_up() -> None:
    """Close what a lost database left open: psycopg keeps the socket of a connection that timed out."""
    if failed.by_database:
        gc.collect()


def serve(environ: Environ, start_response: StartResponse) -> Body:
    """The project's answer.

    A page that loses the database before it changed anything is asked for again: a standby serves reads within seconds.
    """
    from django.core.handlers.wsgi import WSGIHandler

    failed.by_database = False
    # Only what changes nothing by being asked twice, and only where it is known when the answer begins.
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD") or not isinstance(project, WSGIHandler):
        try:
            return project(environ, start_response)
        finally:
            hang_up()
    asked, deadline = time.monotonic(), None
    while True:
        begun: list[tuple[typing.Any, ...]] = []
        failed.by_database, work = False, {"changed": False}
        realworld.done.set(work)
        body = project(dict(environ), lambda *arguments, kept=begun: kept.append(arguments))
        hang_up()
        deadline = deadline or min(time.monotonic() + AGAIN, asked + LAST)
        if not failed.by_database or work["changed"] or time.monotonic() > deadline:
            start_response(*begun[-1])
            return body
        body.close()
        time.sleep(0.5)  # between two tries with a deadline


@contextlib.contextmanager
def door() -> collections.abc.Iterator[None]:
    """Wait here while site-pause holds the door (a planned switchover of the database); it waits for whoever is inside.

    Two locks, since one that is always taken by somebody could never be had by site-pause.
    """
    inside = os.open(ROOT / "tier/realworld", os.O_RDONLY)
    try:
        outside = os.open(ROOT / "tier", os.O_RDONLY)
        try:
            fcntl.flock(outside, fcntl.LOCK_SH)
            fcntl.flock(inside, fcntl.LOCK_SH)
        finally:
            os.close(outside)
        yield
    finally:
        os.close(inside)


def stamps() -> list[int]:
    """When this file was touched, and when the site's description changed."""
    return [os.stat(path).st_mtime_ns for path in (__file__, os.environ["REALWORLD_SITE"])]


born = stamps()
release = (ROOT / "current").resolve()
node = realworld.site()["node"]
started = time.monotonic()
project: typing.Any = None  # its WSGI application
failed = threading.local()
if not release.exists():
    print("no release is deployed yet", file=sys.stderr)
else:
    try:
        project = start(release)
    except (Exception, SystemExit):
        logging.exception("release %s does not start", release.name)


def application(environ: Environ, start_response: StartResponse) -> Body:
    """Serve one request."""
    realworld.follow(environ)

    def signed(status: str, headers: list[tuple[str, str]], exc_info: typing.Any = None) -> typing.Any:
        # Apache logs it, and a visitor who reports a fault can quote it.
        return start_response(status, [*headers, ("X-Served-By", f"{node}/{release.name}")], exc_info)

    # mod_wsgi notices a touch, but none that came while this process was starting, and no new description.
    if stamps() != born or (project is None and time.monotonic() - started > RETRY):
        os.kill(os.getpid(), signal.SIGINT)  # mod_wsgi replaces the process after its requests

    if environ["PATH_INFO"] == "/-/health":
        results = health.report() if project else {"django": "not started" if release.exists() else "no release"}
        well = all(outcome == "ok" for outcome in results.values())
        return answer(
            signed,
            http.HTTPStatus.OK if well else http.HTTPStatus.SERVICE_UNAVAILABLE,
            "application/json",
            json.dumps({"node": node, "release": release.name if project else None, **results}) + "\n",
        )
    if project is None:
        # A balancer asks the next node.
        return answer(
            signed, http.HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", "This node cannot serve the site now.\n"
        )
    with door():
        return serve(environ, signed)
