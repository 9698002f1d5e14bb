"""Whether this node can serve: Django, the database and the caches, each really asked."""

import collections.abc
import concurrent.futures
import logging
import secrets
import threading
import time

logger = logging.getLogger(__name__)

PATIENCE = 1.8  # seconds for all checks together


def django() -> None:
    """The project's URLs resolve to code that can be imported."""
    from django.urls import get_resolver

    len(get_resolver().url_patterns)


def database() -> None:
    """The database answers, on a connection made for the question."""
    from django.db import connection

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    finally:
        connection.close()


def cache() -> None:
    """The caches remember.

    One node of the ring is enough: were one dead node a reason to say no, its death would take
    every app node out of service. A cache of the project's own, which all hosts share, would as well.
    """
    from django.conf import settings
    from django.core.cache import cache

    if settings.CACHES["default"]["BACKEND"] != "realworld.cache.TierCache":
        return
    try:
        for _ in range(len(settings.CACHES["default"]["LOCATION"]) + 1):
            key = "realworld.health." + secrets.token_hex(8)
            cache.set(key, key, 10)
            if cache.get(key) == key:
                return
    finally:
        cache.close()
    raise ConnectionError("no node of the ring answers")


class Check:
    """A check in a thread of its own, one at a time.

    A backend that hangs then holds this thread and none of those that serve visitors.
    """

    def __init__(self, check: collections.abc.Callable[[], None]) -> None:
        self.check = check
        self.name = check.__name__
        self.lock = threading.Lock()
        self.running: concurrent.futures.Future[str] | None = None

    def start(self) -> concurrent.futures.Future[str]:
        """The outcome to come: of the check that is still running, if one is."""
        with self.lock:
            if self.running is None or self.running.done():
                self.running = concurrent.futures.Future()
                threading.Thread(target=self._run, args=(self.running,), daemon=True).start()
            return self.running

    def _run(self, outcome: concurrent.futures.Future[str]) -> None:
        try:
            self.check()
        except Exception as error:
            logger.warning("%s: %s", self.name, error)
            outcome.set_result(type(error).__name__)
        else:
            outcome.set_result("ok")


CHECKS = [Check(check) for check in (django, database, cache)]


def report(checks: list[Check] = CHECKS, patience: float = PATIENCE) -> dict[str, str]:
    """{check: "ok", the name of its error, or "no answer" where it was not there in time}."""
    deadline = time.monotonic() + patience
    outcomes = {check.name: check.start() for check in checks}
    results = {}
    for name, outcome in outcomes.items():
        try:
            results[name] = outcome.result(max(0, deadline - time.monotonic()))
        except concurrent.futures.TimeoutError:
            results[name] = "no answer"
    return results
