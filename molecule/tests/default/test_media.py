"""The media tier: what visitors get of it, who may change it, and that its hosts agree."""

import base64
import contextlib
import email.utils
import gzip
import http.client
import json
import textwrap
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from fixtures import OnHost
from testinfra.host import Host
from tier import Tier, eventually

# A few of the files a release may have, by name. The .br is never unpacked here, so it may be anything.
STYLE = b"body { color: darkslategray }\n" * 100
HASHED = "site.0123456789ab.css"
STATIC = {
    HASHED: STYLE,
    HASHED + ".gz": gzip.compress(STYLE, mtime=0),
    HASHED + ".br": b"brotli",
    "plain.css": STYLE,
    ".hidden": b"secret",
    "font.woff2": b"f",
    "icon.svg": b"<svg/>",
    "a.webp": b"w",
    "a.avif": b"a",
    "a.mjs": b"m",
    "a.json": b"{}",
    "a.map": b"{}",
    "a": b"?",
}
Ask = Callable[..., types.SimpleNamespace]  # ask(host, path, method, body, **headers): status, headers, body
RELEASED = 1767323045  # when that release was made
PICTURE = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def variables(tier: Tier) -> types.SimpleNamespace:
    """Variables of the media hosts, read once."""
    names = (
        "all_hosts",
        "groups",
        "media_port",
        "media_root",
        "media_status_port",
        "media_upload_port",
        "site_media_url",
        "site_static_url",
        "site_upload_limit_mb",
        "static_root",
    )
    found = tier.value("dict(" + ", ".join(f"{name}={name}" for name in names) + ")", tier.hosts("media")[0])
    return types.SimpleNamespace(**found, addresses={host["name"]: host["address"] for host in found["all_hosts"]})


@pytest.fixture(scope="module")
def media(variables: types.SimpleNamespace, on: OnHost) -> dict[str, Host]:
    """The media hosts: {name: host}."""
    return {name: on(name) for name in variables.groups["media"]}


@pytest.fixture(scope="module")
def static(variables: types.SimpleNamespace, media: dict[str, Host]) -> Iterator[str]:
    """A release's static files on every media host; the URL path they are at."""
    directory = f"{variables.static_root}/tests-tmp"
    files = {name: base64.b64encode(content).decode() for name, content in STATIC.items()}
    for host in media.values():
        python(
            host,
            f"""
            import base64, os, shutil
            shutil.rmtree({directory!r}, ignore_errors=True)  # of a run that was cut off
            os.mkdir({directory!r})
            for name, content in {files!r}.items():
                open(f"{directory}/{{name}}", "wb").write(base64.b64decode(content))
                os.utime(f"{directory}/{{name}}", ({RELEASED}, {RELEASED}))
            os.symlink("/etc/passwd", "{directory}/link.txt")
        """,
        )
    yield variables.site_static_url + "tests-tmp/"
    for host in media.values():
        host.check_output("rm -r %s", directory)


@pytest.fixture(scope="module")
def send(variables: types.SimpleNamespace, on: OnHost) -> Callable[..., list[int]]:
    """Send uploads, from an app host or another one: their statuses. Each is (host, method, path, content)."""

    def send(*requests_: Any, by: str | None = None, headers: dict[str, str] | None = None) -> list[int]:
        asked = [
            (variables.addresses[host], method, path, base64.b64encode(content).decode())
            for host, method, path, *rest in requests_
            for content in (rest or [b""])
        ]
        return json.loads(
            python(
                on(by or variables.groups["app"][0]),
                f"""
            import base64, http.client, json
            statuses = []
            for address, method, path, content in {asked!r}:
                connection = http.client.HTTPConnection(address, {variables.media_upload_port}, timeout=10)
                body = base64.b64decode(content) if method in ("PUT", "POST") else None
                connection.request(method, path, body, {headers or {}!r})
                statuses.append(connection.getresponse().status)
            print(json.dumps(statuses))
        """,
            )
        )

    return send


@pytest.fixture(scope="module")
def uploads(variables: types.SimpleNamespace, media: dict[str, Host], send: Callable[..., list[int]]) -> Iterator[str]:
    """A directory of uploads on every media host; the URL path it is at."""
    directory = f"tests-{uuid.uuid4().hex}/"
    path = variables.site_media_url + directory
    assert set(send(*((name, "MKCOL", path) for name in media))) == {201}
    yield path
    for host in media.values():
        # Also the notes of what the tests deleted.
        host.check_output(
            "cd %s && rm -rf %s && { grep -lrF %s .sync/deleted | xargs -r rm; }",
            variables.media_root,
            directory,
            directory,
        )


