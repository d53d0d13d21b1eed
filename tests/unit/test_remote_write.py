"""Remote write against a server that answers what a test wants: protocols, retries, refusals, limits."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import cramjam
import pytest

from exporter.errors import ConfigError, MissingDependencyError, ServerError
from exporter.records import Family
from exporter.remote_write import (
    Endpoint,
    Limits,
    RemoteWriter,
    StoredRun,
    TimeSeries,
    UnreachableError,
    encode_v1,
    encode_v2,
    read_limits,
)

V1_TYPE = "application/x-protobuf"
V2_TYPE = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
COUNT = "X-Prometheus-Remote-Write-Samples-Written"
DAY = 86400.0
NOW = 1_800_000_000.0


class Request(NamedTuple):
    """What the server was asked."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """What it says."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Scripted:
    """A server that hands each request to ``answer``."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], Answer] = lambda _: Answer(204)
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.path, self.headers, body)
                scripted.requests.append(request)
                answer = scripted.answer(request)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def say(self, *answers: Answer) -> None:
        """Answer these one after another, the last one for ever."""
        left = list(answers)
        self.answer = lambda _: left.pop(0) if len(left) > 1 else left[0]

    @property
    def types(self) -> list[str]:
        """Content types of the requests."""
        return [request.headers["Content-Type"] for request in self.requests]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A scripted server that ends with its test."""
    scripted = Scripted()
    yield scripted
    scripted.close()


def series(name: str, *values: float) -> TimeSeries:
    """A series with a sample a second."""
    return TimeSeries(Family(name, "gauge", "Help."), (("__name__", name),), [*range(1000, 1000 + len(values))], values)


def written(samples: int, status: int = 204, body: bytes = b"") -> Answer:
    """The answer of a server that speaks 2.0."""
    return Answer(status, body, {COUNT: str(samples)})


def writer(server: Scripted, pauses: list[float] | None = None) -> RemoteWriter:
    """A writer that notes down its pauses instead of waiting."""
    return RemoteWriter(Endpoint(server.url), (pauses if pauses is not None else []).append)


def plain(request: Request) -> bytes:
    """The message of a request, unpacked by the library's own decoder."""
    assert request.headers["Content-Encoding"] == "snappy"
    return bytes(cramjam.snappy.decompress_raw(request.body))


# ------------------------------------------------------------------ protocols


def test_version_2_is_tried_first_and_kept(server: Scripted) -> None:
    """A server that says how much it wrote gets requests of version 2.0, with the headers of the specification."""
    server.say(written(2))
    sender = writer(server)
    one = [series("a", 1.0, 2.0)]
    assert [sender.write(one), sender.write(one)] == [(2, ()), (2, ())]
    assert (server.types, sender.version) == ([V2_TYPE] * 2, "2.0")
    request = server.requests[0]
    assert request.path == "/api/v1/write"
    assert request.headers["X-Prometheus-Remote-Write-Version"] == "2.0.0"
    assert request.headers["User-Agent"].startswith("telemetry-exporter/")
    assert plain(request) == encode_v2(one)


@pytest.mark.parametrize("answer", [Answer(204), Answer(200), Answer(415), Answer(400, b"proto: wrong wireType")])
def test_a_server_that_does_not_speak_version_2_gets_version_1(server: Scripted, answer: Answer) -> None:
    """Without a count of what was written nothing is: the same samples go out as version 1.0, and all later ones."""
    server.say(answer, Answer(204))
    sender = writer(server)
    one = [series("a", 1.0, 2.0)]
    assert [sender.write(one), sender.write(one)] == [(2, ()), (2, ())]
    assert (server.types, sender.version) == ([V2_TYPE, V1_TYPE, V1_TYPE], "1.0")
    assert server.requests[1].headers["X-Prometheus-Remote-Write-Version"] == "0.1.0"
    assert plain(server.requests[1]) == encode_v1(one)


# ------------------------------------------------------------------ refusals


def test_a_part_that_is_refused_in_version_2_is_not_sent_again(server: Scripted) -> None:
    """A 400 that counts what was written is final: the rest of the request is stored already."""
    server.say(written(1, 400, b"out of order sample"))
    assert writer(server).write([series("a", 1.0), series("b", 2.0)]) == (1, ("out of order sample",))
    assert len(server.requests) == 1


