"""A host of a pool that misbehaves when asked to: test_lb.py puts it behind a balancer.

    stand_in.py ADDRESS PORT DIRECTORY

A request for /FAULT/TOKEN meets the fault the first time any stand-in hears of TOKEN and is
answered after that; /slow/TOKEN is slow every time. DIRECTORY/hits gets a line per request.
"""

import hashlib
import http.server
import json
import os
import pathlib
import sys
import time

ADDRESS, PORT, DIRECTORY = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Misbehave, or tell the request as JSON."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _root, fault, token, *_rest = (self.path + "//").split("/")
        with open(DIRECTORY / "hits", "a", encoding="utf-8") as hits:
            hits.write(f"{self.command} {self.path} {ADDRESS}\n")
        try:
            os.close(os.open(DIRECTORY / f"seen-{token}", os.O_CREAT | os.O_EXCL))
            first = True
        except FileExistsError:
            first = False
        if fault == "slow":
            time.sleep(1)  # the fault itself: a slow host
        elif first and fault == "stall":
            time.sleep(20)  # the fault itself: a page that takes longer than anybody waits
        elif first and fault == "die":
            self.close_connection = True
            return
        status = 503 if first and fault == "busy" else 200
        said = json.dumps(
            {
                "method": self.command,
                "path": self.path,
                "headers": dict(self.headers.items()),
                "size": len(body),
                "sha": hashlib.sha256(body).hexdigest(),
            }
        ).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.send_header("X-Served-By", "here/r1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *args: object) -> None:
        """Say nothing."""


http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer((ADDRESS, PORT), StandIn).serve_forever()