@pytest.fixture
def ask(variables: types.SimpleNamespace) -> Ask:
    """Ask a media host as a balancer does: a response, not decoded."""

    def ask(
        name: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> types.SimpleNamespace:
        connection = http.client.HTTPConnection(variables.addresses[name], variables.media_port, timeout=10)
        with contextlib.closing(connection):
            # Not requests: it would tidy up paths that a test wants sent as they are.
            connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            return types.SimpleNamespace(status=response.status, headers=response.headers, body=response.read())

    return ask


def python(host: Host, script: str) -> str:
    """Run a script on a host."""
    return host.check_output("python3 -c %s", textwrap.dedent(script))


def test_validators_of_a_static_file_are_the_same_on_all_hosts(ask: Ask, media: dict[str, Host], static: str) -> None:
    answers = [ask(name, static + HASHED) for name in media]
    assert all(answer.status == 200 and answer.body == STYLE for answer in answers)
    [validators] = {(answer.headers["ETag"], answer.headers["Last-Modified"]) for answer in answers}
    assert validators[1] == email.utils.formatdate(RELEASED, usegmt=True)
    for name in media:
        for header, value in zip(("If_None_Match", "If_Modified_Since"), validators):
            unchanged = ask(name, static + HASHED, **{header: value})
            assert (unchanged.status, unchanged.body) == (304, b"")
        assert ask(name, static + HASHED, If_None_Match='"another"').status == 200


def test_range_requests_are_answered(ask: Ask, media: dict[str, Host], static: str) -> None:
    for name in media:
        part = ask(name, static + HASHED, Range="bytes=100-199")
        assert (part.status, part.body) == (206, STYLE[100:200])
        assert part.headers["Content-Range"] == f"bytes 100-199/{len(STYLE)}"
        assert ask(name, static + HASHED, Range="bytes=-10").body == STYLE[-10:]
        assert ask(name, static + HASHED, Range=f"bytes={len(STYLE)}-").status == 416


@pytest.mark.parametrize(
    ("accept", "coding", "suffix"),
    [
        ("gzip, deflate, br", "br", ".br"),
        ("gzip", "gzip", ".gz"),
        ("br;q=0, GZIP ;q=0.5", "gzip", ".gz"),
        ("br;q=0.0,gzip;q=0", None, ""),
        ("brotli, xgzip", None, ""),
        ("identity", None, ""),
    ],
)
def test_accept_encoding_selects_the_compressed_variant(
    ask: Ask, media: dict[str, Host], static: str, accept: str, coding: str | None, suffix: str
) -> None:
    for name in media:
        answer = ask(name, static + HASHED, Accept_Encoding=accept)
        assert (answer.status, answer.headers["Content-Encoding"], answer.body) == (
            200,
            coding,
            STATIC[HASHED + suffix],
        )
        assert answer.headers["Content-Type"].startswith("text/css")
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert "immutable" in answer.headers["Cache-Control"]


def test_a_compressed_variant_is_served_by_name(ask: Ask, media: dict[str, Host], static: str) -> None:
    name = next(iter(media))
    archive = ask(name, static + HASHED + ".gz", Accept_Encoding="gzip, br")
    assert (archive.headers["Content-Encoding"], archive.headers["Content-Type"]) == (None, "application/gzip")
    assert gzip.decompress(archive.body) == STYLE
    assert ask(name, static + HASHED + ".br", Accept_Encoding="gzip, br").body == STATIC[HASHED + ".br"]


def test_only_hashed_names_are_immutable(ask: Ask, media: dict[str, Host], static: str) -> None:
    def expiry(path: str) -> Any:
        return ask(next(iter(media)), static + path).headers["Cache-Control"]

    assert expiry(HASHED) == "public, max-age=31536000, immutable"
    assert int(expiry("plain.css").split("max-age=")[1]) <= 3600
    # It may exist a moment later, on this host too.
    assert expiry("missing.0123456789ab.css") is None


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("plain.css", "text/css; charset=utf-8"),
        ("font.woff2", "font/woff2"),
        ("icon.svg", "image/svg+xml"),
        ("a.webp", "image/webp"),
        ("a.avif", "image/avif"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.map", "application/json"),
        ("a", "application/octet-stream"),
    ],
)
def test_content_types_are_sent_with_nosniff(
    ask: Ask, media: dict[str, Host], static: str, name: str, content_type: str
) -> None:
    headers = ask(next(iter(media)), static + name, method="HEAD").headers
    assert (headers["Content-Type"], headers["X-Content-Type-Options"]) == (content_type, "nosniff")


