"""Look at an installation from outside: versions, addresses, permissions, clocks, and whether steps arrive."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import requests

__all__ = ["Finding", "examine", "is_broken_release"]

_TIMEOUT_SECONDS = 5.0
_MAX_SKEW_SECONDS = 5.0
_MAX_SCRAPE_AGE_SECONDS = 60.0
_LOOPBACK = re.compile(r"https?://(localhost|127\.|\[::1\])")
_LOSS = re.compile(
    r"^telemetry_(?:lost_records|bad_lines|series_refused|key_collisions)_total(?:\{.*\})? [1-9]\S*$", re.MULTILINE
)


class Finding(NamedTuple):
    """One thing that was looked at; a problem says what to do."""

    is_ok: bool
    text: str


def examine(runs: Path, exporter: str, prometheus: str | None, alertmanager: str | None) -> Iterator[Finding]:
    """Look at a runs folder and at the servers whose addresses are given."""
    yield _folder(runs)
    yield from _exporter(exporter.rstrip("/"))
    if prometheus:
        yield from _prometheus(prometheus.rstrip("/"))
    if alertmanager:
        yield from _reachable("Alertmanager", f"{alertmanager.rstrip('/')}/-/ready")


def is_broken_release(version: str) -> bool:
    """Whether a Prometheus release keeps only one sample per series and scrape (2.52.0-2.53.2, 2.54.0)."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if not match:
        return False
    numbers = tuple(map(int, match.groups()))
    return (2, 52, 0) <= numbers <= (2, 53, 2) or numbers == (2, 54, 0)


def _folder(runs: Path) -> Finding:
    if not runs.is_dir():
        return Finding(False, f"runs folder {runs} does not exist: start a run, or name the folder with --runs")
    if not os.access(runs, os.R_OK | os.X_OK):
        return Finding(False, f"runs folder {runs} cannot be read: give this user read permission")
    if not os.access(runs, os.W_OK):
        return Finding(False, f"runs folder {runs} cannot be written: runs and the scrapers' cursors cannot be kept")
    return Finding(True, f"runs folder {runs} can be read and written")


def _exporter(url: str) -> Iterator[Finding]:
    answer = _get(f"{url}/-/ready")
    if isinstance(answer, Finding):
        yield answer._replace(text=f"exporter: {answer.text}; start one with: telemetry-exporter serve DIR")
        return
    yield Finding(True, f"exporter is ready at {url}")
    yield _skew("exporter", answer)
    page = _get(f"{url}/metrics")
    if isinstance(page, Finding):
        yield page
        return
    if _LOSS.search(page.text):
        yield Finding(False, "some values are not exported: telemetry-exporter check DIR says which, and why")


def _prometheus(url: str) -> Iterator[Finding]:
    answer = _get(f"{url}/api/v1/status/buildinfo")
    if isinstance(answer, Finding):
        yield answer._replace(text=f"Prometheus: {answer.text}")
        return
    version = str(_data(answer).get("version", "unknown"))
    if is_broken_release(version):
        yield Finding(
            False, f"Prometheus {version} keeps one sample per series and scrape: use 2.53.3, 2.54.1 or a later one"
        )
    else:
        yield Finding(True, f"Prometheus {version} at {url}")
    yield _skew("Prometheus", answer)
    yield from _out_of_order_window(url)
    yield from _targets(url)


def _out_of_order_window(url: str) -> Iterator[Finding]:
    answer = _get(f"{url}/api/v1/status/config")
    if isinstance(answer, Finding):
        return
    if re.search(r"out_of_order_time_window: [1-9]", str(_data(answer).get("yaml", ""))):
        yield Finding(True, "Prometheus accepts late samples (out_of_order_time_window)")
    else:
        yield Finding(False, "Prometheus refuses late samples: set storage.tsdb.out_of_order_time_window: 30d")


def _targets(url: str) -> Iterator[Finding]:
    answer = _get(f"{url}/api/v1/targets?state=active")
    if isinstance(answer, Finding):
        yield answer
        return
    targets = [target for target in _data(answer).get("activeTargets", []) if "scraper=" in target["scrapeUrl"]]
    if not targets:
        yield Finding(False, "Prometheus scrapes no page of every step: use the shipped prometheus/prometheus.yml")
    for target in targets:
        yield _target(target)


def _target(target: dict[str, Any]) -> Finding:
    name = target["scrapeUrl"]
    if target["health"] != "up":
        return Finding(False, f"target {name} is {target['health']}: {target['lastError'] or 'not scraped yet'}")
    age = time.time() - _unix(target["lastScrape"])
    if age > _MAX_SCRAPE_AGE_SECONDS:
        return Finding(False, f"target {name} was last scraped {age:.0f} s ago: is Prometheus overloaded?")
    return Finding(True, f"target {name} was scraped {max(age, 0):.0f} s ago")


def _reachable(name: str, url: str) -> Iterator[Finding]:
    answer = _get(url)
    if isinstance(answer, Finding):
        yield answer._replace(text=f"{name}: {answer.text}")
    else:
        yield Finding(True, f"{name} at {url}")


def _skew(name: str, answer: requests.Response) -> Finding:
    try:
        skew = parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return Finding(True, f"{name} does not tell its time")
    if abs(skew) > _MAX_SKEW_SECONDS:
        return Finding(False, f"the clock of {name} differs by {skew:.0f} s: synchronise the clocks (NTP)")
    return Finding(True, f"the clock of {name} agrees")


def _get(url: str) -> requests.Response | Finding:
    try:
        with requests.Session() as session:
            session.trust_env = not _LOOPBACK.match(url)  # a proxy cannot reach this host's own servers
            answer = session.get(url, timeout=_TIMEOUT_SECONDS)
    except requests.RequestException as error:
        return Finding(False, f"{url} cannot be reached: {type(error).__name__}")
    if not answer.ok:
        return Finding(False, f"{url} answered {answer.status_code}: {answer.text.strip()[:200]}")
    return answer


def _data(answer: requests.Response) -> dict[str, Any]:
    try:
        data = answer.json()["data"]
    except (ValueError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def _unix(timestamp: str) -> float:
    """Seconds of an RFC 3339 time; its nanoseconds are more than datetime reads, and of no use here."""
    plain = re.sub(r"\.\d+", "", timestamp).replace("Z", "+00:00")
    return datetime.fromisoformat(plain).timestamp()
