"""The project's settings for collecting static files: no database, no cache, no secret.

Run with REALWORLD_STATIC_ROOT (where they go) and REALWORLD_SITE, whose file needs no more than
settings, environment, secrets (names with any value) and static (url, storage).
"""

import os as _os

import realworld as _realworld

_site = _realworld.site()
_project = _realworld.project_settings(_site)
globals().update(_project)

# A release is built once for every environment: nothing of one may get into it.
DEBUG = False
SECRET_KEY = "for building only"
DATABASES = {"default": {"ENGINE": "django.db.backends.dummy"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
LOGGING: dict[str, object] = {}

STATIC_URL = _site["static"]["url"]
STATIC_ROOT = _realworld.like(_project.get("STATIC_ROOT"), _os.environ["REALWORLD_STATIC_ROOT"])
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    **_project.get("STORAGES", {}),
    "staticfiles": _realworld.static_storage(_project, _site["static"]["storage"]),
}
