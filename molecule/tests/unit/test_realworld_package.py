"""The package that the tier lays over a Django project, as far as it needs no Django."""

import contextlib
import datetime
import http.server
import io
import json
import os
import pathlib
import runpy
import shutil
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

FILES = pathlib.Path(__file__).resolve().parents[3] / "roles/django/files"

SITE = {
    "node": "app1",
    "address": "192.0.2.21",
    "hosts": ["example.org", ".example.com"],
    "origins": ["https://example.org", "https://*.example.com"],
    "settings": "project_settings",
    "wsgi": "project_wsgi",
    "environment": {"COLOUR": "green", "DEPTH": 3},
    "secrets": {"TOKEN": "t0ken"},
    "secret_key": "the key",
    "database": {"name": "site", "password": "pw", "port": 5432},
    "caches": ["192.0.2.41:11211", "192.0.2.42:11211"],
    "media": {"hosts": ["192.0.2.31:8081"], "url": "/media/"},
    "static": {"url": "/static/", "storage": "some.Storage"},
}


@pytest.fixture
def package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The package where a host has it: in tier/, importable, with a description of the site."""
    shutil.copytree(FILES / "realworld", tmp_path / "tier/realworld", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "site.json").write_text(json.dumps(SITE))
    (tmp_path / "project").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "tier")
    monkeypatch.syspath_prepend(tmp_path / "project")
    monkeypatch.chdir(tmp_path)  # a release goes to its own directory
    for name in ("COLOUR", "DEPTH", "TOKEN", "SITE_NODE", "SITE_RELEASE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("REALWORLD_SITE", str(tmp_path / "site.json"))
    monkeypatch.setenv("REALWORLD_RELEASE", "/srv/site/releases/r7")
    monkeypatch.setenv("REALWORLD_STATIC_ROOT", "/build/static")
    monkeypatch.setenv("REALWORLD_MEDIA_ROOT", "/build/media")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "")
    for name in [name for name in sys.modules if name.split(".")[0] == "django"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield tmp_path / "tier/realworld"
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("realworld", "project_settings", "project_wsgi", "django"):
            del sys.modules[name]


def settings(package: pathlib.Path, project: str, module: str = "settings.py") -> dict[str, Any]:
    """The settings that come of a project's own."""
    (package.parents[1] / "project/project_settings.py").write_text(project)
    return runpy.run_path(str(package / module))


def test_settings_of_a_project_read_the_environment_and_secrets(package: pathlib.Path) -> None:
    loaded = settings(package, "import os\nPAINT = os.environ['COLOUR'] + os.environ['TOKEN'] + os.environ['DEPTH']\n")
    assert loaded["PAINT"] == "greent0ken3"


def test_an_sqlite_project_runs_on_pgpool_without_sqlite_options(package: pathlib.Path) -> None:
    default = settings(
        package,
        """
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "x", "ATOMIC_REQUESTS": True, "OPTIONS": {"timeout": 3}},
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": "y"},
}
""",
    )["DATABASES"]
    assert default["archive"]["NAME"] == "y"
    default = default["default"]
    assert (default["ENGINE"], default["HOST"], default["PORT"]) == ("django.db.backends.postgresql", "127.0.0.1", 5432)
    assert (default["NAME"], default["USER"], default["PASSWORD"]) == ("site", "site", "pw")
    assert default["ATOMIC_REQUESTS"] is True
    assert "timeout" not in default["OPTIONS"]


def test_a_postgis_project_keeps_the_engine_and_options(package: pathlib.Path) -> None:
    default = settings(
        package,
        """
DATABASES = {"default": {"ENGINE": "django.contrib.gis.db.backends.postgis",
                         "OPTIONS": {"pool": True, "assume_role": "editor"}}}
""",
    )["DATABASES"]["default"]
    assert default["ENGINE"] == "django.contrib.gis.db.backends.postgis"
    assert default["OPTIONS"]["assume_role"] == "editor"
    assert "pool" not in default["OPTIONS"]  # Django refuses it together with CONN_MAX_AGE


def test_settings_of_the_environment_override_the_project(package: pathlib.Path) -> None:
    loaded = settings(
        package,
        """
DEBUG = True
SECRET_KEY = "theirs"
ALLOWED_HOSTS = ["*"]
USE_X_FORWARDED_HOST = True
CSRF_TRUSTED_ORIGINS = ["https://forms.example.net"]
INSTALLED_APPS = ["django.contrib.sessions"]
CACHES = {"default": {"BACKEND": "locmem", "KEY_PREFIX": "news", "LOCATION": "here"}, "other": {"BACKEND": "theirs"}}
STORAGES = {"default": {"BACKEND": "disk"}, "archive": {"BACKEND": "theirs"}}
MIDDLEWARE = ["theirs"]
""",
    )
    assert loaded["DEBUG"] is False
    assert loaded["SECRET_KEY"] == "the key"
    assert loaded["ALLOWED_HOSTS"] == ["example.org", ".example.com", "192.0.2.21"]
    assert loaded["USE_X_FORWARDED_HOST"] is False
    assert loaded["CSRF_TRUSTED_ORIGINS"] == ["https://forms.example.net", *SITE["origins"]]
    assert loaded["SESSION_ENGINE"].endswith("cached_db")
    assert loaded["CACHES"]["default"]["LOCATION"] == SITE["caches"]
    assert loaded["CACHES"]["default"]["KEY_PREFIX"] == "news"
    assert loaded["CACHES"]["other"] == {"BACKEND": "theirs"}
    assert loaded["STORAGES"]["default"]["BACKEND"] == "realworld.storage.TierMediaStorage"
    assert loaded["STORAGES"]["archive"] == {"BACKEND": "theirs"}
    assert loaded["STATIC_ROOT"] == "/srv/site/releases/r7/static"
    assert loaded["MIDDLEWARE"] == ["theirs"]


