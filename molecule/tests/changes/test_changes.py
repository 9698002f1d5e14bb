"""What an operator changes every week reaches every host while visitors come and go, and none of them notices."""

import json
import pathlib
import secrets
import socket
import ssl
import subprocess

import pytest
from ansible.parsing.vault import VaultLib

from controller.inventory import vault_of


def words(done):
    """What a finished command said, in one line."""
    return " ".join((done.stdout + done.stderr).split())


def since(place, host, unit):
    """When a unit of a host was last started, in microseconds of the machine's clock."""
    return int(place.on(host, f"systemctl show -P ActiveEnterTimestampMonotonic {unit}"))


def changed(done):
    """Hosts on which a run changed something."""
    return {line.split()[0] for line in done.stdout.splitlines() if " changed=" in line and " changed=0 " not in line}


@pytest.fixture(name="certificate")
def certificate_fixture(tier):
    """certificate() is the one that visitors are shown, as DER."""

    def certificate():
        trust = ssl.create_default_context(cafile=tier.authority)
        name = tier.value("site_hosts", "lb[0]")[0]
        with (
            socket.create_connection((tier.value("lb_vip", "lb[0]"), tier.value("lb_https_port")), timeout=10) as raw,
            trust.wrap_socket(raw, server_hostname=name) as tls,
        ):
            return tls.getpeercert(binary_form=True)

    return certificate


def started(place):
    """When everything was started that reads its settings then only: {host: moments}."""
    units = {"app": ("apache2", "pgpool2"), "lb": ("nginx",)}
    return {
        host: [since(place, host, unit) for unit in units[group]] for group in units for host in place.groups[group]
    }


def test_one_more_thread_for_apache_and_pgpool_and_one_less(place, make, unharmed, tier):
    """Both read their sizes when they start only: host by host, while the balancers pass over it. Never without the
    balancers; what a run that ended there has written, the next one brings to effect.
    So is a balancer whose unit changed in the same run: whoever comes meanwhile meets the other one."""
    apps, lbs = place.groups["app"], place.groups["lb"]
    before = started(place)
    more = f"VARS={json.dumps({'app_threads': tier.value('app_threads', apps[0]) + 1, 'lb_open_files': 16000})}"
    foretold = make("site", "CHECK=1", "LIMIT=app,lb", more)
    assert foretold.returncode == 0, foretold.stdout[-2000:]
    assert started(place) == before
    with unharmed():
        done = make("site", "LIMIT=app,lb", more)
        assert done.returncode == 0, done.stdout[-3000:]
        assert changed(done) == changed(foretold) == {*apps, *lbs}
        meanwhile = started(place)
        assert all(now > then for host in before for now, then in zip(meanwhile[host], before[host]))
        refused = make("site", "LIMIT=app")
        assert refused.returncode != 0
        assert f"{','.join(apps)},lb" in words(refused), refused.stdout[-2500:]
        assert started(place) == meanwhile
        done = make("site", "LIMIT=app,lb", "TAGS=pgpool,apache,nginx,keepalived")
        assert done.returncode == 0, done.stdout[-3000:]
        afterwards = started(place)
        assert all(now > then for host in before for now, then in zip(afterwards[host], meanwhile[host]))


def test_certificates_are_renewed(place, make, unharmed, certificate):
    """The site's; and those by which hosts and monitor know each other, signed anew before they run out: logs go on to it by the new ones.

    So is that of the monitor's pages, where the site's key was once, and is no longer."""
    shown, before = certificate(), {lb: since(place, lb, "nginx") for lb in place.groups["lb"]}
    monitor, lb = place.groups["monitor"][0], place.groups["lb"][0]
    own = {host: place.on(host, "cat /etc/log-tls/certificate.pem") for host in (lb, monitor)}
    pages = (place.tier.address(monitor), place.tier.value("monitor_port"))
    old = ssl.get_server_certificate(pages, ca_certs=place.tier.authority)
    place.on(monitor, "touch /etc/nginx/munin.pem")
    with unharmed():
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
        assert {lb: since(place, lb, "nginx") for lb in before} == before  # reads them anew, which takes no start
    assert ssl.get_server_certificate(pages, ca_certs=place.tier.authority) != old
    assert place.on(monitor, "ls /etc/nginx/munin.pem", check=False) is None
    for host, old in own.items():
        assert place.on(host, "cat /etc/log-tls/certificate.pem") != old
        assert place.on(host, "openssl verify -CAfile /etc/log-tls/ca.pem /etc/log-tls/certificate.pem").endswith(
            ": OK"
        )
        assert place.on(host, "openssl x509 -in /etc/log-tls/certificate.pem -noout -pubkey") == place.on(
            host, "openssl pkey -in /etc/log-tls/key.pem -pubout"
        )
    line = secrets.token_hex(8)
    place.on(lb, f"logger {line}")
    place.wait(
        lambda: place.on(monitor, f"grep -c {line} /var/log/tier/{lb}.log", check=False),
        "line by the new certificates",
        60,
    )


def test_a_certificate_of_another_authority_is_not_replaced(tier, make, tmp_path):
    vault = vault_of(pathlib.Path(tier.inventory).resolve())
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
    values = tier.variables[0].load_from_file(str(vault)) | dict(
        zip(("tls_key", "tls_certificate"), (path.read_text() for path in bought))
    )
    try:
        vault.write_bytes(VaultLib(tier.variables[0]._vault.secrets).encrypt(json.dumps(values)))
        theirs = vault.read_bytes()
        done = make("secrets", "RENEW=1")
        assert done.returncode != 0 and "Nothing was touched." in words(done), words(done)
        assert vault.read_bytes() == theirs
    finally:
        vault.write_bytes(before)


