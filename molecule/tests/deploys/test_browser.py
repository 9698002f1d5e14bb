"""The browser of a deploy and of `make smoke`: what a page that attacks it could reach."""

import http.server
import os
import pathlib
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest
from cryptography import x509

from controller import browser

NAME = "x.test"
pytestmark = pytest.mark.usefixtures("chromium")


class Page(http.server.BaseHTTPRequestHandler):
    """One that says welcome."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>welcome</title>")

    def log_message(self, *_arguments: object) -> None:
        pass


def certificate(directory: pathlib.Path) -> tuple[pathlib.Path, str]:
    """(path of a key with its certificate, which no authority has signed; that key as Chromium is told of it)."""
    key, shown = directory / "key.pem", directory / "certificate.pem"
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
            f"/CN={NAME}",
            "-addext",
            f"subjectAltName=DNS:{NAME}",
            "-days",
            "9",
            "-keyout",
            key,
            "-out",
            shown,
        ],
        check=True,
        capture_output=True,
    )
    text = shown.read_bytes()
    key.write_bytes(key.read_bytes() + text)
    return key, browser.spki(x509.load_pem_x509_certificate(text))


@pytest.fixture(name="site")
def site_fixture(tmp_path: pathlib.Path) -> Iterator[tuple[browser.Site, int]]:
    """(a site on this machine, its port)."""
    path, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield browser.Site(NAME, "127.0.0.1", key), server.server_port
        server.shutdown()


def family(process: int) -> list[pathlib.Path]:
    """[/proc/PID] of a process and of all that it has started."""
    pids = [process]
    for pid in pids:
        pids += [
            int(child)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    return [pathlib.Path("/proc", str(pid)) for pid in pids]


def test_the_browser_is_unprivileged_in_a_sandbox_and_resolves_a_single_site(site: tuple[browser.Site, int]) -> None:
    one, port = site
    with browser.Browser(one) as window:
        window.open(f"https://{NAME}:{port}/")
        assert window.value("document.title") == "welcome"
        found = {path: (path / "cmdline").read_text().replace("\0", " ") for path in family(window.process.pid)}
        users = {path.stat().st_uid for path in found}
        assert users == {os.geteuid()} if os.geteuid() else len(users) == 1 and users <= set(browser.USERS)
        assert [words for words in found.values() if "--no-sandbox" in words] == []
        renderers = [path for path, words in found.items() if "--type=renderer" in words]
        assert renderers
        for path in renderers:
            assert "Seccomp:\t2" in (path / "status").read_text().splitlines()
            assert (path / "ns/net").readlink() != pathlib.Path("/proc/self/ns/net").readlink()
        for elsewhere in ("y.test", "127.0.0.1"):
            with pytest.raises(RuntimeError, match="ERR_NAME_NOT_RESOLVED"):
                window.open(f"https://{elsewhere}:{port}/")


def test_the_browser_refuses_another_key(site: tuple[browser.Site, int], tmp_path: pathlib.Path) -> None:
    one, port = site
    (tmp_path / "another").mkdir()
    _path, another = certificate(tmp_path / "another")
    with (
        browser.Browser(one._replace(key=another)) as window,
        pytest.raises(RuntimeError, match="ERR_CERT_AUTHORITY_INVALID"),
    ):
        window.open(f"https://{NAME}:{port}/")