def test_a_project_without_the_sessions_app_keeps_the_session_engine(package: pathlib.Path) -> None:
    assert settings(package, "SESSION_ENGINE = 'signed'\n")["SESSION_ENGINE"] == "signed"


BACKENDS = "django.contrib.sessions.backends"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (f"{BACKENDS}.db", f"{BACKENDS}.cached_db"),
        (f"{BACKENDS}.file", f"{BACKENDS}.cached_db"),
        (f"{BACKENDS}.signed_cookies", f"{BACKENDS}.signed_cookies"),
        ("user_sessions.backends.db", "user_sessions.backends.db"),
    ],
)
def test_a_session_engine_that_works_on_many_hosts_is_kept(package: pathlib.Path, engine: str, expected: str) -> None:
    project = f"INSTALLED_APPS = ['django.contrib.sessions']\nSESSION_ENGINE = {engine!r}\n"
    assert settings(package, project)["SESSION_ENGINE"] == expected


def describe(package: pathlib.Path, **values: Any) -> None:
    """Add to the description of the site."""
    (package.parents[1] / "site.json").write_text(json.dumps(SITE | values))


def test_settings_of_the_project_are_kept_where_the_site_says_so(package: pathlib.Path) -> None:
    project = """
CACHES = {"default": {"BACKEND": "redis"}}
CSRF_COOKIE_SECURE = False
INSTALLED_APPS = ["django.contrib.sessions"]
LOGGING = {"version": 1}
MEDIA_URL = "https://files.example.net/"
SESSION_COOKIE_SECURE = False
SESSION_ENGINE = "django.contrib.sessions.backends.cache"
STORAGES = {"default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": "x"}}}
"""
    replaced = settings(package, project)
    own = ["CSRF_COOKIE_SECURE", "LOGGING", "SESSION_COOKIE_SECURE", "SESSION_ENGINE"]
    describe(package, own_settings=[*own, "CACHES.default", "STORAGES.default"])
    kept, theirs = settings(package, project), runpy.run_path(str(package.parents[1] / "project/project_settings.py"))
    for name in (*own, "MEDIA_URL"):
        assert replaced[name] != theirs[name] and kept[name] == theirs[name], name
    for name in ("CACHES", "STORAGES"):
        assert replaced[name]["default"] != theirs[name]["default"] and kept[name]["default"] == theirs[name]["default"]
    assert "realworld" in kept["STORAGES"]["staticfiles"]["BACKEND"]


def test_further_caches_and_databases_are_on_the_tier_where_the_site_says_so(package: pathlib.Path) -> None:
    describe(package, cache_aliases=["pages", "sessions"], database_aliases=["replica"])
    loaded = settings(
        package,
        """
INSTALLED_APPS = ["django.contrib.sessions"]
SESSION_CACHE_ALIAS = "sessions"
CACHES = {"pages": {"BACKEND": "redis", "KEY_PREFIX": "p", "TIMEOUT": 60}, "sessions": {"BACKEND": "redis"}, "x": {}}
DATABASES = {"replica": {"ENGINE": "django.db.backends.postgresql", "HOST": "theirs"}, "legacy": {"HOST": "theirs"}}
""",
    )
    caches, databases = loaded["CACHES"], loaded["DATABASES"]
    assert {alias for alias in caches if caches[alias].get("LOCATION") == SITE["caches"]} == {
        "default",
        "pages",
        "sessions",
    }
    assert (caches["pages"]["KEY_PREFIX"], caches["pages"]["TIMEOUT"], caches["x"]) == ("pages.p", 60, {})
    assert caches["sessions"]["KEY_PREFIX"] == "sessions" and loaded["SESSION_CACHE_ALIAS"] == "sessions"
    assert databases["replica"] == databases["default"]
    assert databases["legacy"] == {"HOST": "theirs"}


def test_options_of_a_remote_database_do_not_apply_to_pgpool(package: pathlib.Path) -> None:
    default = settings(
        package,
        """
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {
    "sslmode": "verify-full", "sslrootcert": "system", "channel_binding": "require", "service": "main", "options": "-c x=1"}}}
""",
    )["DATABASES"]["default"]
    assert default["OPTIONS"] == {"options": "-c x=1", "sslmode": "disable", "connect_timeout": 5}


def test_types_of_settings_are_kept(package: pathlib.Path) -> None:
    loaded = settings(package, "ALLOWED_HOSTS = ('a',)\nCSRF_TRUSTED_ORIGINS = ('https://a',)\n")
    assert loaded["ALLOWED_HOSTS"] == ("example.org", ".example.com", "192.0.2.21")
    assert loaded["CSRF_TRUSTED_ORIGINS"] == ("https://a", *SITE["origins"])


@pytest.mark.parametrize(
    ("module", "root"), [("settings.py", "/srv/site/releases/r7/static"), ("build_settings.py", "/build/static")]
)
def test_settings_that_are_copies_of_a_replaced_setting_follow(package: pathlib.Path, module: str, root: str) -> None:
    loaded = settings(
        package,
        """
import pathlib
STATIC_ROOT = pathlib.Path("collected")
COMPRESS_ROOT, MEDIA_ROOT = STATIC_ROOT, pathlib.Path("media")
STATIC_URL = "/s/"
COMPRESS_URL, LOGIN_URL = STATIC_URL, "/login/"
""",
        module,
    )
    assert (loaded["STATIC_ROOT"], loaded["COMPRESS_ROOT"], loaded["MEDIA_ROOT"]) == (
        pathlib.Path(root),
        pathlib.Path(root),
        pathlib.Path("media"),
    )
    assert (loaded["STATIC_URL"], loaded["COMPRESS_URL"], loaded["LOGIN_URL"]) == ("/static/", "/static/", "/login/")