def test_another_password_than_the_databases_have_is_refused(place, make):
    """Also by a run on app hosts alone, whose pgpool would be given it."""

    def written():
        return [
            place.on(host, f"sha256sum {path}")
            for group, path in (("db", "/etc/patroni/config.yml"), ("app", "/etc/pgpool2/pool_passwd"))
            for host in place.groups[group]
        ]

    site, kept = place.facts["site_name"], written()
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
        assert done.returncode != 0 and "Nothing was touched." in words(done) and refused in words(done), words(done)
    assert written() == kept


def test_the_only_balancer_that_answers_keeps_the_virtual_ip(place):
    holder = place.holder()
    other = next(lb for lb in place.groups["lb"] if lb != holder)
    place.on(other, "systemctl stop nginx")
    try:
        assert place.on(holder, "systemctl start hand-over@nginx", check=False) is None
        assert "No other balancer answers" in place.on(holder, "journalctl -q -u hand-over@nginx -n 20 -o cat")
        assert place.holder() == holder
    finally:
        place.on(other, "systemctl start nginx")
        place.on(holder, "systemctl reset-failed hand-over@nginx")
    place.whole()


@pytest.fixture(name="second_network")
def second_network_fixture(place):
    """The interface of a second network, which every balancer is in for a while."""
    network = f"realworld-{place.env}-second"
    # Internal: the way out stays where it was.
    place.docker("network", "create", "--internal", "--subnet", "198.18.7.0/24", network)
    try:
        for lb in place.groups["lb"]:
            place.docker("network", "connect", network, place.container(lb))
        shown = json.loads(place.on(place.groups["lb"][0], "ip -json -4 address"))
        yield next(
            link["ifname"]
            for link in shown
            if link
            for one in link["addr_info"]
            if one["local"].startswith("198.18.7.")
        )
    finally:
        for lb in place.groups["lb"]:
            place.docker("network", "disconnect", network, place.container(lb), check=False)
        place.docker("network", "rm", network, check=False)


def test_the_virtual_ip_comes_to_the_interface_that_is_named_for_it(place, make, second_network):
    """One whose network it is not in is refused before anything is touched, unless the prefix says that it is in none."""

    def interfaces():
        shown = json.loads(place.on(place.holder(), "ip -json -4 address"))
        return [
            link["ifname"]
            for link in shown
            if link
            for one in link["addr_info"]
            if one["local"] == place.facts["lb_vip"]
        ]

    first = interfaces()
    assert first and second_network not in first
    configured = [place.on(lb, "sha256sum /etc/keepalived/keepalived.conf") for lb in place.groups["lb"]]
    wrong = {"keepalived_vip_interface": second_network}
    refused = make("site", "LIMIT=lb", "TAGS=keepalived", f"VARS={json.dumps(wrong)}")
    assert refused.returncode != 0 and "Nothing was touched." in words(refused), words(refused)
    assert f"lb_vip {place.facts['lb_vip']} is in no network of the interface {second_network}" in words(refused), (
        words(refused)
    )
    assert [place.on(lb, "sha256sum /etc/keepalived/keepalived.conf") for lb in place.groups["lb"]] == configured
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
    place.whole()


def booted(place, host):
    """When a host's systemd came up."""
    return place.on(host, "systemctl show -P UserspaceTimestamp")


def test_every_host_is_rebooted(place, make, unharmed):
    before = {host: booted(place, host) for host in place.groups["all"]}
    with unharmed():
        done = make("reboot")
        assert done.returncode == 0, done.stdout[-3000:]
    assert all(booted(place, host) != when for host, when in before.items())


def test_a_package_is_upgraded_and_its_host_rebooted(place, make, unharmed):
    host = place.groups["cache"][-1]
    place.on(
        host,
        "mkdir -p /var/tmp/repo/tier-probe/DEBIAN && cd /var/tmp/repo && "
        "printf 'Package: tier-probe\\nVersion: 1\\nArchitecture: all\\nMaintainer: test <root@localhost>\\nDescription: probe\\n'"
        " > tier-probe/DEBIAN/control && dpkg-deb --build tier-probe one.deb && dpkg --install one.deb && "
        "sed -i 's/^Version: 1/Version: 2/' tier-probe/DEBIAN/control && dpkg-deb --build tier-probe two.deb && "
        "{ cat tier-probe/DEBIAN/control; printf 'Filename: ./two.deb\\nSize: %s\\nSHA256: %s\\n' $(stat -c %s two.deb) $(sha256sum two.deb | cut -d' ' -f1); } > Packages && "
        "echo 'deb [trusted=yes] file:/var/tmp/repo ./' > /etc/apt/sources.list.d/tier-probe.list",
    )
    before = booted(place, host)
    try:
        with unharmed():
            done = make("upgrade", f"LIMIT={host}")
            assert done.returncode == 0, done.stdout[-3000:]
        assert place.on(host, "dpkg-query -W -f '${Version}' tier-probe") == "2"
        assert booted(place, host) != before
    finally:
        place.on(
            host,
            "dpkg --purge tier-probe; rm -rf /var/tmp/repo /etc/apt/sources.list.d/tier-probe.list; apt-get update -q",
        )
