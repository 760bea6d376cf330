"""Where alerts end in tests: a mail server, and a web server for Slack and PagerDuty."""

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sinks:
    """What has arrived, and where.

    Attributes:
        mails: as they came, headers included.
        posts: path and JSON body.
        status: what the web server answers with.
    """

    smtp_port: int = 0
    http_port: int = 0
    mails: list[EmailMessage] = field(default_factory=list[EmailMessage])
    posts: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    status: int = 200

    def connections(self) -> list[dict[str, Any]]:
        """The Connections that lead here, as Airflow's API takes them."""
        mail = {"to": "on-call@example.com", "from_email": "airflow@example.com", "disable_ssl": True}
        web = f"http://127.0.0.1:{self.http_port}"
        return [
            {
                "connection_id": "alerts_email",
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": self.smtp_port,
                "extra": json.dumps(mail | {"disable_tls": True, "retry_limit": 0, "timeout": 10}),
            },
            {"connection_id": "alerts_slack", "conn_type": "slackwebhook", "password": f"{web}/slack/T0/B0"},
            {"connection_id": "alerts_pagerduty", "conn_type": "pagerduty_events", "host": web, "password": "key-1"},
        ]

    def of_alertmanager(self) -> dict[str, str]:
        """The settings of Alertmanager's channels that lead here, by their names in its group."""
        web = f"http://127.0.0.1:{self.http_port}"
        return {
            "email_to": "on-call@example.com",
            "email_from": "alertmanager@example.com",
            "email_smarthost": f"127.0.0.1:{self.smtp_port}",
            "slack_webhook": f"{web}/slack/T0/B0",
            "pagerduty_url": f"{web}/v2/enqueue",
            "pagerduty_routing_key": "key-1",
        }


@contextmanager
def listening() -> Generator[Sinks]:
    """Listen on two free ports of the loopback."""
    sinks = Sinks()

    class Mail(socketserver.StreamRequestHandler):
        """Enough of RFC 5321 for a client that sends mail without a login."""

        def handle(self) -> None:
            self.say("220 sink")
            while line := self.rfile.readline():
                verb = line.split()[0].upper() if line.split() else b""
                if verb == b"DATA":
                    self.say("354 go on")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    sinks.mails.append(email.message_from_bytes(text, policy=email.policy.default))
                self.say("221 bye" if verb == b"QUIT" else "250 ok")
                if verb == b"QUIT":
                    return

        def say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    class Web(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sinks.posts.append((self.path, json.loads(body)))
            self.send_response(sinks.status)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            pass

    class MailServer(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with MailServer(("127.0.0.1", 0), Mail) as mail, ThreadingHTTPServer(("127.0.0.1", 0), Web) as web:
        sinks.smtp_port, sinks.http_port = mail.server_address[1], web.server_address[1]
        for server in (mail, web):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield sinks
        finally:
            mail.shutdown()
            web.shutdown()


def text_of(mail: EmailMessage) -> str:
    """The plain text of a mail."""
    (part,) = [part for part in mail.walk() if part.get_content_type() == "text/plain"]
    return part.get_content()
