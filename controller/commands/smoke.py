"""Ask a site, by its virtual IP, for what its visitors rely on: pages by what they say, and what they lead to and show themselves with.

With --stdin what to ask for comes as JSON, and so does what is wrong: how a deploy asks, and a converge, which asks for the pages of site_smoke
only ("pages_only").

site_smoke of group_vars/all/site.yml has the pages to begin with. From there every link of the site's own is followed, static files and uploads are
fetched, each once, at most site_smoke_most of a kind and LONGEST seconds long. Then site_smoke_sign_in signs in, in a real browser; a deploy leaves
that out where this machine has none.
Exits with 1 where something is not as it should be, with 2 where nobody could be asked.
"""

import argparse
import collections
import concurrent.futures
import html.parser
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import urllib3

from controller import ansible, arguments, browser
from controller.http import request
from controller.inventory import ROOT
from controller.report import Row, table

PLAYBOOK = ROOT / "playbooks/queries/smoke.yml"
PATIENCE = 10.0  # seconds a visitor waits for an answer
HELD = 20.0  # seconds a balancer may take to have the virtual IP
LONGEST = 60.0  # seconds after which nothing more is asked for
AGAIN = 1.0  # seconds after which what was not there is asked for once more: a host may just have died
AT_ONCE = 4  # requests under way: no load worth the name

SHOWN_WITH = {"link": "href", "script": "src", "img": "src", "source": "src", "video": "src", "audio": "src"}
RELATIONS = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "manifest",
    "apple-touch-icon",
}  # of a <link> that is fetched


class Answer(NamedTuple):
    """An answer. kind: its content type; request: the id that the balancer gave."""

    status: int
    body: bytes
    kind: str = "text/html"
    location: str = ""
    request: str = ""


class Links(html.parser.HTMLParser):
    """What a page leads to and shows itself with, in its order: found."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        relation = set(given.get("rel", "").lower().split())
        if tag == "a" and "nofollow" not in relation:
            self.targets.append(given.get("href", ""))
        elif tag in SHOWN_WITH and (tag != "link" or relation & RELATIONS):
            self.targets.append(given.get(SHOWN_WITH[tag], ""))
            self.targets += [
                candidate.split()[0] for candidate in given.get("srcset", "").split(",") if candidate.strip()
            ]


def own(link: str, page: str, names: Sequence[str]) -> str:
    """Path and query of a link that a page of the site has; empty where it leads elsewhere, or to nothing."""
    try:
        url = urllib.parse.urlsplit(urllib.parse.urljoin(f"https://{names[0]}{page}", link.strip()))
    except ValueError:
        return ""
    if (
        not link.strip()
        or link.strip().startswith("#")
        or url.scheme not in ("http", "https")
        or url.hostname not in names
    ):
        return ""
    return urllib.parse.quote(url.path or "/", safe="/%:@!$&'()*+,;=~") + (
        f"?{urllib.parse.quote(url.query, safe='/%:@!$&()*+,;=~?[]')}" if url.query else ""
    )


def visitor(questions: Mapping[str, Any]) -> Callable[[str], Answer]:
    """fetch(path) as a browser does it, with the site's name: an Answer. Raises urllib3.exceptions.HTTPError."""
    context = browser.trust(questions["authority"])

    def fetch(path: str) -> Answer:
        response = request(questions, context, PATIENCE, "GET", path)
        content_type, location, request_id = (
            response.headers.get(name, "") for name in ("Content-Type", "Location", "X-Request-Id")
        )
        return Answer(
            response.status, response.data, content_type.partition(";")[0].strip().lower(), location, request_id
        )

    return fetch


