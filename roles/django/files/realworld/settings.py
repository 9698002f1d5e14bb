"""The project's settings, and over them what only the tier can know.

Run with REALWORLD_SITE (the site's description) and REALWORLD_RELEASE (the release's directory).
"""

import os as _os
import pathlib as _pathlib
import typing as _typing

import realworld as _realworld

_site = _realworld.site()
_release = _pathlib.Path(_os.environ["REALWORLD_RELEASE"])

# Who serves: for pages that want to say so.
_os.environ.update(SITE_NODE=_site["node"], SITE_RELEASE=_release.name)

_project = _realworld.project_settings(_site)
globals().update(_project)
_own = _site.get("own_settings", [])  # those of the project that stay as they are

# Visitors must never see a traceback with the site's settings.
DEBUG = False

# One key for every node, else a session of one is refused by the next.
SECRET_KEY = _site["secret_key"]

# The balancers let only these names through; the node's own address is for checks from beside it.
ALLOWED_HOSTS = _realworld.like(_project.get("ALLOWED_HOSTS"), [*_site["hosts"], _site["address"]])

# Apache drops this header from everybody but the balancers, so it can be believed.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# The balancers pass Host on unchanged: nobody may name another one in a header.
USE_X_FORWARDED_HOST = False

# All visitors come over TLS: their cookies never travel without it.
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
# Forms come from the names the site answers to, over TLS.
_origins = _project.get("CSRF_TRUSTED_ORIGINS", [])
CSRF_TRUSTED_ORIGINS = _realworld.like(_origins, [*_origins, *_site["origins"]])


def _database(own: dict[str, _typing.Any]) -> dict[str, _typing.Any]:
    """The tier's database in place of one of the project's, reached through the pool on this host."""
    options = _realworld.database_options(own)
    return own | {
        "ENGINE": "django.db.backends.postgresql" if options is None else own["ENGINE"],
        "NAME": _site["database"]["name"],
        "USER": _site["database"]["name"],
        "PASSWORD": _site["database"]["password"],
        "HOST": "127.0.0.1",
        "PORT": _site["database"]["port"],
        # Loopback needs no TLS; a pool that hangs must not hold a request for minutes.
        "OPTIONS": (options or {}) | {"sslmode": "disable", "connect_timeout": 5},
        # Each thread keeps its connection: the pool holds one for every thread anyway. A minute,
        # because a session reads from one database until it ends, also after another returned.
        "CONN_MAX_AGE": 60,
        # A failover breaks kept connections: found before the request uses one.
        "CONN_HEALTH_CHECKS": True,
    }


def _hurry(connection: _typing.Any, **_signal: _typing.Any) -> None:
    """Give up on a lock instead of queueing for it: everybody else would queue behind."""
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = %s", [_os.environ["REALWORLD_LOCK_TIMEOUT"] + "s"])
    if _realworld.patiently not in connection.execute_wrappers:
        connection.execute_wrappers.append(_realworld.patiently)


if "REALWORLD_LOCK_TIMEOUT" in _os.environ:
    from django.db.backends.signals import connection_created as _connection_created

    _connection_created.connect(_hurry)

DATABASES = _project.get("DATABASES", {})
DATABASES = DATABASES | {
    alias: _database(DATABASES.get(alias, {})) for alias in ["default", *_site.get("database_aliases", [])]
}


def _cache(alias: str, own: dict[str, _typing.Any]) -> dict[str, _typing.Any]:
    """The ring of all cache hosts in place of one of the project's caches."""
    kept = {name: own[name] for name in ("KEY_PREFIX", "KEY_FUNCTION", "TIMEOUT", "VERSION") if name in own}
    if alias != "default":  # apart from the keys of the others
        kept["KEY_PREFIX"] = ".".join(filter(None, [alias, own.get("KEY_PREFIX")]))
    return kept | {
        "BACKEND": "realworld.cache.TierCache",
        "LOCATION": _site["caches"],
        "OPTIONS": {
            "ignore_exc": True,  # a dead node is a miss, not an error
            # A node is dead at its first failure and its keys move on. More attempts never get there:
            # Django closes connections after every request, which pymemcache counts as a success.
            "retry_attempts": 0,
            "dead_timeout": 10,  # seconds until it is asked again
            "connect_timeout": 0.3,  # seconds: it is next door
            "timeout": 0.5,
            "no_delay": True,
        },
    }


# One ring of all cache nodes, the same on every host: pymemcache hashes keys so that losing one
# of N nodes loses 1/N of them.
CACHES = _project.get("CACHES", {})
_ring = [*([] if "CACHES.default" in _own else ["default"]), *_site.get("cache_aliases", [])]
CACHES = CACHES | {alias: _cache(alias, CACHES.get(alias, {})) for alias in _ring}

# Sessions are read from the caches and survive them in the database: any node serves any visitor.
# Signed cookies do as well, and the engines of other packages have tables of their own.
_engine = _project.get("SESSION_ENGINE", "django.contrib.sessions.backends.db").rpartition(".")
if (
    any(app.startswith("django.contrib.sessions") for app in _project.get("INSTALLED_APPS", []))
    and _engine[0] == "django.contrib.sessions.backends"
    and _engine[2] in ("db", "cache", "cached_db", "file")
    and "SESSION_ENGINE" not in _own
):
    SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
    if _project.get("SESSION_CACHE_ALIAS") not in _ring:
        SESSION_CACHE_ALIAS = "default"

# The media tier serves both; the names of this release's static files come from its manifest.
globals().update(_realworld.copies(_project, "STATIC_URL", _site["static"]["url"]))
globals().update(_realworld.copies(_project, "STATIC_ROOT", str(_release / "static")))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    **_project["STORAGES"],
    "staticfiles": _realworld.static_storage(_project, _site["static"]["storage"], serving=True),
}
if "STORAGES.default" not in _own:
    globals().update(_realworld.copies(_project, "MEDIA_URL", _site["media"]["url"]))
    # An upload lands on every media host and on no app host.
    STORAGES["default"] = {
        "BACKEND": "realworld.storage.TierMediaStorage",
        "OPTIONS": {"hosts": _site["media"]["hosts"], "base_url": _site["media"]["url"]},
    }

# Everything goes to Apache's error log and with it to the journal: an app host has no log files of
# the project's. Its loggers keep their levels.
_logging = _project.get("LOGGING", {})
_handlers = ["stderr", "mail_admins"] if _project.get("ADMINS") else ["stderr"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "realworld.RequestId"}},
    "formatters": {
        "tier": {"format": "{levelname} {name} [{request_id}] {message}", "style": "{"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "tier", "filters": ["request_id"]},
        "mail_admins": {"class": "django.utils.log.AdminEmailHandler", "level": "ERROR"},
    },
    "root": {"handlers": _handlers, "level": _logging.get("root", {}).get("level", "INFO")},
    "loggers": {"django": {"level": "INFO"}}
    | {name: {"level": logger["level"]} for name, logger in _logging.get("loggers", {}).items() if "level" in logger},
}

globals().update({name: _project[name] for name in _own if name in _project})
