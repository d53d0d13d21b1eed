"""The HTTP side, by sockets."""

from __future__ import annotations

import gzip
import http.client
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from email.message import Message
from functools import partial
from pathlib import Path

import pytest

from exporter.errors import ConfigError, ServerError
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter, MetricsServer, parse_address
from exporter.server import http as module
from tests.support.journals import CATALOG, Journal, judge
from tests.support.servers import wait_until

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Page:
    """An answer: status, headers and body as they came."""

    def __init__(self, status: int, headers: Message, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


@pytest.fixture(autouse=True)
def _quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks more often whether it shall end, so that a test does not wait for it."""
    serve = module._Server.serve_forever
    monkeypatch.setattr(module._Server, "serve_forever", lambda self: serve(self, 0.01))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal with 400 steps of one long key, so that its page is longer than any buffer is short."""
    journal = Journal(tmp_path).start()
    for number in range(400):
        journal.log(number, {"k" * 150: number, "train/loss": 1.0})
    return journal


@pytest.fixture
def server(tmp_path: Path, journal: Journal) -> Iterator[MetricsServer]:
    """A server of one run, ready."""
    server = MetricsServer(Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG), "127.0.0.1", 0)
    server.is_ready.set()
    yield server
    server.close()


def fetch(server: MetricsServer, path: str, **headers: str) -> Page:
    """One request, header names written with underscores; all that it does to the server is done on return."""
    with closing(http.client.HTTPConnection(*server.address, timeout=10)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        page = Page(answer.status, answer.headers, answer.read())
        # A connection's requests come one after the other: this one's answer proves that the page was booked.
        connection.request("GET", "/-/healthy")
        connection.getresponse().read()
        return page


def steps_of(page: Page, form: Format = Format.TEXT) -> list[float]:
    """Step numbers on a page."""
    return judge(page.body, form).values("training_step")


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/-/healthy", 200, "healthy"),
        ("/-/ready", 200, "ready"),
        ("/", 200, "/metrics?scraper=NAME"),
        ("/metric", 404, "/metrics?scraper=NAME"),
        ("/metrics/", 404, "no such page"),
        ("http://h/-/healthy", 200, "healthy"),
        ("/%00", 404, "no such page"),
    ],
)
def test_each_page_says_what_it_is(server: MetricsServer, path: str, status: int, text: str) -> None:
    """Health, readiness and an index are plain text; any other page is missing and says what there is."""
    page = fetch(server, path)
    assert (page.status, page.headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert text in page.body.decode()


def test_pages_wait_until_the_journals_are_read(server: MetricsServer) -> None:
    """Before it is ready a server is healthy, but has no page that would show half a run."""
    server.is_ready.clear()
    assert [fetch(server, path).status for path in ("/-/healthy", "/-/ready", "/metrics", "/metrics?scraper=p")] == [
        200, 503, 503, 503
    ]  # fmt: skip
    server.is_ready.set()
    assert steps_of(fetch(server, "/metrics?scraper=p")) == list(range(400))


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", Format.TEXT),
        (OPENMETRICS, Format.OPENMETRICS),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.5", Format.TEXT),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.9", Format.OPENMETRICS),
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/metrics?scraper=p"])
def test_the_format_is_negotiated(server: MetricsServer, accept: str, form: Format, path: str) -> None:
    """The Accept header decides the format, the Content-Type names it, and the page is of that format."""
    page = fetch(server, path, Accept=accept)
    assert page.headers["Content-Type"] == form.value
    assert judge(page.body, form).value("telemetry_build_info") == 1


@pytest.mark.parametrize("path", ["/metrics", "/metrics?scraper=p"])
def test_a_page_is_compressed_for_those_who_can_read_it(server: MetricsServer, path: str) -> None:
    """Compression is used where it is accepted, and its length is the one that is said."""
    page = fetch(server, path, Accept_Encoding="gzip")
    assert page.headers["Content-Encoding"] == "gzip"
    assert int(page.headers["Content-Length"]) == len(page.body)
    judge(gzip.decompress(page.body), Format.TEXT)
    plain = fetch(server, path)
    assert plain.headers["Content-Encoding"] is None
    assert int(plain.headers["Content-Length"]) == len(plain.body)


