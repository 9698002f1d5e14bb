"""The way from the site to its database, as the site goes it: through the pgpool of each app host."""

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testinfra.host import Host
from tier import Tier

testinfra_hosts = ["ansible://app"]

# The password goes from the file to the environment of psql and is on no command line.
PASSWORD = "export PGPASSWORD=$(sed -n 's/^{user}:TEXT//p' /etc/pgpool2/pool_passwd)"


@pytest.fixture(scope="module")
def facts(tier: Tier) -> dict[str, Any]:
    """What the inventory says about the way to the database."""
    return tier.value(
        "dict(db=db_hosts, app=app_hosts, site=site_name, pool_port=pool_port, db_port=db_port,"
        " patroni_port=patroni_port)",
        tier.hosts("app")[0],
    ) | {"ssh": tier.environment.ssh}


def psql(facts: dict[str, Any], options: str = "", user: str | None = None) -> str:
    """A command line that runs psql through the pgpool of the host it runs on."""
    user = user or facts["site"]
    connection = f"host=127.0.0.1 port={facts['pool_port']} user={user} dbname={facts['site']} {options}"
    return f"{PASSWORD.format(user=user)}; psql -qAtwX {shlex.quote(connection)}"


@pytest.fixture
def sql(host: Host, facts: dict[str, Any]) -> Callable[..., str]:
    """Runs a statement as the site through this host's pgpool; the answer as text."""

    def run(statement: str) -> str:
        return host.check_output(psql(facts) + " -c %s", statement)

    return run


@pytest.fixture
def table(sql: Callable[..., str]) -> Iterator[str]:
    """An empty table of the site's, gone afterwards."""
    sql("drop table if exists tier_test; create table tier_test (id serial primary key, said text)")
    yield "tier_test"
    sql("drop table tier_test")


def primary(host: Host, facts: dict[str, Any]) -> str:
    """Address of the database that holds the lock."""
    return next(
        database["address"]
        for database in facts["db"]
        if host.run("curl -fs -o /dev/null http://%s:%s/primary", database["address"], str(facts["patroni_port"])).rc
        == 0
    )


def test_the_site_writes_and_reads(sql: Callable[..., str], table: str) -> None:
    sql(f"insert into {table} (said) values ('hello')")
    assert sql(f"select said from {table}") == "hello"


def test_reads_reach_every_database_and_writes_the_primary(
    host: Host, facts: dict[str, Any], sql: Callable[..., str], table: str
) -> None:
    once = psql(facts) + " -c 'select inet_server_addr()'"
    where = host.check_output("for i in $(seq 24); do %s & done; wait" % once).split()
    assert len(where) == 24
    assert set(where) == {database["address"] for database in facts["db"]}
    written = {sql(f"insert into {table} (said) values ('x') returning inet_server_addr()") for _ in range(6)}
    assert written == {primary(host, facts)}


def test_reads_with_a_request_id_as_comment_are_balanced(host: Host, facts: dict[str, Any]) -> None:
    """The site puts the request's id before each statement, as a comment."""
    once = psql(facts) + " -c '/* request=0123456789abcdef0123456789abcdef */ select inet_server_addr()'"
    where = host.check_output("for i in $(seq 24); do %s & done; wait" % once).split()
    assert len(where) == 24
    assert set(where) == {database["address"] for database in facts["db"]}


def test_a_transaction_reads_earlier_writes(sql: Callable[..., str], table: str) -> None:
    for _ in range(10):
        assert (
            sql(
                f"begin; delete from {table}; insert into {table} (said) values ('mine'); "
                f"select count(*) from {table}; commit"
            )
            == "1"
        )


def test_wrong_passwords_and_other_users_are_refused(host: Host, facts: dict[str, Any]) -> None:
    wrong = host.run("export PGPASSWORD=wrong; " + psql(facts).split("; ", 1)[1] + " -c 'select 1'")
    assert wrong.rc == 2
    assert "password" in wrong.stderr
    other = host.run(psql(facts, user="postgres") + " -c 'select 1'")
    assert other.rc == 2


