"""The monitor's page: what is made of answers, and what of that is shown."""

import base64
import copy
import hashlib
import json
import pathlib
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from repository import ROOT
from tier import search

from controller import health
from controller.environment.rendering import load_plugins
from controller.tiers import TIERS
from plugins.module_utils import service_health

FILES = ROOT / "roles/status_page/files"
sys.modules["status"] = health  # its name on the monitor
sys.modules["service_health"] = service_health
from status_page import judgement, page, picture, program, questions, settings


def hosts(tier: str, count: int) -> list[dict[str, str]]:
    return [{"name": f"{tier}{number}", "address": f"192.0.2.{number}"} for number in range(1, count + 1)]


CONFIG: dict[str, Any] = {
    "tiers": {
        "lb": hosts("lb", 2),
        "app": hosts("app", 2),
        "media": hosts("media", 2),
        "cache": hosts("cache", 2),
        "db": hosts("db", 2),
        "monitor": hosts("monitor", 1),
        "backup": hosts("backup", 1),
        "quorum": [*hosts("cache", 2), *hosts("monitor", 1)],
    },
    "facts": {
        "env_name": "x",
        "make_args": "ENV=x",
        "lb_vip": "192.0.2.9",
        "lb_http_port": 80,
        "lb_https_port": 443,
        "health_path": "/h",
        "app_port": 8000,
        "media_port": 8080,
        "patroni_port": 8008,
        "etcd_metrics_port": 2381,
        "munin_node_port": 4949,
        "site_host": "x.test",
        "page": {"path": "/", "says": "wel+come"},
    },
    "titles": {group: tier["title"] for group, tier in TIERS.items()},
    "uses": {group: tier["uses"] for group, tier in TIERS.items()},
    "links": [{"name": "Munin", "href": "/munin/"}, {"name": "Nagios", "href": "/nagios4/"}],
    "ledger": "/nowhere",
    "releases": 8,
    "every_s": 15,
    "blind_s": 60,
    "directory": "/nowhere",
}
CLUSTER = {
    "members": [
        {"name": "db1", "role": "leader", "state": "running"},
        {"name": "db2", "role": "sync_standby", "state": "streaming", "lag": 0},
    ]
}
POOL = {
    "pgpool_sessions.busy": 3.0,
    "pgpool_sessions.all": 16.0,
    "pgpool_databases.usable": 2.0,
    "pgpool_databases.primary": 1.0,
}
BACKUP = {
    "backup_age.full": 30.0,
    "backup_age.incr": 3.2,
    "backup_age.media": 0.1,
    "backup_age.drill": 20.0,
    "backup_wal.behind": 0.0,
    "backup_wrong.wrong": 0.0,
    "backup_wrong.unproven": 0.0,
    "backup_wrong.looked": 0.5,
}


def munin(**plugins: Any) -> Any:
    return {"load": {"load.load": 0.5}, "df": {"df._dev_sda1": 40.0}, **plugins}


WELL = {
    ("site", ""): {"status": 200, "seconds": 0.05, "says": True},
    ("munin", "lb1"): munin(keepalived={"keepalived.held": 1.0}),
    ("munin", "lb2"): munin(keepalived={"keepalived.held": 0.0}),
    ("lb", "lb1"): (204, ""),
    ("lb", "lb2"): (204, ""),
    **{("munin", name): munin(pgpool=POOL) for name in ("app1", "app2")},
    **{
        ("app", name): {"node": name, "release": "abc", "django": "ok", "database": "ok", "cache": "ok"}
        for name in ("app1", "app2")
    },
    **{("munin", name): munin() for name in ("media1", "media2", "db1", "db2", "monitor1")},
    ("media", "media1"): (403, ""),
    ("media", "media2"): (403, ""),
    ("db", "db1"): {"role": "primary", "state": "running"},
    ("db", "db2"): {"role": "replica", "state": "running"},
    ("cluster", "db1"): CLUSTER,
    ("cluster", "db2"): CLUSTER,
    **{
        ("munin", name): munin(memcached_hits={"memcached_hits.items": 12.0, "memcached_hits.bytes": 2.0**21})
        for name in ("cache1", "cache2")
    },
    **{("quorum", name): {"health": "true"} for name in ("cache1", "cache2", "monitor1")},
    ("munin", "backup1"): munin(backup=BACKUP),
}


