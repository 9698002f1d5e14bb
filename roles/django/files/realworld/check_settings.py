"""The settings of the hosts for the checks of a release, on what the build container has: its own PostgreSQL, no cache hosts, no media hosts.

Run with REALWORLD_SITE, REALWORLD_RELEASE (as settings.py) and REALWORLD_MEDIA_ROOT (where uploads go).
"""

import os as _os
import typing as _typing

import realworld as _realworld
from realworld import settings as _settings

globals().update({name: value for name, value in vars(_settings).items() if name.isupper()})

_site = _realworld.site()
_caches = _site["caches"]

# No cache has them here: a test that counts queries counts those of the project's own.
SESSION_ENGINE = _realworld.project_settings(_site).get("SESSION_ENGINE", "django.contrib.sessions.backends.db")


def _on_own_server(database: dict[str, _typing.Any]) -> dict[str, _typing.Any]:
    """A database of the project on the server of the checks, by the name that it has."""
    if "postg" not in database.get("ENGINE", ""):
        return database
    server = {name: _settings.DATABASES["default"][name] for name in ("USER", "PASSWORD", "HOST", "PORT")}
    options = {name: value for name, value in database.get("OPTIONS", {}).items() if name not in ("pool", "service")}
    # A connection that a thread keeps is in the way when a test database is removed.
    return database | server | {"OPTIONS": options | {"sslmode": "disable"}, "CONN_MAX_AGE": 0}


DATABASES = {alias: _on_own_server(database) for alias, database in _settings.DATABASES.items()}

CACHES = {
    alias: {name: value for name, value in cache.items() if name != "OPTIONS"}
    | {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": alias}
    if cache.get("LOCATION") == _caches
    else cache
    for alias, cache in _settings.CACHES.items()
}

# As the project's own is written.
MEDIA_ROOT = _realworld.like(getattr(_settings, "MEDIA_ROOT", ""), _os.environ["REALWORLD_MEDIA_ROOT"])
STORAGES = {
    alias: {"BACKEND": "django.core.files.storage.FileSystemStorage"}
    if str(storage["BACKEND"]).startswith("realworld.storage.")
    else storage
    for alias, storage in _settings.STORAGES.items()
}