def test_a_short_answer_is_not_compressed(server: MetricsServer) -> None:
    """What fits in a packet goes as it is."""
    assert fetch(server, "/-/ready", Accept_Encoding="gzip").body == b"ready\n"


def test_a_scraper_gets_each_step_once(server: MetricsServer, journal: Journal) -> None:
    """The query names the scraper; its next page has only what is new, and an overlap repeats that much."""
    assert steps_of(fetch(server, "/metrics?scraper=p")) == list(range(400))
    journal.step(400, a=1)
    assert steps_of(fetch(server, "/metrics?scraper=p")) == [400]
    assert steps_of(fetch(server, "/metrics?scraper=p")) == []
    assert steps_of(fetch(server, "/metrics?scraper=p&overlap=0.55")) == [395, 396, 397, 398, 399, 400]
    assert steps_of(fetch(server, "/metrics?scraper=other")) == list(range(401))


@pytest.mark.parametrize("query", ["", "?", "?scraper=", "?other=1"])
def test_without_a_name_the_page_is_the_plain_one(server: MetricsServer, query: str) -> None:
    """Nobody becomes a scraper by accident."""
    assert steps_of(fetch(server, f"/metrics{query}")) == [399]
    assert server.exporter.scrapers == []


@pytest.mark.parametrize("name", ["p", "a.b-c_1", "A" * 64])
def test_a_name_is_letters_digits_and_a_few_signs(server: MetricsServer, name: str) -> None:
    """These names are usable."""
    assert fetch(server, f"/metrics?scraper={name}").status == 200
    assert server.exporter.scrapers == [name]


@pytest.mark.parametrize("name", ["a/b", "a%20b", "%22", "A" * 65, "%0a", "p%0a", "%c3%a9", "..%2f"])
def test_a_bad_name_is_refused(server: MetricsServer, name: str) -> None:
    """Any other name is the client's mistake, and the answer says the rule."""
    page = fetch(server, f"/metrics?scraper={name}")
    assert page.status == 400
    assert b"must be 1 to 64 letters" in page.body
    assert server.exporter.scrapers == []


@pytest.mark.parametrize("overlap", ["-1", "x", "", "nan", "inf", "3600.5", "1e9"])
def test_a_bad_overlap_is_refused(server: MetricsServer, overlap: str) -> None:
    """An overlap is a number of seconds from 0 to 3600; an empty one counts as none."""
    page = fetch(server, f"/metrics?scraper=p&overlap={overlap}")
    assert page.status == (400 if overlap else 200)
    assert (b"0 to 3600" in page.body) is bool(overlap)


def test_scrapers_are_few(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit new names are refused, known ones served: names made anew each time would fill the disk."""
    monkeypatch.setattr(module, "_MAX_SCRAPERS", 2)
    assert [fetch(server, f"/metrics?scraper={name}").status for name in ("a", "b", "c", "a")] == [200, 200, 400, 200]
    assert b"one fixed name" in fetch(server, "/metrics?scraper=c").body


def test_one_connection_serves_several_requests(server: MetricsServer) -> None:
    """Connections are kept open between scrapes."""
    with closing(http.client.HTTPConnection(*server.address, timeout=10)) as connection:
        for path in ("/-/ready", "/metrics", "/nothing", "/metrics"):
            connection.request("GET", path)
            assert connection.getresponse().read()
        assert connection.sock is not None


def test_answers_do_not_say_more_than_they_must(server: MetricsServer) -> None:
    """The server names itself without Python's version."""
    assert fetch(server, "/").headers["Server"].strip() == "telemetry-exporter"


def test_only_get_is_understood(server: MetricsServer) -> None:
    """There is nothing to change over HTTP."""
    with closing(http.client.HTTPConnection(*server.address, timeout=10)) as connection:
        connection.request("POST", "/metrics", body=b"x")
        assert connection.getresponse().status == 501


# ------------------------------------------------------------------ bad peers


def connect(server: MetricsServer) -> socket.socket:
    """A connection that says nothing."""
    return socket.create_connection(server.address, timeout=10)


def test_idle_connections_do_not_delay_a_scrape(server: MetricsServer) -> None:
    """Fifty peers that connect and say nothing cost a scrape no time."""
    fetch(server, "/metrics?scraper=p")
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server))
        began = time.monotonic()
        assert fetch(server, "/metrics?scraper=p").status == 200
        assert time.monotonic() - began < 2