def test_the_good_series_of_a_request_survive_a_bad_one_in_version_1(server: Scripted) -> None:
    """Version 1.0 may refuse all for one: all series but the bad one are stored, each at most once."""
    stored: list[bytes] = []

    def answer(request: Request) -> Answer:
        if request.headers["Content-Type"] == V2_TYPE:
            return Answer(415)
        if b"bad" in plain(request):
            return Answer(400, b"out of bounds")
        stored.append(plain(request))
        return Answer(204)

    server.answer = answer
    several = [series(name, 1.0, 2.0) for name in ("a", "b", "bad", "c", "d")]
    assert writer(server).write(several) == (8, ("out of bounds",))
    kept = b"".join(stored)
    assert [kept.count(encode_v1([one])) for one in several] == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_a_sender_that_is_refused_stops_at_once(server: Scripted, status: int) -> None:
    """What is wrong with the sender cannot be cured by trying again: one request, the server's own words."""
    server.say(Answer(status, b"no, because of this", {"Location": "http://127.0.0.1:1/"}))
    pauses: list[float] = []
    with pytest.raises(ServerError, match=rf"{status}: no, because of this"):
        writer(server, pauses).write([series("a", 1.0)])
    assert (len(server.requests), pauses) == (1, [])


# ------------------------------------------------------------------ retries


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again_with_growing_pauses(server: Scripted, status: int) -> None:
    """After each failure the pause grows to at most twice the longest before, and the same body is sent."""
    server.say(*[Answer(status, b"busy")] * 3, written(1))
    pauses: list[float] = []
    assert writer(server, pauses).write([series("a", 1.0)]) == (1, ())
    assert len({request.body for request in server.requests}) == 1
    assert [0.5 <= pauses[0] <= 1, 1 <= pauses[1] <= 2, 2 <= pauses[2] <= 4] == [True] * 3


@pytest.mark.parametrize("after", ["7", formatdate(time.time() + 3600, usegmt=True)], ids=["number", "date"])
def test_a_server_says_how_long_to_wait(server: Scripted, after: str) -> None:
    """Retry-After is obeyed as a number and as a date, but never for more than a minute."""
    server.say(Answer(503, b"", {"Retry-After": after}), written(1))
    pauses: list[float] = []
    writer(server, pauses).write([series("a", 1.0)])
    assert pauses == [7.0 if after == "7" else 60.0]


def test_trouble_that_stays_ends_in_an_error(server: Scripted) -> None:
    """After eight attempts the server's last words are the error."""
    server.say(Answer(503, b"still starting"))
    pauses: list[float] = []
    with pytest.raises(ServerError, match=r"8 attempts.*503: still starting"):
        writer(server, pauses).write([series("a", 1.0)])
    assert (len(server.requests), len(pauses)) == (8, 7)


def test_a_server_that_is_gone_is_tried_again(server: Scripted) -> None:
    """No answer is trouble that may pass; when it does not, the error has the address."""
    server.close()
    pauses: list[float] = []
    with pytest.raises(ServerError, match=rf"{server.url}/api/v1/write does not answer: .*refused"):
        writer(server, pauses).write([series("a", 1.0)])
    assert len(pauses) == 7


def test_a_writer_that_is_stopped_does_not_wait(server: Scripted) -> None:
    """Whoever stops a writer while it waits for a server has the error at once."""
    server.say(Answer(503, b"busy", {"Retry-After": "60"}))
    stopped = RemoteWriter(Endpoint(server.url))
    timer = threading.Timer(0.2, stopped.stop)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(ServerError, match="2 attempts"):
        stopped.write([series("a", 1.0)])
    assert time.monotonic() - begin < 30
    timer.join()


