"""What a Django project needs here is read from its files, and nothing of it is executed."""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from repository import ROOT

from controller.commands import site_check
from controller.errors import Refused
from controller.site_check.findings import LOST, NOTE, REFUSED
from controller.site_check.report import Report, inspect, text

MANAGE = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n"
WSGI = MANAGE + "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
SETTINGS = "raise SystemExit('executed')\nINSTALLED_APPS = ['shop']\nWSGI_APPLICATION = 'shop.wsgi.application'\n"
PROJECT: dict[str, str | None] = {
    "manage.py": MANAGE,
    "shop/__init__.py": "",
    "shop/settings.py": SETTINGS,
    "shop/wsgi.py": WSGI,
    "requirements.txt": "Django~=5.2.0\n",
}
Files = dict[str, str | None]  # {name: content, or None where the file of PROJECT is left out}


def write(directory: pathlib.Path, files: Files, project: Files = PROJECT) -> pathlib.Path:
    """A project in a directory."""
    for name, content in (project | files).items():
        if content is not None:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(content)
    return directory


@pytest.fixture
def check(tmp_path: pathlib.Path) -> Callable[..., Report]:
    """check(files, project, variable=value, …): the report on a project with these files."""

    def run(files: Files, project: Files = PROJECT, **given: Any) -> Report:
        source = write(tmp_path / "source", files, project)
        return inspect(site_check.files(source, "directory"), given, origin=str(source))

    return run


def test_a_plain_project_is_described_by_five_lines(check: Callable[..., Report], tmp_path: pathlib.Path) -> None:
    report = check({})
    assert report.findings == []
    assert report.lines == {
        "site_name": "shop",
        "site_source": str(tmp_path / "source"),
        "site_requirements": "requirements.txt",
        "site_wsgi": "shop.wsgi",
        "site_settings": "shop.settings",
    }


def test_printed_lines_are_yaml_of_the_same_variables(check: Callable[..., Report]) -> None:
    report = check({"package.json": '{"scripts": {"build": "vite build"}}', "requirements.txt": "Django\npsycopg2\n"})
    printed = text(report, "shop")
    start = printed.index("  Write into group_vars/all/site.yml:") + 2
    block = "\n".join(printed[start : printed.index("", start)])
    assert yaml.safe_load(block) == report.lines


def test_variables_that_are_set_are_not_printed_again(check: Callable[..., Report]) -> None:
    files = {"shop/locale/de/LC_MESSAGES/django.po": "", "package.json": '{"scripts": {"build": "vite build"}}'}
    described = check(files).lines
    assert check(files, **described).lines == {}
    described["site_build_commands"] = described["site_build_commands"][:1]
    assert list(check(files, **described).lines) == ["site_build_commands"]


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        (
            {"shop/wsgi.py": WSGI.replace("shop.settings", "shop.config.production"), "shop/config/production.py": ""},
            {"site_settings": "shop.config.production"},
        ),
        (
            {"manage.py": MANAGE.replace("shop.settings", "shop.config.local"), "shop/wsgi.py": "application = 1"}
            | {"shop/config/local.py": "", "shop/config/production.py": ""},
            {"site_settings": "shop.config.production"},
        ),
        (
            {"manage.py": "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = os.getenv('S', 'shop.settings')\n"}
            | {"shop/wsgi.py": "application = 1"},
            {"site_settings": "shop.settings"},
        ),
        ({"uv.lock": "[[package]]\nname = 'django'\nversion = '5.2'\n"}, {"site_requirements": "uv.lock"}),
        ({"requirements/production.txt": "Django\n"}, {"site_requirements": "requirements/production.txt"}),
        (
            {"requirements.txt": None, "pyproject.toml": "[project]\nname = 'a'\ndependencies = ['Django']\n"},
            {"site_requirements": ""},
        ),
        ({"requirements.txt": "Django\npsycopg2>=2.9\n"}, {"site_packages": ["libpq5"]}),
        ({"requirements.txt": "-r other.txt\n", "other.txt": "psycopg==3.2.1\n"}, {"site_packages": ["libpq5"]}),
        ({"requirements.txt": "psycopg[binary]\npsycopg-binary\n"}, {"site_packages": None}),
        (
            {"requirements.txt": "lxml==5.2.1 \\\n  --hash=sha256:0\n"},
            {"site_build_packages": ["gcc", "python3-dev", "libxml2-dev", "libxslt1-dev"]},
        ),
        ({"requirements.txt": "lxml==5.3.0\nPillow>=9\n"}, {"site_build_packages": None}),
        (
            {"package.json": '{"scripts": {"build": "vite build"}}', "package-lock.json": "{}"},
            {
                "site_build_packages": ["nodejs", "npm"],
                "site_build_commands": [{"run": "npm ci && npm run build", "when": "before_static"}],
            },
        ),
        (
            {"front/package.json": '{"scripts": {"build": "webpack"}}', "front/yarn.lock": ""},
            {
                "site_build_commands": [
                    {
                        "run": "cd front && yarnpkg install --frozen-lockfile && yarnpkg run build",
                        "when": "before_static",
                    }
                ]
            },
        ),
        ({"package.json": '{"scripts": {"test": "jest"}}'}, {"site_build_commands": None}),
        (
            {"locale/de/LC_MESSAGES/django.po": ""},
            {
                "site_build_packages": ["gettext"],
                "site_build_commands": [{"run": "python manage.py compilemessages", "when": "before_static"}],
            },
        ),
        ({"locale/de/LC_MESSAGES/a.po": "", "locale/de/LC_MESSAGES/a.mo": ""}, {"site_build_commands": None}),
        (
            {"shop/settings.py": "INSTALLED_APPS = ['compressor']\nCOMPRESS_OFFLINE = True\n"},
            {"site_build_commands": [{"run": "python manage.py compress", "when": "after_static"}]},
        ),
        (
            {"Procfile": "web: gunicorn shop.wsgi\nrelease: python manage.py migrate && ./manage.py stock --all\n"},
            {"site_release_commands": ["migrate", "stock --all"]},
        ),
        (
            {
                "shop/settings.py": "from .base import *\n",
                "shop/base.py": "import os\nNAME = os.environ['SHOP_NAME']\n",
            },
            {"site_environment": {"SHOP_NAME": ""}},
        ),
        (
            {
                "shop/settings.py": "import environ\nenv = environ.Env(DEBUG=(bool, False))\nD = env('DEBUG')\nX = env.db()\n"
            },
            {"site_environment": {"DATABASE_URL": "postgres://none:none@127.0.0.1/none"}},
        ),
    ],
)
def test_lines_for_the_variables_of_the_site(check: Callable[..., Report], files: Files, lines: dict[str, Any]) -> None:
    report = check(files)
    assert {name: report.lines.get(name) for name in lines} == lines
    assert report.refused == []