def test_an_idle_connection_is_closed(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that says nothing, or half a request, is hung up on after the time limit, which is seconds."""
    assert 5 <= module._Handler.timeout <= 60
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    for words in (b"", b"GET /metrics HTTP/1.1\r\nHost:"):
        with connect(server) as idle:
            idle.sendall(words)
            assert idle.recv(1000) == b""


def test_connections_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When every place is taken a new peer is hung up on at once, and served when one is free again."""
    monkeypatch.setattr(module, "_MAX_CONNECTIONS", 3)
    server = MetricsServer(Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG), "127.0.0.1", 0)
    server.is_ready.set()
    try:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(connect(server)).sendall(b"GET / HTTP/1.1\r\n\r\n")
            # Connections are taken in their order: the three hold their places when the fourth comes.
            began = time.monotonic()
            with connect(server) as fourth:
                fourth.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert drained(fourth) == b""
            assert time.monotonic() - began < 2
        wait_until(lambda: fetch(server, "/").status == 200, 5, "a free place")
    finally:
        server.close()


def reset(peer: socket.socket) -> None:
    """Close a connection as a killed process does."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_a_peer_that_leaves_in_the_middle_harms_nothing(
    server: MetricsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that could not be sent moves no cursor, and is neither an error nor a traceback."""
    tried = threading.Event()
    reply = module._Handler._reply

    def after_the_peer_left(self: module._Handler, *arguments: object) -> None:
        """Send once the peer's reset has come in."""
        self.connection.settimeout(5)
        while True:
            try:
                if self.connection.recv(1000) == b"":
                    break
            except ConnectionError:
                break
        try:
            reply(self, *arguments)  # type: ignore[arg-type]
            self.connection.sendall(b"x" * 10_000_000)
        finally:
            tried.set()

    monkeypatch.setattr(module._Handler, "_reply", after_the_peer_left)
    peer = connect(server)
    peer.sendall(b"GET /metrics?scraper=p HTTP/1.1\r\n\r\n")
    reset(peer)
    assert tried.wait(10)
    monkeypatch.undo()
    assert server.exporter.scrapers == []
    assert steps_of(fetch(server, "/metrics?scraper=p")) == list(range(400))
    assert capsys.readouterr().err == ""


def test_a_peer_that_does_not_read_is_given_up(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that nobody takes within the time limit moves no cursor."""
    monkeypatch.setattr(module._Handler, "timeout", 0.3)
    big = b"# " + b"x" * 30_000_000 + b"\n"
    make = server.exporter.scraper_page
    monkeypatch.setattr(server.exporter, "scraper_page", lambda *a: make(*a)._replace(body=big))
    with connect(server) as peer:
        peer.sendall(b"GET /metrics?scraper=p HTTP/1.1\r\n\r\n")
        time.sleep(1)
        assert server.exporter.scrapers == []
        assert len(drained(peer)) < len(big)


def drained(peer: socket.socket) -> bytes:
    """All that is left to read."""
    parts = []
    try:
        while part := peer.recv(1 << 20):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def test_an_error_of_ours_is_one_line(
    server: MetricsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault while a page is made costs that page, says one line, and the next page is served."""

    def fail(form: Format) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.exporter, "latest_page", fail)
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(server, "/metrics")
    monkeypatch.undo()
    assert fetch(server, "/metrics").status == 200
    assert re.fullmatch(r"telemetry: a request from .* failed: RuntimeError\('a bug'\)\n", capsys.readouterr().err)


