"""What an operator changes every week reaches every host while visitors come and go, and none of them notices."""

import json
import pathlib
import re
import secrets
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from ansible.parsing.vault import VaultLib
from balancer import Balancer, Site, await_true
from fixtures import Make, Unaffected
from target import Target, try_run
from tier import Tier, output_of


def since(target: Target, host: str, unit: str) -> int:
    """When a unit of a host was last started, in microseconds of the machine's clock."""
    return int(target.on(host, f"systemctl show -P ActiveEnterTimestampMonotonic {unit}"))


def changed(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Hosts on which a run changed something."""
    return {line.split()[0] for line in done.stdout.splitlines() if " changed=" in line and " changed=0 " not in line}


@pytest.fixture(name="certificate")
def certificate_fixture(tier: Tier) -> Callable[[], bytes]:
    """certificate() is the one that visitors are shown, as DER."""

    def certificate() -> bytes:
        trust = ssl.create_default_context(cafile=tier.authority)
        name = tier.value("site_hosts", "lb[0]")[0]
        with (
            socket.create_connection((tier.value("lb_vip", "lb[0]"), tier.value("lb_https_port")), timeout=10) as raw,
            trust.wrap_socket(raw, server_hostname=name) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
            assert shown
            return shown

    return certificate


def started(target: Target) -> dict[str, list[int]]:
    """When everything was started that reads its settings then only: {host: moments}."""
    units = {"app": ("apache2", "pgpool2"), "lb": ("nginx",)}
    return {
        host: [since(target, host, unit) for unit in units[group]] for group in units for host in target.groups[group]
    }


def test_threads_of_apache_and_pgpool_are_changed_host_by_host(
    target: Target, make: Make, visitors_unaffected: Unaffected, tier: Tier
) -> None:
    """Both read their sizes when they start only: host by host, while the balancers pass over it. Never without the
    balancers; what a run that ended there has written, the next one brings to effect.
    So is a balancer whose unit changed in the same run: whoever comes meanwhile meets the other one."""
    apps, lbs = target.groups["app"], target.groups["lb"]
    before = started(target)
    more = f"VARS={json.dumps({'app_threads': tier.value('app_threads', apps[0]) + 1, 'lb_open_files': 16000})}"
    foretold = make("site", "CHECK=1", "LIMIT=app,lb", more)
    assert foretold.returncode == 0, foretold.stdout[-2000:]
    assert started(target) == before
    with visitors_unaffected():
        done = make("site", "LIMIT=app,lb", more)
        assert done.returncode == 0, done.stdout[-3000:]
        assert changed(done) == changed(foretold) == {*apps, *lbs}
        meanwhile = started(target)
        assert all(now > then for host in before for now, then in zip(meanwhile[host], before[host]))
        refused = make("site", "LIMIT=app")
        assert refused.returncode != 0
        assert f"{','.join(apps)},lb" in output_of(refused), refused.stdout[-2500:]
        assert started(target) == meanwhile
        done = make("site", "LIMIT=app,lb", "TAGS=pgpool,apache,nginx,keepalived")
        assert done.returncode == 0, done.stdout[-3000:]
        afterwards = started(target)
        assert all(now > then for host in before for now, then in zip(afterwards[host], meanwhile[host]))


def test_certificates_are_renewed(
    target: Target, make: Make, visitors_unaffected: Unaffected, certificate: Callable[[], bytes]
) -> None:
    """The site's; and those by which hosts and monitor know each other, signed anew before they run out: logs go on to it by the new ones.

    So is that of the monitor's pages, where the site's key was once, and is no longer."""
    shown, before = certificate(), {lb: since(target, lb, "nginx") for lb in target.groups["lb"]}
    monitor, lb = target.groups["monitor"][0], target.groups["lb"][0]
    own = {host: target.on(host, "cat /etc/log-tls/certificate.pem") for host in (lb, monitor)}
    pages = (target.tier.address(monitor), target.tier.value("monitor_port"))
    old = ssl.get_server_certificate(pages, ca_certs=target.tier.authority)
    target.on(monitor, "touch /etc/nginx/munin.pem")
    with visitors_unaffected():
        assert make("secrets", "RENEW=1").returncode == 0
        # They are signed for 3650 days.
        done = make(
            "site",
            "LIMIT=lb,monitor",
            "TAGS=nginx,keepalived,monitor_web,rsyslog",
            f"VARS={json.dumps({'certificate_renew_days': 3651})}",
        )
        assert done.returncode == 0, done.stdout[-3000:]
        assert certificate() != shown
        assert {lb: since(target, lb, "nginx") for lb in before} == before  # reads them anew, which takes no start
    assert ssl.get_server_certificate(pages, ca_certs=target.tier.authority) != old
    assert target.try_on(monitor, "ls /etc/nginx/munin.pem") is None
    for host, old in own.items():
        assert target.on(host, "cat /etc/log-tls/certificate.pem") != old
        assert target.on(host, "openssl verify -CAfile /etc/log-tls/ca.pem /etc/log-tls/certificate.pem").endswith(
            ": OK"
        )
        assert target.on(host, "openssl x509 -in /etc/log-tls/certificate.pem -noout -pubkey") == target.on(
            host, "openssl pkey -in /etc/log-tls/key.pem -pubout"
        )
    line = secrets.token_hex(8)
    target.on(lb, f"logger {line}")
    target.wait(
        lambda: target.try_on(monitor, f"grep -c {line} /var/log/tier/{lb}.log"),
        "line by the new certificates",
        60,
    )


def test_a_certificate_of_another_authority_is_not_replaced(tier: Tier, make: Make, tmp_path: pathlib.Path) -> None:
    vault = tier.environment.vault
    before, bought = vault.read_bytes(), [tmp_path / "key", tmp_path / "certificate"]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=Public",
            "-days",
            "9",
            "-keyout",
            bought[0],
            "-out",
            bought[1],
        ],
        check=True,
        capture_output=True,
    )
    values = tier.loader.load_from_file(str(vault)) | dict(
        zip(("tls_key", "tls_certificate"), (path.read_text() for path in bought))
    )
    try:
        vault.write_bytes(VaultLib(tier.loader._vault.secrets).encrypt(json.dumps(values)))
        theirs = vault.read_bytes()
        done = make("secrets", "RENEW=1")
        assert done.returncode != 0 and "Nothing was touched." in output_of(done), output_of(done)
        assert vault.read_bytes() == theirs
    finally:
        vault.write_bytes(before)


def test_a_changed_password_of_databases_or_etcd_is_refused(target: Target, make: Make) -> None:
    """Also by a run on app hosts alone, whose pgpool would be given it."""

    def written() -> list[str]:
        return [
            target.on(host, f"sha256sum {path}")
            for group, path in (("db", "/etc/patroni/config.yml"), ("app", "/etc/pgpool2/pool_passwd"))
            for host in target.groups[group]
        ]

    site, kept = target.facts["site_name"], written()
    for limit, tags, variables, refused in [
        (
            "db",
            "patroni,postgresql",
            ("db_replication_password", "db_site_password"),
            f"The password of {site}, replicator in the vault",
        ),
        ("app", "pgpool", ("db_site_password",), f"The password of {site} in the vault"),
        ("db", "patroni", ("etcd_root_password",), "not the one that etcd has"),
    ]:
        done = make("site", f"LIMIT={limit}", f"TAGS={tags}", f"VARS={json.dumps(dict.fromkeys(variables, 'another'))}")
        assert done.returncode != 0 and "Nothing was touched." in output_of(done) and refused in output_of(done), (
            output_of(done)
        )
    assert written() == kept


def test_the_only_healthy_balancer_keeps_the_virtual_ip(target: Target) -> None:
    holder = target.holder()
    other = next(lb for lb in target.groups["lb"] if lb != holder)
    target.on(other, "systemctl stop nginx")
    try:
        assert target.try_on(holder, "systemctl start hand-over@nginx") is None
        assert "No other balancer answers" in target.on(holder, "journalctl -q -u hand-over@nginx -n 20 -o cat")
        assert target.holder() == holder
    finally:
        target.on(other, "systemctl start nginx")
        target.on(holder, "systemctl reset-failed hand-over@nginx")
    target.await_healthy()


@pytest.fixture(name="second_network")
def second_network_fixture(target: Target) -> Iterator[str]:
    """The interface of a second network, which every balancer is in for a while."""
    network = f"realworld-{target.env}-second"
    # Internal: the way out stays where it was.
    target.docker("network", "create", "--internal", "--subnet", "198.18.7.0/24", network)
    try:
        for lb in target.groups["lb"]:
            target.docker("network", "connect", network, target.container(lb))
        shown = json.loads(target.on(target.groups["lb"][0], "ip -json -4 address"))
        yield next(
            link["ifname"]
            for link in shown
            if link
            for one in link["addr_info"]
            if one["local"].startswith("198.18.7.")
        )
    finally:
        for lb in target.groups["lb"]:
            try_run("docker", "network", "disconnect", network, target.container(lb))
        try_run("docker", "network", "rm", network)


def test_the_virtual_ip_moves_to_the_configured_interface(target: Target, make: Make, second_network: str) -> None:
    """One whose network it is not in is refused before anything is touched, unless the prefix says that it is in none."""

    def interfaces() -> list[str]:
        shown = json.loads(target.on(target.holder(), "ip -json -4 address"))
        return [
            link["ifname"]
            for link in shown
            if link
            for one in link["addr_info"]
            if one["local"] == target.facts["lb_vip"]
        ]

    first = interfaces()
    assert first and second_network not in first
    configured = [target.on(lb, "sha256sum /etc/keepalived/keepalived.conf") for lb in target.groups["lb"]]
    wrong = {"keepalived_vip_interface": second_network}
    refused = make("site", "LIMIT=lb", "TAGS=keepalived", f"VARS={json.dumps(wrong)}")
    assert refused.returncode != 0 and "Nothing was touched." in output_of(refused), output_of(refused)
    assert f"lb_vip {target.facts['lb_vip']} is in no network of the interface {second_network}" in output_of(
        refused
    ), output_of(refused)
    assert [target.on(lb, "sha256sum /etc/keepalived/keepalived.conf") for lb in target.groups["lb"]] == configured
    try:
        done = make(
            "site", "LIMIT=lb", "TAGS=keepalived", f"VARS={json.dumps(wrong | {'keepalived_vip_prefix': '32'})}"
        )
        assert done.returncode == 0, done.stdout[-3000:]
        assert interfaces() == [second_network]
    finally:
        done = make("site", "LIMIT=lb", "TAGS=keepalived")
    assert done.returncode == 0, done.stdout[-3000:]
    assert interfaces() == first
    target.await_healthy()


def test_maintenance_ends_by_itself_without_a_broken_connection(
    target: Target, make: Make, tier: Tier, site: Site
) -> None:
    """A converge keeps it, an allowed address passes, Nagios has a downtime for as long, and balancers agree about its end."""
    lbs, monitor = target.groups["lb"], target.groups["monitor"][0]
    entry = Balancer(tier, site, site["vip"])
    allowed = target.tier.address(lbs[0])
    converge = ("site", "LIMIT=lb", "TAGS=nginx", f"VARS={json.dumps({'maintenance_addresses': [f'{allowed}/32']})}")
    statuses: set[int] = set()
    ended = threading.Event()
    failures: list[str] = []

    def visit() -> None:
        while not ended.is_set():
            try:
                statuses.add(entry.ask("/").status)
            except OSError as error:
                failures.append(repr(error))

    def downtimes() -> int:
        return int(target.on(monitor, "grep -c '^servicedowntime {' /var/lib/nagios4/status.dat || true"))

    def from_allowed(url: str) -> str:
        options = f"-sk -o /dev/null -w '%{{http_code}}' --interface {allowed}"
        name, port = site["names"][0], site["https_port"]
        return target.on(lbs[0], f"curl {options} --resolve {name}:{port}:{allowed} https://{name}:{port}{url}")

    refused = make("maintenance", "FOR=99h")
    assert refused.returncode != 0 and "Nothing was touched." in output_of(refused), output_of(refused)
    done = make(*converge)
    assert done.returncode == 0, done.stdout[-3000:]
    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        done = make("maintenance", "FOR=10m", "MESSAGE=It's <b>late</b>")
        assert done.returncode == 0 and "It's <b>late</b>" in output_of(done), output_of(done)
        closed = entry.ask("/")
        assert closed.status == 503 and "It&#39;s &lt;b&gt;late&lt;/b&gt;" in closed.text
        assert closed.headers["Cache-Control"] == "no-store" and 500 <= int(closed.headers["Retry-After"]) <= 610
        assert entry.ask(site["urls"][0]).status == 503
        assert from_allowed("/") == "200"
        await_true(lambda: downtimes() > 0, 30)
        done = make(*converge)
        assert done.returncode == 0 and changed(done) == set(), done.stdout[-3000:]
        assert entry.ask("/").status == 503
        done = make("maintenance", "OFF=1")
        assert done.returncode == 0 and entry.ask("/").status == 200, output_of(done)
        await_true(lambda: downtimes() == 0, 30)
        done = make("maintenance", "FOR=30s", "READONLY=1")
        assert done.returncode == 0, output_of(done)
        refusal = entry.ask("/", "POST", "x=1")
        assert refusal.status == 503 and "nothing can be changed" in refusal.text
        assert entry.ask("/").status == 200
        await_true(lambda: entry.ask("/", "POST", "x=1").status != 503, 60)
        await_true(lambda: downtimes() == 0, 30)
        assert output_of(make("maintenance")).count("no maintenance") == len(lbs)
    finally:
        ended.set()
        visitor.join()
        make("maintenance", "OFF=1")
        done = make("site", "LIMIT=lb", "TAGS=nginx")
    assert done.returncode == 0, done.stdout[-3000:]
    assert failures == [] and statuses == {200, 503}
    target.await_healthy()


def booted(target: Target, host: str) -> str:
    """When a host's systemd came up."""
    return target.on(host, "systemctl show -P UserspaceTimestamp")


def test_a_job_outlives_the_connection_and_prevents_a_reboot_of_the_host(target: Target, make: Make) -> None:
    """By another connection it is listed, refuses the reboot, is read in the logs by its id, and is ended."""
    host = target.groups["app"][-1]
    code = "import time; print('begun €', flush=True); time.sleep(600)"
    detached = make("manage", f'CMD=shell --no-imports -v 0 -c "{code}"', f"HOST={host}", "DETACH=1")
    assert detached.returncode == 0, output_of(detached)
    match = re.search(r"Job (\S+) runs on (\S+)\. ", detached.stderr)
    assert match and match[2] == host
    job = match[1]
    refused = make("reboot", f"LIMIT={host}")
    assert refused.returncode and f"Nothing was touched. On {host} a command runs" in output_of(refused)
    monitor = target.groups["monitor"][0]
    target.wait(lambda: target.try_on(monitor, f"grep '{job} begun' /var/log/tier/{host}.log"), "line of the job", 60)
    assert make("logs", f"REQUEST={job}", f"HOST={host}").returncode == 0
    stopped = make("manage", f"STOP={job}")
    assert (stopped.returncode, stopped.stdout) == (0, "begun €\n"), output_of(stopped)
    assert f"{job} on {host}: stopped after" in stopped.stderr
    failed = make("manage", "CMD=check 'no such app'")
    assert failed.returncode and "No installed app with label 'no such app'" in failed.stdout, output_of(failed)
    listed = [line.split() for line in make("jobs").stdout.splitlines()]
    assert [row[1:3] for row in listed if row[:1] == [job]] == [[host, "stopped"]]
    assert listed[-2][2] == "failed" and listed[-2][6] == "1"
    assert target.on(host, "systemctl --failed --plain --no-legend") == ""


def test_make_reboot_reboots_every_host(target: Target, make: Make, visitors_unaffected: Unaffected) -> None:
    before = {host: booted(target, host) for host in target.groups["all"]}
    with visitors_unaffected():
        done = make("reboot")
        assert done.returncode == 0, done.stdout[-3000:]
    assert all(booted(target, host) != when for host, when in before.items())


def test_make_upgrade_upgrades_a_package_and_reboots_the_host(
    target: Target, make: Make, visitors_unaffected: Unaffected
) -> None:
    host = target.groups["cache"][-1]
    target.on(
        host,
        "mkdir -p /var/tmp/repo/tier-probe/DEBIAN && cd /var/tmp/repo && "
        "printf 'Package: tier-probe\\nVersion: 1\\nArchitecture: all\\nMaintainer: test <root@localhost>\\nDescription: probe\\n'"
        " > tier-probe/DEBIAN/control && dpkg-deb --build tier-probe one.deb && dpkg --install one.deb && "
        "sed -i 's/^Version: 1/Version: 2/' tier-probe/DEBIAN/control && dpkg-deb --build tier-probe two.deb && "
        "{ cat tier-probe/DEBIAN/control; printf 'Filename: ./two.deb\\nSize: %s\\nSHA256: %s\\n' $(stat -c %s two.deb) $(sha256sum two.deb | cut -d' ' -f1); } > Packages && "
        "echo 'deb [trusted=yes] file:/var/tmp/repo ./' > /etc/apt/sources.list.d/tier-probe.list",
    )
    before = booted(target, host)
    try:
        with visitors_unaffected():
            done = make("upgrade", f"LIMIT={host}")
            assert done.returncode == 0, done.stdout[-3000:]
        assert target.on(host, "dpkg-query -W -f '${Version}' tier-probe") == "2"
        assert booted(target, host) != before
    finally:
        target.on(
            host,
            "dpkg --purge tier-probe; rm -rf /var/tmp/repo /etc/apt/sources.list.d/tier-probe.list; apt-get update -q",
        )