@pytest.mark.parametrize(
    "path",
    [
        "{static}",
        "{static}..",
        "/",
        "/static",
        "/etc/passwd",
        "/server-status",
        "/media-sync",
        "{media}",
        "{media}.sync/index",
        "{static}.hidden",
        "{static}link.txt",
        "{static}plain.css/more",
        "{static}../../../../etc/passwd",
        "{static}%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "{static}..%2f..%2f..%2f..%2fetc%2fpasswd",
        "{static}%2e%2e%5c%2e%2e%5c",
        "{static}%252e%252e/plain.css",
        "{static}plain.css%00.png",
        "{static}%ff",
        "{media}../static/tests-tmp/.hidden",
        "{media}%2e%2e/static/tests-tmp/link.txt",
    ],
)
def test_other_paths_are_refused(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], static: str, path: str
) -> None:
    for name in media:
        answer = ask(name, path.format(static=static, media=variables.site_media_url))
        assert answer.status in (400, 403, 404) or (answer.status, path) == (301, "/static")
        assert b"root:" not in answer.body and b"secret" not in answer.body and b"plain.css" not in answer.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "MKCOL", "PROPFIND", "MOVE", "OPTIONS", "TRACE"])
def test_write_methods_of_visitors_are_refused(ask: Ask, media: dict[str, Host], static: str, method: str) -> None:
    name = next(iter(media))
    assert ask(name, static + "plain.css", method=method, body=b"x").status in (403, 405, 413)
    assert ask(name, static + "plain.css").body == STYLE


def settle(hosts: dict[str, Host]) -> None:
    """What the timer of each host does every now and then; twice, for what the first has learnt from the last."""
    for host in [*hosts.values(), *hosts.values()]:
        # "restart": one that the timer has started a moment ago has not seen what the test has just done.
        host.check_output("systemctl restart media-sync")


def test_an_upload_is_served_by_every_host(
    ask: Ask, media: dict[str, Host], send: Callable[..., list[int]], uploads: str
) -> None:
    picture = uploads + "b%C3%A4r%20lin.JPG"
    assert send(*((name, "PUT", picture, PICTURE) for name in media)) == [201] * len(media)
    settle(media)

    def validators() -> set[tuple[str, str]]:
        return {
            (answer.headers["ETag"], answer.headers["Last-Modified"])
            for answer in (ask(name, picture) for name in media)
        }

    # It reached them one after the other, and yet:
    assert len(validators()) == 1, validators()
    answers = [ask(name, picture) for name in media]
    assert all(answer.status == 200 and answer.body == PICTURE for answer in answers)
    assert {answer.headers["Content-Type"] for answer in answers} == {"image/jpeg"}
    assert "Content-Disposition" not in answers[0].headers
    assert [ask(name, picture, Range="bytes=5-9").body for name in media] == [PICTURE[5:10]] * len(media)


def test_uploads_with_scripts_are_sandboxed_attachments(
    ask: Ask, media: dict[str, Host], send: Callable[..., list[int]], uploads: str
) -> None:
    host = next(iter(media))
    names = ["page.html", "PAGE.HTM", "picture.svg", "feed.xml", "code.js", "prog.php", "x.jpg.xhtml", "none"]
    send(*((host, "PUT", uploads + name, b"<script>alert(1)</script>") for name in names))
    for name in names:
        answer = ask(host, uploads + name)
        assert answer.body == b"<script>alert(1)</script>"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"] == "attachment"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.apart("app", "lb", "cache", "media")
