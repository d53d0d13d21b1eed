"""A webhook receiver that keeps and prints what Alertmanager delivers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

__all__ = ["Notification", "Receiver"]


class Notification(NamedTuple):
    """One alert of one delivery."""

    received: float
    status: str
    """firing or resolved."""
    alertname: str
    severity: str
    run_id: str
    summary: str
    action: str


class Receiver:
    """Listens on a free loopback port; ``notifications`` grows as deliveries come in."""

    def __init__(self, on_notification: Callable[[Notification], None] = lambda _: None) -> None:
        """Start listening in a daemon thread."""
        self.notifications: list[Notification] = []
        self._on_notification = on_notification
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                receiver._take(json.loads(body))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Deliveries are printed, not logged."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, name="demo-receiver", daemon=True).start()

    @property
    def url(self) -> str:
        """Where Alertmanager is to deliver."""
        return f"http://127.0.0.1:{self._server.server_port}/alerts"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, delivery: dict[str, Any]) -> None:
        for alert in delivery["alerts"]:
            labels, annotations = alert["labels"], alert["annotations"]
            notification = Notification(
                time.time(),
                alert["status"],
                labels["alertname"],
                labels["severity"],
                labels.get("run_id", ""),
                annotations.get("summary", ""),
                annotations.get("action", ""),
            )
            self.notifications.append(notification)
            self._on_notification(notification)
