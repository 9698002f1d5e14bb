"""`make parity` and `make drift`: what is planted is found, what is declared is told with its reason, no secret is ever told."""

import copy
import json
import pathlib
import sys
import types
from typing import Any

import pytest
import yaml
from repository import ROOT

from controller.commands import parity
from controller.parity import comparison, masks, report, source
from controller.parity.model import KINDS, Difference, Side
from plugins.modules import host_snapshot

RULES = yaml.safe_load((ROOT / "group_vars/all/parity.yml").read_text())
DECLARED, DERIVED = RULES["parity_declared"], RULES["parity_derived"]
MANAGED = "# Managed by Ansible: changes made here are overwritten.\n"
KEY = "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n"


def file(text: str, mode: str = "0644", shown: bool = True) -> dict[str, Any]:
    """A file, as host_snapshot tells of it."""
    return {"owner": "root:root", "mode": mode, "sha256": "0" * 64, "text": text, "shown": shown}


def environment(name: str, net: str, apps: int = 2) -> Any:
    """A Side: two databases, some app hosts and caches, each with what its own environment gave it."""
    pools = {
        "app": [f"app{n + 1}" for n in range(apps)],
        "db": ["db1", "db2"],
        "cache": ["cache1"],
        "quorum": ["cache1"],
    }
    hosts = list(dict.fromkeys(host for pool in pools.values() for host in pool))
    addresses = {host: f"{net}.{20 + number}" for number, host in enumerate(hosts)}
    secrets = {
        "db_site_password": f"{name}-s3cret/with+letters",
        "pin": f"{name[:3]}7",
        "tls_key": KEY.format(f"{name}MHcCAQEEIBl5oAoGCCqGSM49"),
    }
    known = {
        "groups": pools | {"all": hosts},
        "addresses": addresses,
        "reached": addresses,
        "env_name": name,
        "network_cidr": f"{net}.0/24",
        "lb_vip": f"{net}.100",
        "site_hosts": [f"{name}.example.com"],
        "operator_keys": [f"ssh-ed25519 AAAA{name} me@{name}"],
    }
    answers = {}
    for host in hosts:
        peers = "".join(f"    # {app}\n    server {addresses[app]}:8000;\n" for app in pools["app"])
        hba = "".join(
            f'backend_hostname{n} = "{addresses[db]}"\nbackend_port{n} = 5432\n' for n, db in enumerate(pools["db"])
        )
        password = secrets["db_site_password"]
        snapshot = {
            "package": {"rsyslog": "8.1", "memcached": "1.6"},
            "file": {
                "/etc/hosts": file(f"{MANAGED}{addresses[host]} {host}\n"),
                "/etc/nginx/nginx.conf": file(
                    f"{MANAGED}upstream pages {{\n{peers}}}\nserver_name {name}.example.com;\nvip {net}.100/24;\n"
                ),
                "/etc/pgpool2/pgpool.conf": file(MANAGED + hba),
                "/etc/patroni/config.yml": file(
                    f"{MANAGED}password: {json.dumps(password)}\npin: {secrets['pin']}\n", "0600"
                ),
                "/etc/pgpool2/pcp.conf": file(
                    f"follow:{masks.hashlib.md5(password.encode()).hexdigest()}\n", "0600", shown=False
                ),
                "/etc/nginx/munin.htpasswd": file(f"munin:$6$rounds=5000${host}${name}abc/def\n", "0640", shown=False),
                "/etc/nginx/site.pem": file(secrets["tls_key"], "0600", shown=False),
                "/etc/memcached.conf": file(f"{MANAGED}-l {addresses[host]}\n-m {len(name)}\n"),
                "/home/ops/.ssh/authorized_keys": file(f"ssh-ed25519 AAAA{name} me@{name}\n", "0600"),
            },
            "unit": {"memcached.service": "enabled, running"},
            "port": {f"tcp {addresses[host]}:11211": "memcached"},
            "access": {"memcached.service IPAddressAllow": " ".join(f"{addresses[app]}/32" for app in pools["app"])},
            "user": {"ops": "number 1000; /home/ops; /bin/bash; no password"},
            "kernel": {"net.core.somaxconn": "4096", "kernel.threads-max": str(len(name))},
        }
        if host in pools["db"]:
            snapshot |= {
                "setting": {"max_connections": "200", "primary_conninfo": "" if host == "db1" else "somebody"},
                "schema": {"site: index story_idx": "CREATE INDEX story_idx ON story (id)"},
            }
        answers[host] = {"snapshot": snapshot, "faults": [], "known": known}
    return Side(
        name,
        answers,
        dict(masks.strings(secrets)),
        {host: {"cache_memory_mb": "{{ host_share }}", "host_share": len(name)} for host in hosts},
    )