def judged(**changes: Any) -> dict[str, Any]:
    """The page's content where some answers are others; a key is what__host."""
    answers = copy.deepcopy(WELL)
    for key, answer in changes.items():
        what, _, host = key.partition("__")
        assert (what, host) in answers
        answers[what, host] = answer
    return judgement.judge(
        CONFIG,
        answers,
        1795500000,
        [{"when": "then", "who": "me@here", "verb": "deploy", "release": "abc", "result": "live"}],
    )


def sentences(model: dict[str, Any]) -> list[str]:
    return [f"{problem['host']}: {problem['why']}" if problem["host"] else problem["why"] for problem in model["wrong"]]


def test_a_healthy_environment_has_no_problems() -> None:
    model = judged()
    assert (model["state"], sentences(model)) == ("well", [])
    assert model["hosts"]["lb1"]["marks"] == ["virtual IP"] and model["hosts"]["db1"]["marks"] == ["primary"]
    assert model["hosts"]["db2"]["does"]["db"] == "standby, streaming, 0 bytes behind, confirms commits"
    assert model["hosts"]["app1"]["does"]["app"] == "serves abc, pgpool: 3 of 16 busy"
    assert model["hosts"]["cache1"]["does"] == {
        "cache": "12 items, 2.0 MiB",
        "quorum": "etcd votes",
        "load": "load 0.50",
    }
    assert model["backups"]["hours"]["drill"] == 20.0
    json.dumps(model)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"site__": None}, "https://192.0.2.9/ does not answer: visitors get nothing. make status ENV=x"),
        (
            {"site__": {"status": 502, "seconds": 1.0, "says": False}},
            "https://192.0.2.9/ answers 502 and does not say what it should. make smoke ENV=x",
        ),
        ({"lb__lb2": None}, "lb2: its engine does not answer"),
        ({"munin__lb1": munin(keepalived={"keepalived.held": 0.0})}, "192.0.2.9 is held by nobody"),
        ({"munin__lb2": munin(keepalived={"keepalived.held": 1.0})}, "192.0.2.9 is held by lb1, lb2"),
        ({"app__app1": None}, "app1: the site does not answer"),
        ({"app__app1": WELL["app", "app1"] | {"database": "OperationalError"}}, "app1: database: OperationalError"),
        ({"app__app1": WELL["app", "app1"] | {"release": "abd"}}, "The app hosts serve different releases"),
        (
            {"munin__app1": munin(pgpool=POOL | {"pgpool_databases.usable": 1.0})},
            "app1: its pgpool uses 1 of 2 databases",
        ),
        ({"munin__app1": munin(pgpool=POOL | {"pgpool_databases.primary": 0.0})}, "app1: its pgpool has no primary"),
        (
            {"munin__app1": munin(pgpool=POOL | {"pgpool_sessions.busy": 16.0})},
            "app1: all sessions of its pgpool are taken",
        ),
        ({"munin__app1": munin(pgpool={})}, "app1: its pgpool does not answer"),
        ({"media__media2": None}, "media2: its lighttpd does not answer"),
        ({"db__db2": None}, "db2: its Patroni does not answer"),
        ({"db__db1": {"role": "replica", "state": "running"}}, "The databases have no primary"),
        ({"db__db2": {"role": "replica", "state": "starting"}}, "db2: PostgreSQL is starting"),
        ({"cluster__db1": CLUSTER | {"pause": True}}, "Patroni is paused"),
        (
            {"munin__cache1": munin(memcached_hits={"memcached_hits.items": None})},
            "cache1: its memcached does not answer",
        ),
        ({"quorum__cache1": {"health": "false"}}, "cache1: its etcd is not in the quorum"),
        (
            {"munin__backup1": munin(backup=BACKUP | {"backup_wrong.wrong": 2.0})},
            "backup1: 2 complaints about the backups",
        ),
        (
            {
                "munin__backup1": munin(
                    backup=BACKUP | {"backup_wrong.wrong": 1.0},
                    backup_why={"backup_wrong.wrong": "no WAL", "backup_wrong.unproven": ""},
                )
            },
            "backup1: no WAL",
        ),
        (
            {
                "munin__backup1": munin(
                    backup=BACKUP | {"backup_wrong.unproven": 1.0},
                    backup_why={"backup_wrong.wrong": "", "backup_wrong.unproven": "no drill"},
                )
            },
            "backup1: no drill",
        ),
        (
            {"munin__backup1": munin(backup=BACKUP | {"backup_wrong.looked": 9.0})},
            "backup1: nobody has looked at the backups",
        ),
        ({"munin__backup1": munin(backup={})}, "backup1: nobody tells how the backups are"),
        (
            {"munin__media1": munin() | {"df": {"df._dev_sda1": 97.0}, "df_places": {"df._dev_sda1": "/srv"}}},
            "media1: /srv is 97 % full",
        ),
        ({"munin__media1": None}, "media1: its munin-node does not answer"),
        ({"munin__media1": None, "media__media1": None}, "media1: does not answer at all"),
    ],
)
def test_each_problem_is_shown_with_a_sentence(changes: Any, sentence: str) -> None:
    model = judged(**changes)
    assert model["state"] == "wrong" and any(text.startswith(sentence) for text in sentences(model)), sentences(model)
    shown = page.page(model, CONFIG, (FILES / "page.html").read_text())
    assert "1 thing wrong" in shown or "things wrong" in shown


