"""Logs in one place: every service's, complete, a request followed through all of them, nobody else let in, nothing without bounds."""

import concurrent.futures
import datetime
import functools
import json
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import requests
from fixtures import Make
from target import Target
from tier import Tier, inside, search

# What logs by the journal, on the hosts of each group. The balancers' engine comes besides.
SERVICES = {
    "all": ["ssh", "munin-node", "rsyslog", "systemd-journald"],
    "lb": ["keepalived", "balancer-watch", "backend-watch"],
    "app": ["apache2", "pgpool2", "pgpool-follow"],
    "media": ["lighttpd", "media-sync"],
    "cache": ["memcached"],
    "db": ["patroni"],
    "quorum": ["etcd"],
    "monitor": ["nginx", "munin-cron", "nagios4", "goaccess"],
    "backup": ["pgbackrest", "restic-rest-server", "tier-backup@look"],
}
OFFER = b"relp_version=0\nrelp_software=test\ncommands=syslog"
AWAY = 300  # lines that each host writes while the monitor is off: more than are under way to it at any time
SLOW_S = (
    2.5  # seconds a statement is held up: more than PostgreSQL lets pass unlogged, less than a balancer has patience
)


Certified = Callable[[str, str, str], tuple[pathlib.Path, pathlib.Path]]  # (name, certificate, key): their files


@pytest.fixture(name="monitor", scope="module")
def monitor_fixture(target: Target) -> str:
    """The host that keeps the lines."""
    return target.groups["monitor"][0]


@pytest.fixture(name="kept", scope="module")
def kept_fixture(target: Target, tier: Tier, monitor: str) -> Callable[..., list[str]]:
    """kept(text, "app1", "db1") is the lines with a text that the monitor has of some hosts, or of all, rotated yesterday at the most."""
    directory = tier.value("log_dir")

    def kept(text: str, *hosts: str) -> list[str]:
        files = [f"{directory}/{host}.log{end}" for host in hosts or target.groups["all"] for end in (".1", "")]
        return target.run(
            monitor, "sh", "-c", 'text=$1; shift; grep -hsF -e "$text" "$@"; true', "sh", text, *files
        ).splitlines()

    return kept


@pytest.fixture(name="await_lines", scope="module")
def await_lines_fixture(target: Target, tier: Tier, monitor: str) -> Callable[..., None]:
    """await_lines({host: words}) awaits that the monitor has, of each host, lines with each of these words."""
    directory = tier.value("log_dir")
    search = 'log=$1; shift; for words; do grep -qsF -e "$words" "$log.1" "$log" || printf "%s\\n" "$words"; done'

    def await_lines(wanted: dict[str, list[str]], seconds: int = 30) -> None:
        def missing() -> str:
            left = {
                host: target.run(monitor, "sh", "-c", search, "sh", f"{directory}/{host}.log", *words)
                for host, words in wanted.items()
            }
            return "; ".join(f"{host}: {words}" for host, words in left.items() if words)

        target.await_no_problem(missing, "lines", seconds)

    return await_lines


@pytest.fixture(name="web")
def web_fixture(tier: Tier, monitor: str, visitor: requests.Session) -> Callable[..., requests.Response]:
    """web("/requests/") asks the monitor for a page, with its password."""
    root = f"https://{tier.address(monitor)}:{tier.value('monitor_port')}"
    password = tier.value("monitor_password", host=monitor)

    def web(path: str, auth: tuple[str, str] | None = ("munin", password)) -> requests.Response:
        return visitor.get(root + path, auth=auth, timeout=10)

    return web


@pytest.fixture(autouse=True, scope="module")
def healthy_before_and_after(target: Target) -> Iterator[None]:
    """Whole before and after."""
    target.await_healthy()
    yield
    target.await_healthy()


def timestamp(line: str) -> float:
    """When a line was written, in seconds since 1970."""
    return datetime.datetime.fromisoformat(line.partition(" ")[0]).timestamp()


def plain(message: str | list[int]) -> str:
    """The beginning of a journal entry's message, as far as a log has it unchanged."""
    text = message if isinstance(message, str) else bytes(message).decode(errors="replace")
    return re.split(r"[\x00-\x1f\ufffd]", text)[0][:100]


# ------------------------------------------------------------------ everything arrives


