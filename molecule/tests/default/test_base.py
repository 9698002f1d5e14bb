"""Every host, whatever its tier."""

import json
import pathlib
import re
import subprocess

from balancer import await_true
from testinfra.host import Host
from tier import Tier

ROOT = pathlib.Path(__file__).resolve().parents[3]

testinfra_hosts = ["ansible://all"]


def ssh(tier: Tier, host: str, user: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Try to log in to a host as a user; return the finished process."""
    key = tier.key
    return subprocess.run(
        [
            "ssh",
            "-i",
            key,
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ControlMaster=no",
            "-o",
            "ControlPath=none",
            *options,
            f"{user}@{tier.address(host)}",
            "true",
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def name_of(host: Host) -> str:
    """The inventory name of a testinfra host."""
    return host.backend.host


def test_every_host_resolves_the_hostname_of_the_inventory(host: Host, tier: Tier) -> None:
    assert host.check_output("getent hosts %s", name_of(host)).split() == [tier.address(name_of(host)), name_of(host)]


def test_unattended_upgrades_skip_the_packages_of_the_groups(host: Host, tier: Tier) -> None:
    """What Debian's own upgrades pass over, where they are installed: the packages of the host's groups; not those of every host."""
    told = host.check_output("apt-config dump --no-empty --format '%v%n' Unattended-Upgrade::Package-Blacklist").split()
    every, own = (set(tier.value(f"{part}_packages", name_of(host))) for part in ("base", "host"))
    assert (
        own - every
        and {package for package in own if any(re.match(pattern, package) for pattern in told)} == own - every
    )


def test_no_unit_has_failed(host: Host) -> None:
    failed = host.check_output("systemctl --failed --no-legend --plain")
    assert not failed, host.check_output(
        "journalctl --no-pager -n 30 -o cat" + "".join(f" -u {line.split()[0]}" for line in failed.splitlines())
    )
    assert host.run("systemctl is-system-running").stdout.strip() == "running"


def test_an_unknown_host_key_is_refused_with_the_command_to_add_the_key(tier: Tier, tmp_path: pathlib.Path) -> None:
    run = subprocess.run(
        [
            "ansible-playbook",
            "-i",
            tier.inventory,
            "playbooks/parts/connect.yml",
            "-e",
            f"ansible_ssh_common_args='-o ControlPath=none -o StrictHostKeyChecking=yes -o UserKnownHostsFile={tmp_path / 'known_hosts'}'",
        ],
        cwd=ROOT,
        env=tier.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    said = " ".join(run.stdout.split())
    assert [
        name
        for name in tier.hosts("all")
        if f"ssh-keyscan -p 22 {tier.address(name)} >> ~/.ssh/known_hosts" not in said
    ] == []


def test_an_ssh_agent_with_other_keys_does_not_prevent_logins(tier: Tier, tmp_path: pathlib.Path) -> None:
    """Hosts refuse who offers three wrong ones."""
    for number in range(4):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / str(number)], check=True)
    words = f"ssh-add -q {' '.join(str(tmp_path / str(number)) for number in range(4))} && ansible all -i {tier.inventory} -m ansible.builtin.raw -a true"
    done = subprocess.run(
        ["ssh-agent", "sh", "-c", words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=tier.env | {"ANSIBLE_SSH_ARGS": "-o ControlPath=none", "ANSIBLE_STRATEGY": "linear"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_root_cannot_log_in(host: Host, tier: Tier) -> None:
    refused = ssh(tier, name_of(host), "root")
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr


def test_ptrace_is_restricted_to_child_processes(host: Host) -> None:
    """Where the kernel is this host's own, and has Yama."""
    assert (
        "-kernel.yama.ptrace_scope = 1"
        in host.check_output("/usr/lib/systemd/systemd-sysctl --cat-config").splitlines()
    )
    scope = "/proc/sys/kernel/yama/ptrace_scope"
    assert host.run("test -w %s", scope).rc or host.file(scope).content_string.strip() == "1"


def test_a_login_without_a_key_is_refused(host: Host, tier: Tier) -> None:
    operator = tier.value("operator_name")
    refused = ssh(tier, name_of(host), operator, "-o", "PubkeyAuthentication=no", "-o", "IdentityFile=none")
    assert refused.returncode == 255
    # What the server offers: keys, and nothing one could guess.
    assert "Permission denied (publickey)" in refused.stderr


def test_the_operator_logs_in_and_becomes_root(host: Host, tier: Tier) -> None:
    assert ssh(tier, name_of(host), tier.value("operator_name")).returncode == 0
    assert host.check_output("id --user --name") == "root"


def test_log_messages_reach_syslog_and_the_journal(host: Host) -> None:
    host.check_output("logger --tag tier-test 'a line to be found'")
    host.check_output("journalctl --sync")
    assert "a line to be found" in host.check_output("journalctl --identifier tier-test --lines 1 --output cat")
    await_true(lambda: host.run("grep --quiet 'tier-test.*a line to be found' /var/log/syslog").rc == 0)


def test_logs_are_bounded(host: Host) -> None:
    """The journal says itself how much it may take; every file in /var/log is some rotation's."""
    limit = host.check_output("journalctl --unit systemd-journald --grep 'max .*free' --lines 1 --output cat")
    assert "max 200M" in limit or "max 200.0M" in limit, limit
    assert host.run("logrotate --debug /etc/logrotate.conf").rc == 0


def test_logrotate_runs_every_hour(host: Host) -> None:
    left = host.check_output("systemctl list-timers logrotate.timer --output json")
    (timer,) = json.loads(left)
    assert 0 < timer["next"] / 1_000_000 - int(host.check_output("date +%s")) <= 3600 + 300
