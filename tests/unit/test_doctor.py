"""What doctor finds, against servers that answer as the real ones do, and against a real one."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from exporter.doctor import Finding, examine, is_broken_release
from exporter.exposition import Format
from exporter.journal import find_journals
from exporter.server import Exporter
from tests.support.journals import CATALOG, Journal
from tests.support.servers import Prometheus, Sidecar, free_port, require, running, wait_until

PAGE = 'telemetry_bad_lines_total{run_id="r1"} 0.0\ntelemetry_build_info{version="1"} 1.0\n'
NOWHERE = "http://127.0.0.1:1"


class Answers:
    """A server whose answers are set by the test: path to (status, body)."""

    def __init__(self) -> None:
        self.bodies: dict[str, Any] = {}
        self.date: str | None = ""
        """The Date header: the right one where empty, none at all where None."""
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.find(self.path)
                self.send_response_only(status)
                if answers.date is not None:
                    self.send_header("Date", answers.date or formatdate(usegmt=True))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=[0.01], daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def find(self, path: str) -> tuple[int, str]:
        """The answer at a path."""
        body = self.bodies.get(path.partition("?")[0], (404, "no such page"))
        status, content = body if isinstance(body, tuple) else (200, body)
        return status, content if isinstance(content, str) else json.dumps(content)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def servers() -> Iterator[Any]:
    """Makes servers that end with the test."""
    made: list[Answers] = []

    def make(bodies: Mapping[str, Any]) -> Answers:
        made.append(Answers())
        made[-1].bodies.update(bodies)
        return made[-1]

    yield make
    for server in made:
        server.close()


def an_exporter(page: str = PAGE) -> dict[str, Any]:
    """What a healthy exporter answers."""
    return {"/-/ready": "ready\n", "/metrics": page}


def a_target(**fields: Any) -> dict[str, Any]:
    """An active target as Prometheus describes it."""
    now = datetime.now(timezone.utc).isoformat().replace("+00:00", "123Z")
    url = "http://h:9464/metrics?overlap=10&scraper=prometheus"
    return {"scrapeUrl": url, "health": "up", "lastError": "", "lastScrape": now, **fields}


def a_prometheus(*targets: dict[str, Any], version: str = "3.5.3", window: str = "30d") -> dict[str, Any]:
    """What Prometheus answers."""
    config = f"global:\n  scrape_interval: 5s\nstorage:\n  tsdb:\n    out_of_order_time_window: {window}\n"
    return {
        "/api/v1/status/buildinfo": {"status": "success", "data": {"version": version}},
        "/api/v1/status/config": {"status": "success", "data": {"yaml": config}},
        "/api/v1/targets": {"status": "success", "data": {"activeTargets": list(targets)}},
    }


def problems(findings: Iterator[Finding]) -> list[str]:
    """The texts of what is wrong."""
    return [finding.text for finding in findings if not finding.is_ok]


@pytest.mark.parametrize(
    ("version", "is_broken"),
    [
        ("2.42.0", False), ("2.51.2", False), ("2.52.0", True), ("2.52.1", True), ("2.53.0", True),
        ("2.53.0-rc.1", True), ("2.53.2", True), ("2.53.3", False), ("2.53.5", False), ("2.54.0", True),
        ("2.54.0+ds1", True), ("2.54.1", False), ("2.55.0", False), ("3.0.0", False), ("3.5.3", False),
        ("unknown", False), ("", False),
    ],
)  # fmt: skip
def test_releases_that_keep_one_sample_are_known(version: str, is_broken: bool) -> None:
    """2.52.0 to 2.53.2 and 2.54.0 lose steps, all others keep them."""
    assert is_broken_release(version) is is_broken


def test_a_healthy_installation_has_no_problem(tmp_path: Path, servers: Any) -> None:
    """Folder, exporter, Prometheus and Alertmanager are each said to be well."""
    exporter, prometheus = servers(an_exporter()), servers(a_prometheus(a_target()))
    alertmanager = servers({"/-/ready": "OK"})
    findings = list(examine(tmp_path, f"{exporter.url}/", f"{prometheus.url}/", f"{alertmanager.url}/"))
    assert problems(iter(findings)) == []
    text = "\n".join(finding.text for finding in findings)
    for part in (str(tmp_path), exporter.url, "Prometheus 3.5.3", "late samples", "Alertmanager at"):
        assert part in text
    assert re.search(r"was scraped [01] s ago", text)


def test_only_what_is_named_is_looked_at(tmp_path: Path, servers: Any) -> None:
    """Without addresses of Prometheus and Alertmanager nothing is said of them."""
    findings = list(examine(tmp_path, servers(an_exporter()).url, None, None))
    assert not any("Prometheus" in text or "Alertmanager" in text for _, text in findings)
    assert len(findings) == 3


# ------------------------------------------------------------------ the folder


def test_a_missing_folder_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """Without a runs folder, or with a file in its place, it is said what to do."""
    exporter = servers(an_exporter()).url
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        (text,) = problems(examine(path, exporter, None, None))
        assert f"{path} does not exist" in text


@pytest.mark.parametrize(("refused", "word"), [(os.R_OK, "cannot be read"), (os.W_OK, "cannot be written")])
def test_a_folder_without_permission_is_a_problem(
    tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch, refused: int, word: str
) -> None:
    """A folder that this user cannot read or write says which."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & refused)
    (text,) = problems(examine(tmp_path, servers(an_exporter()).url, None, None))
    assert word in text


