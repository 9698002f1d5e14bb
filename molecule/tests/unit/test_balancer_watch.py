"""What keepalived is told about the balancers: by answers in a row, and by what counts as an answer."""

import argparse
import http.server
import pathlib
import socket
import threading
import time

import pytest
from repository import program

PROGRAM = "roles/keepalived/files/balancer-watch"
watch = program(PROGRAM)


@pytest.mark.parametrize(
    ("fall", "rise", "heard", "verdicts"),
    [
        (2, 2, "+-+--+-++", "++++----+"),  # the balancer itself: two in a row
        (1, 3, "+-++-+++", "+------+"),  # the others: silent at once, well after three
        (2, 2, "-++", "--+"),  # the first answer decides alone
    ],
)
def test_a_verdict_changes_after_consecutive_answers(fall: int, rise: int, heard: str, verdicts: str) -> None:
    verdict = watch.Verdict(fall=fall, rise=rise)
    states = ""
    for result in heard:
        before = verdict.failing
        assert verdict.hear(result == "+") == (before is not verdict.failing)
        states += "-" if verdict.failing else "+"
    assert states == verdicts


@pytest.mark.parametrize(
    ("status", "well"), [(200, True), (204, True), (301, True), (404, True), (500, False), (503, False)]
)
def test_every_answer_is_healthy_except_a_server_error(status: int, well: bool) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert (self.path, self.headers["Host"]) == ("/lb-health", "x.test")
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_args: str) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.handle_request, daemon=True).start()
    with server:
        request = b"GET /lb-health HTTP/1.0\r\nHost: x.test\r\n\r\n"
        assert watch.answers("127.0.0.1", server.server_port, request, time.monotonic() + 5) is well


def test_a_balancer_that_sends_no_answer_is_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        begun = time.monotonic()
        assert not watch.answers("127.0.0.1", frozen.getsockname()[1], b"GET / HTTP/1.0\r\n\r\n", begun + 0.2)
        assert 0.2 <= time.monotonic() - begun < 1
    assert not watch.answers("127.0.0.1", 1, b"", time.monotonic() + 5)


def test_a_delayed_process_does_not_change_the_verdict(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three looks long: its host is so busy that the answer may have been there."""
    given = argparse.Namespace(port=1, path="/", host="x.test")
    watcher = watch.Watch(tmp_path / "balancer", ["127.0.0.1"], watch.Verdict(fall=2, rise=2, failing=False), given)
    late = [watch.LATE_S + 0.1]

    def answers(_address: str, _port: int, _request: bytes, until: float) -> bool:
        clock[0] = until + late[0]
        return False

    clock = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(watch, "answers", answers)
    for _round in range(watch.LATE_MOST + 1):
        watcher.look()
    assert watcher.verdict.failing is False
    watcher.look()
    assert watcher.verdict.failing is True
    watcher.verdict, watcher.late, late[0] = watch.Verdict(fall=2, rise=2, failing=False), 0, 0.0
    watcher.look()
    watcher.look()
    assert watcher.verdict.failing is True