def test_maintenance_is_shown_and_the_page_of_maintenance_is_no_problem() -> None:
    closed = {"lb__lb1": (200, "closed:600\n"), "lb__lb2": (200, "closed:600\n")}
    model = judged(**closed, site__={"status": 503, "seconds": 0.1, "says": False})
    assert sentences(model) == [] and model["maintenance"] == "maintenance, 10 min left"
    assert page.verdict(model) == ("All is well (maintenance, 10 min left)", "good")
    assert model["hosts"]["lb2"]["does"]["lb"] == "stands by, maintenance, 10 min left"
    readonly = judged(lb__lb1=(200, "readonly:20"), lb__lb2=(200, "readonly:20"))
    assert readonly["maintenance"] == "read-only, 20 s left"
    failed = judged(lb__lb2=(200, "closed:600\n"))
    assert sentences(failed) == ["The balancers differ about maintenance: make maintenance ENV=x"]


def test_a_fault_is_shown_once() -> None:
    for changes in ({"munin__media1": None, "media__media1": None}, {"quorum__cache1": None}, {"munin__lb1": None}):
        assert len(sentences(judged(**changes))) == 1, sentences(judged(**changes))
    model = judged(munin__lb1=None)
    assert model["hosts"]["lb1"]["marks"] == ["virtual IP"]  # somebody answers there, and lb2 says that it does not


def test_a_busy_monitor_reports_no_silent_hosts() -> None:
    """Who answered is judged all the same."""
    answers = copy.deepcopy(WELL) | {
        ("db", "db1"): None,
        ("cluster", "db1"): None,
        ("munin", "db1"): None,
        ("lb", "lb2"): None,
        ("late", ""): 1.5,
    }
    model = judgement.judge(CONFIG, answers, 1795500000, [])
    assert (model["state"], page.verdict(model)) == ("blind", ("Blind", "blind"))
    assert sentences(model)[0].startswith("The monitor is busy, and was run 1.5 s too late")
    assert "db1: was not asked in time" in sentences(model) and not any(
        "no primary" in sentence or "off, frozen" in sentence for sentence in sentences(model)
    )
    assert any(sentence.startswith("lb2: its engine does not answer") for sentence in sentences(model))
    assert judgement.judge(CONFIG, answers | {("late", ""): 0.1}, 1795500000, [])["state"] == "wrong"


def test_waiting_is_not_counted_as_lateness() -> None:
    over = threading.Event()
    threading.Timer(0.5, over.set).start()
    assert 0 <= questions.lateness(over) < 0.4


def test_a_monitor_that_reaches_no_host_has_the_state_blind() -> None:
    answers = {key: answer if key[1] == "monitor1" else None for key, answer in WELL.items()}
    model = judgement.judge(CONFIG, answers, 0)
    assert model["state"] == "blind" and "The monitor reaches nobody" in sentences(model)[0]
    assert page.verdict(model) == ("Blind", "blind")


def test_questions_cover_exactly_the_answers_of_a_healthy_environment() -> None:
    """What answers are looked for is what is asked."""
    assert set(questions.questions(CONFIG)) == set(WELL)