def test_only_app_hosts_can_upload(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], send: Callable[..., list[int]], uploads: str
) -> None:
    host, *_others = media
    app = variables.groups["app"]
    for by in app:
        assert send((host, "PUT", uploads + by, b"x"), by=by) == [201]
    for by in (variables.groups["lb"][0], variables.groups["cache"][0], variables.groups["media"][-1]):
        tried = [(host, method, uploads + app[0], b"forged") for method in ("PUT", "DELETE", "MKCOL", "PROPFIND")]
        assert set(send(*tried, by=by, headers={"X-Forwarded-For": variables.addresses[app[0]]})) == {403}
    assert ask(host, uploads + app[0]).body == b"x"


def test_invalid_requests_of_an_app_host_are_refused(
    ask: Ask, media: dict[str, Host], send: Callable[..., list[int]], uploads: str
) -> None:
    host = next(iter(media))
    assert send((host, "PUT", uploads + "kept", b"x")) == [201]
    refused = [
        ("PUT", ".hidden"),
        ("PUT", "half~"),
        ("PUT", "../.sync/index"),
        ("PUT", "%2e%2e/x"),
        ("PUT", "../../static/x"),
        ("DELETE", ""),
        ("DELETE", "none/"),
        ("DELETE", ".."),
        ("MOVE", "kept"),
        ("COPY", "kept"),
        ("POST", "kept"),
    ]
    got = send(*((host, method, uploads + name, b"y") for method, name in refused[:3] + refused[4:]))
    assert set(got) == {403}, got
    # Nothing above the uploads: the path is made plain first.
    assert send((host, "PUT", uploads + "%2e%2e%2fx", b"y")) == [400]
    assert ask(host, uploads + "kept").body == b"x"


def test_uploads_over_the_limit_are_refused(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], on: OnHost, uploads: str
) -> None:
    host = next(iter(media))
    limit = variables.site_upload_limit_mb * 1024 * 1024
    for size, status, found in ((limit + 1, 413, 404), (limit, 201, 200)):
        assert python(
            on(variables.groups["app"][0]),
            f"""
            import http.client
            connection = http.client.HTTPConnection({variables.addresses[host]!r}, {variables.media_upload_port}, timeout=10)
            try:
                connection.request("PUT", "{uploads}large", bytes({size}))
            except (BrokenPipeError, ConnectionResetError):
                pass  # it answered before it had read all
            print(connection.getresponse().status)
        """,
        ) == str(status)
        assert ask(host, uploads + "large", method="HEAD").status == found


def test_an_incomplete_upload_is_never_served(
    ask: Ask,
    variables: types.SimpleNamespace,
    media: dict[str, Host],
    on: OnHost,
    send: Callable[..., list[int]],
    uploads: str,
) -> None:
    host = next(iter(media))
    send((host, "PUT", uploads + "half-replaced.jpg", PICTURE))
    python(
        on(variables.groups["app"][0]),
        f"""
        import socket
        for name in ("half-new.jpg", "half-replaced.jpg"):
            connection = socket.create_connection(({variables.addresses[host]!r}, {variables.media_upload_port}))
            connection.sendall(f"PUT {uploads}{{name}} HTTP/1.1\\r\\nHost: media\\r\\nContent-Length: 9000000\\r\\n\\r\\n".encode() + bytes(3000000))
            connection.close()
    """,
    )
    assert ask(host, uploads + "half-new.jpg").status == 404
    assert ask(host, uploads + "half-replaced.jpg").body == PICTURE
    directory = variables.media_root + "/" + uploads.removeprefix(variables.site_media_url)
    assert media[host].check_output("ls -A %s | grep half", directory) == "half-replaced.jpg"


@pytest.mark.needs(media=2)
def test_a_media_host_fetches_missed_changes_after_a_downtime(
    ask: Ask, media: dict[str, Host], send: Callable[..., list[int]], static: str, uploads: str
) -> None:
    *up, away = media
    both = [uploads + "deleted.jpg", uploads + "replaced.jpg"]
    assert set(send(*((name, "PUT", path, b"old") for name in media for path in both))) == {201}
    media[away].check_output("systemctl stop lighttpd media-sync.timer media-sync.service")
    try:
        for name in up:
            assert send(
                (name, "PUT", uploads + "missed.jpg", PICTURE),
                (name, "PUT", uploads + "replaced.jpg", PICTURE),
                (name, "DELETE", uploads + "deleted.jpg"),
            ) == [201, 204, 204]
        settle({name: media[name] for name in up})
    finally:
        media[away].check_output("systemctl start media-sync.timer lighttpd")

    assert eventually(lambda: answers(ask, away, static))
    # By itself, because its lighttpd came back.
    assert eventually(
        lambda: [ask(away, uploads + file).status for file in ("missed.jpg", "deleted.jpg")] == [200, 404]
    )
    assert eventually(
        lambda: ask(away, uploads + "missed.jpg").body == ask(away, uploads + "replaced.jpg").body == PICTURE
    )
    # What it still had when it came back does not come back with it.
    settle(media)
    assert [ask(name, uploads + "deleted.jpg").status for name in media] == [404] * len(media)
    for host in media.values():
        assert host.check_output("systemctl is-active media-sync.timer") == "active"


