"""Projects of every kind become releases that run on a bare host without network."""

import base64
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import tarfile
import threading
import types
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from controller.environment import ROOT, Environment
from plugins.modules import release_source

INVENTORY = Environment.named(os.environ.get("ENV", "local")).inventory
DOCKER = ["docker"] if os.geteuid() == 0 else ["sudo", "docker"]

PROJECT = {
    "shop/__init__.py": "",
    "shop/settings.py": """
import os
SECRET_KEY = os.environ["SHOP_KEY"]
DEBUG = False
INSTALLED_APPS = ["shop", "django.contrib.staticfiles"]
ROOT_URLCONF = "shop.urls"
STATIC_URL = "/elsewhere/"
""",
    "shop/urls.py": "import shop.needed\nurlpatterns = []\n",
    "shop/needed.py": "",
    "shop/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "shop/static/shop/shop.css": "body { background: url(dot.svg) }\n" + "p { color: #333 }\n" * 50,
    "shop/static/shop/dot.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>\n",
}

# A page that names a file which is not there, and one that only seems to.
TEMPLATES = {
    "shop/templates/shop/page.html": "{% load static %}{% static 'shop/shop.css' %} {% static 'shop/none.png' %}",
    "shop/templates/shop/other.html": "{% load static %}{% comment %}{% static 'a' %}{% endcomment %}{% verbatim %}{% static 'b' %}{% endverbatim %}{% static c %}",
}
WITH_TEMPLATES = (
    PROJECT["shop/settings.py"]
    + "TEMPLATES = [{'BACKEND': 'django.template.backends.django.DjangoTemplates', 'APP_DIRS': True}]\n"
)
PATIENT = """
STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage", "OPTIONS": {"manifest_strict": False}}}
"""

# A dependency that nobody has built for this Python: C, and only a source archive of it; and a template that names a file it has not.
SOURCE_ONLY = {
    "setup.py": "from setuptools import Extension, setup\n"
    "setup(name='abacus', version='1.0', ext_modules=[Extension('abacus', ['abacus.c'])], packages=['beads'],\n"
    "      package_data={'beads': ['templates/*']})\n",
    "beads/__init__.py": "",
    "beads/templates/beads.html": "{% load static %}{% static 'beads.png' %}",
    "abacus.c": """
#include <Python.h>
static PyObject *two(PyObject *self, PyObject *none) { return PyLong_FromLong(1 + 1); }
static PyMethodDef methods[] = {{"two", two, METH_NOARGS, ""}, {NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "abacus", "", -1, methods};
PyMODINIT_FUNC PyInit_abacus(void) { return PyModule_Create(&module); }
""",
    "PKG-INFO": "Metadata-Version: 2.1\nName: abacus\nVersion: 1.0\n",
}


Site = dict[str, Any]  # variables of the site
Release = tuple[Site, pathlib.Path, dict[str, Any]]  # (its site, its artifact, its manifest)


def write(directory: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def hashed_requirements() -> str:
    """The demo's pinned Django, with its hashes."""
    blocks = re.split(r"\n(?=\S)", (ROOT / "demo/requirements.txt").read_text())
    return "\n".join(b for b in blocks if re.match(r"(asgiref|django|sqlparse)==", b)) + "\n"


def hashed(directory: pathlib.Path) -> Site:
    project = (
        PROJECT | TEMPLATES | {"shop/settings.py": WITH_TEMPLATES + PATIENT, "requirements.txt": hashed_requirements()}
    )
    return {"site_source": str(write(directory, project))}


# What the build makes itself: a static file, a list of the names that static files got, packages of Node.
COMMANDS = [
    {"run": "python -c 'import beads' && echo 'p { color: red }' > shop/static/shop/made.css", "when": "before_static"},
    {"run": "mkdir -p node_modules/left && touch node_modules/left/pad.js", "when": "before_static"},
    {
        "run": "python -m django findstatic shop/made.css && cp $REALWORLD_STATIC_ROOT/staticfiles.json shop/names.json",
        "when": "after_static",
    },
]


# A test of the site that needs the database, and which the check itself writes into the release.
TESTS = """
from django.db import connection
from django.test import TestCase


class ServerTests(TestCase):
    def test_server(self):
        self.assertEqual(connection.settings_dict["NAME"], "test_shop")
        self.assertEqual(str(connection.pg_version // 10000), "%s")
"""
CHECKS = [
    {
        "name": "tests",
        "run": 'echo "$TESTS" > shop/tests.py && python -m django test --noinput && touch ../static/checked.css',
        "environment": {
            "TESTS": TESTS % yaml.safe_load((ROOT / "group_vars/all/databases.yml").read_text())["db_version"]
        },
    }
]


def unhashed(directory: pathlib.Path) -> Site:
    """A requirement without hashes, and one that exists only as a source archive; commands, and a secret that is a number."""
    project = PROJECT | {
        "shop/settings.py": WITH_TEMPLATES
        + "INSTALLED_APPS.append('beads')\nPORT = int(os.environ.get('SHOP_PORT', 1))\n",
        "shop/needed.py": "import abacus\nassert abacus.two() == 2\n",
        "requirements/base.txt": "Django~=5.2.0\n",
        "requirements/site.txt": "-r base.txt\n./vendor/abacus-1.0.tar.gz\n",
    }
    write(directory, project)
    (directory / "vendor").mkdir()
    with tarfile.open(directory / "vendor/abacus-1.0.tar.gz", "w:gz") as tar:
        for name, text in SOURCE_ONLY.items():
            member = tarfile.TarInfo(f"abacus-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return {
        "site_source": str(directory),
        "site_requirements": "requirements/site.txt",
        "site_secrets": {"SHOP_KEY": "never in an artifact", "SHOP_PORT": "never in an artifact"},
        "site_build_environment": {"SHOP_PORT": 8000},
        "site_build_commands": COMMANDS,
    }


def git(directory: pathlib.Path | str, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", directory, "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


TOKEN = "Qk7-only-for-the-index-of-the-tests"
BEGUN: dict[str, str] = {}  # what Docker tells of the container while it asks the index


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with one wheel, which wants a user and a password."""

    wheel = b""

    def do_GET(self) -> None:
        """Answer whoever has the password."""
        expected = "Basic " + base64.b64encode(f"shop:{TOKEN}".encode()).decode()
        allowed = self.headers.get("Authorization") == expected
        self.send_response(200 if allowed else 401)
        if not allowed:
            self.send_header("WWW-Authenticate", "Basic realm=index")
        elif not BEGUN:
            name = f"realworld-build-{os.environ.get('ENV', 'local')}"
            BEGUN.update({part: docker(part, name) for part in ("inspect", "top", "diff")})
            # Of every process, and what is left of the file on this machine.
            BEGUN["environment"] = docker("exec", name, "sh", "-c", "cat /proc/[0-9]*/environ")
            BEGUN["memory"] = " ".join(path.name for path in pathlib.Path("/dev/shm").glob(f"{name}.*"))
        found = (
            b""
            if not allowed
            else self.wheel
            if self.path.endswith(".whl")
            else b"<a href='till-1.0-py3-none-any.whl'>till-1.0-py3-none-any.whl</a>"
        )
        self.send_header("Content-Type", "application/zip" if self.path.endswith(".whl") else "text/html")
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def docker(*arguments: str) -> str:
    """The output of a command of Docker."""
    return subprocess.run([*DOCKER, *arguments], check=True, capture_output=True, text=True, errors="replace").stdout


def application(directory: pathlib.Path) -> Site:
    """An application below the top of its source that is no package, with a lock of uv, and a package of a private index."""
    packages = []
    Index.wheel = wheel_file("till", {"till.py": ""}, "")
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Gateway"]
    for name, version, hashes in re.findall(
        r"(?m)^(\w+)==(\S+)((?: \\\n    --hash=sha256:\w+)+)", hashed_requirements()
    ):
        files = [
            f"{{ url = 'https://example.org/{name}-{version}-py3-none-any.whl', hash = '{digest}' }}"
            for digest in re.findall(r"sha256:\w+", hashes)
        ]
        packages.append(
            f"[[package]]\nname = '{name}'\nversion = '{version}'\nsource = {{ registry = 'https://pypi.org/simple' }}\n"
            f"wheels = [{', '.join(files)}]\n"
        )
    packages.append(
        "[[package]]\nname = 'till'\nversion = '1.0'\nsource = { registry = 'https://index.example.org' }\nwheels = "
        f"[{{ url = 'https://example.org/till-1.0-py3-none-any.whl', hash = 'sha256:{hashlib.sha256(Index.wheel).hexdigest()}' }}]\n"
    )
    names = ("asgiref", "django", "sqlparse", "till")
    needed = ", ".join(f"{{ name = '{name}' }}" for name in names)
    lock = f"version = 1\nrequires-python = '>=3.13'\n{''.join(packages)}[[package]]\nname = 'shop'\nsource = {{ virtual = '.' }}\n"
    project = PROJECT | {
        "apps/__init__.py": "",
        "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\nrequires-python = '>=3.13'\ndependencies = ['Django', 'asgiref', 'sqlparse', 'till']\n",
        "uv.lock": f"{lock}dependencies = [{needed}]\n",
    }
    write(directory, {f"backend/{name}": text for name, text in project.items()})
    return {
        "site_source": str(directory),
        "site_directory": "backend",
        "site_requirements": "uv.lock",
        "site_index": {"url": "", "extra_urls": [f"http://{address}:{server.server_port}/simple"]},
        "site_index_netrc": f"machine {address} login shop password {TOKEN}",
        "site_build_environment": {"PIP_TRUSTED_HOST": address},
    }


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and does not talk about it."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


VERSIONED = """
[build-system]
requires = ["setuptools", "setuptools-scm>=8"]
build-backend = "setuptools.build_meta"
[project]
name = "shop"
dynamic = ["version"]
[tool.setuptools]
packages = ["shop"]
[tool.setuptools_scm]
version_file = "shop/_version.py"
"""


def repository(directory: pathlib.Path) -> Site:
    """A repository behind HTTP whose tag is good and whose branch has gone on to something that does not build; its version is the tag."""
    write(directory, PROJECT | {"requirements.txt": "Django~=5.2.0\n.\n", "pyproject.toml": VERSIONED})
    git(directory, "init", "-q", "-b", "main")
    git(directory, "add", ".")
    git(directory, "commit", "-q", "-m", "good")
    git(directory, "tag", "-a", "v1", "-m", "v1")
    write(directory, {"requirements.txt": "Django==0.0\n", "shop/later.py": ""})
    git(directory, "add", ".")
    git(directory, "commit", "-q", "-m", "bad")
    git(directory, "update-server-info")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=directory))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"site_source": f"http://127.0.0.1:{server.server_port}/.git", "site_ref": "v1"}


def wheel_file(package: str, files: dict[str, str], metadata: str) -> bytes:
    """The wheel of a package, version 1.0."""
    info = {
        f"{package}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n{metadata}",
        f"{package}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record, content = f"{package}-1.0.dist-info/RECORD", io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        lines = [f"{record},,"]
        for name, text in (files | info).items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(text)}")
        archive.writestr(record, "\n".join(lines) + "\n")
    return content.getvalue()


def wheel(directory: pathlib.Path) -> Site:
    """A wheel that names its own requirements, as `python -m build` makes them."""
    directory.mkdir()
    content = wheel_file("shop", PROJECT, "Requires-Dist: Django~=5.2.0\n")
    (directory / "shop-1.0-py3-none-any.whl").write_bytes(content)
    return {"site_source": str(directory / "shop-1.0-py3-none-any.whl"), "site_requirements": ""}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Directory of the artifacts."""
    return tmp_path_factory.mktemp("releases")


def artifacts(releases: pathlib.Path) -> set[pathlib.Path]:
    return {path for path in releases.glob("*.tar.gz") if not path.name.endswith(".static.tar.gz")}


def beside(artifact: pathlib.Path, suffix: str) -> pathlib.Path:
    return artifact.with_name(artifact.name.removesuffix(".tar.gz") + suffix)


@pytest.fixture(scope="module")
def build(releases: pathlib.Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the build on a description of a site."""

    def run(site: Site, *options: str) -> subprocess.CompletedProcess[str]:
        described = {
            "site_name": "shop",
            "site_settings": "shop.settings",
            "site_wsgi": "shop.wsgi",
            "site_ref": "",
            "site_requirements": "requirements.txt",
            "site_secrets": {"SHOP_KEY": "never in an artifact"},
            "state_dir": str(releases / "state"),
            "django_artifacts": str(releases),
        } | site
        return subprocess.run(
            ["ansible-playbook", "-i", INVENTORY, "playbooks/parts/build.yml", "-e", json.dumps(described), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(
    scope="module", params=[hashed, unhashed, application, repository, wheel], ids=lambda kind: kind.__name__
)
def release(
    request: pytest.FixtureRequest,
    build: Callable[..., subprocess.CompletedProcess[str]],
    releases: pathlib.Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Release:
    """A release of each kind of project, built once: (its site, its artifact, its manifest)."""
    site = request.param(tmp_path_factory.mktemp("project") / "site")
    before = artifacts(releases)
    done = build(site, *(["-vvv"] if request.param is application else []))
    assert done.returncode == 0, done.stdout + done.stderr
    if request.param is application:
        BEGUN["output"] = done.stdout + done.stderr
    [artifact] = artifacts(releases) - before
    return site, artifact, json.loads(beside(artifact, ".json").read_text())


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo | str) -> bytes:
    """The content of a file in an archive."""
    file = archive.extractfile(member)
    assert file, member
    return file.read()


def on_a_bare_host(artifact: pathlib.Path, version: str, command: str) -> subprocess.CompletedProcess[str]:
    """What a command in a release says in a container like a new host, without network."""
    place = f"/srv/shop/releases/{version}"
    return subprocess.run(
        [
            *DOCKER,
            "run",
            "--rm",
            "--network",
            "none",
            "--volume",
            f"{artifact}:/artifact:ro",
            "--volume",
            f"{ROOT}/roles/django/files:/tier:ro",
            "--env",
            "SHOP_KEY=x",
            "--env",
            f"PYTHONPATH={place}/project",
            "--env",
            "DJANGO_SETTINGS_MODULE=shop.settings",
            "realworld/node:13",
            "sh",
            "-ec",
            f"mkdir -p {place}; tar -xzf /artifact -C {place}; cd {place}; {command}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_release_runs_on_a_bare_host(release: Release) -> None:
    _site, artifact, manifest = release
    done = on_a_bare_host(
        artifact,
        manifest["version"],
        'venv/bin/python -m django check; venv/bin/python -c "import psycopg, pymemcache, shop.wsgi; print(psycopg.pq.__impl__)"',
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "binary"


def test_manifest_lists_every_file_and_wheel(release: Release) -> None:
    _site, artifact, manifest = release
    with tarfile.open(artifact) as tar:
        members = tar.getmembers()
        found = {
            m.name.removeprefix("./"): hashlib.sha256(read_member(tar, m)).hexdigest()
            if m.isfile()
            else f"-> {m.linkname}"
            for m in members
            if not m.isdir()
        }
    del found["manifest.json"]
    assert found == manifest["files"]
    assert {(m.uid, m.gid, m.mtime) for m in members} == {(0, 0, members[0].mtime)}
    assert not [m.name for m in members if m.mode & 0o022]
    assert {"django", "asgiref", "sqlparse", "psycopg", "psycopg-binary", "pymemcache"} <= {
        w["name"] for w in manifest["wheels"]
    }
    assert not {"pip", "setuptools"} & {
        name.split("/")[4] for name in found if name.startswith("venv/lib/python3.13/site-packages/")
    }


def test_static_files_have_hashed_names_and_compressed_variants(release: Release) -> None:
    _site, artifact, manifest = release
    [css] = [name for name in manifest["files"] if re.fullmatch(r"static/shop/shop\.[0-9a-f]{12}\.css", name)]
    assert css + ".gz" in manifest["files"] and css + ".br" in manifest["files"]
    with tarfile.open(beside(artifact, ".static.tar.gz")) as tar:
        assert {f"static/{m.name.removeprefix('./')}" for m in tar if m.isfile()} == {
            n for n in manifest["files"] if n.startswith("static/")
        }
        assert re.search(rb"url\(\"dot\.[0-9a-f]{12}\.svg\"\)", read_member(tar, "./" + css.removeprefix("static/")))


def test_no_secret_is_in_a_release(release: Release) -> None:
    with tarfile.open(release[1]) as tar:
        assert not [m.name for m in tar if m.isfile() and b"never in an artifact" in read_member(tar, m)]


@pytest.mark.parametrize("release", [repository], indirect=True, ids=["repository"])
def test_version_names_the_commit_of_the_tag(release: Release) -> None:
    site, _artifact, manifest = release
    commit = git(".", "ls-remote", site["site_source"], "refs/tags/v1^{}").split()[0]
    assert manifest["version"].startswith(commit[:10] + "-")
    assert manifest["source"]["commit"] == commit
    assert "src/shop/later.py" not in manifest["files"]
    assert {"shop": "1"}.items() <= {wheel["name"]: wheel["version"] for wheel in manifest["wheels"]}.items()
    assert "src/shop/_version.py" in manifest["files"]


@pytest.mark.parametrize("release", [hashed, repository], indirect=True, ids=["hashed", "repository"])
def test_same_source_is_not_built_again(
    release: Release, build: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = build(release[0])
    assert done.returncode == 0 and "changed=0" in done.stdout, done.stdout


@pytest.mark.parametrize("release", [hashed], indirect=True, ids=["hashed"])
def test_same_source_makes_the_same_bytes_with_checks(
    release: Release, build: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    site, artifact, _manifest = release
    files = [artifact, beside(artifact, ".static.tar.gz"), beside(artifact, ".json")]
    first = [path.read_bytes() for path in files]
    artifact.unlink()
    done = build(site | {"site_checks": CHECKS})
    assert done.returncode == 0, done.stdout
    assert [path.read_bytes() for path in files] == first
    assert "Ran 1 test" in beside(artifact, ".log").read_text()
    done = build(site | {"site_checks": CHECKS})
    assert done.returncode == 0 and "changed=0" in done.stdout, done.stdout


@pytest.mark.parametrize("release", [hashed], indirect=True, ids=["hashed"])
def test_checks_refuse_a_release_that_was_built_without_them(
    release: Release, build: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    site, artifact, manifest = release
    first = artifact.read_bytes()
    checks = [
        {"name": "total", "run": "echo 'FAIL: test_total (shop.tests.CartTests.test_total)'; exit 1"},
        *CHECKS,
        {"name": "style", "run": "echo no style; exit 1"},
    ]
    done = build(site | {"site_checks": checks})
    assert done.returncode != 0
    refusal = (
        rf"Release {manifest['version']} is refused by site_checks: total: test_total \(shop\.tests\.CartTests\.test_total\) \| style: no style\. "
        r"All output is above \(.*\.checks\.log, exit code 3\)\. It is not deployed\. Correct the site, or site_checks, then: make deploy ENV="
    )
    assert re.search(refusal, re.sub(r"\s+", " ", done.stdout + done.stderr)), done.stdout
    assert "Ran 1 test" in beside(artifact, ".checks.log").read_text()
    assert artifact.read_bytes() == first
    predicted = build(site | {"site_checks": checks}, "--check")  # the release has not passed them
    assert predicted.returncode == 0 and "changed=1" in predicted.stdout, predicted.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"requirements.txt": "Django==0.0\n"}, r"could not get what requirements\.txt names: ERROR: .*Django==0\.0"),
        (
            {"pyproject.toml": "[project]\nrequires-python = '<3.13'\n"},
            r"pyproject\.toml wants Python <3\.13, and the hosts have Debian's 3\.13\.\d+: widen it",
        ),
        ({"requirements.txt": "sqlparse\n"}, r"requirements\.txt does not bring Django"),
        (
            {"shop/static/shop/shop.css": "p { background: url(lost.png) }"},
            r"could not collect the static files: .*shop/lost\.png",
        ),
        (
            {"shop/settings.py": WITH_TEMPLATES},
            r"static files are not there, .* src/shop/templates/shop/page\.html names shop/none\.png\. Where .*manifest_strict: False",
        ),
    ],
    ids=["requirements", "Python", "no Django", "static", "template"],
)
def test_failed_build_reports_the_reason_and_leaves_no_files(
    build: Callable[..., subprocess.CompletedProcess[str]],
    releases: pathlib.Path,
    tmp_path: pathlib.Path,
    change: dict[str, str],
    says: str,
) -> None:
    site = hashed(tmp_path / "site")
    write(tmp_path / "site", change)
    before = artifacts(releases)
    done = build(site)
    assert done.returncode != 0
    assert re.search(r"Release \w+ was not built: " + says, re.sub(r"\s+", " ", done.stdout + done.stderr)), done.stdout
    assert artifacts(releases) == before
    assert not [*releases.glob(".*.tar*")]


@pytest.mark.parametrize("release", [application], indirect=True, ids=["application"])
def test_credentials_of_an_index_reach_the_build_and_nothing_else(release: Release, releases: pathlib.Path) -> None:
    _site, artifact, manifest = release
    assert {"till": "1.0"}.items() <= {wheel["name"]: wheel["version"] for wheel in manifest["wheels"]}.items()
    encoded = base64.b64encode(f"shop:{TOKEN}".encode()).decode()
    assert set(BEGUN) == {"inspect", "top", "diff", "environment", "memory", "output"}
    assert "/root/.netrc" in BEGUN["inspect"] and "realworld-build-cache" not in BEGUN["inspect"]
    assert BEGUN["memory"] == ""
    for text in BEGUN.values():
        assert TOKEN not in text and encoded not in text
    name = artifact.name.removesuffix(".tar.gz")
    files = [path for path in releases.glob(f"*{name}*") if path.is_file()]
    assert {path.name.removeprefix(name) for path in files} == {".tar.gz", ".static.tar.gz", ".json", ".log"}
    content = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in files]
    assert not [number for number, part in enumerate(content) if TOKEN.encode() in part or encoded.encode() in part]


@pytest.mark.parametrize("release", [unhashed], indirect=True, ids=["unhashed"])
def test_files_that_commands_write_ship(release: Release) -> None:
    _site, artifact, manifest = release
    [css] = [name for name in manifest["files"] if re.fullmatch(r"static/shop/made\.[0-9a-f]{12}\.css", name)]
    with tarfile.open(artifact) as tar:
        names = json.loads(read_member(tar, "./src/shop/names.json"))["paths"]
    assert names["shop/made.css"] == css.removeprefix("static/")
    assert not [name for name in manifest["files"] if "node_modules" in name]


@pytest.mark.parametrize("release", [unhashed], indirect=True, ids=["unhashed"])
def test_missing_static_files_of_dependencies_are_logged_as_warnings(release: Release) -> None:
    log = beside(release[1], ".log").read_text()
    assert re.findall("(?m)^Warning: .*$", log) == [
        "Warning: venv/lib/python3.13/site-packages/beads/templates/beads.html names the static file beads.png, "
        "which is not there: a page that uses it lacks it"
    ]


@pytest.mark.parametrize("release", [hashed], indirect=True, ids=["hashed"])
def test_missing_static_files_are_allowed_without_manifest_strict(release: Release, tmp_path: pathlib.Path) -> None:
    """With the tier's settings on a host; other names are hashed all the same."""
    _site, artifact, manifest = release
    described = {
        "settings": "shop.settings",
        "environment": {},
        "secrets": {"SHOP_KEY": "x"},
        "node": "app1",
        "address": "192.0.2.1",
        "hosts": ["x.test"],
        "origins": [],
        "secret_key": "x",
        "database": {"name": "x", "password": "x", "port": 1},
        "caches": [],
        "media": {"hosts": [], "url": "/media/"},
        "static": {"url": "/static/", "storage": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
    }
    place = f"/srv/shop/releases/{manifest['version']}"
    program = "import django; django.setup(); from django.template.loader import render_to_string; print(render_to_string('shop/page.html'))"
    done = on_a_bare_host(
        artifact,
        manifest["version"],
        f"echo {shlex.quote(json.dumps(described))} > /site.json; REALWORLD_SITE=/site.json REALWORLD_RELEASE={place} "
        f"PYTHONPATH=/tier:{place}/src DJANGO_SETTINGS_MODULE=realworld.settings venv/bin/python -c {shlex.quote(program)}",
    )
    assert re.fullmatch(r"/static/shop/shop\.[0-9a-f]{12}\.css /static/shop/none\.png", done.stdout.strip()), (
        done.stdout + done.stderr
    )


def test_dry_run_predicts_a_build_and_builds_nothing(
    build: Callable[..., subprocess.CompletedProcess[str]], releases: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = artifacts(releases)
    done = build(hashed(write(tmp_path / "site", {"new.py": ""})), "--check")
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    assert artifacts(releases) == before


# ------------------------------------------------------------------ what makes a version, without a build


@pytest.fixture(scope="module")
def source() -> types.ModuleType:
    return release_source


def test_only_sources_change_a_version(source: types.ModuleType, tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"a.py": "1", "b/c.py": "2"})

    def digest() -> str:
        return source.digest(source.survey(tmp_path, "", "")[1])

    first = digest()
    os.utime(tmp_path / "a.py", (1, 1))
    write(
        tmp_path,
        {"__pycache__/a.pyc": "", ".hg/x": "", "env/pyvenv.cfg": "", "env/x.py": "", "db.sqlite3": "", ".env": ""},
    )
    assert digest() == first
    seen = {first}
    for change in (
        lambda: (tmp_path / "a.py").write_text("3"),
        lambda: (tmp_path / "a.py").chmod(0o755),
        lambda: (tmp_path / "a.py").rename(tmp_path / "d.py"),
        lambda: (tmp_path / "e").symlink_to("b"),
    ):
        change()
        assert digest() not in seen
        seen.add(digest())


@pytest.mark.parametrize(
    ("name", "requirements", "says"),
    [
        ("missing", "", "There is no directory .*/missing: site_source"),
        (
            "shop-1.0-py3-none-any.whl",
            "requirements.txt",
            "There is no .*/requirements.txt; a wheel .* site_requirements: ''",
        ),
    ],
)
def test_invalid_source_is_reported(
    source: types.ModuleType, tmp_path: pathlib.Path, name: str, requirements: str, says: str
) -> None:
    if name.endswith(".whl"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=says):
        source.survey(tmp_path / name, "", requirements)
