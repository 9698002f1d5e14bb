"""`make load`: what visitors are told, what is made of what hosts say, and which tier is called the bottleneck."""

import re
import subprocess
from typing import Any

import pytest
from repository import ROOT
from repository import load as load_yaml

from controller import errors
from controller.commands import load, smoke
from controller.environment.rendering import load_plugins
from controller.load import analysis, probe, report

SITE = load_yaml(ROOT / "group_vars/all/site.yml")
TIERS = {"lb": ["lb1"], "app": ["app1", "app2"], "media": ["media1"], "cache": ["cache1"], "db": ["db1"]}
DOORS = {"443": "lb", "8000": "apache", "8080": "files", "5432": "db", "127.0.0.1:5432": "pgpool", "11211": "cache"}
TOLD = {
    "env_name": "x",
    "containers": True,
    "load": SITE["site_demo_load"],
    "tiers": TIERS,
    "smoke": {"name": "x.test", "address": "192.0.2.9", "port": 443},
}


def crawl() -> Any:
    """A crawl that found one of each kind."""
    pages = {
        "/": b'<link rel="stylesheet" href="/static/a.css"><img src="/media/b.png"><a href="/mine">mine</a>welcome',
        "/static/a.css": b"a",
        "/media/b.png": b"b",
    }
    settings = {
        "pages": [{"path": "/", "says": "welcome"}],
        "files": {"static file": "/static/", "upload": "/media/"},
        "names": ["x.test"],
    }
    return smoke.Crawl(
        settings,
        lambda path: smoke.Answer(200, pages[path]) if path in pages else smoke.Answer(302, b"", location="/"),
        lambda _s: None,
    ).run()


@pytest.mark.parametrize(
    ("users", "seconds", "variable"),
    [("x", "60", "USERS=x"), ("0", "60", "USERS=0"), ("5", "9", "SECONDS=9"), ("5", "-60", "SECONDS=-60")],
)
def test_users_and_seconds_must_be_numbers(users: str, seconds: str, variable: str) -> None:
    with pytest.raises(errors.Refused, match=f"{variable} is no number"):
        load.parse_limits(users, seconds)
    assert load.parse_limits("5", "10") == (5, 10)


def test_production_is_refused_and_then_spared() -> None:
    real = {"env_name": "production", "containers": False}
    with pytest.raises(errors.Refused, match="ANYWAY=1"):
        load.check_production(real, anyway=False)
    assert load.check_production(real, anyway=True)
    assert not load.check_production(real | {"containers": True}, anyway=False)  # its rehearsal
    assert not load.check_production(real | {"env_name": "staging"}, anyway=False)
    assert set(load.plan(TOLD, crawl(), "", production=True)["mix"]) == {"page", "static", "media"}


def test_the_plan_lists_pages_files_and_the_mix() -> None:
    plan = load.plan(TOLD, crawl(), "csrftoken=a; sessionid=b", production=False)
    assert (plan["pages"], plan["statics"], plan["uploads"]) == (["/"], ["/static/a.css"], ["/media/b.png"])
    assert plan["mix"] == SITE["site_demo_load"]["mix"] and plan["sign_in_page"] == "/accounts/login/"
    assert (
        plan["origin"] == "https://x.test"
        and load.smoke.origin({"name": "x.test", "port": 8443}) == "https://x.test:8443"
    )
    with pytest.raises(load.Failed, match="site_load.mix has dance"):
        load.plan(TOLD | {"load": {"mix": {"dance": 1}}}, crawl(), "", False)
    with pytest.raises(load.Failed, match="nothing of site_load.mix"):
        load.plan(TOLD | {"load": {"mix": {"session": 1}}}, crawl(), "", False)


@pytest.mark.parametrize(
    ("settings", "mix"),
    [
        ("newsbudget.settings", SITE["site_demo_load"]["mix"]),
        ("shop.settings", {"page": 65, "static": 25, "media": 10}),
    ],
)
def test_pages_of_the_demo_are_requested_from_the_demo_only(settings: str, mix: dict[str, int]) -> None:
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    load_plugins()
    templar = Templar(loader=DataLoader(), variables=SITE | {"site_settings": settings})
    site, sign_in = (templar.template(trust_as_template(SITE[name])) for name in ("site_load", "site_smoke_sign_in"))
    assert site["mix"] == mix and bool(sign_in) == ("sign_in" in site) == (settings == "newsbudget.settings")
    assert load.plan(TOLD | {"load": site}, crawl(), "", production=False)["mix"].keys() == {"page", "static", "media"}


def test_every_kind_of_request_is_a_task_of_visitors() -> None:
    text = (ROOT / "controller/load/visitors.py").read_text()
    for kind in analysis.KINDS:
        assert f"    def {kind}(self) -> None:" in text
    read = set(re.findall(r'PLAN\["(\w+)"\]', text))
    assert read <= set(load.plan(TOLD, crawl(), "csrftoken=a", False)), "what is read is told"