@pytest.mark.needs(media=2)
def test_a_deleted_name_can_be_uploaded_again(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], send: Callable[..., list[int]], uploads: str
) -> None:
    first, *_others = media
    again = uploads + "again.jpg"
    for name in media:
        assert send((name, "PUT", again, b"old"), (name, "DELETE", again)) == [201, 204]
    assert send((first, "PUT", again, PICTURE)) == [201]
    settle(media)
    assert eventually(lambda: [ask(name, again).body for name in media] == [PICTURE] * len(media))
    # A copy that a power cut emptied is not what the others take, however new it is.
    media[first].check_output(
        "truncate -s 0 %s", variables.media_root + "/" + again.removeprefix(variables.site_media_url)
    )
    settle(media)
    assert eventually(lambda: [ask(name, again).body for name in media] == [PICTURE] * len(media))


def test_the_access_log_has_client_and_request_id(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], on: OnHost, static: str
) -> None:
    host, balancer = next(iter(media)), variables.groups["lb"][0]
    mark = uuid.uuid4().hex
    ask(host, static + "plain.css?by=stranger", X_Forwarded_For="203.0.113.9", X_Request_Id=mark + '"1')
    python(
        on(balancer),
        f"""
        import urllib.request
        urllib.request.urlopen(urllib.request.Request(
            "http://{variables.addresses[host]}:{variables.media_port}{static}plain.css?by=balancer",
            headers={{"X-Forwarded-For": "203.0.113.9", "X-Request-Id": "{mark}2"}})).read()
    """,
    )
    # lighttpd writes the log out every few seconds, and when it is told to.
    media[host].check_output("systemctl kill --signal=HUP lighttpd")
    found = eventually(lambda: media[host].run("grep %s /var/log/lighttpd/access.log", mark).stdout.splitlines())
    stranger, visitor = (json.loads(line) for line in found)
    assert stranger["request_id"] == mark + '"1' and stranger["client"] != "203.0.113.9"
    assert (visitor["request_id"], visitor["client"]) == (mark + "2", "203.0.113.9")
    assert (visitor["method"], visitor["url"], visitor["status"], visitor["bytes"]) == (
        "GET",
        static + "plain.css",
        200,
        len(STYLE),
    )


def test_server_status_of_lighttpd_is_allowed_to_localhost_only(
    variables: types.SimpleNamespace, media: dict[str, Host]
) -> None:
    for name, host in media.items():
        said = python(
            host,
            f"""
            import urllib.request
            print(urllib.request.urlopen("http://127.0.0.1:{variables.media_status_port}/server-status?auto").read().decode())
        """,
        )
        assert "Total Accesses:" in said
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{variables.addresses[name]}:{variables.media_status_port}/server-status", timeout=5)


def test_a_restart_finishes_running_downloads(
    ask: Ask, variables: types.SimpleNamespace, media: dict[str, Host], static: str
) -> None:
    name, host = list(media.items())[-1]
    size = 40_000_000
    host.check_output("truncate -s %s %s", str(size), f"{variables.static_root}/tests-tmp/large.bin")
    with requests.get(
        f"http://{variables.addresses[name]}:{variables.media_port}{static}large.bin", stream=True, timeout=10
    ) as download:
        got = len(next(download.iter_content(65536)))
        host.check_output("systemctl restart --no-block lighttpd")
        # It has stopped to take new connections, and goes on with this one.
        assert eventually(lambda: not answers(ask, name, static))
        got += sum(map(len, download.iter_content(65536)))
    assert got == size
    assert eventually(lambda: answers(ask, name, static))


def answers(ask: Ask, name: str, static: str) -> bool:
    """Whether a media host takes connections and answers."""
    try:
        return ask(name, static + "plain.css").status == 200
    except OSError:
        return False