@pytest.fixture(name="sides")
def sides_fixture() -> list[Any]:
    """Two environments that are as they were declared."""
    return [environment("staging", "192.0.2"), environment("production", "198.51.100")]


def undeclared(sides: list[Any], declared: list[dict[str, str]] | None = None) -> dict[tuple[str, str], Any]:
    """{(kind, name): Difference} that nobody declared."""
    return {
        (difference.kind, difference.name): difference
        for difference in comparison.compare(sides, DECLARED if declared is None else declared, DERIVED)
        if not difference.why
    }


def test_addresses_and_secrets_are_no_difference(sides: list[Any]) -> None:
    assert undeclared(sides) == {}
    assert undeclared(sides[:1]) == {}
    assert undeclared([sides[0], sides[0]]) == {}


def test_declared_differences_are_reported_with_the_reason(sides: list[Any]) -> None:
    declared = {
        f"{difference.kind} {difference.name}": difference
        for difference in comparison.compare(sides, DECLARED, DERIVED)
    }
    assert set(declared) == {"file /etc/memcached.conf", "setting primary_conninfo", "kernel kernel.threads-max"}
    assert all(difference.why for difference in declared.values())
    text = report.page("staging with production", list(declared.values()))
    assert "0 differences" in text
    assert "setting primary_conninfo: only a standby has somebody to follow" in text


def test_undeclared_differences_are_reported(sides: list[Any]) -> None:
    assert {"kernel kernel.threads-max", "setting primary_conninfo", "file /etc/memcached.conf"} <= {
        f"{kind} {name}" for kind, name in undeclared(sides, [])
    }


PLANTED = [
    ("app1", "package", "rsyslog", "8.2"),
    ("app1", "package", "tier-probe", "1.0"),
    ("app2", "file", "/etc/nginx/nginx.conf", file(f"{MANAGED}upstream pages {{\n}}\n")),
    ("app2", "file", "/etc/nginx/site.pem", file(KEY.format("another"), "0600", shown=False)),
    ("db1", "file", "/etc/hosts", file(f"{MANAGED}192.0.2.22 db1\n", "0666")),
    ("db2", "file", "/etc/cron.d/probe", file("* * * * * root true\n")),
    ("cache1", "unit", "memcached.service", "disabled, failed"),
    ("cache1", "port", "tcp 0.0.0.0:4444", "nc"),
    ("cache1", "access", "memcached.service IPAddressAllow", "0.0.0.0/0"),
    ("app2", "user", "mallory", "number 0; /root; /bin/bash; has a password"),
    ("db2", "kernel", "net.core.somaxconn", "128"),
    ("db2", "setting", "max_connections", "20"),
]


@pytest.mark.parametrize(
    ("host", "kind", "name", "value"), PLANTED, ids=[f"{kind} {name}" for _host, kind, name, _value in PLANTED]
)
def test_a_planted_difference_is_reported_on_either_side(
    sides: list[Any], host: str, kind: str, name: str, value: dict[str, Any] | str
) -> None:
    for side in sides:
        planted = copy.deepcopy(sides)
        planted[sides.index(side)].hosts[host]["snapshot"][kind][name] = value
        differences = undeclared(planted)
        assert list(differences) == [(kind, name)]
        assert any(hosts == [f"{side.name} {host}"] for _value, hosts in differences[kind, name].values)
        text = report.page("x", list(differences.values()))
        assert f"{kind} {name}" in text and f"{side.name} {host}" in text