SAID = """at {at}
cores 2
stat 100 0 {busy} {idle} {wait} 0 0 0 0 0
MemTotal: 1000
MemAvailable: 250
usage_usec 5
usage {usage}
used 524288
inactive 12288
own-io {io}
host-io {io}
queue 3 127.0.0.1:5432
queue 2 10.0.0.1:5432
queue 1 10.0.0.1:8000
queue 4 /run/apache2/wsgi.77.0.1.sock
queue 9 /run/other.sock
apache-busy 7
apache-idle 18
pool-busy 6
pool-all 8
.
"""


def sampled(*moments: int) -> str:
    return "".join(
        SAID.format(at=at, busy=at * 100, idle=at * 80, wait=at * 20, usage=at * 500000, io=at * 250000)
        for at in moments
    )


def test_samples_of_a_host_are_parsed() -> None:
    samples = probe.samples(sampled(10, 12, 14) + "at 16\nstat 1", DOORS)
    assert (
        len(samples) == 3
        and samples[0]["queue-pgpool"] == 3
        and samples[0]["queue-db"] == 2
        and samples[0]["queue-wsgi"] == 4
        and "queue-other" not in samples[0]
    )
    assert [sample["at"] for sample in probe.settled(samples, 3)] == [14]
    real, contained = analysis.figures(samples, False), analysis.figures(samples, True)
    assert real and contained
    assert (
        real["cpu"] == pytest.approx(0.5)
        and real["used"] == pytest.approx(1.0)
        and real["memory"] == pytest.approx(0.75)
    )
    assert (
        contained["used"] == pytest.approx(0.5)
        and contained["cpu"] == pytest.approx(0.25)
        and contained["memory"] == pytest.approx(0.5)
    )
    assert real["io"] == pytest.approx(0.25) and real["queues"]["pgpool"] == (3.0, 3.0) and real["pool-busy"] == 6
    assert analysis.figures(samples[:1], False) is None
    rows = report.host_rows({"app1": real}, TIERS, {"app1": (10, 1)})
    assert (
        rows[1][:4] == ("app hosts", "app1", "50% (most 50%)", "75%")
        and rows[1][-1] == "10, 1 failed"
        and rows[2][2] == "did not tell"
    )


