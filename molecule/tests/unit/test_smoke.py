"""`make smoke` and the gate of a deploy: what is asked for, and what is called wrong."""

import http.server
import io
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Self

import pytest
from repository import ROOT, load

from controller.browser import Browser
from controller.commands import smoke
from controller.environment.rendering import load_plugins

PAGE = b'<link rel="stylesheet" href="/static/a.css"><img src="/media/a.png?x=1&amp;y=2">welcome'
ASKED = {
    "pages": [{"path": "/", "says": "wel+come"}],
    "files": {"static file": "/static/", "upload": "/media/"},
    "names": ["x.test", "www.x.test"],
    "most": 5,
}
FILES = {"/static/a.css": b"a", "/media/a.png?x=1&y=2": b"a"}


def site(answers: Mapping[str, Any], paths: list[str] | None = None) -> Callable[[str], smoke.Answer]:
    """fetch of a site that has these; the paths it was asked for go into a list."""

    def fetch(path: str) -> smoke.Answer:
        if paths is not None:
            paths.append(path)
        answer = answers.get(path, smoke.Answer(404, b"no"))
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, smoke.Answer) else smoke.Answer(200, answer)

    return fetch


def crawled(answers: Mapping[str, Any], paths: list[str] | None = None, **more: Any) -> tuple[Any, Any]:
    crawl = smoke.Crawl(ASKED | more, site(answers, paths), pause=lambda _seconds: None).run()
    return smoke.rows(crawl), crawl.wrong


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ({"/": PAGE, **FILES}, []),
        ({"/": b'<link rel="icon" href="/static/a.css">welcome', "/static/a.css": b"a"}, []),  # a site without uploads
        ({"/": b"welcome"}, ["No page links to a static file"]),
        ({"/": PAGE.replace(b"welcome", b"sorry"), **FILES}, ["The page / does not say wel+come"]),
        (
            {"/": smoke.Answer(302, b"", location="/elsewhere"), "/elsewhere": PAGE, **FILES},
            ["The page / is not there: 302"],
        ),
        ({"/": PAGE, "/static/a.css": b"a"}, ["The upload /media/a.png?x=1&y=2 is not there: 404 (/ links to it)"]),
        (
            {"/": PAGE, **FILES, "/static/a.css": b""},
            ["The static file /static/a.css is not there: 200 (/ links to it)"],
        ),
        (
            {"/": PAGE + b'<a href="/deep">', "/deep": PAGE + b'<a href="deeper/">', **FILES},
            ["The page /deeper/ is not there: 404 (/deep links to it)"],
        ),
        (
            {"/": PAGE + b'<a href="/broken">', "/broken": smoke.Answer(500, b"oh"), **FILES},
            ["The page /broken is not there: 500 (/ links to it)"],
        ),
        (
            {"/": PAGE + b'<a href="/gone">', "/gone": ConnectionResetError("reset"), **FILES},
            ["The page /gone is not there: ConnectionResetError('reset') (/ links to it)"],
        ),
        # What a visitor who is not signed in meets.
        (
            {
                "/": PAGE + b'<a href="/mine">',
                "/mine": smoke.Answer(302, b"", location="https://x.test/login"),
                "/login": b"in",
                **FILES,
            },
            [],
        ),
        ({"/": PAGE + b'<a href="/mine">', "/mine": smoke.Answer(403, b"no"), **FILES}, []),
        (
            {"/": smoke.Answer(500, b"oh", request="f00")},
            ["The page / is not there: 500, request f00", "No page links to a static file"],
        ),
        (
            {"/": smoke.Answer(200, b"oh", request="f00")},
            ["The page / does not say wel+come: 200, request f00", "No page links to a static file"],
        ),
        (
            {"/": PAGE + b'<a href="/old">', "/old": smoke.Answer(301, b"", location="/new"), **FILES},
            ["The page /new is not there: 404 (/old links to it)"],
        ),
    ],
)
def test_problems_of_a_smoke_test(answers: Any, wrong: Any) -> None:
    rows, wrong_pages = crawled(answers)
    assert list(wrong_pages.values()) == wrong and len(rows) > 1


