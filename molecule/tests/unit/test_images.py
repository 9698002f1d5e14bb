"""Golden images: which image is whose, when one has to be made again, and what a boot of one holds back."""

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml
from ansible.module_utils import host_health
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from repository import ROOT, load

from controller.environment.rendering import load_plugins

load_plugins()
NODE = {"RepoTags": ["realworld/node:13"], "Id": "sha256:1", "Config": {"Labels": None}}
HOSTS = {"app1": ["app"], "app2": ["app"], "cache1": ["cache", "quorum"]}


def templated(expression: str, variables: Any) -> Any:
    """The value of a template of trusted text."""
    return Templar(loader=DataLoader(), variables=variables).template(trust_as_template(expression))


def variables_of(path: pathlib.Path) -> dict[str, Any]:
    """{name: its template, trusted} of a file of variables."""
    return {name: trust_as_template(value) for name, value in yaml.safe_load(path.read_text()).items()}


def image_of(groups: list[str]) -> str:
    """The image of a host that is in these groups."""
    return templated(
        load(ROOT / "group_vars/all/hosts.yml")["host_image"], {"group_names": groups, "env_name": "local"}
    )


def outdated(known: list[dict[str, Any]], packages: Any = ("curl",)) -> Any:
    """(images that have to be made, {image: its digest}), where Docker knows some images."""
    hostvars = {
        host: {
            "inventory_hostname": host,
            "host_image": image_of(["local", *groups]),
            "host_packages": ["etcd-server", *packages],
            "env_name": "local",
        }
        for host, groups in HOSTS.items()
    }
    variables = variables_of(ROOT / "containers/vars/bake.yml") | {
        "hostvars": hostvars,
        "groups": {"all": list(HOSTS)},
        "playbook_dir": str(ROOT / "containers"),
        "__bake_known": {"images": [NODE, *known]},
        "bake_requested": list(HOSTS),
    }
    return templated("{{ bake_outdated }}", variables), templated("{{ bake_recipes }}", variables)


def kept(recipes: dict[str, str]) -> list[dict[str, Any]]:
    """What Docker says of images with these digests."""
    return [
        {"RepoTags": [image], "Id": "sha256:2", "Config": {"Labels": {"realworld-recipe": recipe}}}
        for image, recipe in recipes.items()
    ]


@pytest.mark.parametrize(
    ("groups", "image"),
    [
        (["app", "local"], "realworld/golden-app:13"),
        (["quorum", "local", "cache"], "realworld/golden-cache-quorum:13"),
    ],
)
def test_hosts_with_the_same_groups_share_an_image(groups: list[str], image: str) -> None:
    assert image_of(groups) == image


def test_missing_and_outdated_images_are_built() -> None:
    missing, recipes = outdated([])
    assert missing == list(recipes) == ["realworld/golden-app:13", "realworld/golden-cache-quorum:13"]
    assert outdated(kept(recipes))[0] == []
    assert outdated(kept(recipes), packages=["curl", "brotli"])[0] == missing
    assert outdated(kept(recipes | {"realworld/golden-app:13": "of before"}))[0] == ["realworld/golden-app:13"]


def test_order_and_duplicates_of_packages_do_not_change_an_image() -> None:
    assert outdated([], ["curl", "brotli"])[1] == outdated([], ["brotli", "curl", "curl"])[1]


def test_a_boot_masks_every_unit_that_the_bare_machine_did_not_have(tmp_path: pathlib.Path) -> None:
    units, scripts, early = (tmp_path / name for name in ("units", "init.d", "early"))
    for directory in (units, scripts, early):
        directory.mkdir()
    for name in (
        "ssh.service",
        "etcd.service",
        "rescue.target",
        "munin-cron.timer",
        "fcgiwrap.socket",
        "postgresql@.service",
    ):
        (units / name).touch()
    for name in ("ssh", "nagios4"):
        (scripts / name).touch()
    script = tmp_path / "image-hold"
    text = (ROOT / "containers/templates/image-hold.j2").read_text()
    script.write_text(
        templated(
            text,
            {
                "ansible_managed": "Managed",
                "image_bare_units": ["ssh", "ssh.service"],
                "image_unit_files": [
                    f"{units}/*.service",
                    f"{units}/*.socket",
                    f"{units}/*.timer",
                    f"{units}/*.path",
                    f"{scripts}/*",
                ],
            },
        )
        + "\n"
    )
    for _again in range(2):
        subprocess.run(["sh", str(script), str(tmp_path), str(early), str(tmp_path)], check=True)
    held = {path.name: os.readlink(path) for path in early.iterdir() if "*" not in path.name}
    assert held == dict.fromkeys(
        ["etcd.service", "munin-cron.timer", "fcgiwrap.socket", "postgresql@.service", "nagios4.service"], "/dev/null"
    )


@pytest.mark.parametrize(
    ("groups", "packages", "expected"),
    [
        (["app"], ["brotli", "curl"], {"date": "2026-01-02", "lacks": ["brotli"], "spare": ["gzip"]}),
        (["app"], ["curl", "gzip"], {"date": "2026-01-02", "lacks": [], "spare": []}),
        (["app", "cache"], ["brotli"], None),  # has other jobs since
    ],
)
def test_a_host_reports_packages_missing_from_the_image(
    tmp_path: pathlib.Path, groups: list[str], packages: list[str], expected: Any
) -> None:
    record = tmp_path / "image"
    record.write_text(json.dumps({"groups": ["app"], "packages": ["curl", "gzip"], "date": "2026-01-02"}))
    host = host_health.Host({"all": {}}, {"packages": packages})
    host.image(groups, record)
    assert host.raw.get("image") == expected