@pytest.mark.parametrize(
    ("files", "kind", "says"),
    [
        ({"pyproject.toml": "[project]\nrequires-python = '<3.13'\n"}, REFUSED, "pyproject.toml wants Python <3.13"),
        ({"setup.cfg": "[options]\npython_requires = ==3.11.*\n"}, REFUSED, "setup.cfg wants Python ==3.11.*"),
        ({"requirements.txt": None}, REFUSED, "nothing lists the packages"),
        ({"uv.lock": "[[package]]\nname = 'flask'\nversion = '3'\n"}, REFUSED, "uv.lock does not bring Django"),
        ({"shop/wsgi.py": None, "shop/asgi.py": ""}, REFUSED, "no wsgi.py that defines `application`; asgi.py is not"),
        ({"shop/settings.py": None}, REFUSED, "site_settings is shop.settings, and the source has no such module"),
        ({".python-version": "3.11.4\n"}, NOTE, ".python-version names Python 3.11"),
        (
            {"Procfile": "worker: celery -A shop worker -l info\n"},
            LOST,
            "worker (celery -A shop worker -l info) is not run",
        ),
        ({"Procfile": "release: ./prepare.sh\n"}, LOST, "site_release_commands takes commands of manage.py only"),
        ({"requirements.txt": "Django\ncelery[redis]~=5.4\n"}, LOST, "Celery's workers"),
        ({"docker-compose.yml": "services: {kv: {image: 'redis:7'}}"}, LOST, "docker-compose.yml: kv (redis:7)"),
        ({"compose.yaml": "services: {db: {image: mariadb}}"}, LOST, "the tier's database is PostgreSQL"),
        (
            {"shop/settings.py": "INSTALLED_APPS = ['daphne', 'channels']\n"},
            LOST,
            "channels, daphne: ASGI is not served",
        ),
        ({"shop/settings.py": "INSTALLED_APPS = ['compressor']\n"}, LOST, "COMPRESS_OFFLINE is not True"),
        ({"shop/settings.py": "INSTALLED_APPS = ['django.contrib.gis']\n"}, LOST, "the extension postgis"),
        (
            {"shop/settings.py": "DATABASES = {'default': {'ENGINE': 'django.db.backends.mysql'}}"},
            LOST,
            "the database is mysql",
        ),
        (
            {"shop/settings.py": "DATABASES = {}\nDATABASES['default'] = {'ENGINE': 'django.db.backends.sqlite3'}"},
            NOTE,
            "the database is SQLite",
        ),
        ({"shop/settings.py": "SITE_ID = 1\n"}, NOTE, "SITE_ID"),
        ({"shop/settings.py": "if True:\n    MEDIA_ROOT = '/media'\n"}, NOTE, "MEDIA_ROOT is replaced"),
        (
            {"shop/settings.py": "import os\nK = os.environ['API_TOKEN']\n"},
            NOTE,
            "read API_TOKEN: set them as site_secrets",
        ),
        (
            {"shop/settings.py": "AUTH_USER_MODEL = 'people.Person'\n"},
            NOTE,
            "people.Person: name its columns in site_scrub",
        ),
        ({"extra/manage.py": MANAGE}, NOTE, "manage.py is in ., extra"),
    ],
)
def test_findings(check: Callable[..., Report], files: Files, kind: str, says: str) -> None:
    report = check(files)
    assert [finding.kind for finding in report.findings if says in finding.text] == [kind], report.findings
    assert bool(report.refused) == (kind == REFUSED)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"site_directory": "backend"}, "the source has no directory backend"),
        ({"site_requirements": "needs.txt"}, "the source has no needs.txt"),
        ({"site_extras": ["postgres"], "site_requirements": "requirements.txt"}, "need a lock or pyproject.toml"),
        ({"site_wsgi": "shop.web"}, "site_wsgi is shop.web, and the source has no such module"),
    ],
)
def test_variables_that_the_build_would_refuse(check: Callable[..., Report], given: dict[str, Any], says: str) -> None:
    assert [says in reason for reason in check({}, **given).refused] == [True]