def test_the_page_loads_no_external_resources_and_escapes_answers() -> None:
    model = judged(app__app1=WELL["app", "app1"] | {"release": "<script>alert(1)</script>"})
    skeleton = (FILES / "page.html").read_text()
    shown = page.page(model, CONFIG, skeleton)
    assert "<script>alert" not in shown and "&lt;script&gt;" in shown
    assert re.findall(r'(?:src|href|action|url)\s*[=(]\s*["\']?(?:https?:)?//[^"\']*', shown) == []
    policy = search(r'Content-Security-Policy" content="([^"]+)"', shown)[1]
    for tag in ("style", "script"):
        text = search(rf"<{tag}>(.*?)</{tag}>", shown, re.S)[1]
        assert f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" in policy, (
            f"the browser would not take the page's own {tag}"
        )
    assert " style=" not in shown and "onclick" not in shown
    assert "/munin/app/app1/" in shown and "/munin/cache/cache1/" in shown and 'href="/nagios4/">Nagios<' in shown
    for name in model["hosts"]:
        assert shown.count(f'id="{name}"') == 1, name


def test_every_group_is_drawn_on_wide_and_narrow_screens() -> None:
    for _width, bands in (settings.WIDE, settings.NARROW):
        assert sorted(group for band in bands for group in band) == sorted(TIERS)


@pytest.mark.parametrize("count", [1, 2, 7, 23])
def test_the_picture_holds_any_number_of_hosts(count: int) -> None:
    config = CONFIG | {"tiers": CONFIG["tiers"] | {"app": hosts("app", count), "media": hosts("media", 1)}}
    answers = WELL | {
        (what, f"app{number}"): WELL[what, "app1"] for number in range(1, count + 1) for what in ("app", "munin")
    }
    model = judgement.judge(config, answers, 0)
    assert sentences(model) == ([] if count >= 1 else None)
    for width, bands in (settings.WIDE, settings.NARROW):
        drawn = picture.picture(model, config, width, bands, "x")
        height = int(search(r'viewBox="0 0 \d+ (\d+)"', drawn)[1])
        boxes = [
            tuple(map(int, rectangle))
            for rectangle in re.findall(
                r'<rect (?:class="\w+" )?x="(-?\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn
            )
        ]
        assert len(boxes) == 1 + sum(map(len, config["tiers"].values())) + len(config["tiers"])
        assert all(0 <= x and x + w <= width and y + h <= height for x, y, w, h in boxes), (width, height, boxes)
        for name in model["hosts"]:
            assert f">{name}</text>" in drawn


def test_the_page_is_replaced_atomically(tmp_path: pathlib.Path) -> None:
    program.write(tmp_path, "index.html", "one")
    program.write(tmp_path, "index.html", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("index.html", "two")]


class Node(socketserver.StreamRequestHandler):
    """A munin-node with a few plugins; it falls silent at the last."""

    ANSWERS = {
        "cap multigraph": "cap multigraph\n",
        "fetch backup": "multigraph backup_age\nfull.value 30\nmultigraph backup_wrong\nwrong.value 1\nlooked.value U\n.\n",
        "fetch load": "load.value 0.25\n.\n",
        "fetch df": "_dev_sda1.value 95.5\n.\n",
        "fetch pgpool": "# Service 'pgpool' exited with status 1.\n.\n",
        "config df": "graph_title x\n_dev_sda1.label /srv\n_dev_sda1.warning 92\n.\n",
        "config backup": "multigraph backup_wrong\nwrong.label complaints\nwrong.extinfo no WAL\n.\n",
    }

    def handle(self) -> None:
        self.wfile.write(b"# munin node at x\n")
        for line in self.rfile:
            answer = self.ANSWERS.get(line.decode().strip())
            if answer is None:
                threading.Event().wait(1)
                return
            self.wfile.write(answer.encode())


