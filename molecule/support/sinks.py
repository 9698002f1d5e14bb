"""Where the tier's alarms go in a test: a relay for mail, and a service for webhooks and heartbeats, on the network's gateway."""

import dataclasses
import email
import email.policy
import http.server
import json
import re
import socketserver
import threading
import time

SUBJECT = re.compile(r"\[(?P<environment>.+)\] (?P<type>\w+): (?:(?P<service>.+) on )?(?P<host>\S+) is (?P<state>\w+)")


@dataclasses.dataclass(frozen=True)
class Told:
    """One alarm, as somebody got it."""

    way: str
    contact: str  # name; of an email the part before the @
    type: str
    host: str
    service: str
    state: str
    text: str  # all of it
    at: float

    @property
    def check(self):
        """The check: the first word of the service; a host's own is told without one."""
        return self.service.split()[0] if self.service else "tier" if self.host == "tier" else "host"


class Sinks:
    """Takes mail, webhooks and heartbeats, and remembers them. Closed, it is there and takes nothing."""

    def __init__(self, mail, web):
        self.told, self.beats, self.closed = [], [], False
        sink = self

        class Mail(socketserver.StreamRequestHandler):
            """As much of SMTP as a relay that takes everything needs."""

            timeout = 10

            def say(self, words):
                """Answer a line."""
                self.wfile.write(words.encode() + b"\r\n")

            def handle(self):
                if sink.closed:
                    self.say("421 closed")
                    return
                self.say("220 sink")
                receivers = []
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "DATA":
                        self.say("354 go on")
                        body = b"".join(iter(self.rfile.readline, b".\r\n"))
                        sink.mailed(receivers, re.sub(rb"(?m)^\.\.", b".", body))
                    elif verb == "RCPT":
                        receivers.append(re.search(r"<(.*?)>", line)[1])
                    self.say("221 bye" if verb == "QUIT" else "250 fine")
                    if verb == "QUIT":
                        return

        class Web(http.server.BaseHTTPRequestHandler):
            """Takes every request."""

            timeout = 10

            def do_GET(self):
                """A heartbeat."""
                if not sink.closed:
                    sink.beats.append(time.time())
                self.send_response(503 if sink.closed else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self):
                """An alarm."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not sink.closed:
                    said = json.loads(body)
                    sink.told.append(
                        Told(
                            "webhook",
                            *(said[key] for key in ("contact", "type", "host", "service", "state")),
                            body.decode(),
                            time.time(),
                        )
                    )
                self.send_response(503 if sink.closed else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_words):
                """Say nothing."""

        class Server(socketserver.ThreadingTCPServer):
            """A server that can be started again at once."""

            allow_reuse_address = True
            daemon_threads = True

        self.servers = [Server(mail, Mail), Server(web, Web)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def mailed(self, receivers, body):
        """Remember a mail."""
        message = email.message_from_bytes(body, policy=email.policy.default)
        said = SUBJECT.fullmatch(message["Subject"])
        assert said, message["Subject"]
        for receiver in receivers:
            self.told.append(
                Told(
                    "email",
                    receiver.partition("@")[0],
                    said["type"],
                    said["host"],
                    said["service"] or "",
                    said["state"],
                    message.get_content(),
                    time.time(),
                )
            )

    def close(self):
        """Be gone."""
        for server in self.servers:
            server.shutdown()
            server.server_close()