def test_this_machine_can_be_measured() -> None:
    """The look itself, with what there is here."""
    done = subprocess.run(
        ["sh", "-c", probe.PROBE, "load-look", "0.1", "3", *[""] * 5],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    figures = analysis.figures(probe.samples(done.stdout, DOORS), False)
    assert figures and 0 <= figures["cpu"] <= 1 and 0 < figures["memory"] < 1 and figures["cores"] >= 1


def host(**more: dict[str, tuple[float, float]] | float) -> Any:
    return {"cores": 2.0, "cpu": 0.1, "cpu_most": 0.2, "used": 0.2, "memory": 0.3, "io": 0.0, "queues": {}} | more


@pytest.mark.parametrize(
    ("hosts", "machine", "visitors", "contained", "tier", "why"),
    [
        ({}, 0.2, 0.1, False, "", "No tier was out of anything"),
        ({"app2": host(cpu=0.9)}, 0.2, 0.1, False, "app", "app2 was out of processor"),
        ({"app2": host(cpu=0.9), "db1": host(cpu=0.97)}, 0.2, 0.1, False, "db", "db1 was out of processor"),
        ({"app2": host(cpu=0.9)}, 0.2, 0.95, False, "visitors", "The visitors themselves"),
        ({"app1": host(queues={"pgpool": (2.0, 5.0)})}, 0.2, 0.1, False, "app", "the pool is too small"),
        (
            {"app1": host(queues={"pgpool": (2.0, 5.0)}), "db1": host(cpu=0.9)},
            0.2,
            0.1,
            False,
            "db",
            "db1 was out of processor",
        ),
        ({"app1": host(queues={"wsgi": (2.0, 5.0)})}, 0.2, 0.1, False, "app", "app_threads"),
        ({"app1": host(cpu=0.9, queues={"wsgi": (2.0, 5.0)})}, 0.2, 0.1, False, "app", "out of processor"),
        ({"db1": host(io=0.4)}, 0.2, 0.1, False, "db", "waited for its disk 40% of the time"),
        ({"cache1": host(memory=0.97)}, 0.2, 0.1, False, "cache", "had 97% of its memory in use"),
        (
            {"app1": host(used=0.9), "db1": host(used=0.5)},
            0.97,
            0.3,
            True,
            "app",
            "with machines of their own the app hosts",
        ),
        ({"app1": host(used=0.9)}, 0.5, 0.3, True, "", "No tier was out of anything"),
        ({"app1": None, "db1": host(cpu=0.9)}, 0.2, 0.1, False, "db", "db1 was out of processor"),
    ],
)
def test_the_bottleneck_is_named_with_the_reason(
    hosts: Any, machine: float, visitors: float, contained: bool, tier: str, why: str
) -> None:
    everyone = {name: host() for members in TIERS.values() for name in members} | hosts
    bottleneck = analysis.bottleneck(everyone, TIERS, host(cpu=machine), visitors, contained)
    assert bottleneck[0] == tier and why in bottleneck[1], bottleneck


def test_hosts_without_samples_are_no_bottleneck() -> None:
    assert analysis.bottleneck({"app1": None}, TIERS, None, 0.1, True) == ("", "No host told how it was.")


STATS = """Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response Time,Average Content Size,\
Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%
POST,change,10,0,90,95.1,80,200,0,1.0,0.0,90,95,99,100,150,180,190,199,200,200,200
GET,page,100,2,20,25.5,5,300,5000,10.0,0.2,20,25,30,35,50,120,200,250,300,300,300
GET,static,50,1,3,3.2,1,9,900,5.0,0.1,3,3,4,4,5,6,8,9,9,9,9
tier,app,110,2,30,35.5,5,300,5000,11.0,0.2,30,35,40,45,60,130,210,260,300,300,300
tier,media,50,1,3,3.2,1,9,900,5.0,0.1,3,3,4,4,5,6,8,9,9,9,9
,Aggregated,160,3,15,20.0,1,300,4000,16.0,0.3,15,20,25,30,45,110,190,240,300,300,300
"""
HISTORY = """Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,Total Request Count,Total Failure Count
1000,0,,Aggregated,0.000000,0.000000,N/A,N/A,N/A,N/A,N/A,N/A,N/A,N/A,N/A,N/A,N/A,0,0
1001,2,,Aggregated,5.000000,0.000000,10,10,10,10,10,100,10,10,10,10,10,5,0
1003,4,,Aggregated,10.000000,0.000000,10,10,10,10,10,200,10,10,10,10,10,15,0
"""


def test_requests_are_summed_by_kind_and_tier() -> None:
    rows, tiers = analysis.requests(STATS.splitlines())
    assert [row["kind"] for row in rows] == ["change", "page", "static", "all"] and rows[1]["p95"] == pytest.approx(
        0.12
    )
    assert {tier: (row["requests"], row["failures"], row["p95"]) for tier, row in tiers.items()} == {
        "app": (110, 2, 0.13),
        "media": (50, 1, 0.006),
        "lb": (160, 3, 0.11),
    }
    hosts = {
        "cache1": {"lookups": 300.0, "lookups-rate": 10.0, "found": 240.0},
        "cache2": None,
        "db1": {"transactions": 90.0, "transactions-rate": 3.0, "rolled-back": 2.0},
    }
    table = report.tier_rows({"cache": ["cache1", "cache2"], "db": ["db1"]}, tiers, hosts)
    assert table[1] == ("app hosts", "requests", "110", "2", "11.0", "0.030", "0.130", "0.260", "0.300")
    assert table[3:] == [
        ("cache", "lookups, 80% found", "300", "-", "10.0", *["-"] * 4),
        ("databases", "transactions", "90", "2", "3.0", *["-"] * 4),
    ]
    assert {len(report.TIER_HEAD)} == {len(row) for row in table}
    points = analysis.history(HISTORY.splitlines())
    assert points == [(0.0, 5.0, 0.1), (2.0, 10.0, 0.2)]
    assert report.curve(points, 1) == ("0,59 820,8", 10.0)
    assert report.curve([], 1) == ("", 1.0)


def test_the_report_loads_no_external_resources() -> None:
    rows, tiers = analysis.requests(STATS.splitlines())
    contents = {
        "title": "x under 5 visitors for 60 s",
        "when": "now",
        "visitors": report.visitor_rows(rows),
        "visitor_head": report.VISITOR_HEAD,
        "hosts": report.host_rows({"app1": host()}, TIERS, {}),
        "host_head": report.HOST_HEAD,
        "errors": {tier: (row["requests"], row["failures"]) for tier, row in tiers.items()},
        "tiers": analysis.TITLES,
        "by_tier": report.tier_rows(TIERS, tiers, {}),
        "tier_head": report.TIER_HEAD,
        "failures": ["2 times page: <b>500</b> /"],
        "bottleneck": ("app", "app1 was out of processor"),
        "machine": host(),
        "cores": 0.2,
        "contained": True,
        "curves": [("requests a second", "0,0 1,1", 10.0)],
        "longest": 60.0,
    }
    shown = report.html(contents)
    assert (
        not re.search(r"(?:src|href)=|url\(|<script", shown)
        and "&lt;b&gt;500" in shown
        and "Bottleneck: app hosts" in shown
    )
    text = "\n".join(report.terminal_lines(contents))
    assert "app hosts 2 of 110" in text and "bottleneck app hosts: app1 was out of processor" in text
    for heads, lines in ((report.VISITOR_HEAD, contents["visitors"]), (report.HOST_HEAD, contents["hosts"])):
        assert {len(heads)} == {len(line) for line in lines}
