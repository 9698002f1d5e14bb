"""A golden image has packages and nobody's secrets, starts nothing of them, and a host that came from one is as one that came bare.

For a standing tier some of whose hosts came from golden images.
"""

import functools
import json
import subprocess
import tarfile
from collections.abc import Iterator

import pytest
from fixtures import Make
from target import Target
from tier import AS_ROOT, ROOT, Tier, inside, wait

RUN = [
    "--detach",
    "--cap-add",
    "SYS_ADMIN",
    "--cap-add",
    "NET_ADMIN",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--cgroupns",
    "private",
    "--tmpfs",
    "/run",
    "--tmpfs",
    "/tmp",
    "--tty",
    "--network",
    "none",
]
KEPT = ("etc/machine-id", "var/lib/realworld-image", "etc/systemd/system-generators/image-hold")
# What Debian's packages bring of themselves: keys of examples.
EXAMPLES = ("usr/share/doc/", "usr/share/perl5/", "usr/lib/python3/dist-packages/")


@pytest.fixture(name="came", scope="module")
def came_fixture(target: Target) -> dict[str, str]:
    """{host: the golden image it came from}."""
    made = {
        host: target.docker("inspect", "--format", "{{.Config.Image}}", target.container(host)).strip()
        for host in target.groups["all"]
    }
    golden = {host: image for host, image in made.items() if image.startswith("realworld/golden-")}
    assert golden, (
        "No host came from a golden image. Bake them, then build the environment: make image converge ENV=production REHEARSE=1"
    )
    return golden


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The content of a file in an archive."""
    file = archive.extractfile(member)
    assert file, member
    return file.read()


@pytest.fixture(name="files", scope="module")
def files_fixture(target: Target, came: dict[str, str]) -> dict[str, dict[str, bytes]]:
    """{image: {path: bytes of the regular file}} of what no package brought in so many bytes: all of /etc, /root, /home and /var but APT's lists."""
    found = {}
    for image in set(came.values()):
        container = target.docker("create", image).strip()
        try:
            with (
                subprocess.Popen([*AS_ROOT, "docker", "export", container], stdout=subprocess.PIPE) as export,
                tarfile.open(fileobj=export.stdout, mode="r|") as tree,
            ):
                found[image] = {
                    entry.name: read_member(tree, entry)
                    for entry in tree
                    if entry.isfile()
                    and not entry.name.startswith(EXAMPLES)
                    and entry.name.startswith(("etc/", "root/", "home/", "var/"))
                    and "/apt/lists/" not in entry.name
                }
        finally:
            target.docker("rm", container)
    return found


def is_booted(container: str) -> bool:
    """Whether systemd of a container has ended its boot."""
    return output(container, "systemctl is-system-running").strip() in ("running", "degraded")


@pytest.fixture(name="booted", scope="module")
def booted_fixture(target: Target, came: dict[str, str]) -> Iterator[dict[str, str]]:
    """{image: a container that was booted from it, and nothing else done to}."""
    containers = {image: target.docker("run", *RUN, image).strip() for image in set(came.values())}
    try:
        for container in containers.values():
            wait(
                functools.partial(is_booted, container),
                "end of its boot",
                60,
            )
        yield containers
    finally:
        target.docker("rm", "--force", *containers.values())


def output(container: str, command: str) -> str:
    """What a shell prints in a container."""
    return subprocess.run(inside(container, "sh", "-c", command), capture_output=True, text=True, check=False).stdout


def test_hosts_were_created_from_golden_images_of_the_groups(tier: Tier, came: dict[str, str]) -> None:
    assert came
    for host, image in came.items():
        assert image == tier.value("host_image", host)


