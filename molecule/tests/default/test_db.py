"""The databases: one primary, standbys its commits wait for, and nobody in who is not listed."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from fixtures import OnHost
from testinfra.host import Host
from tier import Tier

testinfra_hosts = ["ansible://db"]


@pytest.fixture(scope="module")
def facts(tier: Tier) -> dict[str, Any]:
    """What the inventory says about this tier."""
    return tier.value(
        "dict(db=db_hosts, app=app_hosts, monitor=monitor_hosts, quorum=quorum_hosts, site=site_name,"
        " db_port=db_port, patroni_port=patroni_port, etcd=etcd_client_port, etcd_peer=etcd_peer_port, etcd_metrics=etcd_metrics_port, patroni_tls=hostvars[groups['db'][0]].patroni_tls,"
        " share=host_share, connections=db_max_connections)",
        tier.hosts("db")[0],
    )


@pytest.fixture
def sql(host: Host) -> Callable[..., str]:
    """Runs a statement on this host as the superuser; the answer as text."""

    def run(statement: str, database: str = "postgres") -> str:
        return host.check_output("su postgres -c %s", f'psql -qAtX -d {database} -c "{statement}"')

    return run


def address(host: Host, facts: dict[str, Any]) -> str:
    """Private address of the host under test."""
    name = host.check_output("hostname")
    return next(database["address"] for database in facts["db"] if database["name"] == name)


def cluster(host: Host, facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{member name: its description} as this host's Patroni sees it."""
    url = f"http://{address(host, facts)}:{facts['patroni_port']}/cluster"
    return {member["name"]: member for member in json.loads(host.check_output("curl -fsS %s", url))["members"]}


def is_primary(host: Host, facts: dict[str, Any]) -> bool:
    return cluster(host, facts)[host.check_output("hostname")]["role"] == "leader"


def test_a_single_primary_and_synchronous_standbys(host: Host, facts: dict[str, Any], sql: Callable[..., str]) -> None:
    members = cluster(host, facts)
    assert set(members) == {database["name"] for database in facts["db"]}
    roles = sorted(member["role"] for member in members.values())
    assert roles == ["leader"] + ["sync_standby"] * (len(facts["db"]) - 1)
    assert (sql("select pg_is_in_recovery()") == "f") == is_primary(host, facts)


def test_commits_wait_for_remote_apply_on_every_standby(
    host: Host, facts: dict[str, Any], sql: Callable[..., str]
) -> None:
    assert sql("show synchronous_commit") == "remote_apply"
    if is_primary(host, facts):
        states = sql(
            "select application_name, state, sync_state from pg_stat_replication where application_name <> 'pg_basebackup'"
        )
        own = host.check_output("hostname")
        assert sorted(states.splitlines()) == sorted(
            f"{database['name']}|streaming|sync" for database in facts["db"] if database["name"] != own
        )
    else:
        assert sql("select status from pg_stat_wal_receiver") == "streaming"


def test_expired_sessions_are_removed_by_the_primary_alone(
    host: Host, facts: dict[str, Any], sql: Callable[..., str]
) -> None:
    sessions = "public.django_session"
    if is_primary(host, facts):
        sql(
            f"insert into {sessions} select 'retention_' || day, '', now() + day * interval '1 day' from generate_series(-3, 1) day"
            " on conflict do nothing",
            facts["site"],
        )
    host.check_output("systemctl start site-retention")
    log = host.check_output("journalctl --unit=site-retention --output=cat --no-pager --lines=20")
    if is_primary(host, facts):
        left = sql(f"delete from {sessions} where session_key like 'retention_%' returning session_key", facts["site"])
        assert left == "retention_1" and "django_session: " in log
    else:
        assert "this database is a standby" in log
    assert host.check_output("systemctl is-active site-retention.timer") == "active"


def test_every_database_host_has_the_database_of_the_site(sql: Callable[..., str], facts: dict[str, Any]) -> None:
    assert sql(f"select count(*) from pg_database where datname = '{facts['site']}'") == "1"


