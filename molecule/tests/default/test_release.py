"""The release the tier serves: one artifact, whole, the same everywhere, nobody's to change."""

import hashlib
import json
import pathlib
import re
import subprocess
import types
from typing import Any

import pytest
import requests
from fixtures import OnHost
from testinfra.host import Host
from tier import Tier

testinfra_hosts = ["ansible://app"]

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Reads a release's files on the host, as {name: sha256 or link target}.
SURVEY = """
import hashlib, json, os, sys
found = {}
for parent, directories, files in os.walk(sys.argv[1]):
    for name in files + [n for n in directories if os.path.islink(os.path.join(parent, n))]:
        path = os.path.join(parent, name)
        found[os.path.relpath(path, sys.argv[1])] = ("-> " + os.readlink(path) if os.path.islink(path)
            else hashlib.sha256(open(path, "rb").read()).hexdigest())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def variables(tier: Tier) -> types.SimpleNamespace:
    """Variables of the site, read once."""
    names = (
        "all_hosts",
        "app_port",
        "groups",
        "site_name",
        "site_releases_kept",
        "site_root",
        "site_static_url",
        "state_dir",
        "static_root",
    )
    found = tier.value("dict(" + ", ".join(f"{name}={name}" for name in names) + ")", tier.hosts("app")[0])
    return types.SimpleNamespace(**found, addresses={host["name"]: host["address"] for host in found["all_hosts"]})


@pytest.fixture
def release(host: Host, variables: types.SimpleNamespace) -> str:
    """Directory of the release that is current on a host."""
    return host.check_output(f"readlink -f {variables.site_root}/current")


@pytest.fixture
def manifest(host: Host, release: str) -> dict[str, Any]:
    return json.loads(host.file(f"{release}/manifest.json").content_string)


def test_every_app_host_serves_the_built_release(
    host: Host, variables: types.SimpleNamespace, release: str, manifest: dict[str, Any]
) -> None:
    version = manifest["version"]
    assert release == f"{variables.site_root}/releases/{version}"
    built = hashlib.sha256(
        pathlib.Path(variables.state_dir, "../releases", f"{variables.site_name}-{version}.json").read_bytes()
    ).hexdigest()
    assert host.file(f"{release}/manifest.json").sha256sum == built
    address = variables.addresses[host.backend.host]
    health = json.loads(host.check_output(f"curl -sf http://{address}:{variables.app_port}/-/health"))
    assert health["release"] == version


def test_files_of_the_release_match_the_manifest(host: Host, release: str, manifest: dict[str, Any]) -> None:
    found = json.loads(host.run("python3 -c %s %s", SURVEY, release).stdout)
    found.pop("manifest.json")
    found.pop("commands-run", None)
    assert found == manifest["files"]


def test_virtualenv_of_the_release_has_the_declared_versions(
    host: Host, release: str, manifest: dict[str, Any]
) -> None:
    wanted = {wheel["name"]: wheel["version"] for wheel in manifest["wheels"]}
    says = host.check_output(
        f"{release}/venv/bin/python -Bc 'import django, psycopg, sys; "
        "print(django.__version__, psycopg.__version__, psycopg.pq.__impl__, sys.prefix)'"
    )
    assert says.split() == [wanted["django"], wanted["psycopg"], "binary", f"{release}/venv"]


def test_the_site_cannot_write_to_the_release(host: Host, variables: types.SimpleNamespace, release: str) -> None:
    for path in ("src", "venv/bin", "static", "manifest.json", "src/manage.py"):
        tried = host.run(
            f"runuser -u {variables.site_name} -- sh -c 'test -r {release}/{path} && ! test -w {release}/{path}'"
        )
        assert tried.rc == 0, path
    assert host.check_output(f"find {release} \\( -user {variables.site_name} -o ! -type l -perm /022 \\) -print") == ""


def test_old_releases_are_pruned(host: Host, variables: types.SimpleNamespace) -> None:
    kept = host.check_output(f"ls -A {variables.site_root}/releases").split()
    assert len(kept) <= variables.site_releases_kept
    assert not [name for name in kept if name.startswith(".")], "leftovers of a deploy"


def test_migrations_of_the_release_are_applied(host: Host) -> None:
    """The database is at the release's own migrations."""
    assert host.run("manage migrate --check").rc == 0


def test_dry_run_of_a_deploy_predicts_no_change(tier: Tier) -> None:
    done = subprocess.run(
        ["ansible-playbook", "-i", tier.inventory, "playbooks/deploy.yml", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=tier.env,
    )
    assert done.returncode == 0, done.stdout
    changes = re.findall(r"changed=(\d+)", done.stdout)
    assert changes and set(changes) == {"0"}, done.stdout


def test_media_hosts_have_every_static_file_of_the_release(
    variables: types.SimpleNamespace, on: OnHost, manifest: dict[str, Any]
) -> None:
    static = {
        name.removeprefix("static/"): digest for name, digest in manifest["files"].items() if name.startswith("static/")
    }
    assert [n for n in static if re.search(r"\.[0-9a-f]{12}\.css$", n)], "no hashed names"
    for name in variables.groups["media"]:
        found = json.loads(on(name).run("python3 -c %s %s", SURVEY, variables.static_root).stdout)
        assert {n: found.get(n) for n in static} == static, name


def test_static_text_files_have_compressed_variants(manifest: dict[str, Any]) -> None:
    large = [n for n in manifest["files"] if re.match(r"static/.*\.(css|js|svg)$", n)]
    packed = [n for n in large if {f"{n}.gz", f"{n}.br"} <= manifest["files"].keys()]
    assert len(packed) > 0.9 * len(large)


def test_static_files_of_the_page_are_served(
    visitor: requests.Session, tier: Tier, variables: types.SimpleNamespace
) -> None:
    page = visitor.get(tier.url + "/", timeout=10).text
    named = set(re.findall(rf'"({re.escape(variables.site_static_url)}[^"]+)"', page))
    assert named and all(re.search(r"\.[0-9a-f]{12}\.\w+$", url) for url in named)
    for url in named:
        answer = visitor.get(tier.url + url, timeout=10, headers={"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, url