@pytest.mark.parametrize("words", [b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000])
def test_noise_is_refused(server: MetricsServer, words: bytes) -> None:
    """What is no HTTP is answered with an error or hung up on, and the server lives."""
    with connect(server) as peer:
        peer.sendall(words)
        peer.shutdown(socket.SHUT_WR)
        assert not drained(peer).startswith(b"HTTP/1.1 200")
    assert fetch(server, "/-/healthy").status == 200


def test_an_address_that_is_none_is_a_missing_page(server: MetricsServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A request for what cannot be a URL has an answer, and is no error of ours."""
    with connect(server) as peer:
        peer.sendall(b"GET http://[ HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert drained(peer).startswith(b"HTTP/1.1 404")
    assert capsys.readouterr().err == ""


def test_two_pages_may_be_on_their_way_at_once(server: MetricsServer) -> None:
    """Scrapers do not wait for each other's network."""
    results: list[int] = []

    def scrape(name: str) -> None:
        results.append(len(steps_of(fetch(server, f"/metrics?scraper={name}"))))

    threads = [threading.Thread(target=scrape, args=[name]) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [400] * 4


# ------------------------------------------------------------------ listening


def test_a_busy_port_is_an_error_that_says_what_to_do(server: MetricsServer) -> None:
    """Two servers cannot have one port: the message names it and the way out."""
    host, port = server.address
    with pytest.raises(ServerError, match=rf"cannot listen on {host}:{port}: .*port 0"):
        MetricsServer(server.exporter, host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_address_is_known_at_once(tmp_path: Path, host: str) -> None:
    """Port 0 takes a free one, and the URL is one that can be opened, IPv6 in brackets."""
    try:
        server = MetricsServer(Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG), host, 0)
    except ServerError:
        pytest.skip(f"this host has no {host}")
    try:
        assert server.address[0] == host
        assert server.address[1] > 0
        with urllib.request.urlopen(f"{server.url}/-/healthy", timeout=10) as answer:
            assert answer.read() == b"healthy\n"
    finally:
        server.close()


def test_a_host_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """An address of another machine cannot be listened on."""
    with pytest.raises(ServerError, match=r"192\.0\.2\.1"):
        MetricsServer(Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG), "192.0.2.1", 0)


def test_a_closed_server_does_not_answer(tmp_path: Path) -> None:
    """After closing, the port is free for another server."""
    server = MetricsServer(Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG), "127.0.0.1", 0)
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{server.url}/-/healthy", timeout=5)
    MetricsServer(server.exporter, *server.address).close()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("[::]:65535", ("::", 65535)),
        ("node7.example:1", ("node7.example", 1)),
    ],
)
def test_an_address_is_host_and_port(listen: str, address: tuple[str, int]) -> None:
    """HOST:PORT and [IPv6]:PORT are understood; without a host it is the loopback."""
    assert parse_address(listen) == address


@pytest.mark.parametrize(
    "listen", ["", "9464", "host", "host:", "host:http", "host:-1", "host:65536", "host:1.5", "host: 1"]
)
def test_what_is_no_address_is_refused(listen: str) -> None:
    """The message has the value and the form it must have."""
    with pytest.raises(ConfigError, match=re.escape(repr(listen)) + ".*HOST:PORT"):
        parse_address(listen)


def test_a_browser_cannot_move_a_cursor(server: MetricsServer) -> None:
    """A web page that makes a browser ask for a scraper's page is refused, and the scraper still gets every step."""
    assert fetch(server, "/metrics?scraper=s", Sec_Fetch_Mode="no-cors").status == 400
    assert fetch(server, "/metrics", Sec_Fetch_Mode="navigate").status == 200
    assert steps_of(fetch(server, "/metrics?scraper=s"))