def test_lines_of_every_service_arrive(target: Target, await_lines: Callable[..., None]) -> None:
    services = {**SERVICES, "lb": [*SERVICES["lb"], target.engine]}
    wanted = {}
    for host in target.groups["all"]:
        units = [unit for group, some in services.items() if host in target.groups[group] for unit in some]
        newest = target.on(
            host, f"for unit in {' '.join(units)}; do journalctl --quiet --unit $unit --lines 1 --output json; done"
        ).splitlines()
        assert len(newest) == len(units), f"not each of {', '.join(units)} of {host} has said anything: {newest}"
        wanted[host] = [plain(json.loads(line)["MESSAGE"]) for line in newest]
    await_lines(wanted)


def test_lines_of_a_request_arrive_from_balancers_and_backends(
    target: Target, kept: Callable[..., list[str]], tier: Tier, visitor: requests.Session
) -> None:
    """Mostly at once. A line was once seen to come more than 20 s late, just before its host's next one; the monitor asks each host something once a minute."""

    def lines_of(request_id: str, hosts: list[str], program: str) -> list[str]:
        return [line for line in kept(request_id, *hosts) if line.split()[2] == f"{program}:"]

    page = visitor.get(tier.url, timeout=10)
    style = search(r'href="(/static/[^"]+\.css)"', page.text)[1]
    file = visitor.get(tier.url + style, timeout=10)
    for answer, group, name in ((page, "app", "apache2-access"), (file, "media", "lighttpd-access")):
        known_as = answer.headers["X-Request-Id"]
        for hosts, begins in ((target.groups["lb"], f"{target.engine}-access"), (target.groups[group], name)):
            target.wait(
                functools.partial(lines_of, known_as, hosts, begins),
                f"{begins} with {known_as}",
                90,
            )


def test_slow_statements_of_the_database_arrive(target: Target, kept: Callable[..., list[str]]) -> None:
    token = uuid.uuid4().hex
    target.sql(f"select pg_sleep(0.6) /* {token} */")
    primary = target.primary()
    line, *_ = target.wait(lambda: kept(token, primary), f"the statement of {primary}", 20)
    assert "duration: " in line and line.split()[1] == primary


def test_logins_of_every_host_arrive(target: Target, kept: Callable[..., list[str]], tier: Tier) -> None:
    begun = time.time()
    for host in target.groups["all"]:
        command = [*tier.environment.ssh(host), "sudo true"]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)

    def missing() -> str:
        return ", ".join(
            f"{words} on {host}"
            for host in target.groups["all"]
            for words in ("Accepted publickey for ", "session opened for user root")
            if not any(timestamp(line) >= begun - 1 for line in kept(words, host))
        )

    target.await_no_problem(missing, "line", 30)


def test_the_release_log_arrives(target: Target, kept: Callable[..., list[str]]) -> None:
    def release_lines(written: str, host: str) -> list[str]:
        return [line for line in kept(written, host) if " releases" in line]

    for host in target.groups["app"]:
        written = target.on(host, "tail --lines 1 /var/log/releases.jsonl")
        target.wait(
            functools.partial(release_lines, written, host),
            f"{written} of {host}",
            20,
        )


def test_lines_written_while_the_monitor_is_down_arrive(
    target: Target, kept: Callable[..., list[str]], tier: Tier, visitor: requests.Session, monitor: str
) -> None:
    token = uuid.uuid4().hex[:8]
    others = [host for host in target.groups["all"] if host != monitor]
    target.kill(monitor)
    try:
        for host in others:
            target.on(host, f"seq --format 'away-{token}-%.0f' {AWAY} | logger --tag tier-away")
        answers = [visitor.get(f"{tier.url}/about/?format=json&{token}", timeout=20) for _ in range(20)]
    finally:
        target.start(monitor)
    sent = set(map(str, range(1, AWAY + 1)))

    def missing() -> str:
        left = {host: sent - {line.rpartition("-")[2] for line in kept(f"away-{token}-", host)} for host in others}
        return "; ".join(
            f"{len(numbers)} of {host}, {min(numbers, key=int)} first" for host, numbers in left.items() if numbers
        )

    target.await_no_problem(missing, "lines", 180)

    def unfollowed() -> str:
        lines = kept(token, *target.groups["lb"]) + kept(token, *target.groups["app"])
        ids = {answer.headers["X-Request-Id"] for answer in answers}
        return ", ".join(one for one in ids if len({line.split()[2] for line in lines if one in line}) < 2)

    target.await_no_problem(unfollowed, "balancer's and Apache's line", 60)
    target.await_healthy()
    print(f"{len(others) * AWAY} lines and {len(answers)} requests, none lost")