class Crawl:
    """What was asked for and what came.

    answers: {path: (kind, its Answer or why there is none, the page that leads there)}; wrong: {path: sentence}; left: paths not asked for.
    """

    def __init__(
        self,
        questions: Mapping[str, Any],
        fetch: Callable[[str], Answer],
        pause: Callable[[float], object] = time.sleep,  # between two tries of a page, with a deadline
    ) -> None:
        self.questions, self.fetch, self.pause = questions, fetch, pause
        self.begin = {page["path"]: page["says"] for page in questions["pages"]}
        self.names = questions.get("names") or [questions.get("name", "site")]
        self.answers: dict[str, tuple[str, Answer | str | None, str]] = {}
        self.wrong: dict[str, str] = {}
        self.left: set[str] = set()
        self.until = time.monotonic() + LONGEST

    def kind(self, path: str) -> str:
        """page, or a name of asked["files"]."""
        return next((what for what, prefix in self.questions["files"].items() if path.startswith(prefix)), "page")

    def complaint(self, path: str, answer: Answer | str) -> str:
        """What is wrong with an answer, as a sentence; empty where nothing is."""
        kind, by, says = self.kind(path), self.answers[path][2], self.begin.get(path)
        if isinstance(answer, str):
            why = answer
        elif kind == "page" and not says and (300 <= answer.status < 400 or answer.status in (401, 403)):
            return ""
        else:
            why = f"{answer.status}, request {answer.request}" if answer.request else str(answer.status)
            if answer.status == 200 and answer.body:
                matches = not says or re.search(says, answer.body.decode(errors="replace"))
                return (
                    "" if matches else f"The page {path} does not say {says}" + (f": {why}" if answer.request else "")
                )
        return f"The {kind} {path} is not there: {why}" + (f" ({by} links to it)" if by else "")

    def get(self, path: str) -> Answer | str | None:
        """Ask for one, and again where it is not as it should be. Nothing where the time is over."""
        answer: Answer | str = ""
        tries = self.questions.get("tries", 2)
        for attempt in range(tries):
            if time.monotonic() > self.until:
                return answer or None
            try:
                answer = self.fetch(path)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                answer = repr(error)
            if not self.complaint(path, answer):
                break
            if attempt < tries - 1:
                self.pause(AGAIN)
        return answer

    def leads_to(self, path: str, answer: Answer | str) -> list[str]:
        """Paths of the site's own that an answer leads to."""
        if not isinstance(answer, Answer) or self.kind(path) != "page" or self.questions.get("pages_only"):
            return []
        links = (
            [answer.location]
            if answer.location
            else Links(answer.body.decode(errors="replace")).targets
            if answer.kind == "text/html"
            else []
        )
        return [target for target in (own(link, path, self.names) for link in links) if target]

    def run(self) -> Self:
        """Ask for everything, those that are linked to from nearer the beginning first."""
        counts: collections.Counter[str] = collections.Counter()
        turn = [(path, "") for path in self.begin]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as at_once:
            while turn:
                paths = []
                for path, by in turn:
                    kind = self.kind(path)
                    if path in self.answers:
                        continue
                    if path not in self.begin and counts[kind] >= self.questions.get("most", 40):
                        self.left.add(path)
                        continue
                    counts[kind] += 1
                    self.answers[path] = (kind, None, by)
                    paths.append(path)
                turn = []
                for path, answer in zip(paths, at_once.map(self.get, paths)):
                    self.answers[path] = (self.answers[path][0], answer, self.answers[path][2])
                    if answer is None:
                        self.left.add(path)
                        continue
                    if sentence := self.complaint(path, answer):
                        self.wrong[path] = sentence
                    turn += [(target, path) for target in self.leads_to(path, answer)]
        if (
            "static file" in self.questions["files"]
            and not self.questions.get("pages_only")
            and not any(kind == "static file" for kind, _answer, _by in self.answers.values())
        ):
            self.wrong["static file"] = "No page links to a static file"
        return self

    def failed(self) -> dict[str, str]:
        """{path: id of the request} of those that the site itself failed at."""
        answers = {path: answer for path, (_kind, answer, _by) in self.answers.items() if isinstance(answer, Answer)}
        return {path: answer.request for path, answer in answers.items() if answer.status >= 500 and answer.request}


def rows(crawl: Crawl) -> list[Row]:
    """Cells of the table: the pages to begin with, the first file of each kind, and a count of all others."""

    def result(path: str) -> str:
        _kind, answer, _by = crawl.answers[path]
        return (
            f"{answer.status}, {len(answer.body)} bytes" if isinstance(answer, Answer) else str(answer or "not asked")
        )

    lines: list[Row] = [("what", "path", "answer"), *(("page", path, result(path)) for path in crawl.begin)]
    for kind in ["page", *crawl.questions["files"]]:
        others = [
            path for path, (is_kind, _a, _b) in crawl.answers.items() if is_kind == kind and path not in crawl.begin
        ]
        if kind != "page":
            lines.append(
                (kind, others[0], result(others[0]))
                if others
                else (kind, crawl.questions["files"][kind], "no page links to one")
            )
            others = others[1:]
        if others:
            bad = sum(path in crawl.wrong for path in others)
            lines.append((f"{kind}s", f"{len(others)} more", f"{bad} of them not there" if bad else "all there"))
    if crawl.left:
        lines.append(("links", f"{len(crawl.left)} more", "not asked"))
    return lines


# ------------------------------------------------------------------ in a browser


def origin(questions: Mapping[str, Any]) -> str:
    """The site as a browser names it: a form's sender has to be spelt like that."""
    return f"https://{questions['name']}{'' if int(questions['port']) == 443 else ':' + str(questions['port'])}"


