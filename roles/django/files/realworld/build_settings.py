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
# Each behaves as a database that is away, to code that looks at one while it is imported.
DATABASES = {
    alias: {
        "ENGINE": "django.db.backends.postgresql",
        **({} if alias == "default" and _realworld.database_options(own) is None else own),
        "NAME": "/nonexistent/none",
        "HOST": "/nonexistent",
        "PORT": "",
        "OPTIONS": _realworld.database_options(own) or {},
    }
    for alias, own in ({"default": {}} | _project.get("DATABASES", {})).items()
}
CACHES = {
    alias: {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
    for alias in {"default": {}} | _project.get("CACHES", {})
}
LOGGING: dict[str, object] = {}

globals().update(_realworld.copies(_project, "STATIC_URL", _site["static"]["url"]))
globals().update(_realworld.copies(_project, "STATIC_ROOT", _os.environ["REALWORLD_STATIC_ROOT"]))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    **_project["STORAGES"],
    "staticfiles": _realworld.static_storage(_project, _site["static"]["storage"], serving=False),
}