# ------------------------------------------------------------------ a request is followed


# What the disk has of rsyslog's place in the journal after a power cut: nothing, or that of an entry which the journal lost.
@pytest.mark.parametrize(
    "damage", ["truncate --size 0", "sed -i 's/;i=[0-9a-f]*;/;i=ffffffff;/; s/;x=.*/;x=1/'"], ids=["empty", "lost"]
)
def test_a_power_cut_duplicates_and_loses_no_line(target: Target, kept: Callable[..., list[str]], damage: str) -> None:
    host, (before, meanwhile) = target.groups["app"][-1], (uuid.uuid4().hex for _ in range(2))
    target.on(host, f"logger {before}")
    target.wait(lambda: kept(before, host), "line before the power cut", 30)
    target.on(
        host,
        f"systemctl stop rsyslog && {damage} /var/spool/rsyslog/imjournal.state; logger {meanwhile}; systemctl start rsyslog",
    )
    target.wait(lambda: kept(meanwhile, host), "line after the power cut", 30)
    assert [len(kept(words, host)) for words in (before, meanwhile)] == [1, 1]


def test_make_logs_follows_a_request_from_balancer_to_database(
    target: Target, kept: Callable[..., list[str]], make: Make, tier: Tier, visitor: requests.Session
) -> None:
    known_as = uuid.uuid4().hex
    # Two requests of one story: a page that waits for the database to take its session, and one that is not there.
    hold = threading.Thread(
        target=target.sql,
        args=(f"begin; lock table django_session in exclusive mode; select pg_sleep({SLOW_S}); commit",),
    )
    hold.start()
    target.wait(
        lambda: target.sql(
            "select 1 from pg_locks where relation = 'django_session'::regclass and mode = 'ExclusiveLock' and granted"
        ),
        "lock",
        10,
    )
    page = visitor.get(f"{tier.url}/visits/?format=json", headers={"X-Request-Id": known_as}, timeout=20)
    hold.join()
    none = visitor.get(f"{tier.url}/none-{known_as}", headers={"X-Request-Id": known_as}, timeout=20)
    assert (page.status_code, none.status_code) == (200, 404)
    assert page.headers["X-Request-Id"] == none.headers["X-Request-Id"] == known_as

    wanted = {
        "the balancer's": rf"^\S+ \S+ {target.engine}-access: .*\"request_id\":\"{known_as}\"",
        "Apache's": rf"^\S+ \S+ apache2-access: .* {known_as} ",
        "Django's": rf"^\S+ \S+ apache2\S*: .*WARNING django\.request \[{known_as}\] Not Found",
        "PostgreSQL's": rf"^\S+ \S+ patroni\S*: .*duration: .*/\* request={known_as} \*/ ",
    }

    def missing(lines: str) -> str:
        return ", ".join(name for name, pattern in wanted.items() if not re.search(pattern, lines, re.MULTILINE))

    target.await_no_problem(
        lambda: missing("\n".join(kept(known_as, *target.groups["lb"], *target.groups["app"], *target.groups["db"]))),
        "line of the request",
        60,
    )
    done = make("logs", f"REQUEST={known_as}")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and missing(done.stdout) == ""
    assert all(known_as in line for line in lines)
    assert [timestamp(line) for line in lines] == sorted(map(timestamp, lines))
    hosts = {line.split()[1] for line in lines}
    assert all(hosts & set(target.groups[group]) for group in ("lb", "app", "db")), hosts


def test_make_logs_selects_lines_by_host_and_unit(target: Target, await_lines: Callable[..., None], make: Make) -> None:
    host, other = target.groups["app"][0], target.groups["app"][-1]
    token = uuid.uuid4().hex
    for name in (host, other):
        target.on(name, f"logger --tag tier-probe {token}")
    await_lines({host: [token], other: [token]})
    lines = make("logs", f"HOST={host}", "UNIT=tier-probe", "SINCE=5m").stdout.splitlines()
    assert any(token in line for line in lines)
    assert {line.split()[1] for line in lines} == {host}
    assert all(line.split()[2].startswith("tier-probe") for line in lines)


def test_invalid_search_arguments_are_refused(make: Make) -> None:
    done = make("logs", "SINCE=yesterday")
    assert done.returncode != 0 and "is no moment" in done.stdout + done.stderr


# ------------------------------------------------------------------ nobody else gets in