def test_a_database_is_away_while_static_files_are_collected(package: pathlib.Path) -> None:
    loaded = settings(
        package,
        """
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "x", "OPTIONS": {"timeout": 3}},
             "geo": {"ENGINE": "django.db.backends.postgresql", "HOST": "192.0.2.9", "OPTIONS": {"pool": True}},
             "legacy": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"pages": {"BACKEND": "redis", "LOCATION": "redis://192.0.2.9"}}
""",
        "build_settings.py",
    )
    from django.conf import settings as configured
    from django.core.cache import CacheHandler
    from django.db import OperationalError
    from django.db.utils import ConnectionHandler

    configured.configure()
    connections = ConnectionHandler(loaded["DATABASES"])
    assert set(connections) == {"default", "geo", "legacy"}
    for alias in connections:
        with pytest.raises(OperationalError):
            connections[alias].ensure_connection()
    caches = CacheHandler(loaded["CACHES"])
    for alias in ("default", "pages"):
        caches[alias].set("a", 1)
        assert caches[alias].get("a") is None


@pytest.mark.parametrize(("vendor", "expected"), [("postgresql", ["SET lock_timeout = %s"]), ("sqlite", [])])
def test_only_postgresql_gets_a_lock_timeout(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch, vendor: str, expected: list[str]
) -> None:
    executed: list[str] = []

    class Cursor(contextlib.nullcontext[None]):
        def execute(self, command: str, _values: list[str]) -> None:
            executed.append(command)

        def __enter__(self) -> Any:
            return self

    monkeypatch.setenv("REALWORLD_LOCK_TIMEOUT", "5")
    hurry = settings(package, "")["_hurry"]
    hurry(connection=types.SimpleNamespace(vendor=vendor, execute_wrappers=[], cursor=Cursor))
    assert executed == expected


@pytest.fixture
def cache(package: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache of the tier, without a client."""
    serde = types.SimpleNamespace(pickle_serde=None)
    client = types.SimpleNamespace(Client=None, HashClient=None, serde=serde)
    monkeypatch.setitem(sys.modules, "pymemcache", client)
    monkeypatch.setitem(sys.modules, "pymemcache.serde", serde)
    from django.conf import settings as configured

    configured.configure()
    from realworld.cache import TierCache

    return TierCache("192.0.2.41:11211", {"KEY_PREFIX": "news"})


@pytest.mark.parametrize("key", ["two words", "a" * 300, "\u00e9" * 140, "line\n", "\x7f"])
def test_keys_that_memcached_refuses_are_replaced(cache: Any, key: str) -> None:
    made = cache.make_and_validate_key(key)
    assert made.isascii() and made.isprintable() and " " not in made and len(made) <= 250
    assert made == cache.make_and_validate_key(key) != cache.make_and_validate_key(key, version=2)


@pytest.mark.parametrize("key", ["story", "a" * 240, "caf\u00e9"])
def test_other_keys_are_as_django_makes_them(cache: Any, key: str) -> None:
    assert cache.make_and_validate_key(key) == f"news:1:{key}"


def test_a_node_with_a_cache_of_the_project_is_healthy_without_a_ring(package: pathlib.Path) -> None:
    from django.conf import settings as configured
    from realworld import health

    configured.configure(CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}})
    health.cache()


@pytest.mark.parametrize("module", ["settings.py", "build_settings.py"])
@pytest.mark.parametrize(("version", "kept"), [((4, 2), False), ((5, 0), False), ((5, 1), True)])
def test_settings_of_before_django_4_2_do_not_conflict_with_storages(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch, module: str, version: tuple[int, int], kept: bool
) -> None:
    import django

    monkeypatch.setattr(django, "VERSION", version)
    describe(package, own_settings=["STORAGES.default"])
    loaded = settings(package, "STATICFILES_STORAGE = 'their.Static'\nDEFAULT_FILE_STORAGE = 'their.Media'\n", module)
    assert ("STATICFILES_STORAGE" in loaded, "DEFAULT_FILE_STORAGE" in loaded) == (kept, kept)
    assert loaded["STORAGES"]["default"] == {"BACKEND": "their.Media"}


def test_settings_of_django_configurations_are_those_of_the_class(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as its importer is known: it fills the module that DJANGO_SETTINGS_MODULE names while that is imported."""
    importer: Any = types.ModuleType("configurations.importer")
    importer.install = lambda: setattr(importer, "module", os.environ["DJANGO_SETTINGS_MODULE"])
    monkeypatch.setitem(sys.modules, "configurations", types.ModuleType("configurations"))
    monkeypatch.setitem(sys.modules, "configurations.importer", importer)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "realworld.settings")
    monkeypatch.setenv("DJANGO_CONFIGURATION", "")
    describe(package, environment={"DJANGO_CONFIGURATION": "Production"})
    loaded = settings(package, "from configurations.importer import module as MODULE\n")
    assert loaded["MODULE"] == "project_settings"
    assert os.environ["DJANGO_SETTINGS_MODULE"] == "realworld.settings"