def test_a_host_that_differs_within_a_group_is_reported(sides: list[Any]) -> None:
    sides[0].hosts["app2"]["snapshot"]["kernel"]["net.core.somaxconn"] = "128"
    assert undeclared(sides[:1])["kernel", "net.core.somaxconn"].values == [("128", ["app2"]), ("4096", ["app1"])]


def test_a_declaration_between_environments_does_not_apply_within_a_group(sides: list[Any]) -> None:
    sides[0].hosts["app2"]["snapshot"]["kernel"]["kernel.threads-max"] = "1"
    sides[0].hosts["app1"]["snapshot"]["file"]["/etc/memcached.conf"]["text"] += "-m 1\n"
    assert (
        set(undeclared(sides))
        == set(undeclared(sides[:1]))
        == {("kernel", "kernel.threads-max"), ("file", "/etc/memcached.conf")}
    )


def test_a_difference_of_size_may_be_declared(sides: list[Any]) -> None:
    larger = environment("production", "198.51.100", apps=3)
    assert undeclared([sides[0], larger], [*DECLARED, {"what": "pool hosts", "why": "staging is smaller"}]) == {}


def test_a_missing_index_is_reported(sides: list[Any]) -> None:
    for host in ("db1", "db2"):
        del sides[1].hosts[host]["snapshot"]["schema"]["site: index story_idx"]
    difference = undeclared(sides)["schema", "site: index story_idx"]
    assert difference.tier == "db"
    assert (comparison.ABSENT, ["production db1", "production db2"]) in difference.values


def test_a_fault_of_a_host_is_a_difference(sides: list[Any]) -> None:
    for host in ("app1", "app2"):
        sides[0].hosts[host]["faults"] = ["index story_idx of story is missing in the database"]
    assert undeclared(sides[:1])["fault", "index story_idx of story is missing in the database"].values == [
        ("yes", ["app1", "app2"])
    ]


def test_the_size_of_a_group_is_a_single_difference(sides: list[Any]) -> None:
    assert list(undeclared([sides[0], environment("production", "198.51.100", apps=4)])) == [("pool", "hosts")]