@pytest.mark.apart("db", "app", "cache")
def test_memory_settings_fit_the_host(host: Host, facts: dict[str, Any], sql: Callable[..., str]) -> None:
    memory = int(host.check_output("awk '/^MemTotal/ {print $2}' /proc/meminfo")) * 1024 * facts["share"]

    def size(name: str) -> int:
        return int(sql(f"select pg_size_bytes(current_setting('{name}'))"))

    assert 0.2 * memory < size("shared_buffers") < 0.3 * memory
    assert 0.6 * memory < size("effective_cache_size") < 0.8 * memory
    assert size("shared_buffers") + facts["connections"] * size("work_mem") < memory
    assert sql("show max_connections") == str(facts["connections"])
    # Patroni's word: PostgreSQL also counts recovery targets, which a primary has no use for.
    assert not [name for name, member in cluster(host, facts).items() if member.get("pending_restart")]


def test_data_checksums_are_on(sql: Callable[..., str]) -> None:
    assert sql("show data_checksums") == "on"


def test_pg_stat_statements_counts_calls(host: Host, facts: dict[str, Any], sql: Callable[..., str]) -> None:
    if not is_primary(host, facts):
        assert sql("select count(*) >= 0 from public.pg_stat_statements") == "t"
        return
    counted = (
        "select coalesce(sum(calls), 0) from public.pg_stat_statements where query like 'select \\$1 as tier_counted%'"
    )
    before = int(sql(counted.replace("\\$", "_")))
    for _ in range(3):
        sql("select 1 as tier_counted")
    assert int(sql(counted.replace("\\$", "_"))) == before + 3


def test_pg_hba_allows_scram_from_listed_hosts_only(facts: dict[str, Any], sql: Callable[..., str]) -> None:
    rules = [json.loads(line) for line in sql("select row_to_json(r) from pg_hba_file_rules r").splitlines()]
    assert not [rule for rule in rules if rule["error"]]
    local = [rule for rule in rules if rule["type"] == "local"]
    assert {rule["auth_method"] for rule in local} == {"peer"}
    remote = [rule for rule in rules if rule["type"] != "local"]
    assert {rule["auth_method"] for rule in remote} == {"scram-sha-256"}
    assert {rule["netmask"] for rule in remote} == {"255.255.255.255"}

    def allowed(user: str) -> set[str]:
        return {rule["address"] for rule in remote if user in rule["user_name"]}

    databases, apps, monitors = ({each["address"] for each in facts[tier]} for tier in ("db", "app", "monitor"))
    assert allowed("replicator") == allowed("rewinder") == databases
    assert allowed(facts["site"]) == apps
    assert allowed("monitor") == apps | monitors
    assert not allowed("postgres") and not allowed("all")
    assert sql("select count(*) from pg_authid where rolpassword not like 'SCRAM-SHA-256%'") == "0"


@pytest.mark.apart("app", "db")
def test_pg_hba_refuses_other_hosts(host: Host, facts: dict[str, Any]) -> None:
    own = address(host, facts)
    for peer in facts["db"]:
        for user in (facts["site"], "monitor", "postgres"):
            refused = host.run(
                "psql -w -h %s -p %s -U %s -d %s -c 'select 1'",
                peer["address"],
                str(facts["db_port"]),
                user,
                facts["site"],
            )
            assert refused.rc == 2
            assert f'no pg_hba.conf entry for host "{own}"' in refused.stderr


def test_roles_have_least_privileges(facts: dict[str, Any], sql: Callable[..., str]) -> None:
    flags = "rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls"
    assert sql(f"select count(*) from pg_roles where rolname in ('{facts['site']}', 'monitor') and ({flags})") == "0"
    assert sql(f"select has_database_privilege('monitor', '{facts['site']}', 'CREATE, TEMPORARY')") == "f"
    assert sql("select pg_has_role('monitor', 'pg_monitor', 'USAGE')") == "t"
    # Nobody else may even connect.
    # An entry without a name would be everybody's.
    assert not any(
        entry.startswith("=")
        for entry in sql(
            f"select array_to_string(datacl, ',') from pg_database where datname = '{facts['site']}'"
        ).split(",")
    )