def test_a_project_that_logs_to_files_logs_to_the_journal_at_the_same_levels(package: pathlib.Path) -> None:
    logging = settings(
        package,
        """
ADMINS = [("A", "a@example.org")]
LOGGING = {"version": 1,
           "handlers": {"file": {"class": "logging.FileHandler", "filename": "/var/log/site.log"}},
           "root": {"handlers": ["file"], "level": "ERROR"},
           "loggers": {"shop": {"handlers": ["file"], "level": "DEBUG", "propagate": False}}}
""",
    )["LOGGING"]
    assert "file" not in logging["handlers"]
    assert logging["root"] == {"handlers": ["stderr", "mail_admins"], "level": "ERROR"}
    assert logging["loggers"]["shop"] == {"level": "DEBUG"}


def test_static_files_are_collected_without_database_cache_or_secret(package: pathlib.Path) -> None:
    loaded = settings(package, "import os\nKEY = os.environ['TOKEN']\nSECRET_KEY = KEY\n", "build_settings.py")
    assert loaded["SECRET_KEY"] != "t0ken"
    assert loaded["STATIC_ROOT"] == "/build/static"
    assert loaded["STORAGES"]["staticfiles"]["OPTIONS"]["tier"] == "some.Storage"
    assert loaded["DATABASES"]["default"]["HOST"] == "/nonexistent"


def test_checks_run_with_the_settings_of_hosts_on_the_services_of_the_build(package: pathlib.Path) -> None:
    loaded = settings(
        package,
        """
import pathlib
DEBUG = True
INSTALLED_APPS = ["django.contrib.sessions"]
MEDIA_ROOT = pathlib.Path("media")
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "x", "TEST": {"NAME": "y"}},
    "reports": {"ENGINE": "django.db.backends.postgresql", "NAME": "reports", "HOST": "far.example.org",
                "OPTIONS": {"service": "theirs", "pool": True, "assume_role": "editor"}},
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": "y"},
}
CACHES = {"default": {"BACKEND": "locmem", "KEY_PREFIX": "news"}, "other": {"BACKEND": "theirs"}}
STORAGES = {"archive": {"BACKEND": "theirs"}}
""",
        "check_settings.py",
    )
    assert (loaded["DEBUG"], loaded["SECURE_PROXY_SSL_HEADER"][1]) == (False, "https")
    default, reports = loaded["DATABASES"]["default"], loaded["DATABASES"]["reports"]
    for database in (default, reports):
        assert (database["HOST"], database["PORT"], database["USER"]) == ("127.0.0.1", 5432, "site")
        assert (database["OPTIONS"]["sslmode"], database["CONN_MAX_AGE"]) == ("disable", 0)
    assert (default["NAME"], default["TEST"], reports["NAME"]) == ("site", {"NAME": "y"}, "reports")
    assert reports["OPTIONS"] == {"assume_role": "editor", "sslmode": "disable"}
    assert loaded["DATABASES"]["archive"] == {"ENGINE": "django.db.backends.sqlite3", "NAME": "y"}
    assert loaded["CACHES"]["default"] == {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "LOCATION": "default",
        "KEY_PREFIX": "news",
    }
    assert loaded["CACHES"]["other"] == {"BACKEND": "theirs"}
    assert loaded["SESSION_ENGINE"] == "django.contrib.sessions.backends.db"
    assert loaded["STORAGES"]["default"] == {"BACKEND": "django.core.files.storage.FileSystemStorage"}
    assert loaded["STORAGES"]["archive"] == {"BACKEND": "theirs"}
    assert loaded["MEDIA_ROOT"] == pathlib.Path("/build/media")


@pytest.mark.parametrize(
    ("project", "own", "root"),
    [
        ("", {"own": "", "options": {}}, str),
        (
            "STORAGES = {'staticfiles': {'BACKEND': 'their.Storage', 'OPTIONS': {'manifest_strict': False}}}\nimport pathlib\nSTATIC_ROOT = pathlib.Path('static')\n",
            {"own": "their.Storage", "options": {"manifest_strict": False}},
            pathlib.PosixPath,
        ),
        (
            "STATICFILES_STORAGE = 'their.Storage'\nSTATIC_ROOT = 'static'\n",
            {"own": "their.Storage", "options": {}},
            str,
        ),
    ],
    ids=["nothing", "options", "setting"],
)
@pytest.mark.parametrize("module", ["settings.py", "build_settings.py", "check_settings.py"])
def test_storage_of_static_files_of_a_project_is_kept(
    package: pathlib.Path, module: str, project: str, own: Any, root: Any
) -> None:
    loaded = settings(package, project, module)
    assert loaded["STORAGES"]["staticfiles"] == {
        "BACKEND": "realworld.static_storage.storage",
        "OPTIONS": {"tier": "some.Storage", "serving": module != "build_settings.py", **own},
    }
    assert type(loaded["STATIC_ROOT"]) is root


class Strict:
    """A storage with a manifest, as far as it matters here."""

    manifest_strict = True

    def __init__(self, **options: int) -> None:
        self.options = options

    def stored_name(self, name: str) -> str | None:
        if name == "none.png":
            raise ValueError(name)
        return f"hashed {name}"


class Lenient(Strict):
    manifest_strict = False


class Other:
    manifest_strict = True


class Elsewhere(Strict):
    """Finds no manifest, as in a release that another class has named the files of."""

    hashed_files: dict[str, str] = {}