def answered(address: str, port: int, context: ssl.SSLContext | None = None) -> bool:
    """Whether the monitor takes up RELP with whoever asks like this."""
    try:
        with socket.create_connection((address, port), timeout=10) as connection:
            if context:
                connection = context.wrap_socket(connection)
            connection.sendall(b"1 open %d %s\n" % (len(OFFER), OFFER))
            return connection.recv(100).startswith(b"1 rsp")
    except OSError:  # TLS refused among them
        return False


def openssl(*arguments: str | pathlib.Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(name="certified")
def certified_fixture(tmp_path: pathlib.Path) -> Certified:
    """certified("app1", authority's certificate and key) is what a client of that name has: its certificate and key."""

    def certified(name: str, certificate: str, key: str) -> tuple[pathlib.Path, pathlib.Path]:
        paths = {
            part: tmp_path / f"{name}.{part}"
            for part in ("key", "request", "certificate", "authority", "authority-key")
        }
        paths["authority"].write_text(certificate)
        paths["authority-key"].write_text(key)
        openssl(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            str(paths["key"]),
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-out",
            str(paths["request"]),
        )
        openssl(
            "x509",
            "-req",
            "-in",
            str(paths["request"]),
            "-CA",
            str(paths["authority"]),
            "-CAkey",
            str(paths["authority-key"]),
            "-CAcreateserial",
            "-copy_extensions",
            "copy",
            "-days",
            "1",
            "-out",
            str(paths["certificate"]),
        )
        return paths["certificate"], paths["key"]

    return certified


def test_rsyslog_accepts_hosts_of_the_environment_only(
    target: Target, tier: Tier, monitor: str, certified: Certified
) -> None:
    address, port = tier.address(monitor), tier.value("log_port")
    own = tier.value("[log_ca_certificate, log_ca_key]", host=monitor)
    other = tier.value("[backup_ca_certificate, backup_ca_key]", host=monitor)

    def context(certificate: tuple[pathlib.Path, pathlib.Path] | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=own[0])
        made.check_hostname = False
        if certificate:
            made.load_cert_chain(*certificate)
        return made

    host = target.groups["app"][0]
    assert answered(address, port, context(certified(host, *own)))
    assert not answered(address, port)
    assert not answered(address, port, context())
    assert not answered(address, port, context(certified("stranger", *own)))
    assert not answered(address, port, context(certified(host, *other)))


def test_hosts_send_lines_to_the_monitor_only(target: Target, tier: Tier, monitor: str) -> None:
    """What they send to is the monitor by its certificate, whoever has its address."""
    for host in target.groups["all"]:
        if host != monitor:
            sent = target.on(host, "grep -A8 'type=\"omrelp\"' /etc/rsyslog.conf")
            assert f'tls.authMode="name" tls.permittedPeer=["{monitor}"]' in sent
            assert target.on(host, "stat -c '%a %U' /etc/log-tls/key.pem") == "640 root"
            way = f"ss -Htn state established dst {tier.address(monitor)}:{tier.value('log_port')}"
            target.wait(functools.partial(target.on, host, way), f"way from {host} to {monitor}", 60)


# ------------------------------------------------------------------ nothing grows without end


def test_logs_of_the_monitor_are_bounded(target: Target, tier: Tier, monitor: str) -> None:
    directory, days, size = tier.value("[log_dir, log_days, log_max]")
    probe = f"{directory}/tier-probe.log"

    def rotated(*options: str) -> set[str]:
        target.on(monitor, f"logrotate --state /run/tier-probe.state {' '.join(options)} /etc/logrotate.d/rsyslog")
        return set(target.on(monitor, f"ls {directory} | grep tier-probe").split())

    try:
        # As many files as there may be, and one more.
        target.on(
            monitor,
            f"echo newest > {probe}; echo second > {probe}.1; for n in $(seq 2 {days}); do echo old | gzip > {probe}.$n.gz; done",
        )
        found = rotated("--force")
        assert (
            len(found) == days and f"tier-probe.log.{days}.gz" in found and f"tier-probe.log.{days + 1}.gz" not in found
        )
        assert target.on(monitor, f"cat {probe}.1") == "newest"
        # One that is too large before its day is over.
        target.on(monitor, f"rm {directory}/tier-probe*; echo x > {probe}")
        assert rotated() == {"tier-probe.log"}
        target.on(monitor, f"truncate --size {size} {probe}; echo x >> {probe}")
        assert rotated() == {"tier-probe.log.1"}
        # One that nobody rotates any more.
        target.on(
            monitor,
            f"touch --date '{days + 1} days ago' {probe}.1; echo x > {probe}; systemd-tmpfiles --clean --prefix {directory}",
        )
        assert target.on(monitor, f"ls {directory} | grep tier-probe") == "tier-probe.log"
    finally:
        target.on(monitor, f"rm -f {directory}/tier-probe* /run/tier-probe.state")


def test_logs_of_a_host_are_bounded(target: Target, tier: Tier) -> None:
    """Some rotation knows every file that the tier's services write."""
    files = tier.value("dict(groups['all'] | zip(groups['all'] | map('extract', hostvars, 'log_files')))")
    for host in target.groups["all"]:
        written = target.on(
            host,
            f"ls {' '.join(one['path'] for one in files[host])} /var/log/syslog /var/log/auth.log 2>/dev/null || true",
        ).split()
        considered = target.on(
            host, "logrotate --debug /etc/logrotate.conf 2>&1 | sed -n 's/^considering log //p'"
        ).split()
        assert written and set(written) <= set(considered), f"{host}: {set(written) - set(considered)}"


# ------------------------------------------------------------------ what visitors asked for


def test_the_page_of_requests_requires_the_password(
    target: Target,
    kept: Callable[..., list[str]],
    tier: Tier,
    visitor: requests.Session,
    web: Callable[..., requests.Response],
    monitor: str,
) -> None:
    answer = visitor.get(f"{tier.url}/about/?secret={uuid.uuid4().hex}", timeout=10)
    target.wait(lambda: kept(answer.headers["X-Request-Id"], *target.groups["lb"]), "the balancer's line", 20)
    target.on(monitor, "systemctl start goaccess")  # what its timer does every few minutes
    page = web("/requests/")
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert f"<title>{tier.value('site_name')}:" in page.text and r"\/about\/" in page.text
    assert "secret=" not in page.text
    assert web("/requests/", auth=None).status_code == 401
    assert web("/requests/", auth=("munin", "wrong")).status_code == 401
    assert web("/munin/").status_code == 200


def test_a_timer_renews_the_page_of_requests(target: Target, monitor: str) -> None:
    (timer,) = json.loads(target.on(monitor, "systemctl list-timers goaccess.timer --output json"))
    assert 0 < timer["next"] / 1_000_000 - time.time() <= 300


# ------------------------------------------------------------------ and no secret


def secrets_of(tier: Tier) -> dict[str, list[str]]:
    """{name: words by which one would know it}, of everything in the environment's vault that is not for everybody."""
    vault = tier.loader.load_from_file(str(tier.environment.vault))
    single = {
        name: value for name, value in vault.items() if isinstance(value, str) and not name.endswith("_certificate")
    }
    nested = {
        f"{name}.{key}": value
        for name, values in vault.items()
        if isinstance(values, dict)
        for key, value in values.items()
    }
    found = {
        name: [line for line in str(value).splitlines() if len(line) >= 8 and "-----" not in line]
        for name, value in (single | nested).items()
    }
    return {name: words for name, words in found.items() if words}


def test_no_secret_is_in_any_log_of_any_host(target: Target, tier: Tier) -> None:
    """Journals with all their fields, files, rotated ones too, and what waits to be sent; a word that is there proves the search."""
    secrets = secrets_of(tier)
    assert {"db_site_password", "log_ca_key", "monitor_password", "site_secret_key", "tls_key"} <= set(secrets)
    canary = uuid.uuid4().hex
    words = "\n".join([canary, *(word for some in secrets.values() for word in some)])
    search = (
        "umask 077; cat > /run/tier-words; { journalctl --output export --no-pager; find /var/log /var/spool/rsyslog -type f "
        "-not -path '/var/log/journal/*' -exec zcat --force {} +; } 2>/dev/null | grep --text --only-matching --fixed-strings "
        "--file /run/tier-words | sort --unique; rm /run/tier-words"
    )

    def telling(host: str) -> list[str]:
        target.on(host, f"logger --tag tier-probe {canary}; journalctl --sync")
        found = subprocess.run(
            inside(target.container(host), "sh", "-c", search), input=words, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert canary in found, f"the search on {host} finds nothing"
        return [f"{host} tells {name}" for name, some in secrets.items() if set(some) & set(found)]

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        assert [line for some in threads.map(telling, target.groups["all"]) for line in some] == []