@pytest.fixture
def node() -> Iterator[int]:
    """Port of such a node."""

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Node) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_figures_are_read_from_a_munin_node(node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = questions.ask_munin("127.0.0.1", node, ["backup", "pgpool", "load", "df"])
    assert answers == {
        "backup": {"backup_age.full": 30.0, "backup_wrong.wrong": 1.0, "backup_wrong.looked": None},
        "pgpool": {},
        "load": {"load.load": 0.25},
        "df": {"df._dev_sda1": 95.5},
        "df_places": {"df._dev_sda1": "/srv"},
        "backup_why": {"backup_wrong.wrong": "no WAL"},
    }
    monkeypatch.setattr(questions, "MUNIN_S", 0.3)
    assert questions.ask_munin("127.0.0.1", node, ["load", "hangs", "df"]) == {"load": {"load.load": 0.25}, "hangs": {}}


def test_slow_figures_are_cached_between_rounds(node: int, tmp_path: pathlib.Path) -> None:
    believed = {"load": {"load.load": 9.0}, "backup": {"backup_wrong.wrong": 0.0}}
    collected = questions.ask_munin("127.0.0.1", node, ["backup", "pgpool", "load", "df"], believed)
    assert collected == believed | {"pgpool": {}, "df": {"df._dev_sda1": 95.5}, "df_places": {"df._dev_sda1": "/srv"}}
    answers = {
        ("munin", "one"): collected,
        ("munin", "two"): {"df": {}, "load": {"load.load": 1.0}},
        ("munin", "off"): None,
        ("lb", "one"): (204, ""),
    }
    kept = questions.slow(answers)
    assert kept == {"one": {plugin: figures for plugin, figures in collected.items() if plugin != "pgpool"}}
    path = tmp_path / "slow.json"
    assert questions.lately(path, 100.0) == (100.0, {})
    path.write_text(json.dumps({"at": 100.0, "hosts": kept}))
    assert questions.lately(path, 100.0 + questions.SLOW_S - 1) == (100.0, kept)
    for now in (100.0 + questions.SLOW_S, 99.0):
        assert questions.lately(path, now) == (now, {})
    path.write_text("half")
    assert questions.lately(path, 100.0) == (100.0, {})


def test_the_page_is_written_although_hosts_are_silent(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole program, with nobody there but one munin-node that nobody is."""
    monkeypatch.setattr(questions, "ANSWER_S", 0.2)
    tiers = {
        tier: " ".join(f"{member['name']}=127.0.0.1" for member in members) for tier, members in CONFIG["tiers"].items()
    }
    facts = CONFIG["facts"] | {name: 9 for name in CONFIG["facts"] if name.endswith("_port")} | {"lb_vip": "127.0.0.1"}
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            CONFIG | {"tiers": tiers, "facts": facts, "directory": str(tmp_path), "env_name": "x", "make_args": "ENV=x"}
        )
    )
    assert settings.settings(path)["tiers"]["lb"] == [
        {"name": "lb1", "address": "127.0.0.1"},
        {"name": "lb2", "address": "127.0.0.1"},
    ]
    monkeypatch.setattr(sys, "argv", ["status-page", str(path)])
    program.main()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "blind"
    assert "<title>Blind: x</title>" in (tmp_path / "index.html").read_text()


def test_the_template_of_the_configuration_has_every_setting_of_the_program(tmp_path: pathlib.Path) -> None:
    """The role's template, filled in."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    load_plugins()
    facts = {name: 1 for name in CONFIG["facts"] if name.endswith("_port")}
    variables = {
        "ansible_managed": "m",
        "env_name": "x",
        "make_args": "ENV=x",
        "monitor_tiers": CONFIG["tiers"],
        "lb_vip": "192.0.2.9",
        **facts,
        "status_page_health_path": "/h",
        "site_hosts": ["x.test"],
        "site_smoke": [{"path": "/", "says": 'a="\\d'}],
        "status_page_titles": CONFIG["titles"],
        "status_page_uses": CONFIG["uses"],
        "status_page_links": CONFIG["links"],
        "status_page_releases": 8,
        "status_page_every_s": 15,
        "status_page_blind_s": 60,
        "release_log": "/x",
    }
    text = (ROOT / "roles/status_page/templates/status-page.json.j2").read_text()
    path = tmp_path / "config.json"
    path.write_text(Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)))
    config = settings.settings(path)
    assert (
        config["tiers"] == CONFIG["tiers"]
        and (config["titles"], config["uses"]) == (CONFIG["titles"], CONFIG["uses"])
        and set(config["facts"]) == set(CONFIG["facts"])
        and config["facts"]["page"]["says"] == 'a="\\d'
    )
    assert set(CONFIG) <= set(config)
