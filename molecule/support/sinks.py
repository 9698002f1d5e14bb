"""The receivers of alarms in a test: a relay for mail, and a service for webhooks and heartbeats, on the network's gateway."""

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
class Notification:
    """One notification, as a contact got it."""

    way: str  # email or webhook
    contact: str  # name; of an email the part before the @
    type: str
    host: str
    service: str
    state: str
    text: str  # all of it
    at: float  # time.time()

    @property
    def check(self) -> str:
        """The check: the first word of the service; notifications of a host itself have none."""
        return self.service.split()[0] if self.service else "tier" if self.host == "tier" else "host"


class Sinks:
    """Takes mail, webhooks and heartbeats, and records them. While `closed` it refuses them."""

    def __init__(self, mail: tuple[str, int], web: tuple[str, int]) -> None:
        self.received: list[Notification] = []
        self.heartbeats: list[float] = []  # time.time() of each heartbeat
        self.closed = False
        sink = self

        class Mail(socketserver.StreamRequestHandler):
            """As much of SMTP as a relay that takes everything needs."""

            timeout = 10

            def reply(self, line: str) -> None:
                """Send a line."""
                self.wfile.write(line.encode() + b"\r\n")

            def handle(self) -> None:
                """Take one mail after another."""
                if sink.closed:
                    self.reply("421 closed")
                    return
                self.reply("220 sink")
                receivers: list[str] = []
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "DATA":
                        self.reply("354 go on")
                        body = b"".join(iter(self.rfile.readline, b".\r\n"))
                        sink.receive_mail(receivers, re.sub(rb"(?m)^\.\.", b".", body))
                    elif verb == "RCPT":
                        address = re.search(r"<(.*?)>", line)
                        assert address, line
                        receivers.append(address[1])
                    self.reply("221 bye" if verb == "QUIT" else "250 fine")
                    if verb == "QUIT":
                        return

        class Web(http.server.BaseHTTPRequestHandler):
            """Takes every request."""

            timeout = 10

            def do_GET(self) -> None:
                """A heartbeat."""
                if not sink.closed:
                    sink.heartbeats.append(time.time())
                self.send_response(503 if sink.closed else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                """An alarm."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not sink.closed:
                    fields = json.loads(body)
                    sink.received.append(
                        Notification(
                            way="webhook",
                            **{key: fields[key] for key in ("contact", "type", "host", "service", "state")},
                            text=body.decode(),
                            at=time.time(),
                        )
                    )
                self.send_response(503 if sink.closed else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                """Log nothing."""

        class Server(socketserver.ThreadingTCPServer):
            """A server that can be started again at once."""

            allow_reuse_address = True
            daemon_threads = True

        self.servers = [Server(mail, Mail), Server(web, Web)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def receive_mail(self, receivers: list[str], body: bytes) -> None:
        """Record a mail."""
        message = email.message_from_bytes(body, policy=email.policy.default)
        subject = SUBJECT.fullmatch(message["Subject"])
        assert subject, message["Subject"]
        for receiver in receivers:
            self.received.append(
                Notification(
                    "email",
                    receiver.partition("@")[0],
                    subject["type"],
                    subject["host"],
                    subject["service"] or "",
                    subject["state"],
                    message.get_content(),
                    time.time(),
                )
            )

    def close(self) -> None:
        """Stop the servers."""
        for server in self.servers:
            server.shutdown()
            server.server_close()
