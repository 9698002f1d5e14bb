"""What the build of a release shares with other builds, and what a killed one leaves."""

import os
import pathlib
import subprocess
from typing import Any

import jinja2
import pytest
import yaml
from repository import ROOT

TASKS: list[dict[str, Any]] = yaml.safe_load((ROOT / "roles/django/tasks/build.yml").read_text(encoding="utf-8"))
[BUILD] = [task for task in TASKS if "block" in task and task["name"] == "Start the build of the release"]
TASKS_OF_BUILD = {task["name"]: task for task in BUILD["block"] + BUILD["always"]}


def render(text: str, **values: str) -> str:
    """A value of a task."""
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text).render(values)


def test_no_environment_and_no_site_shares_downloads_with_another() -> None:
    cache = TASKS_OF_BUILD["Start the build container"]["vars"]["__django_cache"]["source"]
    names = {
        render(cache, env_name=environment, site_name=site)
        for environment, site in (("production", "shop"), ("staging", "shop"), ("production", "shop-2"))
    }
    assert len(names) == 3 and all(name.startswith("realworld-build-cache.") for name in names)


def test_credentials_of_a_killed_run_are_removed_whether_or_not_a_build_follows() -> None:
    written = TASKS_OF_BUILD["Write the credentials of the package indexes"]["ansible.builtin.command"]["argv"][-1]
    before = [task for task in TASKS[: TASKS.index(BUILD)] if "ansible.builtin.file" in task]
    [removed] = [task for task in before if task["ansible.builtin.file"]["state"] == "absent"]
    assert removed["ansible.builtin.file"]["path"] == written and removed["vars"] == BUILD["vars"]
    assert not {"when", "loop"} & removed.keys()


@pytest.mark.parametrize(("container", "removes"), [("", True), ("0123", False)])
def test_downloads_of_every_build_are_removed_with_the_images(
    tmp_path: pathlib.Path, container: str, removes: bool
) -> None:
    volumes = ["realworld-build-cache", "realworld-build-cache.local.shop", "realworld-build-cache.staging.shop"]
    docker = (
        f'#!/bin/sh\ncase "$1 $2" in "ps --all") echo {container} ;;\n'
        f'"volume ls") printf "%s\\n" other my-realworld-build-cache {" ".join(volumes)} ;;\n'
        f'"volume rm") shift 2; echo "$@" > {tmp_path}/removed ;; esac\n'
    )
    for name, text in {"docker": docker, "id": "#!/bin/sh\necho 0\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    subprocess.run(
        [ROOT / "containers/image.sh", "remove"],
        check=True,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    removed = (tmp_path / "removed").read_text().split() if (tmp_path / "removed").exists() else []
    assert removed == (["--force", *volumes] if removes else [])