def test_modules_of_packages_and_of_the_build_are_not_refused(check: Callable[..., Report]) -> None:
    assert check({}, site_settings="pretalx.settings", site_wsgi="pretalx.wsgi").refused == []
    commands = [{"run": "cp a b", "when": "before_static"}]
    assert check({}, site_settings="shop.production", site_build_commands=commands).refused == []


def test_a_project_below_the_source_is_looked_into(check: Callable[..., Report]) -> None:
    project: Files = {f"backend/{name}": content for name, content in PROJECT.items() if name != "requirements.txt"}
    report = check({"requirements.txt": "Django\n"}, project)
    assert report.lines["site_directory"] == "backend" and report.lines["site_requirements"] == "../requirements.txt"
    assert report.lines["site_wsgi"] == "shop.wsgi" and report.refused == []


def arguments(**given: str) -> argparse.Namespace:
    """Arguments of the program."""
    return argparse.Namespace(**{"site": None, "stdin": False, "inventory": None, "extra_vars": []} | given)


def test_git_and_wheel_sources_are_read(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "source", {".gitignore": "shop/wsgi.py\n"})
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    for site in (str(source), f"file://{source}"):
        report, _title = site_check.check(arguments(site=site))
        assert report.lines["site_source"] == site
        assert report.refused == ["no wsgi.py that defines `application`: django-admin startproject makes one"]
    with zipfile.ZipFile(tmp_path / "shop-1-py3-none-any.whl", "w") as wheel:
        for name in ("shop/settings.py", "shop/wsgi.py"):
            wheel.writestr(name, PROJECT[name] or "")
    report, _title = site_check.check(arguments(site=str(tmp_path / "shop-1-py3-none-any.whl")))
    assert report.refused == [] and report.lines["site_settings"] == "shop.settings"


@pytest.mark.parametrize("site", ["none", "none.whl", "file:///none.git"])
def test_unreadable_sources_are_refused(tmp_path: pathlib.Path, site: str) -> None:
    with pytest.raises(Refused):
        site_check.check(arguments(site=site if ":" in site else str(tmp_path / site)))


def test_pointers_of_large_files_are_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"shop/static/a.png": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"})
    with pytest.raises(Refused, match="shop/static/a.png: a pointer of Git LFS"):
        site_check.check(arguments(site=str(tmp_path)))


@pytest.mark.parametrize(
    ("files", "code", "printed"),
    [
        ({}, 0, ""),
        ({"pyproject.toml": "[project]\nrequires-python = '<3.13'\n"}, 1, "pyproject.toml wants Python <3.13, "),
    ],
)
def test_a_build_gets_the_reasons_alone(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: Files,
    code: int,
    printed: str,
) -> None:
    site = {"site_source": str(write(tmp_path, files)), "site_requirements": "requirements.txt"}
    monkeypatch.setattr(sys, "argv", ["site_check", "--stdin"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(site)))
    assert site_check.main() == code
    assert capsys.readouterr().out.strip().startswith(printed)


@pytest.mark.parametrize("site", ["demo", "molecule/shop/source"])
def test_sites_of_this_repository_are_not_refused(site: str) -> None:
    report, _title = site_check.check(arguments(site=str(ROOT / site)))
    assert report.refused == []