def test_a_silent_host_is_reported(
    sides: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sides[0].hosts["app2"] = {"unreachable": True, "msg": "…"}
    differences = comparison.compare(sides, DECLARED, DERIVED)
    assert report.publish("x", "parity", sides, differences, tmp_path / "parity.html") == 2
    assert "does not answer over SSH" in capsys.readouterr().out


def test_an_inventory_that_cannot_be_read_is_no_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 is for what differs: where nothing was looked at it is 2, from a thread too."""
    monkeypatch.setattr(parity.ansible, "ask", lambda *_what, **_more: {})
    monkeypatch.setattr(
        parity.ansible.subprocess,
        "run",
        lambda *_what, **_how: types.SimpleNamespace(returncode=1, stderr="no such group"),
    )
    monkeypatch.setattr(
        sys,
        "argv",
        ["parity.py", "parity", "--inventory", "inventories/staging.yml", "--other", "inventories/production.yml"],
    )
    with pytest.raises(SystemExit) as end:
        parity.main()
    assert end.value.code == 2 and "no such group" in capsys.readouterr().err


def test_no_secret_is_printed(
    sides: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever differs, and in whichever form the secret is there."""
    monkeypatch.chdir(tmp_path)
    secret, pin = sides[0].secrets["db_site_password"], sides[0].secrets["pin"]
    snapshot = sides[0].hosts["app1"]["snapshot"]
    snapshot["file"]["/etc/patroni/config.yml"] = file(f"{MANAGED}password: {secret}\npin: {pin}\nmore: yes\n")
    snapshot["file"]["/etc/leak"] = file(
        f"{masks.base64.b64encode(secret.encode()).decode()} {KEY.format('unknownKEY')}"
    )
    snapshot["file"]["/etc/shown"] = file("not for everybody", "0600", shown=False)
    snapshot["user"]["x"] = f"number 1001; /home/{secret}"
    snapshot["kernel"][secret] = "1"
    sides[0].hosts["app1"]["faults"] = [f"cannot log in with {secret}"]
    differences = comparison.compare(sides, DECLARED, DERIVED)
    assert report.publish("x", "parity", sides, differences, tmp_path / "parity.html") == 1
    for text in (capsys.readouterr().out, (tmp_path / "parity.html").read_text()):
        assert "/etc/leak" in text and "/etc/shown" in text and "more: yes" in text
        assert "secret db_site_password" in text
        for word in (
            *sides[0].secrets.values(),
            *sides[1].secrets.values(),
            "unknownKEY",
            "MHcCAQ",
            "not for everybody",
            pin,
            masks.hashlib.md5(secret.encode()).hexdigest(),
            masks.base64.b64encode(secret.encode()).decode(),
        ):
            assert word not in text


def test_the_page_loads_no_external_resources_and_escapes_answers(
    sides: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sides[0].hosts["app1"]["snapshot"]["user"]["<script>alert(1)</script>"] = "&"
    report.publish(
        "staging with production",
        "parity",
        sides,
        comparison.compare(sides, DECLARED, DERIVED),
        tmp_path / "parity.html",
    )
    page = (tmp_path / "parity.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page and "src=" not in page
    assert 'name="viewport"' in page
    assert "1 difference that nobody declared" in page


def test_the_page_has_a_heading_for_tiers_with_open_differences_only(sides: list[Any]) -> None:
    differences = [
        Difference("app", "unit", "a", [("x", ["app1"])]),
        Difference("app", "unit", "b", [("x", ["app1"])], "declared"),
        Difference("db", "unit", "c", [("x", ["db1"])], "declared"),
    ]
    page = report.html("x", sides, differences)
    assert (
        '<h2 id="app">app <small>1 difference</small></h2>' in page
        and '<a href="#app">app <small>1</small></a>' in page
    )
    assert page.count("<article>") == 1 and 'id="db"' not in page and "db: unit c" in page and "2 declared" in page


def test_hosts_of_a_group_are_listed_only_once() -> None:
    text = (
        'caches: ["<cache>:1", "<cache>:1"]\nserver_name <site> <site>;\nx {\n  # <db>\n  host <db>\n  # <db>\n  host <db>\n}\n'
        "{\n  a: <app>\n},\n{\n  a: <app>\n}\nplain\nplain"
    )
    assert masks.deduplicated(r"allow ^(<app>|<app>|<media>|<media>)$") == "allow ^(<app>|<media>)$"
    assert masks.deduplicated("<db>=http://<db>:1,<db>=http://<db>:1,<db>2") == "<db>=http://<db>:1,<db>2"
    assert (
        masks.deduplicated(text)
        == 'caches: ["<cache>:1"]\nserver_name <site>;\nx {\n  # <db>\n  host <db>\n}\n{\n  a: <app>\n}\nplain\nplain'
    )


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("file", "/etc/memcached.conf", "set by roles/memcached/templates/memcached.conf.j2; cache_memory_mb ("),
        ("file", "/etc/logrotate.d/rsyslog", "set by roles/rsyslog/templates/logrotate.j2"),
        ("file", "/usr/local/sbin/pgpool-follow", "set by roles/pgpool/files/pgpool-follow"),
        ("file", "/etc/systemd/system/memcached.service.d/tier.conf", "set by roles/memcached/tasks/main.yml"),
        ("file", "/etc/newsbudget/site.json", "set by roles/django/templates/site.json.j2"),
        ("file", "/etc/nobody", "nothing in this repository writes it"),
        ("package", "lighttpd-mod-webdav", "set by group_vars/all/tiers.yml:"),
        ("package", "tier-probe", "nothing in this repository names it"),
        ("port", "tcp <cache>:11211", "set by group_vars/all/ports.yml:"),
        ("pool", "patroni postgresql.parameters.max_connections", "set by roles/patroni/defaults/main.yml:"),
        ("schema", "newsbudget: index a", "set by the migrations of the release"),
    ],
)
def test_a_difference_names_the_file_or_variable_that_sets_the_value(
    sides: list[Any], kind: str, name: str, sentence: str
) -> None:
    for side in sides:
        for variables in side.variables.values():
            variables |= {"cache_memory_mb": side.name, "private_address": side.name}
    assert source.where(Difference("cache+quorum", kind, name, []), sides, source.Repository()).startswith(sentence)


def test_indirect_variables_of_a_template_are_named() -> None:
    values = {
        "cache_memory_mb": "{{ host_memory_mb | int }}",
        "host_memory_mb": "{{ ansible_facts.memtotal_mb * host_share }}",
        "host_share": 1,
        "other": 1,
    }
    assert source.differing("-m {{ cache_memory_mb }}", (values, values | {"host_share": 0.5, "other": 2})) == [
        "host_share"
    ]


def test_texts_are_compared_with_the_most_frequent_text() -> None:
    lines = comparison.text_diff({"a": "1\n2", "b": "1\n2", "c": "1\n3", "d": ""})
    assert [line for line in lines if line[:3] in ("---", "+++")] == ["--- a, b", "+++ d", "--- a, b", "+++ c"]
    assert "+3" in lines
    assert comparison.text_diff({"a": "1", "b": None}) == []


def test_a_long_list_of_hosts_is_shortened() -> None:
    assert comparison.several(list("abcde")) == "a, b, c, d, e"
    assert comparison.several(list("abcdefg")) == "a, b, c, d, 3 more"


def test_a_declaration_has_a_reason() -> None:
    for rule in DECLARED:
        assert (
            set(rule) - {"line", "only"} == {"what", "why"}
            and rule.get("only", "environments") == "environments"
            and len(rule["why"]) > 10
        ), rule
        assert rule["what"].split()[0] in KINDS
    assert all(set(rule) == {"what", "as"} for rule in DERIVED)


def test_results_of_a_dry_run_are_grouped_by_host() -> None:
    def task(name: str, **hosts: Any) -> dict[str, Any]:
        return {"task": {"name": name}, "hosts": hosts}

    output = {
        "plays": [
            {
                "tasks": [
                    task(
                        "base : Configure",
                        app1={
                            "changed": True,
                            "results": [
                                {"changed": True, "dest": "/etc/rsyslog.conf"},
                                {"changed": False, "dest": "/etc/x"},
                            ],
                        },
                        app2={"changed": False},
                    ),
                    task("Write", localhost={"changed": True}),
                    task("Ask", app2={"unreachable": True, "msg": "gone"}),
                ]
            }
        ]
    }
    assert parity.would_change(output) == ({"app1": ["base : Configure (/etc/rsyslog.conf)"]}, ["app2: Ask: gone"])


# ------------------------------------------------------------------ what a host tells of itself


def test_packages_are_listed_with_versions() -> None:
    assert host_snapshot.packages("ii \tnginx\t1.26-3\nhi \tlibc6:amd64\t2.41\nrc \told\t1\n") == {
        "nginx": "1.26-3",
        "libc6": "2.41 (held)",
    }


def test_only_unpackaged_and_edited_files_are_listed(tmp_path: pathlib.Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    etc = tmp_path / "etc"
    (etc / "ssh").mkdir(parents=True)
    for name, text in {
        "packaged": "as it came",
        "conffile": "as it came",
        "edited": "edited",
        "ours": f"{MANAGED}x",
        "ssh/ssh_host_key": "mine",
    }.items():
        (etc / name).write_text(text)
    (etc / "secret").write_text("for root")
    (etc / "secret").chmod(0o600)
    (etc / "blob").write_bytes(b"\0\1")
    (etc / "link").symlink_to("ours")
    (etc / "packaged-link").symlink_to("ours")
    digest = host_snapshot.hashlib.md5(b"as it came").hexdigest()
    (info / "a.md5sums").write_text(f"{digest}  etc/packaged\n")
    (info / "a.list").write_text("/etc/packaged\n/etc/packaged-link\n")
    (info.parent / "status").write_text(
        f"Package: a\nConffiles:\n /etc/conffile {digest}\n /etc/edited {digest} obsolete\n"
    )
    files = host_snapshot.files(["/etc"], str(tmp_path))
    assert set(files) == {"/etc/edited", "/etc/ours", "/etc/secret", "/etc/blob", "/etc/link"}
    assert files["/etc/link"]["link"] == "ours"
    assert files["/etc/ours"]["shown"] and not files["/etc/secret"]["shown"]
    assert "text" not in files["/etc/blob"]


def test_states_of_units_are_listed() -> None:
    listing = "nginx.service enabled enabled\nmunin-cron.service static -\nuser@.service static -\nssh.socket disabled enabled\ntmp.mount static -\n"
    shown = (
        "Id=nginx.service\nType=forking\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\nTriggeredBy=\n\n"
        "Id=munin-cron.service\nType=oneshot\nLoadState=loaded\nActiveState=activating\nUnitFileState=static\n\n"
        "Id=user@0.service\nType=notify\nLoadState=loaded\nActiveState=active\nUnitFileState=static\n\n"
        "Id=broken.service\nType=simple\nLoadState=loaded\nActiveState=failed\nUnitFileState=enabled\n\n"
        "Id=gone.service\nLoadState=not-found\nActiveState=inactive\n"
    )
    assert host_snapshot.units(listing, shown) == {
        "nginx.service": "enabled, running",
        "munin-cron.service": "static",
        "ssh.socket": "disabled",
        "broken.service": "enabled, failed",
    }


def test_timers_are_listed_without_the_remaining_time() -> None:
    shown = (
        "Id=a.timer\nTimersCalendar={ OnCalendar=hourly ; next_elapse=Wed 2026-11-25 09:00:00 UTC }\n"
        "TimersCalendar={ OnCalendar=daily ; next_elapse=Thu }\nTimersMonotonic=\nRandomizedDelayUSec=5min\n\nId=b.timer\n"
    )
    timers = host_snapshot.timers(shown)
    assert (
        "OnCalendar=hourly" in timers["a.timer"]
        and "OnCalendar=daily" in timers["a.timer"]
        and "5min" in timers["a.timer"]
    )
    assert "2026" not in timers["a.timer"] and "Thu" not in timers["a.timer"]
    assert timers["b.timer"] == ""


def test_listening_ports_are_listed() -> None:
    listing = (
        'tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=9,fd=6),("nginx",pid=8,fd=6))\n'
        'tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=7,fd=4),("systemd",pid=1,fd=9))\n'
        "udp UNCONN 0 0 127.0.0.11:41234 0.0.0.0:*\nudp UNCONN 0 0 0.0.0.0:51820%eth0 0.0.0.0:*\n"
        'tcp LISTEN 0 128 0.0.0.0:4949 0.0.0.0:* users:(("/usr/sbin/munin",pid=9,fd=4),("munin-node",pid=7,fd=4))\n'
        'udp UNCONN 0 0 10.0.0.1:123 0.0.0.0:* users:(("ntp",pid=1,fd=1))\n'
    )
    assert host_snapshot.ports(listing) == {
        "tcp 0.0.0.0:80": "nginx",
        "tcp [::]:22": "sshd systemd",
        "tcp 0.0.0.0:4949": "munin-node",
        "udp 10.0.0.1:123": "ntp",
    }


def test_access_rules_are_listed() -> None:
    shown = "Id=memcached.service\nIPAddressAllow=10.0.0.2/32 10.0.0.1/32\nIPAddressDeny=::/0 0.0.0.0/0\n\nId=ssh.service\nIPAddressAllow=\n"
    ruleset = "table ip filter {\n  tcp dport 22 counter packets 5 bytes 300 accept\n  ip daddr 127.0.0.11 dnat to 127.0.0.11:3\n}\n"
    assert host_snapshot.access(shown, ruleset) == {
        "memcached.service IPAddressAllow": "10.0.0.1/32 10.0.0.2/32",
        "memcached.service IPAddressDeny": "0.0.0.0/0 ::/0",
        "packet filter": "table ip filter {\n  tcp dport 22 accept\n}",
    }


def test_access_rules_of_unloaded_services_are_read_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = []

    def output(*command: str, **_how: int) -> str:
        commands.append(command)
        return "media-sync.service static -\nmedia-restore@.service static -\n" if "list-unit-files" in command else ""

    monkeypatch.setattr(host_snapshot, "output", output)
    host_snapshot.Snapshot([], {}).services()
    [command] = [command for command in commands if "Id,IPAddressAllow,IPAddressDeny" in command]
    assert command[-1] == "media-sync.service"


def test_users_and_groups_are_listed() -> None:
    users, groups = host_snapshot.users(
        "root:x:0:0::/root:/bin/bash\nops:x:1000:1000::/home/ops:/bin/bash\nwww:x:33:33::/var/www:/usr/sbin/nologin\n",
        "sudo:x:27:ops\nops:x:1000:\n",
        "root:*:1::::::\nops:$y$abc:1::::::\nwww:!:1::::::\n",
    )
    assert users == {
        "root": "number 0; /root; /bin/bash; no password",
        "ops": "number 1000; /home/ops; /bin/bash; has a password; also in sudo",
        "www": "/var/www; /usr/sbin/nologin; no password",
    }
    assert groups == {"sudo": "ops", "ops": ""}


def test_kernel_settings_are_listed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "net/core").mkdir(parents=True)
    (tmp_path / "net/core/somaxconn").write_text("4096\n")
    (tmp_path / "kernel/random").mkdir(parents=True)
    (tmp_path / "kernel/random/uuid").write_text("another one each time\n")
    settings = host_snapshot.kernel(str(tmp_path))
    assert set(settings) == {"release", "net.core.somaxconn"}


def test_a_release_is_compared_with_the_manifest(tmp_path: pathlib.Path) -> None:
    directory = tmp_path / "releases/1"
    directory.mkdir(parents=True)
    assert host_snapshot.release(tmp_path) == ({"current": "none"}, [])
    (tmp_path / "current").symlink_to("releases/1")
    for name in ("a", "b"):
        (directory / name).write_text(name)
    digest = host_snapshot.hashlib.sha256(b"a").hexdigest()
    (directory / "manifest.json").write_text(json.dumps({"files": {"a": digest, "b": digest, "c": digest}}))
    release, wrong = host_snapshot.release(tmp_path)
    assert release["current"] == "1" and len(release["manifest"]) == 64
    assert [
        "b of release 1 is not what was built" in wrong[0],
        "c of release 1 is missing" in wrong[1],
        len(wrong),
    ] == [True, True, 2]


def test_settings_of_pgpool_are_parsed() -> None:
    assert host_snapshot.pool_status(
        "name : num_init_children\nvalue: 26\ndesc : # of children\n\nname : max_pool\nvalue: 1\ndesc : x\n"
    ) == {"num_init_children": "26", "max_pool": "1"}


def test_nested_settings_are_flattened() -> None:
    assert host_snapshot.flat({"ttl": 20, "postgresql": {"parameters": {"x": "on"}}}) == {
        "ttl": "20",
        "postgresql.parameters.x": '"on"',
    }