@pytest.mark.parametrize("method", ["password", "md5", "none"])
def test_only_scram_is_accepted(host: Host, facts: dict[str, Any], method: str) -> None:
    assert host.run(psql(facts, "require_auth=scram-sha-256") + " -c 'select 1'").rc == 0
    refused = host.run(psql(facts, f"require_auth={method}") + " -c 'select 1'")
    assert refused.rc == 2
    # And so do the databases behind it.
    for database in facts["db"]:
        direct = psql(facts, f"host={database['address']} port={facts['db_port']} require_auth=%s") + " -c 'select 1'"
        assert host.run(direct.replace("%s", method)).rc == 2
        assert host.run(direct.replace("%s", "scram-sha-256")).rc == 0


def test_sessions_over_the_limit_wait(host: Host, facts: dict[str, Any], sql: Callable[..., str]) -> None:
    children = int(sql("pgpool show num_init_children"))
    held = psql(facts) + " -c 'select 1 from pg_sleep(0.5)'"
    said = host.check_output("for i in $(seq %s); do %s & done; wait" % (children + 5, held))
    assert said.split() == ["1"] * (children + 5)


def test_connections_of_all_pgpools_fit_max_connections(
    host: Host, facts: dict[str, Any], sql: Callable[..., str]
) -> None:
    children = int(sql("pgpool show num_init_children"))
    room = int(
        sql(
            "select setting::int - current_setting('superuser_reserved_connections')::int from pg_settings where name = 'max_connections'"
        )
    )
    assert children * len(facts["app"]) <= room


@pytest.mark.apart("app", "db")
def test_pgpool_listens_on_localhost_only(host: Host, facts: dict[str, Any]) -> None:
    pcp_port = 9898
    own = [line.split()[3].rpartition(":") for line in host.check_output("ss -Hltn").splitlines()]
    heard = {(where, int(port)) for where, _, port in own if int(port) in (facts["pool_port"], pcp_port)}
    assert heard == {("127.0.0.1", facts["pool_port"]), ("127.0.0.1", pcp_port)}


def test_the_site_cannot_read_the_passwords_of_pgpool(host: Host) -> None:
    for name in ("pool_passwd", "pcppass", "pcp.conf"):
        assert host.run("su -s /bin/sh www-data -c %s", f"cat /etc/pgpool2/{name}").rc != 0


def test_pgpool_restarts_after_a_crash(host: Host, facts: dict[str, Any]) -> None:
    host.check_output("systemctl kill --signal=KILL --kill-whom=main pgpool2")
    deadline = time.monotonic() + 20
    while host.run(psql(facts) + " -c 'select 1'").rc != 0:
        assert time.monotonic() < deadline
    assert host.service("pgpool-follow").is_running


class Session:
    """psql on a host, kept open: one statement at a time, as the site."""

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [*facts["ssh"](name), "sudo sh -c " + shlex.quote(psql(facts))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, statement: str) -> str:
        """The first column of the first row of the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(statement + ";\n")
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        """End the session, once."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


def test_a_committed_row_is_read_at_once_on_every_app_host(host: Host, facts: dict[str, Any], table: str) -> None:
    name = host.check_output("hostname")
    writer = Session(name, facts)
    sessions = [writer]
    readers: dict[tuple[str, str], Session] = {}
    try:
        for other in [host["name"] for host in facts["app"]]:
            # A session reads from one database: open some until all databases are read from.
            while {server for peer, server in readers if peer == other} != {each["address"] for each in facts["db"]}:
                assert len(sessions) < 40
                session = Session(other, facts)
                sessions.append(session)
                server = session.ask("select inet_server_addr()")
                if readers.setdefault((other, server), session) is not session:
                    session.close()
        stale = 0
        for _ in range(100):
            written = writer.ask(f"insert into {table} (said) values ('now') returning id")
            for reader in readers.values():
                stale += reader.ask(f"select count(*) from {table} where id = {written}") != "1"
        assert stale == 0
    finally:
        for session in sessions:
            if session.process.stdin and not session.process.stdin.closed:
                session.close()