def test_an_image_has_no_keys_and_no_identity(files: dict[str, dict[str, bytes]], tier: Tier) -> None:
    for image, found in files.items():
        assert all(path in found for path in KEPT), image
        assert found["etc/machine-id"] == b""
        assert [
            path
            for path in found
            if path.startswith(
                ("etc/ssh/ssh_host_", "root/.ssh", "home/", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed")
            )
        ] == []
        assert [path for path, content in found.items() if b"PRIVATE KEY-----" in content] == []
        assert [path for path, content in found.items() if path.startswith("var/log/") and content] == []
        assert f"\n{tier.value('operator_name', tier.value('groups')['all'][0])}:".encode() not in found["etc/passwd"]


def test_an_image_has_the_packages_and_no_secrets(
    files: dict[str, dict[str, bytes]], target: Target, came: dict[str, str]
) -> None:
    configured = [
        f"etc/{name}" for name in ("log-tls/key.pem", "backup-tls/key.pem", "patroni/config.yml", "sudoers.d/operator")
    ]
    for image, found in files.items():
        record = json.loads(found["var/lib/realworld-image"])
        assert image == f"realworld/golden-{'-'.join(record['groups'])}:13"
        for package in record["packages"]:
            assert f"Package: {package}\nStatus: install ok installed".encode() in found["var/lib/dpkg/status"], package
        assert [path for path in configured if path in found] == []
    settings = {
        image: json.loads(target.docker("image", "inspect", "--format", "{{json .Config}}", image))
        for image in set(came.values())
    }
    assert [
        image
        for image, config in settings.items()
        if any(value.startswith("AUTHORIZED_KEY=s") for value in config["Env"])
    ] == []


def test_a_boot_starts_no_units_of_installed_packages(booted: dict[str, str]) -> None:
    for image, container in booted.items():
        held = set(output(container, "ls /run/systemd/generator.early").split())
        assert {"rsyslog.service", "munin-node.service", "systemd-timesyncd.service", "logrotate.timer"} <= held, image
        up = {
            line.split()[0]
            for line in output(
                container, "systemctl list-units --plain --no-legend --state=active,activating,failed"
            ).splitlines()
        }
        assert up & held == set(), image
        assert [line for line in output(container, "ss -Hltunp").splitlines() if '"sshd"' not in line] == [], image
        assert output(container, "systemctl --failed --plain --no-legend") == "", image


def test_released_units_are_enabled_as_packaged_and_not_started(booted: dict[str, str]) -> None:
    for image, container in booted.items():
        running = output(
            container,
            "systemctl list-units --plain --no-legend --type=service,socket,timer --state=active | cut -d' ' -f1",
        )
        held = output(container, "ls /run/systemd/generator.early").split()
        output(container, "/etc/systemd/system-generators/image-hold release")
        assert (
            output(container, "ls -A /etc/systemd/system-generators; ls -A /run/systemd/generator.early 2>/dev/null")
            == ""
        ), image
        states = dict(
            line.split()[:2] for line in output(container, "systemctl list-unit-files --plain --no-legend").splitlines()
        )
        assert states["rsyslog.service"] == states["logrotate.timer"] == "enabled", image
        assert [unit for unit in held if states.get(unit, "").startswith("masked-runtime")] == [], image
        assert (
            output(
                container,
                "systemctl list-units --plain --no-legend --type=service,socket,timer --state=active | cut -d' ' -f1",
            )
            == running
        ), image


def test_host_keys_and_machine_ids_are_unique(target: Target, came: dict[str, str]) -> None:
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        told = {host: target.on(host, f"cat {path}").strip() for host in target.groups["all"]}
        assert all(told.values()) and len(set(told.values())) == len(told), path
    for host in came:
        assert target.on(host, "ls /etc/systemd/system-generators").strip() == "", host


def test_hosts_from_images_and_bare_hosts_have_no_differences(make: Make, target: Target, came: dict[str, str]) -> None:
    assert [
        pool for pool, hosts in target.groups.items() if pool != "all" and 0 < len(set(hosts) & set(came)) < len(hosts)
    ], "no pool has both"
    done = make("drift")
    assert done.returncode == 0, done.stdout + done.stderr


def test_status_reports_an_image_with_outdated_packages(make: Make, target: Target, came: dict[str, str]) -> None:
    host = min(came)
    target.on(host, 'sed -i.as-it-was \'s/"curl"/"curl-of-before"/\' /var/lib/realworld-image')
    try:
        done = make("status")
        assert done.returncode == 0, done.stdout
        assert (
            f"{host} came from an image of " in done.stdout
            and "(without curl; still with curl-of-before)" in done.stdout
        ), done.stdout
    finally:
        target.on(host, "mv /var/lib/realworld-image.as-it-was /var/lib/realworld-image")
    assert "came from an image" not in make("status").stdout


def test_make_image_leaves_current_images_unchanged(make: Make, came: dict[str, str], target: Target) -> None:
    def made() -> dict[str, str]:
        return {image: target.docker("image", "inspect", "--format", "{{.Id}}", image) for image in set(came.values())}

    before = made()
    done = make("image", "LIMIT=" + ",".join(came))
    assert done.returncode == 0, done.stdout + done.stderr
    assert made() == before


def test_a_converged_host_is_refused_as_an_image(tier: Tier, target: Target, came: dict[str, str]) -> None:
    host = min(came)
    done = subprocess.run(
        ["ansible-playbook", "-i", tier.inventory, "playbooks/image.yml", "--limit", host],
        cwd=ROOT,
        env=tier.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and f"Nothing was touched. {host} " in " ".join(done.stdout.split()), (
        done.stdout + done.stderr
    )
    assert target.on(host, "cat /etc/machine-id").strip()
