"""Dashboards pushed to a server with Grafana's documented API: what changes there, what is said, what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from click.testing import CliRunner, Result

from exporter.cli.grafana import grafana
from exporter.errors import ConfigError, ServerError
from exporter.grafana_push import Grafana, push, shipped_dashboards
from exporter.monitoring_link import COMPARE, monitoring_link

TOKEN = "glsa_right"


class FakeGrafana:
    """Keeps folders and dashboards, and answers as Grafana's HTTP API is documented to."""

    def __init__(self, version: str = "13.2.3") -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(*fake.answer("GET", self.path, self.headers.get("Authorization", ""), {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(*fake.answer("POST", self.path, self.headers.get("Authorization", ""), body))

            def reply(self, status: int, content: Any) -> None:
                text = content if isinstance(content, str) else json.dumps(content)
                self.send_response(301 if fake.location else status)
                if fake.location:
                    self.send_header("Location", fake.location)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.version = version
        self.folders = [{"uid": f"f{number}", "title": f"Folder {number}"} for number in range(1001)]
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.provisioned: set[str] = set()
        self.may_write = True
        self.location = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, authorization: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body."""
        parts = urlsplit(path)
        if parts.path == "/api/health":
            return 200, {"database": "ok", "version": self.version, "commit": "abc"}
        if authorization != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        if method == "POST" and not self.may_write:
            return 403, {"message": "You'll need additional permissions to perform this action."}
        if parts.path == "/api/folders":
            return self.add_folder(body) if method == "POST" else (200, self.page(parse_qs(parts.query)))
        if parts.path == "/api/dashboards/db" and method == "POST":
            return self.save(body)
        if parts.path.startswith("/api/dashboards/uid/"):
            return self.load(parts.path.rpartition("/")[2])
        return 404, {"message": "Not found"}

    def page(self, query: dict[str, list[str]]) -> list[dict[str, str]]:
        """One page of folders."""
        limit, page = int(query["limit"][0]), int(query.get("page", ["1"])[0])
        return self.folders[(page - 1) * limit : page * limit]

    def add_folder(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Make a folder."""
        self.writes.append(f"folder {body['title']}")
        self.folders.append({"uid": "new", "title": body["title"]})
        return 200, self.folders[-1]

    def save(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Store a dashboard with an id, a version and what a newer Grafana adds."""
        board = body["dashboard"]
        uid = board["uid"]
        if uid in self.provisioned:
            return 400, {"message": "Cannot save provisioned dashboard"}
        if body["folderUid"] not in {"", *(folder["uid"] for folder in self.folders)}:
            return 400, {"message": "folder not found"}
        if board.get("id") is not None or ("version" in board and not body["overwrite"]):
            return 412, {"status": "version-mismatch", "message": "The dashboard has been changed by someone else"}
        version = self.dashboards.get(uid, {}).get("version", 0) + 1
        self.writes.append(f"dashboard {board['title']}")
        stored = {**board, "id": len(self.writes), "version": version, "weekStart": ""}
        self.dashboards[uid] = {"board": stored, "folder": body["folderUid"], "version": version}
        return 200, {"id": stored["id"], "uid": uid, "status": "success", "version": version}

    def load(self, uid: str) -> tuple[int, Any]:
        """A stored dashboard."""
        if uid not in self.dashboards:
            return 404, {"message": "Dashboard not found"}
        return 200, {"dashboard": self.dashboards[uid]["board"], "meta": {"folderUid": self.dashboards[uid]["folder"]}}


@pytest.fixture
def fake() -> Iterator[FakeGrafana]:
    """A Grafana with a thousand folders and no dashboard."""
    server = FakeGrafana()
    yield server
    server.close()


def run(*arguments: str) -> Result:
    """The command's outcome."""
    return CliRunner().invoke(grafana, ["push", *arguments], env={"GRAFANA_TOKEN": ""})


def outcomes(server: FakeGrafana, folder: str = "Telemetry") -> dict[str, str]:
    """What became of each dashboard."""
    return {pushed.title: pushed.outcome for pushed in push(Grafana(server.url, TOKEN), folder)}


def test_dashboards_are_created_in_the_folder(fake: FakeGrafana) -> None:
    """The first push makes the folder and stores every dashboard in it as it is shipped."""
    assert set(outcomes(fake).values()) == {"created"}
    boards = {board["uid"]: board for board in shipped_dashboards()}
    assert set(fake.dashboards) == set(boards)
    for uid, stored in fake.dashboards.items():
        assert stored["folder"] == "new"
        assert {key: stored["board"][key] for key in boards[uid]} == boards[uid]


def test_a_second_push_changes_nothing(fake: FakeGrafana) -> None:
    """What is there already is not sent again, whatever Grafana has added to it."""
    outcomes(fake)
    writes = len(fake.writes)
    assert set(outcomes(fake).values()) == {"unchanged"}
    assert len(fake.writes) == writes


def test_only_what_differs_is_updated(fake: FakeGrafana) -> None:
    """A dashboard that somebody changed, and one that was moved, are brought back; their versions go on."""
    outcomes(fake)
    fake.dashboards["telemetry-runs"]["board"]["refresh"] = "1m"
    fake.dashboards["telemetry-compare"]["folder"] = "f1"
    changed = {title for title, outcome in outcomes(fake).items() if outcome == "updated"}
    assert changed == {"Runs", "Compare"}
    assert fake.dashboards["telemetry-runs"]["board"]["refresh"] == "5s"
    assert fake.dashboards["telemetry-runs"]["version"] == 2
    assert fake.dashboards["telemetry-compare"]["folder"] == "new"


def test_an_existing_folder_is_used(fake: FakeGrafana) -> None:
    """A folder of that title is found, even behind a thousand others, and none is made."""
    outcomes(fake, "Folder 1000")
    assert {stored["folder"] for stored in fake.dashboards.values()} == {"f1000"}
    assert not [write for write in fake.writes if write.startswith("folder")]


def test_no_folder_is_the_top(fake: FakeGrafana) -> None:
    """With an empty title the dashboards lie in no folder."""
    outcomes(fake, "")
    assert {stored["folder"] for stored in fake.dashboards.values()} == {""}
    assert set(outcomes(fake, "").values()) == {"unchanged"}


def test_a_dry_run_only_tells(fake: FakeGrafana) -> None:
    """It says what would be done to each dashboard, and writes nothing, not even the folder."""
    told = run("--url", fake.url, "--token", TOKEN, "--dry-run")
    assert told.exit_code == 0
    assert told.output.count("would be created: ") == len(shipped_dashboards())
    assert fake.writes == []
    outcomes(fake)
    assert "would be" not in run("--url", fake.url, "--token", TOKEN, "--dry-run").output


def test_the_command_says_where_the_dashboards_are(fake: FakeGrafana) -> None:
    """One line per dashboard: what became of it, its title, its address."""
    lines = run("--url", f"{fake.url}/", "--token", TOKEN).output.splitlines()
    assert f"created: Compare ({fake.url}/d/telemetry-compare)" in lines
    assert len(lines) == len(shipped_dashboards())


def test_the_token_may_come_from_the_environment(fake: FakeGrafana) -> None:
    """A token need not stand in the list of processes."""
    done = CliRunner().invoke(grafana, ["push", "--url", fake.url], env={"GRAFANA_TOKEN": TOKEN})
    assert done.exit_code == 0
    assert run("--url", fake.url).exit_code == click.UsageError.exit_code


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (lambda fake: setattr(fake, "may_write", False), ["403", "additional permissions", "role Editor"]),
        (lambda fake: fake.provisioned.add("telemetry-compare"), ["400", "Cannot save provisioned dashboard"]),
        (lambda fake: setattr(fake, "folders", "nothing") or setattr(fake, "page", lambda _: "<html>"), ["JSON"]),
    ],
)
def test_a_refusal_is_told_as_it_is(fake: FakeGrafana, breaks: Any, words: list[str]) -> None:
    """What Grafana says, its status and what to do are in the error."""
    breaks(fake)
    with pytest.raises(ServerError) as refused:
        outcomes(fake)
    assert [word for word in words if word not in str(refused.value)] == []


def test_a_redirection_is_told(fake: FakeGrafana) -> None:
    """A proxy's redirection, which would make a GET of a POST, is not followed but told."""
    fake.location = "https://grafana.example.com/api/health"
    with pytest.raises(ServerError, match=r"api/health is sent on to https://grafana.example.com/api/health: give"):
        Grafana(fake.url, TOKEN)


def test_a_token_may_end_with_its_file(fake: FakeGrafana) -> None:
    """The end of line of a file with a token is no part of it."""
    assert len(list(push(Grafana(fake.url, f"{TOKEN}\n"), "", dry_run=True))) == len(shipped_dashboards())


@pytest.mark.parametrize("token", ["", " ", "glsa_\u20ac", "glsa_a b"])
def test_what_is_no_token_is_told_without_it(fake: FakeGrafana, token: str) -> None:
    """A token that no header can hold is a wrong setting, and is not repeated."""
    with pytest.raises(ConfigError, match=r"^--token must be letters, digits and signs of ASCII") as refused:
        Grafana(fake.url, token)
    assert "glsa" not in str(refused.value)


def test_a_wrong_token_is_told(fake: FakeGrafana) -> None:
    """401 says that the token is wrong and how to get one."""
    with pytest.raises(ServerError, match=r"401: .*Invalid API key.*service account"):
        list(push(Grafana(fake.url, "glsa_wrong"), "Telemetry"))


def test_another_server_is_no_grafana(fake: FakeGrafana) -> None:
    """A server without Grafana's API, or the wrong path on its host, is told with its address."""
    with pytest.raises(ServerError, match=r"/nowhere/api/health answers 404.*path below which it is served"):
        Grafana(f"{fake.url}/nowhere", TOKEN)
    fake.version = ""
    with pytest.raises(ServerError, match="is no Grafana"):
        Grafana(fake.url, TOKEN)


def test_nothing_answers(fake: FakeGrafana) -> None:
    """Where nothing listens the address is told, without a traceback of the library."""
    fake.close()
    with pytest.raises(ServerError, match=f"Grafana at {fake.url} cannot be reached"):
        Grafana(fake.url, TOKEN)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    """It would take the token's place, and be in every line that is printed."""
    with pytest.raises(ConfigError, match=r"'https://\.\.\.@grafana' must be .* without a user or password") as refused:
        Grafana("https://admin:secret@grafana", TOKEN)
    assert "secret" not in str(refused.value)


def test_an_address_is_a_url() -> None:
    """A host without http:// is a wrong setting, not a server that is down."""
    with pytest.raises(ConfigError, match=r"'localhost:3000' must be an address such as"):
        Grafana("localhost:3000", TOKEN)


@pytest.mark.parametrize(("version", "palette"), [("12.3.1", "palette-classic"), ("13.0.1", "palette-colorblind")])
def test_an_older_grafana_is_warned_of(version: str, palette: str) -> None:
    """It is told that not everything works, and gets a palette that it knows, as another would break its pages."""
    old = FakeGrafana(version)
    try:
        done = run("--url", old.url, "--token", TOKEN)
        assert done.exit_code == 0
        assert f"this is Grafana {version.rpartition('.')[0]}" in done.stderr
        stored = json.dumps(old.dashboards["telemetry-rl-health"])
        assert {name for name in ("palette-classic", "palette-colorblind") if f'"{name}"' in stored} == {palette}
        assert set(outcomes(old).values()) == {"unchanged"}
    finally:
        old.close()


def test_a_run_has_an_address_in_compare() -> None:
    """The address selects the run, whatever is in its name, and begins where it began."""
    link = monitoring_link("https://grafana.example.com/sub/", 'bob\'s "best" run', 1700000000.5)
    parts = urlsplit(link)
    assert parts.path == f"/sub/d/{COMPARE}"
    assert parse_qs(parts.query) == {"var-run": ['bob\'s "best" run'], "from": ["1700000000500"], "to": ["now"]}
    assert COMPARE in {board["uid"] for board in shipped_dashboards()}