def test_without_the_library_the_remedy_is_named(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cramjam the error is the command that installs it."""
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'telemetry-exporter\[remote-write\]'"):
        writer(server).write([series("a", 1.0)])


# ------------------------------------------------------------------ addresses and credentials


@pytest.mark.parametrize(
    ("url", "write", "query"),
    [
        ("", "/api/v1/write", "/api/v1/query"),
        ("/", "/api/v1/write", "/api/v1/query"),
        ("/api/v1/write", "/api/v1/write", "/api/v1/query"),
        ("/prometheus", "/prometheus/api/v1/write", "/prometheus/api/v1/query"),
        ("/api/v1/push", "/api/v1/push", "/prometheus/api/v1/query"),
        ("/api/v1/receive", "/api/v1/receive", "/api/v1/query"),
    ],
)
def test_an_address_or_a_write_url_leads_to_both_apis(server: Scripted, url: str, write: str, query: str) -> None:
    """From what a user knows of a server follow the paths for writing and for asking."""
    endpoint = Endpoint(server.url + url)
    endpoint.write(b"", {})
    endpoint.api("query", {"query": "1"})
    assert [urlsplit(request.path).path for request in server.requests] == [write, query]


@pytest.mark.parametrize(
    "url", ["", "localhost:9090", "ftp://h/", "http://", "http://h:x/", "http://[::1/", "http://h:0"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """A text that leads nowhere is an error that shows it."""
    with pytest.raises(ConfigError, match="no URL"):
        Endpoint(url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    """Credentials in a URL are an error, which does not repeat them."""
    with pytest.raises(ConfigError) as caught:
        Endpoint("http://alice:secret@127.0.0.1:9090")
    assert "secret" not in str(caught.value)


def test_every_request_has_the_credentials_and_the_tenant(server: Scripted) -> None:
    """Writing and asking carry the same tenant, and a user and password or a token."""
    for endpoint, value in (
        (Endpoint(server.url, tenant="a", user="alice", password="päss:word"), "päss:word"),
        (Endpoint(server.url, tenant="a", token="t0ken"), ""),
    ):
        server.requests.clear()
        endpoint.write(b"", {})
        endpoint.api("query")
        endpoint.page("/metrics")
        expected = f"Basic {b64encode(f'alice:{value}'.encode()).decode()}" if value else "Bearer t0ken"
        assert [request.headers["X-Scope-OrgID"] for request in server.requests] == ["a"] * 3
        assert [request.headers["Authorization"] for request in server.requests] == [expected] * 3


@pytest.mark.parametrize("options", [{"tenant": "a\nb"}, {"tenant": "ä"}, {"token": "a\r\nX-Evil: 1"}])
def test_a_header_cannot_be_smuggled_in(options: dict[str, str]) -> None:
    """A tenant or token with a line break or beyond ASCII is refused before any request."""
    with pytest.raises(ConfigError, match="printable ASCII"):
        Endpoint("http://127.0.0.1:9090", **options)


# ------------------------------------------------------------------ limits


def prometheus(retention: str, window: str = "", newest: int | None = None) -> Callable[[Request], Answer]:
    """The status pages of a Prometheus."""
    storage = f"storage:\n  tsdb:\n    out_of_order_time_window: {window}\n" if window else ""
    head = {"minTime": 2**63 - 1, "maxTime": -(2**63)} if newest is None else {"minTime": 0, "maxTime": newest}
    pages = {
        "runtimeinfo": {"storageRetention": retention},
        "config": {"yaml": f"global: {{}}\n{storage}"},
        "tsdb": {"headStats": head},
    }

    def answer(request: Request) -> Answer:
        data = pages[request.path.rsplit("/", 1)[1]]
        return Answer(200, json.dumps({"status": "success", "data": data}).encode())

    return answer


@pytest.mark.parametrize(
    ("retention", "window", "expected"),
    [
        ("15d", "", (15 * DAY, 3600.0)),
        ("15d or 5GiB", "30d", (15 * DAY, 30 * DAY)),
        ("5GiB", "1d12h", (math.inf, 1.5 * DAY)),
        ("5y", "90m", (5 * 365 * DAY, 5400.0)),
    ],
)
def test_prometheus_says_its_limits(
    server: Scripted, retention: str, window: str, expected: tuple[float, float]
) -> None:
    """Retention and out-of-order window are those of the status pages; without a window it is an hour."""
    server.answer = prometheus(retention, window, 17)
    limits = read_limits(Endpoint(server.url))
    assert (limits.retention_seconds, limits.window_seconds, limits.newest_ms) == (*expected, 17)


def test_an_empty_server_has_no_newest_sample(server: Scripted) -> None:
    """Before its first sample a Prometheus takes one of any age."""
    server.answer = prometheus("15d")
    limits = read_limits(Endpoint(server.url))
    assert limits.newest_ms == -math.inf


@pytest.mark.parametrize(
    ("period", "days"), [("1", 31), ("1M", 31), ("12", 372), ("100y", 36500), ("2w", 14), ("1.5d", 1.5)]
)
def test_victoria_metrics_says_its_retention(server: Scripted, period: str, days: float) -> None:
    """A period without a unit is in months of 31 days; there is no window."""
    page = f'flag{{name="retentionPeriod", value="{period}", is_set="true"}} 1\n'.encode()
    server.answer = lambda request: (
        Answer(200, page) if request.path == "/metrics" else Answer(400, b"unsupported path")
    )
    limits = read_limits(Endpoint(server.url))
    assert (limits.retention_seconds, limits.window_seconds) == (days * DAY, math.inf)


def test_a_server_without_status_pages_has_unknown_limits(server: Scripted) -> None:
    """A server that does not tell has none that are known; one that is gone or refuses to tell is an error."""
    for answer in (Answer(404), Answer(200, b"<html>"), Answer(200, b'{"data": []}')):
        server.say(answer)
        assert read_limits(Endpoint(server.url)) == Limits()
        assert not read_limits(Endpoint(server.url)).are_known
    server.say(Answer(401, b"who are you"))
    with pytest.raises(ServerError, match=r"401: who are you.*--password-file"):
        read_limits(Endpoint(server.url))
    server.close()
    with pytest.raises(UnreachableError):
        read_limits(Endpoint(server.url))


def found(limits: Limits, first: float, last: float, newest: float = -math.inf) -> list[str]:
    """Objections to samples of these times, in seconds relative to now."""
    first_ms, last_ms, newest_ms = ((NOW + seconds) * 1000 for seconds in (first, last, newest))
    return list(limits.objections(int(first_ms), int(last_ms), newest_ms, NOW))


@pytest.mark.parametrize(
    ("limits", "first", "last", "newest", "remedy"),
    [
        (Limits(15 * DAY, "--retention", 90 * DAY), -16 * DAY, 0, 0, "--retention=17d"),
        (Limits(window_seconds=3600), -5400, 0, 0, "out_of_order_time_window: 2d"),
        (Limits(window_seconds=30 * DAY), -29 * DAY, 0, 2 * DAY, "out_of_order_time_window: 32d"),
        (Limits(), 0, 601, 0, "--start"),
    ],
)
def test_an_objection_names_its_remedy(limits: Limits, first: float, last: float, newest: float, remedy: str) -> None:
    """What a server would not keep is told with the setting that would make it."""
    (objection,) = found(limits, first, last, newest)
    assert remedy in objection


def test_what_a_server_keeps_is_not_objected_to() -> None:
    """Samples within retention, window and clock are fine, and any are where there are no limits."""
    limits = Limits(15 * DAY, "--retention", 3600)
    assert found(limits, -14.9 * DAY, 599) == []
    assert found(limits, -3599, 599, 0) == []
    assert found(Limits(), -9000 * DAY, 0, 0) == []


# ------------------------------------------------------------------ what is stored


def test_a_run_id_is_data_in_a_query(server: Scripted) -> None:
    """Quotes and backslashes of a run's id stay within the text that they are part of."""
    server.say(Answer(200, b'{"data": []}'))
    StoredRun(Endpoint(server.url), 'a"} or {b="\\', "1").exists(5_000, 7_000)
    query = parse_qs(urlsplit(server.requests[0].path).query)
    assert query == {"match[]": ['{run_id="a\\"} or {b=\\"\\\\",rank=~"1"}'], "start": ["4"], "end": ["8"]}


@pytest.mark.parametrize("answer", [Answer(404, b"not here"), Answer(422, b'{"error": "not here"}'), Answer(200, b"[")])
def test_a_server_that_cannot_be_asked_is_an_error(server: Scripted, answer: Answer) -> None:
    """An answer without data is an error with the server's own words."""
    server.say(answer)
    stored = StoredRun(Endpoint(server.url), "r1", "")
    asks: tuple[Callable[[], Any], ...] = (
        lambda: stored.exists(0, 1),
        lambda: stored.count("m", 0, 1),
        lambda: stored.samples(0, 1),
    )
    for ask in asks:
        with pytest.raises(ServerError, match=rf"{answer.status}: .*(not here|\[)"):
            ask()
