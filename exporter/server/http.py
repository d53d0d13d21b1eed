"""The HTTP side: /metrics and health, every connection in a thread of its own and with a time limit."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from exporter.errors import ConfigError, ServerError
from exporter.exposition import Format
from exporter.forks import tell_in_child
from exporter.server.exporter import Exporter, Served

__all__ = ["MetricsServer", "parse_address"]

_IDLE_SECONDS = 10.0
_MAX_CONNECTIONS = 128
_MAX_SCRAPERS = 64
_MAX_OVERLAP_SECONDS = 3600.0
_GZIP = zlib.MAX_WBITS | 16
_SCRAPER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_INDEX = b"telemetry-exporter: /metrics  /metrics?scraper=NAME  /-/healthy  /-/ready\n"


class MetricsServer:
    """Serves an exporter's pages from daemon threads, once ``is_ready`` is set; its ``url`` is known at once."""

    def __init__(self, exporter: Exporter, host: str, port: int) -> None:
        """Listen; port 0 takes any free one.

        Raises:
            ServerError: the address cannot be bound.
        """
        self.exporter = exporter
        self.is_ready = threading.Event()
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            raise ServerError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address, "
                "or port 0 for any free port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="telemetry-server", daemon=True)
        self._thread.start()
        tell_in_child(self)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    @property
    def url(self) -> str:
        """Address for people and configuration files."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stop listening; pages under way are given up."""
        self._server.shutdown()
        self._server.server_close()

    def after_fork_in_child(self) -> None:
        """Let go of the port: nobody would answer there once the parent has ended."""
        self._server.server_close()


def parse_address(listen: str) -> tuple[str, int]:
    """Split HOST:PORT (or [IPv6]:PORT).

    Raises:
        ConfigError: it is not of that form.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--listen {listen!r} must be HOST:PORT, port 0 to 65535, such as 127.0.0.1:9464")
    return host.strip("[]") or "127.0.0.1", int(port)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: MetricsServer) -> None:
        self.owner = owner
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Refuse at once what goes beyond the limit, instead of queueing scrapes behind idle connections."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's
        """A peer that goes away is no error of ours; anything else is one line, not a traceback."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"telemetry: a request from {client_address} failed: {error!r}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "telemetry-exporter"
    sys_version = ""
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        try:
            path, query = urlsplit(self.path)[2:4]
        except ValueError:
            path, query = self.path, ""
        if path == "/-/healthy":
            self._reply(HTTPStatus.OK, b"healthy\n")
        elif path in ("/metrics", "/-/ready") and not self.server.owner.is_ready.is_set():
            self._reply(HTTPStatus.SERVICE_UNAVAILABLE, b"reading journals\n")
        elif path == "/metrics":
            self._metrics(parse_qs(query))
        elif path == "/-/ready":
            self._reply(HTTPStatus.OK, b"ready\n")
        elif path == "/":
            self._reply(HTTPStatus.OK, _INDEX)
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"no such page; there is: " + _INDEX)

    def _metrics(self, query: dict[str, list[str]]) -> None:
        form = Format.negotiate(self.headers.get("Accept", ""))
        try:
            served = self._page(form, query)
        except ConfigError as error:
            self._reply(HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
            return
        self._reply(HTTPStatus.OK, served.body, form.value)
        served.delivered()

    def _page(self, form: Format, query: dict[str, list[str]]) -> Served:
        exporter = self.server.owner.exporter
        scraper = query.get("scraper", [""])[-1]
        if not scraper:
            return Served(exporter.latest_page(form), lambda: None)
        if "Sec-Fetch-Mode" in self.headers:  # only browsers send it, and any web page can make one ask
            raise ConfigError("a page with scraper= moves that scraper's cursor, so no browser gets it; see /metrics")
        if not _SCRAPER.fullmatch(scraper):
            raise ConfigError(f"scraper={scraper[:80]!r} must be 1 to 64 letters, digits or _ . -")
        if scraper not in exporter.scrapers and len(exporter.scrapers) >= _MAX_SCRAPERS:
            raise ConfigError(f"more than {_MAX_SCRAPERS} scrapers; use one fixed name per Prometheus server")
        return exporter.scraper_page(form, scraper, _overlap(query.get("overlap", ["0"])[-1]))

    def _reply(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1000:
            packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
            body = packer.compress(body) + packer.flush()
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Scrapes come every few seconds: they are counted, not logged."""


def _overlap(text: str) -> float:
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 <= seconds <= _MAX_OVERLAP_SECONDS:
            return seconds
    raise ConfigError(f"overlap={text[:80]!r} must be a number of seconds from 0 to {_MAX_OVERLAP_SECONDS:g}")
