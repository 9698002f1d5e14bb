"""Requests to a site at its virtual IP: what the site is sent, and what is made of its answers."""

import http.server
import pathlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import urllib3

from controller import browser
from controller.commands import load
from controller.http import request

FORM = '<input name="csrfmiddlewaretoken" value="abc1">'


class Pages(http.server.BaseHTTPRequestHandler):
    """A site with a form, which notes what it is sent."""

    received: ClassVar[list[tuple[str, dict[str, str], str]]] = []

    def answer(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.received.append((f"{self.command} {self.path}", dict(self.headers), body))
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        self.answer(200, FORM, ("Set-Cookie", "csrftoken=1; Path=/; Secure"), ("Set-Cookie", "lang=en"))

    def do_POST(self) -> None:
        self.answer(302, "", ("Location", "/elsewhere"), ("Set-Cookie", "sessionid=2; HttpOnly; Secure"))

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Name, address, port and authority of a site on this machine."""
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.crt"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=x.test"]
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=DNS:x.test"]
    subprocess.run(["openssl", "req", "-x509", *options, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    Pages.received.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "name": "x.test",
            "address": "127.0.0.1",
            "port": server.server_port,
            "authority": str(certificate),
        }
        server.shutdown()


def test_a_request_names_the_site_and_no_library(site: dict[str, Any]) -> None:
    response = request(site, browser.trust(site["authority"]), 5, "GET", "/a/../b?x=1&y=%20")
    assert response.status == 200 and response.data.decode() == FORM
    [(line, headers, body)] = Pages.received
    assert (line, body) == ("GET /a/../b?x=1&y=%20", "")
    assert headers == {"Host": f"x.test:{site['port']}", "Accept-Encoding": "identity"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "y.test"}, "doesn't match|not valid for|mismatch"),
        ({"authority": "/none"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"port": 1}, "refused"),
    ],
)
def test_a_site_that_cannot_be_trusted_or_reached_is_no_answer(
    site: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    asked = site | change
    with pytest.raises(urllib3.exceptions.HTTPError, match=reason):
        request(asked, browser.trust(asked["authority"]), 5, "GET", "/")
    assert Pages.received == []


def test_a_visitor_of_a_load_signs_in_by_a_form(site: dict[str, Any]) -> None:
    form = {"page": "/in", "fields": {"username": "load"}, "password": "pass"}
    assert load.sign_in(site, form, "s3 cret&") == "csrftoken=1; lang=en; sessionid=2"
    (first, _headers, _body), (second, headers, body) = Pages.received
    assert (first, second) == ("GET /in", "POST /in")
    assert body == "username=load&pass=s3+cret%26&csrfmiddlewaretoken=abc1"
    assert headers == {
        "Host": f"x.test:{site['port']}",
        "Accept-Encoding": "identity",
        "Content-Length": str(len(body)),
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": "csrftoken=1; lang=en",
        "Referer": f"https://x.test:{site['port']}/in",
    }