def static_storage(package: pathlib.Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    """The function that creates the storage of static files, without Django."""

    def import_string(name: str) -> Any:
        if name == "Absent":
            raise ImportError(name)
        return globals()[name]

    for name, module in {
        "django": types.ModuleType("django"),
        "django.conf": types.SimpleNamespace(settings=types.SimpleNamespace(**settings)),
        "django.utils": types.ModuleType("django.utils"),
        "django.utils.module_loading": types.SimpleNamespace(import_string=import_string),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return runpy.run_path(str(package / "static_storage.py"))["storage"]


@pytest.mark.parametrize(
    ("own", "options", "setting", "strict", "kept"),
    [
        ("Strict", {}, None, True, {}),
        (
            "Strict",
            {"manifest_strict": False, "location": "/theirs", "file_permissions_mode": 420},
            None,
            False,
            {"file_permissions_mode": 420},
        ),
        ("Strict", {}, False, False, {}),  # WhiteNoise's
        ("Lenient", {"bucket": "x"}, None, False, {"bucket": "x"}),  # a class of the same kind
        ("Other", {"bucket": "x"}, None, True, {}),
        ("", {}, None, True, {}),
        ("Lenient", {"manifest_strict": True}, None, True, {}),
        ("Absent", {"bucket": "x"}, None, True, {}),
    ],
)
def test_a_missing_static_file_is_handled_as_the_project_declares(
    package: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    options: Any,
    setting: bool | None,
    strict: bool,
    kept: dict[str, int],
) -> None:
    create = static_storage(
        package, monkeypatch, **({} if setting is None else {"WHITENOISE_MANIFEST_STRICT": setting})
    )
    storage = create("Strict", own, options)
    assert storage.options == kept and storage.stored_name("a.css") == "hashed a.css"
    if strict:
        pytest.raises(ValueError, storage.stored_name, "none.png")
    else:
        assert storage.stored_name("none.png") == "none.png"
    assert create("Strict", own, options, serving=True).stored_name("none.png") == "none.png"


@pytest.mark.parametrize(("own", "lines"), [("Strict", 1), ("Lenient", 0)])
def test_a_page_that_names_a_missing_static_file_is_logged_once(
    package: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    own: str,
    lines: int,
) -> None:
    storage = static_storage(package, monkeypatch)("Strict", own, {}, serving=True)
    assert [storage.stored_name("none.png") for _ in range(2)] == ["none.png"] * 2
    assert len(caplog.messages) == lines


def test_a_release_without_the_manifest_of_the_project_is_served_by_that_of_the_tier(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = static_storage(package, monkeypatch)
    assert isinstance(create("Strict", "Elsewhere", {}), Elsewhere)
    assert not isinstance(create("Strict", "Elsewhere", {}, serving=True), Elsewhere)
    assert isinstance(create("Strict", "Lenient", {}, serving=True), Lenient)


def ask(package: pathlib.Path, path: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of a request to a fresh wsgi.py."""
    response: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: None = None) -> None:
        response.update(status=status, headers=dict(headers))

    script = runpy.run_path(str(package / "wsgi.py"))
    body = b"".join(script["application"]({"REQUEST_METHOD": "GET", "PATH_INFO": path}, start_response))
    return response["status"], response["headers"], body.decode()


def test_health_reports_no_release_before_the_first_deploy(package: pathlib.Path) -> None:
    status, headers, body = ask(package, "/-/health")
    assert status.startswith("503")
    assert json.loads(body) == {"node": "app1", "release": None, "django": "no release"}
    assert headers["Cache-Control"] == "no-store"
    assert ask(package, "/")[0].startswith("503")


def test_a_release_that_does_not_start_leaves_a_node_that_answers(package: pathlib.Path) -> None:
    root = package.parents[1]
    (root / "releases/r7/src/django").mkdir(parents=True)
    (root / "releases/r7/src/django/__init__.py").write_text("raise SystemExit('broken')\n")
    (root / "current").symlink_to("releases/r7")
    prefix, exec_prefix, executable = sys.prefix, sys.exec_prefix, sys.executable
    try:
        status, headers, body = ask(package, "/-/health")
    finally:
        sys.prefix, sys.exec_prefix, sys.executable = prefix, exec_prefix, executable
    assert status.startswith("503")
    assert json.loads(body)["django"] == "not started"
    assert headers["X-Served-By"] == "app1/r7"


@pytest.mark.parametrize("directory", ["", "backend"])
def test_a_process_keeps_the_release_of_the_start(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch, directory: str
) -> None:
    root = package.parents[1]
    source = root / "releases/r7/src" / directory
    if directory:
        source.mkdir(parents=True)
        (root / "releases/r7/project").symlink_to(f"src/{directory}")
    for name, content in {
        "__init__": "def setup(): pass",
        "core/__init__": "",
        "core/handlers/__init__": "",
        "core/handlers/wsgi": "class WSGIHandler: pass",
        "core/signals": "class got_request_exception: connect = staticmethod(lambda *_, **__: None)",
        "db/__init__": "",
        "db/backends/__init__": "",
        "db/backends/signals": "class connection_created: connect = staticmethod(lambda *_, **__: None)",
    }.items():
        path = source / f"django/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    (source / "project_wsgi.py").write_text(
        "def application(environ, start_response): start_response('200 OK', []); return [b'r7']\n"
    )
    (root / "current").symlink_to("releases/r7")
    for name in ("prefix", "exec_prefix", "executable"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    status, headers, body = ask(package, "/")
    assert (status, headers["X-Served-By"], body) == ("200 OK", "app1/r7", "r7")
    assert not [path for path in sys.path if "/current" in path]
    assert sys.prefix == str(root / "releases/r7/venv")
    assert pathlib.Path.cwd() == source  # like manage.py's


@pytest.mark.parametrize(
    ("claimed", "known_as"),
    [
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("01234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdef"),
        ("x */ drop table x; /*", "-"),
        ("x\n", "-"),
        ("x" * 65, "-"),
        ("", "-"),
        (None, "-"),
    ],
)
def test_the_id_of_a_request_is_kept_or_created(package: pathlib.Path, claimed: str | None, known_as: str) -> None:
    import realworld

    realworld.follow({} if claimed is None else {"HTTP_X_REQUEST_ID": claimed})
    assert realworld.request_id.get() == known_as


def test_statements_have_the_id_of_the_request(package: pathlib.Path) -> None:
    import realworld

    ran = []
    connection = types.SimpleNamespace(vendor="postgresql", execute_wrappers=[])
    realworld.follow_into_database(connection=connection, signal=None, sender=None)
    realworld.follow_into_database(connection=connection)  # it has connected again
    [wrapper] = connection.execute_wrappers
    for environ in ({"HTTP_X_REQUEST_ID": "abc-1"}, {}):
        realworld.follow(environ)
        wrapper(lambda *args: ran.append(args), "SELECT %s", [1], False, {})
    composed = object()
    realworld.follow({"HTTP_X_REQUEST_ID": "abc-2"})
    wrapper(lambda *args: ran.append(args), composed, None, False, {})
    assert [args[0] for args in ran] == ["/* request=abc-1 */ SELECT %s", "SELECT %s", composed]
    assert ran[0][1:] == ([1], False, {})


def test_other_databases_than_postgresql_are_left_alone(package: pathlib.Path) -> None:
    import realworld

    connection = types.SimpleNamespace(vendor="sqlite", execute_wrappers=[])
    realworld.follow_into_database(connection=connection)
    assert connection.execute_wrappers == []


@pytest.mark.parametrize("touched", [None, "tier/realworld/wsgi.py", "site.json"])
def test_a_process_older_than_a_change_ends(
    package: pathlib.Path, monkeypatch: pytest.MonkeyPatch, touched: str | None
) -> None:
    signals = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    application = runpy.run_path(str(package / "wsgi.py"))["application"]
    if touched:
        os.utime(package.parents[1] / touched, (1, 1))
    application({"PATH_INFO": "/"}, lambda *_: None)
    assert signals == ([(os.getpid(), signal.SIGINT)] if touched else [])


def test_a_hanging_check_is_reported_in_time_and_uses_a_single_thread(package: pathlib.Path) -> None:
    from realworld import health

    hold = threading.Event()
    started = []

    def stuck() -> None:
        started.append(1)
        hold.wait(10)

    def broken() -> None:
        raise LookupError("gone")

    checks = [health.Check(check) for check in (stuck, broken)]
    begun = time.monotonic()
    for _ in range(3):
        assert health.report(checks, patience=0.05) == {"stuck": "no answer", "broken": "LookupError"}
    assert time.monotonic() - begun < 1
    assert len(started) == 1
    hold.set()
    assert checks[0].running
    checks[0].running.result(5)
    assert health.report(checks, patience=1)["stuck"] == "ok"


class MediaServer(http.server.ThreadingHTTPServer):
    """The server of a media host: its files, its directories, and the requests that it got."""

    files: dict[str, bytes]
    directories: set[str]
    requests: list[str | None]
    modified: str
    at: str


class MediaHost(http.server.BaseHTTPRequestHandler):
    """As much of a media host as an upload meets."""

    protocol_version = "HTTP/1.1"

    server: MediaServer

    def reply(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", self.server.modified)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        assert self.headers["Transfer-Encoding"] == "chunked"
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_PUT(self) -> None:
        self.server.requests.append(self.headers["X-Request-Id"])
        body = self.body()
        if self.path in self.server.files:
            if self.headers["If-None-Match"] == "*":
                return self.reply(412)
            self.server.files[self.path] = body
            return self.reply(204)
        if self.path.rpartition("/")[0] + "/" not in self.server.directories:
            return self.reply(409)
        self.server.files[self.path] = body
        self.reply(201)

    def do_MKCOL(self) -> None:
        if self.path in self.server.directories:
            return self.reply(405)
        if self.path.rstrip("/").rpartition("/")[0] + "/" not in self.server.directories:
            return self.reply(409)
        self.server.directories.add(self.path)
        self.reply(201)

    def do_GET(self) -> None:
        body = self.server.files.get(self.path)
        directory = self.path + "/" in self.server.directories
        self.reply(301 if directory else 404) if body is None else self.reply(200, body)

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.reply(404 if self.server.files.pop(self.path, None) is None else 204)

    def do_PROPFIND(self) -> None:
        names = [self.path, self.path + "b%20c.txt", self.path + "sub/", self.path + ".sync/"]
        self.reply(
            207,
            b'<D:multistatus xmlns:D="DAV:">'
            + "".join(f"<D:response><D:href>{name}</D:href></D:response>" for name in names).encode()
            + b"</D:multistatus>",
        )

    def log_message(self, *_: str) -> None:
        pass


@pytest.fixture
def media() -> Iterator[MediaServer]:
    """A media host that has no directory but its root, and its address."""
    server = MediaServer(("127.0.0.1", 0), MediaHost)
    server.files, server.directories, server.requests = {}, {"/", "/media/"}, []
    server.modified = "Mon, 30 Nov 2026 12:00:00 GMT"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.at = "127.0.0.1:%d" % server.server_port
    yield server
    server.shutdown()
    server.server_close()


def test_an_upload_creates_missing_directories(package: pathlib.Path, media: MediaServer) -> None:
    from realworld import webdav

    webdav.put(media.at, "/media/2026/11/caf\u00e9.txt", lambda: iter([b"one ", b"two"]))
    assert media.files == {"/media/2026/11/caf%C3%A9.txt": b"one two"}
    file = io.BytesIO()
    webdav.get(media.at, "/media/2026/11/caf\u00e9.txt", file)
    assert file.getvalue() == b"one two"
    assert webdav.head(media.at, "/media/2026/11/caf\u00e9.txt")["Content-Length"] == "7"


def test_an_upload_never_overwrites(package: pathlib.Path, media: MediaServer) -> None:
    from realworld import webdav

    webdav.put(media.at, "/media/a.txt", lambda: iter([b"first"]))
    with pytest.raises(webdav.Exists):
        webdav.put(media.at, "/media/a.txt", lambda: iter([b"second"]))
    assert media.files["/media/a.txt"] == b"first"


def test_an_upload_has_the_id_of_the_request(package: pathlib.Path, media: MediaServer) -> None:
    import realworld
    from realworld import webdav

    realworld.follow({"HTTP_X_REQUEST_ID": "abc-1"})
    webdav.put(media.at, "/media/a.txt", lambda: iter([b"first"]))
    assert media.requests == ["abc-1"]


def test_a_missing_file_raises_on_read_but_not_on_delete(package: pathlib.Path, media: MediaServer) -> None:
    from realworld import webdav

    with pytest.raises(FileNotFoundError):
        webdav.get(media.at, "/media/none", io.BytesIO())
    webdav.delete(media.at, "/media/none")


def test_a_directory_is_listed(package: pathlib.Path, media: MediaServer) -> None:
    from realworld import webdav

    assert webdav.listdir(media.at, "/media") == ({"sub"}, {"b c.txt"})


def test_an_unreachable_media_host_raises_oserror(package: pathlib.Path, media: MediaServer) -> None:
    from realworld import webdav

    media.shutdown()
    media.server_close()
    with pytest.raises(OSError):
        webdav.put(media.at, "/media/a.txt", lambda: iter([b"x"]))


def test_a_silent_media_host_is_tried_last_for_a_while(
    package: pathlib.Path, media: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from realworld import webdav

    monkeypatch.setattr(webdav, "ANSWER_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # takes connections, as a frozen host's kernel does
        host = "127.0.0.1:%d" % frozen.getsockname()[1]
        with pytest.raises(TimeoutError):
            webdav.put(host, "/media/a.txt", lambda: iter([b"x"]))
    assert sorted([host, media.at], key=webdav.silent) == [media.at, host]
    monkeypatch.setattr(webdav, "SILENCE", 0)
    assert not webdav.silent(host)


@pytest.fixture
def storage(package: pathlib.Path, media: MediaServer) -> Any:
    """The storage of uploads, on one media host."""
    from django.conf import settings as configured

    configured.configure(USE_TZ=True)
    from realworld.storage import TierMediaStorage

    return TierMediaStorage([media.at], "/media/")


@pytest.mark.parametrize(
    ("before", "mode", "written", "after"),
    [
        (None, "wb", b"one", b"one"),
        (b"before", "wb", b"one", b"one"),
        (b"before", "w", "caf\u00e9", "caf\u00e9".encode()),
        (b"before", "ab", b" after", b"before after"),
        (None, "a", "one", b"one"),
        (b"before", "r+b", b"BE", b"BEfore"),
        (b"before", "r+", "BE", b"BEfore"),
        (None, "xb", b"one", b"one"),
        (None, "w+b", b"one", b"one"),
    ],
)
def test_a_stored_file_is_written_to(
    storage: Any, media: MediaServer, before: bytes | None, mode: str, written: str | bytes, after: bytes
) -> None:
    if before is not None:
        media.files["/media/a.txt"] = before
    with storage.open("a.txt", mode) as file:
        file.write(written)
    assert media.files == {"/media/a.txt": after}
    assert storage.open("a.txt").read() == after


@pytest.mark.parametrize(("mode", "expected"), [("rb", b"a,b\nc\n"), ("r", "a,b\nc\n"), ("rt", "a,b\nc\n")])
def test_a_stored_file_is_read_more_than_once(
    storage: Any, media: MediaServer, mode: str, expected: str | bytes
) -> None:
    media.files["/media/a.csv"] = b"a,b\nc\n"
    file = storage.open("a.csv", mode)
    for _ in range(2):
        with file.open(mode) as opened:
            assert opened.read() == expected
    with file.open() as opened:
        assert list(opened) == expected.splitlines(keepends=True)
        with pytest.raises((OSError, AttributeError)):
            opened.write(expected)
    assert media.files == {"/media/a.csv": b"a,b\nc\n"}


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [("none", "rb", FileNotFoundError), ("a", "xb", FileExistsError), ("a", "rwb", ValueError), ("a", "q", ValueError)],
)
def test_a_stored_file_that_cannot_be_opened_raises_as_a_file_does(
    storage: Any, media: MediaServer, name: str, mode: str, error: type[Exception]
) -> None:
    media.files["/media/a"] = b""
    with pytest.raises(error):
        storage.open(name, mode)


def test_the_path_of_a_stored_file_is_that_of_a_copy(
    storage: Any, media: MediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.files["/media/2026/a.txt"] = b"one"
    path = pathlib.Path(storage.path("2026/a.txt"))
    assert (path.name, path.read_bytes(), path.stat().st_mode & 0o777) == ("a.txt", b"one", 0o400)
    media.files["/media/2026/a.txt"], media.modified = b"two", "Mon, 30 Nov 2026 12:00:01 GMT"
    assert pathlib.Path(storage.path("2026/a.txt")).read_bytes() == b"two"
    media.files["/media/b.txt"] = b"other"
    monkeypatch.setattr("realworld.storage.COPIES_KEPT", -1)
    storage.path("b.txt")
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "none", "2026"])
def test_a_path_of_no_file_is_not_implemented(storage: Any, media: MediaServer, name: str) -> None:
    media.directories.add("/media/2026/")
    with pytest.raises(NotImplementedError):
        storage.path(name)


def test_a_directory_exists_and_has_no_hidden_names(storage: Any, media: MediaServer) -> None:
    media.directories.add("/media/2026/")
    assert storage.exists("2026") and not storage.exists("2027")
    assert storage.listdir("") == (["sub"], ["b c.txt"])


def test_all_times_of_a_stored_file_are_that_of_the_upload(storage: Any, media: MediaServer) -> None:
    media.files["/media/a"] = b""
    uploaded = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
    assert [storage.get_created_time("a"), storage.get_accessed_time("a"), storage.get_modified_time("a")] == [
        uploaded
    ] * 3


@pytest.mark.parametrize(
    ("name", "stored"), [(".env", "_.env"), ("a/.b/c~", "a/_.b/c_"), ("..x", "_..x"), ("a.b", "a.b")]
)
def test_names_that_media_hosts_refuse_are_changed(storage: Any, media: MediaServer, name: str, stored: str) -> None:
    assert storage.save(name, io.BytesIO(b"one")) == stored
    assert media.files == {f"/media/{stored}": b"one"}


def test_a_name_above_the_media_is_refused(storage: Any) -> None:
    from django.core.exceptions import SuspiciousFileOperation

    with pytest.raises(SuspiciousFileOperation):
        storage.save("../a", io.BytesIO(b"one"))


def test_an_upload_that_can_be_read_once_is_whole_on_every_host(storage: Any, media: MediaServer) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_position: int) -> int:
            raise io.UnsupportedOperation

    storage.save("new/a.txt", Stream(b"one"))  # the first attempt finds no directory
    assert media.files == {"/media/new/a.txt": b"one"}


@pytest.mark.parametrize(
    ("kind", "state", "cause", "expected"),
    [
        ("OperationalError", None, "OperationalError", True),
        ("InterfaceError", None, "InterfaceError", True),
        ("OperationalError", "57P01", "AdminShutdown", True),
        ("OperationalError", "08006", "ConnectionFailure", True),
        ("OperationalError", "58000", "SystemError", True),
        ("InternalError", "XX000", "InternalError_", True),
        ("OperationalError", "57014", "QueryCanceled", False),
        ("OperationalError", "40P01", "DeadlockDetected", False),
        ("OperationalError", "55P03", "LockNotAvailable", False),
        ("OperationalError", "53300", "TooManyConnections", False),
        ("InternalError", "25P02", "InFailedSqlTransaction", False),
        ("ValueError", None, "KeyError", False),
    ],
)
@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
def test_only_a_lost_connection_is_a_reason_to_ask_again(
    package: pathlib.Path, kind: str, state: str | None, cause: str, attribute: str, expected: bool
) -> None:
    from realworld import again

    error = type(kind, (Exception,), {})()
    error.__cause__ = type(cause, (Exception,), {attribute: state})()
    assert again.lost(error) is expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1", False),
        ("/* request=a-1 */ select 'update'", False),
        ("  -- why\nSELECT 1", False),
        ("SAVEPOINT s1", False),
        ("with a as (select 1) select * from a", False),
        ("WITH a AS (DELETE FROM b RETURNING *) SELECT * FROM a", True),
        ("INSERT INTO a VALUES (1)", True),
        ("/* x */ update a set b = 1", True),
        ("call work()", True),
        (object(), True),
        ("COPY a FROM stdin", True),
    ],
)
def test_statements_that_change_rows_are_recognised(package: pathlib.Path, statement: Any, expected: bool) -> None:
    from realworld import again

    assert again.changes(statement) is expected


def test_a_request_that_changed_rows_is_not_retried(package: pathlib.Path) -> None:
    import realworld

    work = {"changed": False}
    token = realworld.done.set(work)
    try:
        for statement, expected in (("select 1", False), ("update a set b = 1", True), ("select 2", True)):
            realworld.commented(lambda *_args: None, statement, (), False, {})
            assert work["changed"] is expected
    finally:
        realworld.done.reset(token)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ('CREATE INDEX CONCURRENTLY "entry_date" ON "ledger_entry" ("date")', ["0", "5s"]),
        ("create unique index concurrently a on b (c)", ["0", "5s"]),
        ("DROP INDEX CONCURRENTLY IF EXISTS a", ["0", "5s"]),
        ("reindex index concurrently a", ["0", "5s"]),
        ("CREATE INDEX a ON b (c)", []),
        ("alter table a add concurrently int", []),
    ],
)
def test_a_concurrent_index_waits_without_a_lock_timeout(
    package: pathlib.Path, statement: str, expected: list[str]
) -> None:
    import realworld

    class Cursor:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_error: None) -> None:
            return None

        def fetchone(self) -> list[str]:
            return ["5s"]

        def execute(self, command: str) -> None:
            executed.append(command)

    executed, connection = [], types.SimpleNamespace(connection=types.SimpleNamespace(cursor=Cursor))
    realworld.patiently(lambda sql, *_args: executed.append(sql), statement, (), False, {"connection": connection})
    limits = [command.split("= ")[1].strip("'") for command in executed if command.startswith("set lock_timeout")]
    assert limits == expected and statement in executed