@pytest.mark.parametrize(
    ("group", "ports"), [("db", ["db_port", "patroni_port"]), ("quorum", ["etcd", "etcd_peer", "etcd_metrics"])]
)
def test_databases_and_etcd_listen_on_private_addresses_only(
    on: OnHost, facts: dict[str, Any], group: str, ports: list[str]
) -> None:
    expected = {facts[port] for port in ports}
    for member in facts[group]:
        listening = {
            line.split()[3].rpartition(":")[::2] for line in on(member["name"]).check_output("ss -Hltn").splitlines()
        }
        heard = {(where, int(port)) for where, port in listening if int(port) in expected}
        assert {where for where, _ in heard} <= {member["address"], "127.0.0.1"}
        assert {port for where, port in heard if where == member["address"]} == expected


def test_the_api_of_patroni_requires_the_password(host: Host, facts: dict[str, Any]) -> None:
    for database in facts["db"]:
        code = host.check_output(
            "curl -s -o /dev/null -w '%%{http_code}' -X POST http://%s:%s/reload",
            database["address"],
            str(facts["patroni_port"]),
        )
        assert code == "401"


def test_etcd_requires_certificate_and_password_and_every_member_is_healthy(host: Host, facts: dict[str, Any]) -> None:
    certified = "--cacert {0}/ca.pem --cert {0}/certificate.pem --key {0}/key.pem".format(facts["patroni_tls"])
    for member in facts["quorum"]:
        url = f"https://{member['address']}:{facts['etcd']}/v3/kv/range"
        ask = f'curl -s -m 5 -d \'{{"key": "AA==", "range_end": "AA=="}}\' {url}'
        assert "user name is empty" in host.check_output(f"{ask} {certified}")
        for uncertified in (ask + " --insecure", ask.replace("https:", "http:")):
            assert host.run(uncertified).rc in (52, 56), uncertified  # no answer; an alert instead of one
        # A database is a client and no member.
        assert host.run(f"curl -s -m 5 {certified} https://{member['address']}:{facts['etcd_peer']}/members").rc == 56
        assert (
            json.loads(host.check_output(f"curl -fsS http://{member['address']}:{facts['etcd_metrics']}/health"))[
                "health"
            ]
            == "true"
        )


def test_etcd_is_reached_from_databases_members_and_the_monitor_only(
    on: OnHost, tier: Tier, facts: dict[str, Any]
) -> None:
    doors = " ".join(
        f"{member['address']}/{facts[port]}"
        for member in facts["quorum"]
        for port in ("etcd", "etcd_peer", "etcd_metrics")
    )
    knock = (
        f"for door in {doors}; do (timeout 0.5 bash -c 'exec 3<>/dev/tcp/'$door && echo $door) 2>/dev/null & done; wait"
    )
    need = {name for group in ("db", "quorum", "monitor") for name in tier.hosts(group)}
    for name in sorted(set(tier.hosts("all")) - need):
        assert on(name).check_output(knock) == "", name
    assert len(on(tier.hosts("db")[0]).check_output(knock).split()) == 3 * len(facts["quorum"])


def test_the_cluster_of_the_debian_package_is_masked(host: Host) -> None:
    assert host.check_output("systemctl is-enabled postgresql || true") == "masked"
    assert not host.file("/var/lib/postgresql/17/main/postmaster.pid").exists


def test_patroni_uses_no_watchdog(host: Host) -> None:
    """It would reset the host with all that it does besides."""
    told = host.check_output(
        "journalctl --quiet --output cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID patroni)"
    )
    assert told and "watchdog" not in told


def test_patroni_restarts_after_a_crash_without_a_failover(
    host: Host, facts: dict[str, Any], sql: Callable[..., str]
) -> None:
    before = {name: member["role"] for name, member in cluster(host, facts).items()}
    started = sql("select pg_postmaster_start_time()")
    host.check_output("systemctl kill --signal=KILL --kill-whom=main patroni")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        url = f"http://{address(host, facts)}:{facts['patroni_port']}/health"
        if (
            host.run("curl -fs %s", url).rc == 0
            and {name: member["role"] for name, member in cluster(host, facts).items()} == before
        ):
            break
    assert {name: member["role"] for name, member in cluster(host, facts).items()} == before
    assert sql("select pg_postmaster_start_time()") == started