def field(name: str) -> str:
    """A field of a form, in JavaScript."""
    return f"document.querySelector({json.dumps(f'[name={json.dumps(name)}]')})"


def fill_in(questions: Mapping[str, Any], window: browser.Browser) -> str:
    """Sign in as a person does; why that did not come to what it should, or nothing."""
    form = questions["sign_in"]
    try:
        window.open(origin(questions) + form["page"])
        for name, value in (form["fields"] | {form["password"]: form["secret"]}).items():
            window.value(f"{field(name)}.value = {json.dumps(value)}")
        window.go(lambda: window.value(f"{field(form['password'])}.form.requestSubmit()"))
        text = " ".join(window.value("document.body.innerText").split())
    except (RuntimeError, TimeoutError, ConnectionError) as error:
        return f"{error!r}".replace(form["secret"], "…")
    return "" if re.search(form["says"], text) else f"the page says {text[:200]!r}"


def make_user(form: Mapping[str, Any]) -> str:
    """Make the user on the first app host that can; why none could, or nothing."""
    command, reason = shlex.join(["sudo", "/usr/local/bin/manage", *form["user"]]), "no host of the app pool"
    for login in form["doors"]:
        done = subprocess.run(
            [*shlex.split(login), command], input=f"{form['secret']}\n", capture_output=True, text=True, check=False
        )
        if not done.returncode:
            return ""
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].replace(form["secret"], "…")
    return reason


def sign_in(questions: Mapping[str, Any], may_install: bool) -> tuple[list[Row], dict[str, str], str]:
    """(rows of the table, {"sign in": sentence about what is wrong}, why nobody was asked or nothing)."""
    form = questions.get("sign_in")
    if not form:
        return [], {}, ""
    try:
        if may_install:
            browser.install(lambda what: print(what, flush=True))
        elif not shutil.which("chromium"):
            raise FileNotFoundError("there is no Chromium here, and make smoke installs it")
        site = browser.trusted(questions["name"], questions["address"], int(questions["port"]), questions["authority"])
        with browser.Browser(*(site._replace(name=name) for name in questions.get("names") or [site.name])) as window:
            problem = fill_in(questions, window)
            if problem:
                unmade = make_user(form)
                problem = f"{problem}, and its user cannot be made: {unmade}" if unmade else fill_in(questions, window)
    except (
        OSError,
        RuntimeError,
        subprocess.SubprocessError,
    ) as error:  # of this machine; what goes wrong on the site is in `why`
        return [("sign in", form["page"], f"not asked: {error}")], {}, f"Nobody tried to sign in: {error}."
    wrong = {"sign in": f"Nobody can sign in at {form['page']}: {problem}"} if problem else {}
    return [("sign in", form["page"], "nobody can" if problem else "works, in a browser")], wrong, ""


def held(questions: Mapping[str, Any]) -> bool:
    """Await that somebody takes connections at the virtual IP; whether anybody does."""
    deadline = time.monotonic() + questions.get("held_s", HELD)
    while True:
        try:
            socket.create_connection((questions["address"], questions["port"]), timeout=1).close()
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)  # between two tries with a deadline


def main() -> int:
    """Print what came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--inventory", help="inventory of the environment")
    source.add_argument("--stdin", action="store_true", help="read what to ask for as JSON, and print JSON")
    arguments.add_extra_vars(parser)
    args = parser.parse_args()
    if args.stdin:
        questions = json.load(sys.stdin)
    else:
        answers = ansible.ask(args.inventory, PLAYBOOK, arguments.extra_vars(args)).values()
        questions = next((answer["msg"] for answer in answers if isinstance(answer.get("msg"), dict)), None)
    if questions is None:
        print("group_vars do not say what a visitor gets: make converge says why.", file=sys.stderr)
        return 2
    if not held(questions):
        print(f"Nobody answers at {questions['address']}: on a balancer, journalctl -u keepalived", file=sys.stderr)
        return 2
    crawl = Crawl(questions, visitor(questions)).run()
    sign_in_lines, refused, left_out = sign_in(questions, may_install=not args.stdin)
    lines, wrong = rows(crawl) + sign_in_lines, crawl.wrong | refused
    if args.stdin:
        print(json.dumps({"wrong": wrong, "left_out": left_out, "failed": crawl.failed()}))
        return 0
    sentences = [*wrong.values(), *([left_out] if left_out else [])]
    print(
        "\n".join(["", *table(lines), "", *(f"  {sentence}" for sentence in sentences), *([""] if sentences else [])])
    )
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