# ------------------------------------------------------------------ the exporter


def test_an_exporter_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """Nothing listens: the remedy is the command that starts one."""
    (text,) = problems(examine(tmp_path, f"http://127.0.0.1:{free_port()}", None, None))
    assert "cannot be reached: ConnectionError" in text
    assert "telemetry-exporter serve DIR" in text


def test_an_address_that_is_none_is_a_problem(tmp_path: Path) -> None:
    """An address without http:// is told like any that cannot be reached."""
    (text,) = problems(examine(tmp_path, "127.0.0.1:9464", None, None))
    assert "cannot be reached" in text


def test_an_exporter_that_is_not_ready_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """An answer that is an error is told with its words."""
    server = servers({**an_exporter(), "/-/ready": (503, "reading journals\n")})
    (text,) = problems(examine(tmp_path, server.url, None, None))
    assert "answered 503: reading journals" in text


def test_a_page_that_fails_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """Ready but without a page is not well."""
    (text,) = problems(examine(tmp_path, servers({"/-/ready": "ready"}).url, None, None))
    assert "/metrics answered 404" in text


@pytest.mark.parametrize(
    ("line", "is_lost"),
    [
        ('telemetry_lost_records_total{run_id="r1",reason="disk_full"} 3.0', True),
        ('telemetry_bad_lines_total{run_id="r1"} 1.0', True),
        ('telemetry_series_refused_total{run_id="r1",reason="run_budget"} 1e+06', True),
        ('telemetry_key_collisions_total{run_id="r1"} 2.0', True),
        ('telemetry_bad_lines_total{run_id="run with blanks"} 1.0', True),
        ('telemetry_bad_lines_total{run_id="a} 1"} 12.0', True),
        ('telemetry_bad_lines_total{run_id="r1"} 0.0', False),
        ('telemetry_bad_lines_total{run_id="run 5"} 0.0', False),
        ('telemetry_bad_lines_total{run_id="a} 5"} 0.0', False),
        ('telemetry_unknown_records_total{run_id="r1"} 5.0', False),
        ('custom_telemetry_bad_lines_total{run_id="r1"} 5.0', False),
    ],
)
def test_lost_values_are_a_problem(tmp_path: Path, servers: Any, line: str, is_lost: bool) -> None:
    """Whatever the runs are called: a count of what is not exported sends the user to ``check``."""
    found = problems(examine(tmp_path, servers(an_exporter(f"{PAGE}{line}\n")).url, None, None))
    assert [("telemetry-exporter check DIR" in text) for text in found] == [True] * is_lost


def test_a_real_page_tells_of_lost_values(tmp_path: Path, servers: Any) -> None:
    """The exporter's own page says it in the form that doctor looks for."""
    good = Journal(tmp_path, "good run").start().log(0, {"a": 1})
    exporter = Exporter(partial(find_journals, tmp_path), tmp_path / "state.json", CATALOG)
    server = servers(an_exporter(exporter.latest_page(Format.TEXT).decode()))
    assert problems(examine(tmp_path, server.url, None, None)) == []
    good.raw(b"torn\n")
    server.bodies["/metrics"] = exporter.latest_page(Format.TEXT).decode()
    assert len(problems(examine(tmp_path, server.url, None, None))) == 1