class Window:
    """Stands for a browser: what the page says after each time the form was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.done: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def open(self, url: str) -> None:
        self.done.append(url)

    def go(self, what: Callable[[], object]) -> None:
        what()

    def value(self, expression: str) -> Any:
        self.done.append(expression)
        answer = self.answers.pop(0) if expression.endswith("innerText") else ""
        if isinstance(answer, Exception):
            raise answer
        return answer


FORM = {
    "page": "/in",
    "fields": {"username": "smoke"},
    "password": "password",
    "says": "Sign out",
    "secret": "s3cret",
    "doors": ["true", "false"],
    "user": ["x"],
}


@pytest.mark.parametrize(
    ("answers", "doors", "why"),
    [
        (["Sign out"], ["false"], ""),
        (["Who?", "Hello. Sign out"], ["false", "true"], ""),  # made on the second host, then signed in
        (["Who?", "Who?"], ["true"], "Nobody can sign in at /in: the page says 'Who?'"),
        (
            ["Who?"],
            ["false"],
            "Nobody can sign in at /in: the page says 'Who?', and its user cannot be made: exit code 1",
        ),
        (
            ["Who?"],
            ["sh -c 'echo no s3cret here >&2; exit 3' -"],
            "Nobody can sign in at /in: the page says 'Who?', and its user cannot be made: no … here",
        ),
        (
            [RuntimeError("no s3cret"), RuntimeError("no s3cret")],
            ["true"],
            "Nobody can sign in at /in: RuntimeError('no …')",
        ),
    ],
)
def test_a_visitor_signs_in(monkeypatch: pytest.MonkeyPatch, answers: Any, doors: Any, why: str) -> None:
    window = Window(*answers)
    monkeypatch.setattr(smoke.browser, "Browser", lambda *sites: window)
    monkeypatch.setattr(smoke.browser, "trusted", lambda *_site: smoke.browser.Site("x.test", "192.0.2.9", ""))
    monkeypatch.setattr(smoke.shutil, "which", lambda _name: "/usr/bin/chromium")
    rows, wrong, left_out = smoke.sign_in(
        {"name": "x.test", "address": "192.0.2.9", "port": 443, "authority": "", "sign_in": FORM | {"doors": doors}},
        may_install=False,
    )
    assert list(wrong.values()) == ([why] if why else []) and rows[0][:2] == ("sign in", "/in") and not left_out
    assert (
        window.done[:2] == ["https://x.test/in", 'document.querySelector("[name=\\"username\\"]").value = "smoke"']
        and window.answers == []
    )


def test_no_visitor_signs_in_without_a_declared_account(monkeypatch: pytest.MonkeyPatch) -> None:
    assert smoke.sign_in({"sign_in": {}}, may_install=True) == ([], {}, "")


@pytest.mark.parametrize("chromium", [None, "/usr/bin/chromium"], ids=["none", "one that does not start"])
def test_a_missing_browser_is_no_problem_of_the_site(monkeypatch: pytest.MonkeyPatch, chromium: Browser) -> None:
    monkeypatch.setattr(smoke.shutil, "which", lambda _name: chromium)
    monkeypatch.setattr(smoke.browser, "LAUNCH", "raise SystemExit(1)")
    monkeypatch.setattr(smoke.browser, "trusted", lambda *_site: smoke.browser.Site("x.test", "192.0.2.9", ""))
    rows, wrong, left_out = smoke.sign_in(
        {"name": "x.test", "address": "192.0.2.9", "port": 443, "authority": "", "sign_in": FORM}, may_install=False
    )
    assert rows[0][2].startswith("not asked") and wrong == {} and left_out.startswith("Nobody tried to sign in")


@pytest.mark.parametrize("helper", [None, 0o755], ids=["no helper", "a helper that is not root for it"])
def test_a_browser_without_a_sandbox_is_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, helper: Any
) -> None:
    """And the run says what to install or to set."""
    monkeypatch.setattr(smoke.browser, "HELPER", tmp_path / "chrome-sandbox")
    if helper:
        smoke.browser.HELPER.touch(helper)
    monkeypatch.setattr(smoke.browser, "trusted", lambda *_site: smoke.browser.Site("x.test", "192.0.2.9", ""))
    monkeypatch.setattr(smoke.shutil, "which", lambda _name: "/usr/bin/chromium")
    monkeypatch.setattr(
        smoke.browser.subprocess, "Popen", lambda *_args, **_options: pytest.fail("Chromium was started")
    )
    # unshare's answer where unprivileged users may make no namespaces.
    monkeypatch.setattr(smoke.browser.subprocess, "run", lambda args, **_options: subprocess.CompletedProcess(args, 1))
    rows, wrong, left_out = smoke.sign_in(
        {"name": "x.test", "address": "192.0.2.9", "port": 443, "authority": "", "sign_in": FORM}, may_install=False
    )
    assert rows[0][2].startswith("not asked") and wrong == {}
    assert "chromium-sandbox" in left_out and "kernel.unprivileged_userns_clone=1" in left_out


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/a/b?x=1#there", "/a/b?x=1"),
        ("c", "/p/c"),
        ("../", "/"),
        ("https://x.test/a", "/a"),
        ("http://www.x.test:8443", "/"),
        ("//x.test/a", "/a"),
        ("?page=2", "/p/?page=2"),
        ("/ä b", "/%C3%A4%20b"),
        ("https://elsewhere.test/a", ""),
        ("mailto:me@x.test", ""),
        ("javascript:void(0)", ""),
        ("#top", ""),
        ("", ""),
        ("http://[", ""),
        ("data:,", ""),
    ],
)
def test_only_links_to_the_site_are_followed(link: str, path: str) -> None:
    assert smoke.own(link, "/p/", ["x.test", "www.x.test"]) == path


def test_links_include_every_resource_of_a_page() -> None:
    links = smoke.Links(
        '<a href="1"></a><a rel="nofollow" href="no"></a><link rel="stylesheet" href="2"><link rel="canonical" href="no">'
        '<script src="3"></script><img src="4" srcset="5 1x, 6 2x"><video src="7"></video><form action="no"><a name="x">'
    ).targets
    assert [link for link in links if link] == list("1234567")


def test_each_path_is_requested_only_once_up_to_the_limit() -> None:
    endless = {f"/{n}": f'<a href="/{n + 1}">next</a><a href="/">back</a>'.encode() for n in range(100)}
    paths: list[str] = []
    rows, wrong = crawled({"/": PAGE + b'<a href="/1">', **FILES, **endless}, paths)
    assert wrong == {} and sorted(paths) == sorted(["/", *FILES, "/1", "/2", "/3", "/4"])
    assert ("links", "1 more", "not asked") in rows


def test_a_page_that_answers_the_second_request_is_no_problem() -> None:
    answers, tries = {"/": PAGE, **FILES}, []

    def fetch(path: str) -> smoke.Answer:
        tries.append(path)
        return (
            smoke.Answer(503, b"")
            if path == "/static/a.css" and tries.count(path) == 1
            else smoke.Answer(200, answers[path])
        )

    assert (
        smoke.Crawl(ASKED, fetch, pause=lambda _seconds: None).run().wrong == {} and tries.count("/static/a.css") == 2
    )


def test_a_smoke_test_ends_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "LONGEST", -1)
    rows, _wrong = crawled({"/": PAGE})
    assert ("page", "/", "not asked") in rows


def test_problems_are_returned_by_path_to_a_deploy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smoke.py", "--stdin"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(ASKED)))
    monkeypatch.setattr(smoke, "held", lambda settings: True)
    monkeypatch.setattr(smoke, "AGAIN", 0)
    monkeypatch.setattr(smoke, "visitor", lambda settings: site({"/": PAGE, "/static/a.css": b"a"}))
    assert smoke.main() == 0
    assert list(json.loads(capsys.readouterr().out)["wrong"]) == ["/media/a.png?x=1&y=2"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(ASKED | {"address": "192.0.2.9"})))
    monkeypatch.setattr(smoke, "held", lambda settings: False)
    assert smoke.main() == 2 and "Nobody answers at 192.0.2.9" in capsys.readouterr().err


class Pages(http.server.BaseHTTPRequestHandler):
    """A site of four pages, which notes what it was asked for."""

    paths: ClassVar[list] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        status, says = {
            "/": (200, '<a href="/more">welcome'),
            "/in": (302, ""),
            "/wrong": (200, "sorry"),
            "/broken": (500, "oh"),
        }.get(self.path, (404, "no"))
        self.send_response(status)
        self.send_header("X-Request-ID", "ab12")
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(says.encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """What to ask for of a site that answers by TLS on this machine."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.crt"
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
            "-keyout",
            key,
            "-out",
            certificate,
            "-days",
            "1",
            "-subj",
            "/CN=x.test",
            "-addext",
            "subjectAltName=DNS:x.test",
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    Pages.paths.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield ASKED | {
            "name": "x.test",
            "address": "127.0.0.1",
            "port": server.server_port,
            "authority": str(certificate),
        }
        server.shutdown()


