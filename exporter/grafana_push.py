"""Uploads the dashboards to a Grafana that exists already, over its HTTP API; nothing is sent that is there already."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests

from exporter.errors import ConfigError, ServerError
from exporter.shipped import shipped_folder

__all__ = ["Grafana", "Pushed", "made_for", "push", "shipped_dashboards"]

_TIMEOUT_SECONDS = 30.0
_FOLDERS_PER_PAGE = 1000
_MADE_FOR = (13, 2)
_HAS_COLOUR_BLIND_PALETTE = (13, 0)
_OWN_TO_GRAFANA = ("id", "version")
"""Keys of a stored dashboard that Grafana gives it."""

_LOOPBACK = re.compile(r"https?://(localhost|127\.|\[::1\])")

_HINTS = {
    401: "; make a service account with the role Editor in Grafana, and give its token",
    403: "; the token's service account needs the role Editor, or permission to write dashboards and create folders",
    404: "; give the address of Grafana itself, with the path below which it is served",
    412: "; delete or rename the dashboard that is in the way",
}

Dashboard = Mapping[str, Any]


class Pushed(NamedTuple):
    """What became of a dashboard, or would: ``created``, ``updated`` or ``unchanged``."""

    title: str
    outcome: str
    url: str


class Grafana:
    """The parts of Grafana's HTTP API that are needed here."""

    def __init__(self, url: str, token: str) -> None:
        """Ask a Grafana which version it is.

        Raises:
            ConfigError: the address is no URL.
            ServerError: nothing or no Grafana answers.
        """
        if not re.match(r"https?://[^/@]+(/[^@]*)?$", url):
            raise ConfigError(
                f"--url {re.sub('//.*@', '//...@', url)!r} must be an address such as https://grafana.example.com, "
                "without a user or password"
            )
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = not _LOOPBACK.match(url)  # a proxy cannot reach this host's own servers
        self._session.headers["Authorization"] = f"Bearer {_usable(token)}"
        health = self._answer("GET", "/api/health")
        match = re.match(r"(\d+)\.(\d+)", str(health.get("version", "")) if isinstance(health, dict) else "")
        if not match:
            raise ServerError(f"{self._url} is no Grafana: its /api/health does not tell a version{_HINTS[404]}")
        self.version = (int(match[1]), int(match[2]))

    def folder(self, title: str) -> str | None:
        """The uid of the folder with a title; None where there is none."""
        page = 1
        while True:
            found = self._answer("GET", f"/api/folders?limit={_FOLDERS_PER_PAGE}&page={page}")
            for folder in found:
                if folder["title"] == title:
                    return str(folder["uid"])
            if len(found) < _FOLDERS_PER_PAGE:
                return None
            page += 1

    def create_folder(self, title: str) -> str:
        """Make a folder; returns its uid."""
        return str(self._answer("POST", "/api/folders", {"title": title})["uid"])

    def stored(self, uid: str) -> tuple[Dashboard, str] | None:
        """A stored dashboard and the uid of its folder; None where there is none."""
        found = self._answer("GET", f"/api/dashboards/uid/{uid}", missing_is_none=True)
        return None if found is None else (found["dashboard"], str(found["meta"].get("folderUid", "")))

    def save(self, dashboard: Dashboard, folder_uid: str) -> None:
        """Store a dashboard in a folder, in the place of the one with its uid."""
        body = {
            "dashboard": {**dashboard, "id": None},
            "folderUid": folder_uid,
            "message": "telemetry-exporter grafana push",
            "overwrite": True,
        }
        self._answer("POST", "/api/dashboards/db", body)

    def address(self, uid: str) -> str:
        """Where a dashboard can be looked at."""
        return f"{self._url}/d/{uid}"

    def _answer(self, method: str, path: str, body: Any = None, *, missing_is_none: bool = False) -> Any:
        try:
            answer = self._session.request(
                method, f"{self._url}{path}", json=body, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ServerError(f"Grafana at {self._url} cannot be reached ({reason}): is the address right?") from error
        if missing_is_none and answer.status_code == requests.codes.not_found:
            return None
        if answer.is_redirect:  # followed, a POST would become a GET
            to = answer.headers["Location"]
            raise ServerError(f"{method} {self._url}{path} is sent on to {to}: give the address of Grafana itself")
        if not answer.ok:
            said = " ".join(answer.text.split())[:300]
            raise ServerError(
                f"{method} {self._url}{path} answers {answer.status_code}: {said}{_HINTS.get(answer.status_code, '')}"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise ServerError(f"{self._url}{path} answers with something else than JSON{_HINTS[404]}") from error


def _usable(token: str) -> str:
    """A token as it is, without the end of line of the file that it was kept in."""
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError("--token must be letters, digits and signs of ASCII without spaces, as Grafana showed it")
    return token


def shipped_dashboards() -> list[dict[str, Any]]:
    """The dashboards that come with the package."""
    folder: Path = shipped_folder("grafana") / "dashboards"
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def made_for(grafana: Grafana) -> str:
    """What an older Grafana cannot show; empty for one that can show everything."""
    if grafana.version >= _MADE_FOR:
        return ""
    return (
        f"this is Grafana {grafana.version[0]}.{grafana.version[1]}, and the dashboards are made for "
        f"{_MADE_FOR[0]}.{_MADE_FOR[1]}: Compare cannot smooth there, and colours may be others"
    )


def push(grafana: Grafana, folder: str, *, dry_run: bool = False) -> Iterator[Pushed]:
    """Bring the dashboards into a folder, which is made if it is missing; an empty title stands for the top.

    Raises:
        ServerError: Grafana refuses something; what was pushed before stays.
    """
    folder_uid = grafana.folder(folder) if folder else ""
    if folder_uid is None and not dry_run:
        folder_uid = grafana.create_folder(folder)
    for dashboard in shipped_dashboards():
        wanted = _for_version(dashboard, grafana.version)
        stored = grafana.stored(wanted["uid"])
        outcome = _outcome(wanted, stored, folder_uid)
        if outcome != "unchanged" and not dry_run:
            grafana.save(wanted, folder_uid or "")
        yield Pushed(wanted["title"], outcome, grafana.address(wanted["uid"]))


def _outcome(wanted: Dashboard, stored: tuple[Dashboard, str] | None, folder_uid: str | None) -> str:
    if stored is None:
        return "created"
    there, its_folder = stored
    return "unchanged" if its_folder == folder_uid and _holds(there, wanted) else "updated"


def _holds(there: Any, wanted: Any) -> bool:
    """Whether something has all that is wanted; Grafana may have added more."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(_holds(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(_holds, there, wanted))
    return bool(there == wanted)


def _for_version(dashboard: dict[str, Any], version: tuple[int, int]) -> dict[str, Any]:
    """Without what Grafana keeps itself, and in older ones with a palette that they know: another breaks the page."""
    kept = {key: value for key, value in dashboard.items() if key not in _OWN_TO_GRAFANA}
    if version >= _HAS_COLOUR_BLIND_PALETTE:
        return kept
    return dict(json.loads(json.dumps(kept).replace('"palette-colorblind"', '"palette-classic"')))