@pytest.mark.parametrize("seconds", [-3600, -7, 7, 3600])
def test_a_clock_that_differs_is_a_problem(tmp_path: Path, servers: Any, seconds: int) -> None:
    """A Date header more than 5 s away from our time is told with its sign."""
    server = servers(an_exporter())
    server.date = formatdate(time.time() + seconds, usegmt=True)
    (text,) = problems(examine(tmp_path, server.url, None, None))
    difference = int(text.partition(" differs by ")[2].split()[0])
    assert difference == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize("date", [None, "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_a_server_that_does_not_tell_its_time_is_believed(tmp_path: Path, servers: Any, date: str | None) -> None:
    """Without a usable Date header there is nothing to complain about."""
    server = servers(an_exporter())
    server.date = date
    findings = list(examine(tmp_path, server.url, None, None))
    assert Finding(True, "exporter does not tell its time") in findings
    assert problems(iter(findings)) == []


# ------------------------------------------------------------------ Prometheus and Alertmanager


def of_prometheus(folder: Path, servers: Any, answers: Mapping[str, Any]) -> list[str]:
    """The problems of a Prometheus beside a healthy exporter."""
    return problems(examine(folder, servers(an_exporter()).url, servers(answers).url, None))


def test_a_broken_release_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """A release that loses steps is named with those to use."""
    (text,) = of_prometheus(tmp_path, servers, a_prometheus(a_target(), version="2.53.1"))
    assert "2.53.1 keeps one sample" in text
    assert "2.53.3" in text


@pytest.mark.parametrize("config", ["storage:\n  tsdb:\n    out_of_order_time_window: 0s\n", "global: {}\n", ""])
def test_a_missing_window_is_a_problem(tmp_path: Path, servers: Any, config: str) -> None:
    """Without an out-of-order window late steps are refused: the setting is named."""
    answers = a_prometheus(a_target())
    answers["/api/v1/status/config"] = {"status": "success", "data": {"yaml": config}}
    (text,) = of_prometheus(tmp_path, servers, answers)
    assert "out_of_order_time_window: 30d" in text


def test_no_target_with_a_scraper_s_name_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """Scraping the plain page stores the last step only: the shipped configuration is named."""
    plain = a_target(scrapeUrl="http://h:9464/metrics")
    for targets in ([], [plain]):
        (text,) = of_prometheus(tmp_path, servers, a_prometheus(*targets))
        assert "prometheus/prometheus.yml" in text


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"health": "down", "lastError": "connection refused"}, "is down: connection refused"),
        ({"health": "unknown", "lastScrape": "0001-01-01T00:00:00Z"}, "is unknown: not scraped yet"),
        ({"lastScrape": "2026-01-01T00:00:00.123456789+01:00"}, "is Prometheus overloaded?"),
    ],
)
def test_a_target_that_is_not_scraped_is_a_problem(
    tmp_path: Path, servers: Any, fields: dict[str, str], word: str
) -> None:
    """A target that is down, was never scraped, or not for a minute is told with its reason; the others are well."""
    (text,) = of_prometheus(tmp_path, servers, a_prometheus(a_target(), a_target(**fields)))
    assert word in text


@pytest.mark.parametrize(("age", "count"), [(50, 0), (70, 1)])
def test_a_scrape_may_be_a_minute_old(tmp_path: Path, servers: Any, age: float, count: int) -> None:
    """Sixty seconds is the limit, in whatever time zone Prometheus lives."""
    zone = timezone(timedelta(hours=-5))
    then = (datetime.now(zone) - timedelta(seconds=age)).isoformat()
    found = of_prometheus(tmp_path, servers, a_prometheus(a_target(lastScrape=then)))
    assert len(found) == count


def test_a_prometheus_that_does_not_answer_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """Nothing listens at its address, or it refuses to say its targets."""
    (text,) = problems(examine(tmp_path, servers(an_exporter()).url, NOWHERE, None))
    assert text.startswith("Prometheus: ")
    answers = a_prometheus()
    answers["/api/v1/targets"] = (500, "sorry")
    (text,) = of_prometheus(tmp_path, servers, answers)
    assert "answered 500: sorry" in text


def test_a_configuration_that_is_not_told_is_no_problem(tmp_path: Path, servers: Any) -> None:
    """Some servers that speak Prometheus' API do not show their configuration."""
    answers = a_prometheus(a_target())
    answers["/api/v1/status/config"] = (404, "")
    assert of_prometheus(tmp_path, servers, answers) == []


@pytest.mark.parametrize("body", ["<html>", "[]", "7", "{}", '{"data": []}', '{"data": null}'])
def test_something_that_is_no_prometheus_is_told(tmp_path: Path, servers: Any, body: str) -> None:
    """Any other server at the address gives problems, never a traceback."""
    paths = ("/api/v1/status/buildinfo", "/api/v1/status/config", "/api/v1/targets")
    assert len(of_prometheus(tmp_path, servers, dict.fromkeys(paths, body))) == 2


def test_an_alertmanager_that_is_not_there_is_a_problem(tmp_path: Path, servers: Any) -> None:
    """It is asked whether it is ready."""
    (text,) = problems(examine(tmp_path, servers(an_exporter()).url, None, NOWHERE))
    assert text.startswith("Alertmanager: ")


# ------------------------------------------------------------------ the real thing


@pytest.mark.slow
def test_a_real_prometheus_with_the_shipped_configuration_is_well(tmp_path: Path) -> None:
    """Doctor finds nothing wrong with what is shipped, and finds the target that is gone."""
    binary = require("prometheus")
    runs = tmp_path / "runs"
    Journal(runs).start().log(0, {"train/loss": 1.0})
    sidecar = Sidecar(runs, tmp_path / "sidecar.log")
    prometheus = Prometheus(binary, tmp_path, [sidecar.address])
    with running(sidecar, prometheus):

        def is_well() -> bool:
            return not problems(examine(runs, sidecar.url, prometheus.url, None))

        wait_until(is_well, 40, "a healthy installation")
        sidecar.stop()
        (first, *_) = problems(examine(runs, sidecar.url, prometheus.url, None))
        assert first.startswith("exporter: ")

        def is_down() -> bool:
            return any("is down" in text for text in problems(examine(runs, sidecar.url, prometheus.url, None)))

        wait_until(is_down, 30, "a target that is down")