@pytest.mark.parametrize(
    ("pages", "wrong", "failed"),
    [
        ({"/": "welcome"}, [], {}),
        ({"/": "welcome", "/in": ""}, [], {}),  # nothing is known of what it says: a redirect is an answer
        ({"/in": "welcome"}, ["The page /in is not there: 302, request ab12"], {}),
        ({"/": "", "/none": ""}, ["The page /none is not there: 404, request ab12"], {}),
        ({"/wrong": "welcome"}, ["The page /wrong does not say welcome: 200, request ab12"], {}),
        ({"/broken": ""}, ["The page /broken is not there: 500, request ab12"], {"/broken": "ab12"}),
    ],
)
def test_a_converge_requests_the_pages_and_follows_no_link(served: Any, pages: Any, wrong: Any, failed: Any) -> None:
    settings = served | {
        "pages": [{"path": path, "says": says} for path, says in pages.items()],
        "pages_only": True,
        "tries": 1,
        "held_s": 1,
    }
    done = subprocess.run(
        [sys.executable, "-m", "controller.commands.smoke", "--stdin"],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (list(result["wrong"].values()), result["failed"]) == (wrong, failed)
    assert set(Pages.paths) == set(pages) and len(Pages.paths) == len(pages)


@pytest.mark.parametrize("logged", [True, False])
def test_a_reverted_release_is_reported_with_the_last_traceback_of_each_request(logged: bool) -> None:
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    load_plugins()
    [play] = [play for play in load(ROOT / "playbooks/parts/rollout.yml") if play["name"] == "Roll out the release"]
    [facts] = [task for task in play["tasks"] if task["name"] == "Record the result of the rollout"]
    rules = load(ROOT / "playbooks/vars/rollout.yml")
    texts = {name: rules[name] for name in ("rollout_failed_requests", "rollout_logged", "rollout_newline")}
    texts["rollout_message"] = facts["ansible.builtin.set_fact"]["rollout_message"]
    hosts = {"app1": {"skipped": True}, "app2": {"tracebacks": {"ab12": ["Traceback (most recent call last):", "x"]}}}
    variables = {name: trust_as_template(text) for name, text in texts.items()} | {
        "rollout_smoke_before": {"/b": "y"},
        "__smoke": {"rc": 0, "stdout": json.dumps({"failed": {"/a": "ab12", "/b": "cd34"}})},
        "groups": {"app": list(hosts)},
        "hostvars": {
            name: {"inventory_hostname": name, "__rollout_errors": result if logged else {}}
            for name, result in hosts.items()
        },
        "rollout_reason": "visitors miss what they got before. The page /a is not there: 500, request ab12",
        "drain_kept": [],
        "django_version": "1f",
        "make_args": "ENV=local",
    }
    message = Templar(loader=DataLoader(), variables=variables).template(trust_as_template("{{ rollout_message }}"))
    assert message.splitlines() == [
        "Release 1f was taken back: visitors miss what they got before. The page /a is not there: 500, request ab12. "
        "Every app host serves what it served before. "
        + ("Details: make logs ENV=local REQUEST=ab12" if logged else "Details: journalctl -t apache2 on the host."),
        *(["app2, request ab12:", "Traceback (most recent call last):", "x"] if logged else []),
    ]


def test_a_deploy_ends_with_the_pages_of_visitors_and_a_converge_checks_them_once() -> None:
    assert load(ROOT / "playbooks/deploy.yml")[-1]["ansible.builtin.import_playbook"] == "parts/visitors.yml"
    imports = {play.get("ansible.builtin.import_playbook"): play for play in load(ROOT / "playbooks/site.yml")}
    assert imports["deploy.yml"]["vars"] == {"visitors_hosts": "lb:!lb"} and "vars" not in imports["parts/visitors.yml"]


def test_settings_of_the_smoke_test_are_declared() -> None:
    """What the program reads is what playbooks/vars/smoke.yml says."""
    settings = load(ROOT / "playbooks/vars/smoke.yml")["smoke_settings"]
    assert set(settings) == {"name", "names", "address", "port", "authority", "pages", "files", "most", "sign_in"}


@pytest.mark.parametrize(
    ("before", "rc", "after", "missed"),
    [
        ({}, 0, {}, []),
        ({}, 0, {"/a": "The page /a is not there: 500"}, ["The page /a is not there: 500"]),
        (
            {"/a": "The page /a is not there: 404"},
            0,
            {"/a": "The page /a is not there: 500"},
            [],
        ),  # not this release's fault
        ({"/a": "x"}, 0, {"/a": "x", "/b": "y"}, ["y"]),
        ({}, 2, {}, []),  # nobody answered: no release does that
    ],
)
def test_a_release_is_compared_with_the_smoke_test_before(before: Any, rc: int, after: Any, missed: Any) -> None:
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    load_plugins()
    variables = {
        "rollout_smoke_before": before,
        "rollout_smoke_answered": True,
        "__smoke": {"rc": rc, "stdout": json.dumps({"wrong": after}) if rc == 0 else ""},
    }
    rules = load(ROOT / "playbooks/vars/rollout.yml")
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(trust_as_template(rules["rollout_regressions"])) == missed
    assert templar.template(trust_as_template(rules["rollout_unanswered"])) == (rc != 0)
