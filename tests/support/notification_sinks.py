"""What Alertmanager delivers to: a Slack and a mail server that only write down."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

__all__ = ["Mail", "mail_server", "slack_server"]


class Mail(NamedTuple):
    """A message as a person reads it."""

    subject: str
    text: str


@contextmanager
def slack_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook URL, and the messages that were posted there."""
    messages: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/slack", messages
        server.shutdown()


@contextmanager
def mail_server() -> Iterator[tuple[str, list[Mail]]]:
    """The address of a mail server, and the mails that it was given."""
    mails: list[Mail] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say(b"220 sink")
            for line in self.rfile:
                word = line.strip().upper()
                if word == b"DATA":
                    self._say(b"354 go on")
                    mails.append(_mail(b"".join(iter(self.rfile.readline, b".\r\n"))))
                    self._say(b"250 kept")
                elif word == b"QUIT":
                    self._say(b"221 bye")
                    return
                else:
                    self._say(b"250 well")

        def _say(self, line: bytes) -> None:
            self.wfile.write(line + b"\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", mails
        server.shutdown()


def _mail(data: bytes) -> Mail:
    message = email.message_from_bytes(data, policy=email.policy.default)
    body = message.get_body(preferencelist=("plain",))
    return Mail(str(message["Subject"]), body.get_content() if body else "")
