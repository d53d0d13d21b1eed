"""``telemetry-exporter backfill`` against real servers: every sample once, and no word about one that is not there."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.cli import main
from exporter.records import Family
from exporter.remote_write import Endpoint, RemoteWriter, TimeSeries
from tests.support.journals import Journal, same_points
from tests.support.servers import Server, free_port, get, require, running

DAY = 86400.0
PASSWORD = "secret"
PASSWORD_HASH = "$2b$04$4TteTKcwL/iDxq6puzKmWO5nbWAWmP.UohYEQb33Gc5WmAb3862b2"
Points = dict[int, float]
Labels = frozenset[tuple[str, str]]


class Result(NamedTuple):
    """Exit code and what was said."""

    code: object
    out: str
    err: str


Backfill = Callable[..., Result]


@pytest.fixture
def backfill(capsys: pytest.CaptureFixture[str]) -> Backfill:
    """Run the command in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["backfill", *map(str, arguments)])
        return Result(caught.value.code, *capsys.readouterr())

    return call


# ------------------------------------------------------------------ servers


class Receiver(Server):
    """A server that takes remote write."""

    url: str

    def stored(self, run_id: str) -> dict[Labels, Points]:
        """Every sample of a run."""
        return {labels: dict(points) for labels, points in self._shown(run_id)}

    def stored_samples(self, run_id: str) -> int:
        """How many there are, duplicates among them."""
        return sum(len(points) for _, points in self._shown(run_id))

    def _shown(self, run_id: str) -> list[tuple[Labels, list[tuple[int, float]]]]:
        query = urllib.parse.urlencode({"query": f'{{run_id="{run_id}"}}[9000d]', "nocache": "1"})
        result = json.loads(get(f"{self.url}/api/v1/query?{query}"))["data"]["result"]
        return [
            (frozenset(item["metric"].items()), [(round(time * 1000), float(value)) for time, value in item["values"]])
            for item in result
        ]


class Prometheus(Receiver):
    """A Prometheus that takes remote write; ``window`` is its out-of-order window."""

    def __init__(self, binary: str, folder: Path, *options: str, window: str = "90d", ready: str = "/-/ready") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.url = f"http://127.0.0.1:{free_port()}"
        configuration = folder / "prometheus.yml"
        storage = f"storage: {{tsdb: {{out_of_order_time_window: {window}}}}}\n" if window else ""
        configuration.write_text(f"global: {{scrape_interval: 1h}}\n{storage}")
        command = [
            binary,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            *(options or ("--web.enable-remote-write-receiver", "--storage.tsdb.retention.time=5y")),
        ]
        super().__init__(command, folder / "prometheus.log", lambda: answers(self.url + ready))


class VictoriaMetrics(Receiver):
    """A VictoriaMetrics."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [
            binary,
            f"-storageDataPath={folder / 'data'}",
            f"-httpListenAddr={self.url.removeprefix('http://')}",
            *(options or ("-retentionPeriod=100y",)),
        ]
        super().__init__(command, folder / "victoria.log", lambda: answers(f"{self.url}/health"))


def answers(url: str) -> bool:
    """Whether a server answers, be it that it wants credentials."""
    try:
        get(url)
    except urllib.error.HTTPError as error:
        return error.code == 401
    return True


def next_one(name: str) -> str:
    """The program of the distribution's next release where PROMETHEUS_NEXT names one, else that on the PATH."""
    named = os.environ.get("PROMETHEUS_NEXT")
    beside = Path(named).with_name(name) if named else None
    return str(beside) if beside and beside.exists() else require(name)


SERVERS: dict[str, Callable[[Path], Receiver]] = {
    "prometheus": lambda folder: Prometheus(require("prometheus"), folder),
    "next prometheus": lambda folder: Prometheus(next_one("prometheus"), folder),
    "victoria-metrics": lambda folder: VictoriaMetrics(require("victoria-metrics"), folder),
    "next victoria-metrics": lambda folder: VictoriaMetrics(next_one("victoria-metrics"), folder),
}


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Receiver]:
    """Each server in turn, empty."""
    one = SERVERS[request.param](tmp_path / "server")
    with running(one):
        yield one


# ------------------------------------------------------------------ runs


def finished_run(folder: Path, run_id: str = "r1", age: float = 40 * DAY, steps: int = 400) -> Journal:
    """A run that was resumed, diverged for two steps and ended, some time ago."""
    journal = Journal(folder, run_id)
    journal.begin = round(journal.begin - age, 3)
    about = {"tags": {"env": "prod"}, "config": {"learning_rate": 1e-3}}
    journal.start(**about)
    for number in range(steps):
        if number == steps // 2:
            journal.start(number * 3.0, **about)
        broken = {50: math.nan, 51: math.inf}.get(number)
        loss = broken if broken is not None else 1 / (number + 3)
        metrics = {"train/loss": loss, "train/approx_kl": number * 1e-5, "train/entropy_loss": -number / 8}
        journal.log(number, metrics, number * 3.0, epoch=number / 100)
        journal.other("timing", number * 3.0 + 0.5, name="forward_backward", seconds=number / 1000)
    return journal.end(steps * 3.0)


def series_of(stored: dict[Labels, Points], name: str, **labels: str) -> Points:
    """The one series of this name and these labels."""
    wanted = {("__name__", name), *labels.items()}
    (points,) = (points for labels, points in stored.items() if wanted <= labels)
    return points


def assert_all_steps(stored: dict[Labels, Points], journal: Journal, *, has_nan: bool = True) -> None:
    """Every step is there once, at the journal's time, with its value, as loss, KL, epoch and position."""
    steps = journal.expected_steps()
    for name, native in (("training_loss", "train/loss"), ("rl_kl_divergence", "train/approx_kl")):
        expected = [(ms, float(step["metrics"][native])) for ms, step in steps]
        kept = [(ms, value) for ms, value in expected if has_nan or not math.isnan(value)]
        points = sorted(series_of(stored, name, run_id=journal.run_id, env="prod").items())
        assert [ms for ms, _ in points] == [ms for ms, _ in kept]
        assert same_points(points, kept) if has_nan else points == [(ms, pytest.approx(value)) for ms, value in kept]
    # Stable-Baselines3 logs the negative entropy.
    assert series_of(stored, "rl_entropy") == {ms: -step["metrics"]["train/entropy_loss"] for ms, step in steps}
    assert series_of(stored, "training_step") == {ms: step["step"] for ms, step in steps}
    assert series_of(stored, "training_epoch") == pytest.approx({ms: step["epoch"] for ms, step in steps})


def total(result: Result) -> int:
    """How many samples the command says that it has stored, which must be all."""
    match = re.search(r"stored ([\d,]+) of ([\d,]+) samples", result.out)
    assert match, result
    assert match[1] == match[2], result.out
    return int(match[1].replace(",", ""))


# ------------------------------------------------------------------ what is stored


@pytest.mark.slow
def test_every_sample_is_stored_once_however_often_it_is_sent(
    tmp_path: Path, backfill: Backfill, server: Receiver
) -> None:
    """A backfill of half a run, of all of it, and of all once more: each step is there, and nothing twice."""
    journal = finished_run(tmp_path)
    has_nan = isinstance(server, Prometheus)  # VictoriaMetrics stores none
    half = tmp_path / "half" / "r1" / "metrics.jsonl"
    half.parent.mkdir(parents=True)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    half.write_bytes(b"".join(lines[: len(lines) // 2]))
    assert backfill(half, "--url", server.url).code == 0
    before, stored_half = server.stored_samples("r1"), server.stored("r1")
    newest = max(max(points) for points in stored_half.values())

    result = backfill(journal.path, "--url", server.url)
    count = server.stored_samples("r1")
    assert (result.code, result.err) == (0, ""), result.out
    known = re.search(r"([\d,]+) of them before", result.out)
    assert known
    # All but the summary at the end of the half, which is none of the whole run's samples.
    ends = sum(max(points) == newest for points in stored_half.values())
    assert int(known[1].replace(",", "")) == before - ends
    assert_all_steps(server.stored("r1"), journal, has_nan=has_nan)
    assert sum(map(len, server.stored("r1").values())) == count

    again = backfill(journal.path, "--url", server.url)
    assert (again.code, server.stored_samples("r1")) == (0, count)
    assert ("1 are NaN, of which this server stores none" in again.out) != has_nan


def test_the_whole_summary_of_a_run_is_stored(tmp_path: Path, backfill: Backfill) -> None:
    """Beside its steps a server has a run's counters, histograms, status and configuration as they were at its end."""
    journal = finished_run(tmp_path)
    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server):
        result = backfill(journal.path, "--url", server.url)
        assert total(result) == server.stored_samples("r1")
        stored = server.stored("r1")
    durations = "performance_forward_backward_duration_seconds"
    last = {
        ("training_steps_total",): 400,
        ("training_nonfinite_total", ("metric", "training_loss")): 2,
        (f"{durations}_bucket", ("le", "0.1")): 101,
        (f"{durations}_sum",): pytest.approx(sum(range(400)) / 1000),
        ("run_status", ("status", "finished")): 1,
        ("run_status", ("status", "running")): 0,
        ("run_config_info", ("key", "learning_rate"), ("value", "0.001")): 1,
    }
    for (name, *labels), value in last.items():
        assert list(series_of(stored, name, **dict(labels)).values())[-1] == value, name


def test_the_newest_protocol_that_a_server_speaks_is_used(server: Receiver) -> None:
    """Version 2.0 with Prometheus 3, 1.0 with Prometheus 2 and VictoriaMetrics, which take no notice of the other."""
    writer = RemoteWriter(Endpoint(server.url))
    now = round((time.time() - 3600) * 1000)
    one = TimeSeries(Family("m", "gauge", "Help."), (("__name__", "m"), ("run_id", "r1")), [now, now + 1], [1.0, 2.0])
    assert writer.write([one]) == (2, ())
    is_new = isinstance(server, Prometheus) and '"version":"2.' not in get(f"{server.url}/api/v1/status/buildinfo")
    assert writer.version == ("2.0" if is_new else "1.0")


def test_ranks_and_foreign_logs_go_in_together(tmp_path: Path, backfill: Backfill) -> None:
    """Two ranks of a run and a table of another trainer are three sets of series."""
    ranks = [Journal(tmp_path, "r1", f"metrics{name}.jsonl") for name in ("", ".rank1")]
    for number, journal in enumerate(ranks):
        journal.start(rank=number, world_size=2).step(0, loss=1.0 + number)
        journal.other("timing", 0.5, name="forward_backward", seconds=0.1).end(1.0)
    foreign = tmp_path / "ppo-7" / "progress.csv"
    foreign.parent.mkdir()
    foreign.write_text("time/total_timesteps,train/loss\n2048,0.5\n4096,0.25\n")
    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server):
        result = backfill(*(journal.path for journal in ranks), foreign, "--url", server.url)
        assert (result.code, result.out.count(": stored ")) == (0, 3), result
        stored = server.stored("r1")
        losses = {
            dict(labels).get("rank"): points
            for labels, points in stored.items()
            if ("__name__", "training_loss") in labels
        }
        assert {rank: list(points.values()) for rank, points in losses.items()} == {None: [1.0], "1": [2.0]}
        assert list(series_of(server.stored("ppo-7"), "training_loss").values()) == [0.5, 0.25]


def test_progress_is_for_a_terminal(tmp_path: Path) -> None:
    """Who looks at a terminal sees how far it is; a pipe gets no word of it."""
    journal = finished_run(tmp_path, age=DAY, steps=20)
    server = Prometheus(require("prometheus"), tmp_path / "server")
    controller, terminal = os.openpty()
    command = [sys.executable, "-m", "exporter", "backfill", str(journal.path), "--url", server.url]
    with running(server):
        said = subprocess.run(command, capture_output=True, timeout=60, check=True)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, timeout=60, check=True)
    assert said.stderr == b""
    assert b"100%" in os.read(controller, 65536)
    os.close(terminal)
    os.close(controller)


def test_a_log_without_times_gets_those_it_is_told(tmp_path: Path, backfill: Backfill) -> None:
    """The steps of logs follow one another from --start on, --step-seconds apart, whatever their own times are."""
    foreign = tmp_path / "ppo-7" / "progress.csv"
    foreign.parent.mkdir()
    foreign.write_text("step,loss,time\n" + "".join(f"{n * 10},{n / 8},{1e9 + n}\n" for n in range(5)))
    journal = finished_run(tmp_path, "r1", steps=5)
    server = Prometheus(require("prometheus"), tmp_path / "server", window="10y")
    with running(server):
        times = "--start", "2025-11-01T00:00:00Z", "--step-seconds", "2.5"
        result = backfill(foreign, journal.path, "--url", server.url, *times)
        assert (result.code, result.err) == (0, "")
        expected = [1_761_955_200_000 + number * 2500 for number in range(5)]
        loss = series_of(server.stored("ppo-7"), "training_loss")
        assert loss == {ms: number / 8 for number, ms in enumerate(expected)}
        stored = server.stored("r1")
        assert list(series_of(stored, "training_loss")) == expected
        every = [ms for points in stored.values() for ms in points]
        assert (min(every), max(every)) == (expected[0], expected[-1])


# ------------------------------------------------------------------ what would not be kept


@pytest.fixture(params=["prometheus", "next prometheus"])
def binary(request: pytest.FixtureRequest) -> str:
    """Prometheus of either generation."""
    return require("prometheus") if request.param == "prometheus" else next_one("prometheus")


def put(server: Prometheus, name: str, ms: int) -> None:
    """Store one sample of another series, so that the server has a newest one."""
    family = Family(name, "gauge", "")
    assert RemoteWriter(Endpoint(server.url)).write([TimeSeries(family, (("__name__", name),), [ms], [1.0])]) == (1, ())


def test_a_window_that_is_too_short_is_told_before_anything_is_sent(
    tmp_path: Path, backfill: Backfill, binary: str
) -> None:
    """Without an out-of-order window a run of two hours ago is refused with the line that makes it work."""
    journal = finished_run(tmp_path, age=7200.0, steps=50)
    server = Prometheus(binary, tmp_path / "server", window="")
    with running(server):
        put(server, "other", round(journal.begin * 1000) + 7_000_000)
        result = backfill(journal.path, "--url", server.url)
        assert (result.code, server.stored("r1")) == (3, {})
        line = re.search(r"`(storage: .*?)`", result.err)
        assert line, result.err
        assert "--openmetrics" in result.err
        configuration = tmp_path / "server" / "prometheus.yml"
        configuration.write_text(f"{configuration.read_text()}{line[1]}\n")
        server.stop()
        server.restart()
        assert backfill(journal.path, "--url", server.url).code == 0
        assert_all_steps(server.stored("r1"), journal)


def test_what_would_be_deleted_at_once_is_told_before(tmp_path: Path, backfill: Backfill, binary: str) -> None:
    """A run that is older than the retention is refused with the option that would keep it."""
    journal = finished_run(tmp_path, age=60 * DAY, steps=50)
    server = Prometheus(binary, tmp_path / "server", "--web.enable-remote-write-receiver")
    with running(server):
        result = backfill(journal.path, "--url", server.url)
        assert (result.code, server.stored("r1")) == (3, {})
        assert "--storage.tsdb.retention.time=62d" in result.err


@pytest.mark.parametrize("generation", ["victoria-metrics", "next victoria-metrics"])
def test_victoria_metrics_would_drop_it_silently(tmp_path: Path, backfill: Backfill, generation: str) -> None:
    """A run older than the month that is kept by default is refused with the option that would keep it."""
    journal = finished_run(tmp_path, age=60 * DAY, steps=50)
    binary = require("victoria-metrics") if generation == "victoria-metrics" else next_one("victoria-metrics")
    server = VictoriaMetrics(binary, tmp_path / "server", "-loggerLevel=ERROR")
    with running(server):
        result = backfill(journal.path, "--url", server.url)
        assert (result.code, server.stored_samples("r1")) == (3, 0)
        assert "-retentionPeriod=62d" in result.err


def test_a_run_in_the_future_is_never_sent(tmp_path: Path, backfill: Backfill) -> None:
    """Prometheus 2 would take it and then refuse everything else; so it is refused here, with the remedy."""
    journal = finished_run(tmp_path, age=-3 * DAY, steps=10)
    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server):
        result = backfill(journal.path, "--url", server.url)
        assert (result.code, "--start" in result.err) == (3, True)
        jump = Journal(tmp_path, "jump").start().step(0, loss=1.0).log(1, {"loss": 2.0}, 3 * DAY)
        jump.other("event", 5.0, title="x" * 200_000)
        result = backfill(jump.path, "--url", server.url)
        assert (result.code, "--start" in result.err, server.stored("jump")) == (3, True, {})
        for _ in range(2000):
            jump.other("timing", 6.0, name="forward_backward", seconds=0.25)
        result = backfill(jump.path, "--url", server.url)
        assert (result.code, "in the future" in result.err, server.stored("jump")) == (3, True, {})
        put(server, "other", round(jump.begin * 1000))


# ------------------------------------------------------------------ what is missing afterwards


def test_what_a_server_hides_is_found_to_be_missing(
    tmp_path: Path, backfill: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was deleted is taken with 204 and not shown: exit 1, how much of what is missing, and a guess why."""
    journal = finished_run(tmp_path, age=DAY, steps=20)
    options = "--web.enable-remote-write-receiver", "--web.enable-admin-api"
    server = Prometheus(require("prometheus"), tmp_path / "server", *options)
    with running(server):
        first = backfill(journal.path, "--url", server.url)
        assert first.code == 0
        match = urllib.parse.urlencode({"match[]": '{run_id="r1"}'})
        delete = urllib.request.Request(f"{server.url}/api/v1/admin/tsdb/delete_series?{match}", method="POST")
        urllib.request.urlopen(delete, timeout=10).close()
        result = backfill(journal.path, "--url", server.url)
        left = server.stored_samples("r1")
        assert left < total(first)
        assert (result.code, f"stored {left:,} of {total(first):,} samples" in result.out) == (1, True), result.out
        assert "of training_loss" in result.out
        assert "deleted there before" in result.out


@pytest.mark.parametrize("generation", ["prometheus", "next prometheus"])
def test_another_value_at_the_same_time_is_told(tmp_path: Path, backfill: Backfill, generation: str) -> None:
    """Where a run_id was used before, its values stay, the new ones are counted, and the rest is stored."""
    one = Journal(tmp_path / "one").start().step(0, loss=1.0).step(1, loss=2.0).end(1.0)
    other = Journal(tmp_path / "other")
    other.begin = one.begin
    other.start().step(0, loss=1.0).step(1, loss=3.0).step(2, loss=4.0).end(1.0)
    server = SERVERS[generation](tmp_path / "server")
    with running(server):
        assert backfill(one.path, "--url", server.url).code == 0
        result = backfill(other.path, "--url", server.url)
        assert (result.code, "another value at the same time" in result.out) == (1, True), result.out
        assert list(series_of(server.stored("r1"), "training_loss").values()) == [1.0, 2.0, 4.0]


def test_one_refused_series_is_named_and_the_others_are_stored(
    tmp_path: Path, backfill: Backfill, monkeypatch: pytest.MonkeyPatch, binary: str
) -> None:
    """Without a window a series that has a newer sample takes no older ones: exit 1, the server's own words."""
    journal = Journal(tmp_path).start().step(0, loss=1.0, a=1.0).step(1, loss=2.0, a=2.0).end(1.0)
    server = Prometheus(binary, tmp_path / "server", window="")
    with running(server):
        family = Family("training_loss", "gauge", "")
        labels = (("__name__", "training_loss"), ("run_id", "r1"))
        newer = TimeSeries(family, labels, [round(journal.begin * 1000) + 5000], [9.0])
        assert RemoteWriter(Endpoint(server.url)).write([newer]) == (1, ())
        result = backfill(journal.path, "--url", server.url)
        assert result.code == 1
        assert "missing are 2 of training_loss" in result.out
        assert "the server says: " in result.out
        assert "out of order sample" in result.out
        assert list(series_of(server.stored("r1"), "custom_a").values()) == [1.0, 2.0]


# ------------------------------------------------------------------ who may write


Refuse = Callable[[BaseHTTPRequestHandler], tuple[int, bytes] | None]
"""Status and body for a request that is not handed on."""


@contextmanager
def gateway(target: str, refuse: Refuse) -> Iterator[str]:
    """A gateway before a server, as before Mimir."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            refused = refuse(self)
            status, headers, text = (refused[0], {}, refused[1]) if refused else self._forward(body)
            self.send_response(status)
            for name, value in headers.items():
                if name != "Transfer-Encoding":  # it is whole here
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815 - the library's name

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            request = urllib.request.Request(target + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, dict(answer.headers), answer.read()
            except urllib.error.HTTPError as error:
                return error.code, dict(error.headers), error.read()

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def test_what_a_server_shows_late_is_waited_for(tmp_path: Path, backfill: Backfill) -> None:
    """Samples that a count shows and the next queries not yet are not missing: so it is in a busy VictoriaMetrics."""
    journal = finished_run(tmp_path, age=DAY, steps=20)
    half = Journal(tmp_path / "half", "r1")
    half.path.write_bytes(b"".join(journal.path.read_bytes().splitlines(keepends=True)[:10]))
    asked: list[str] = []

    def late(request: BaseHTTPRequestHandler) -> tuple[int, bytes] | None:
        """Shows nothing to the first two queries for samples after one for counts."""
        counts = "count_over_time" in request.path
        asked.append("count" if counts else "samples" if "ms%5D" in request.path else "other")
        is_early = asked[-1] == "samples" and "count" in asked and asked.count("samples") <= 3
        return (200, b'{"status": "success", "data": {"result": []}}') if is_early else None

    server = VictoriaMetrics(require("victoria-metrics"), tmp_path / "server")
    with running(server), gateway(server.url, late) as url:
        assert backfill(half.path, "--url", server.url).code == 0
        result = backfill(journal.path, "--url", url)
        assert (result.code, result.err) == (0, ""), result.out
        assert asked.count("samples") > 3, "else this proves nothing"
        assert total(result) <= server.stored_samples("r1")


def test_a_password_is_needed_and_never_shown(tmp_path: Path, backfill: Backfill, binary: str) -> None:
    """A Prometheus with basic authentication takes the right user only; without one it is exit 3 and what to check."""
    journal = finished_run(tmp_path, age=DAY, steps=20)
    web = tmp_path / "web.yml"
    web.write_text(f"basic_auth_users: {{alice: '{PASSWORD_HASH}'}}\n")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(f"{PASSWORD}\n")
    wrong.write_text("guess\n")
    options = "--web.enable-remote-write-receiver", f"--web.config.file={web}"
    server = Prometheus(binary, tmp_path / "server", *options)
    with running(server):
        for credentials in ((), ("--user", "alice", "--password-file", wrong)):
            result = backfill(journal.path, "--url", server.url, *credentials)
            assert (result.code, "401" in result.err, "--password-file" in result.err) == (3, True, True), result.err
        result = backfill(journal.path, "--url", server.url, "--user", "alice", "--password-file", right)
        assert (result.code, PASSWORD in result.out + result.err) == (0, False)


def test_a_tenant_and_a_token_go_with_every_request(tmp_path: Path, backfill: Backfill) -> None:
    """Behind a gateway writing and verifying work for the right tenant and token; else exit 3 with its own words."""
    journal = finished_run(tmp_path, age=DAY, steps=20)
    token = tmp_path / "token"
    token.write_text("t0ken\n")

    def refuse(request: BaseHTTPRequestHandler) -> tuple[int, bytes] | None:
        given = (request.headers["Authorization"], request.headers["X-Scope-OrgID"])
        return None if given == ("Bearer t0ken", "team-a") else (401, b"no org id")

    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server), gateway(server.url, refuse) as url:
        for options in (("--token-file", token), ("--token-file", token, "--tenant", "team-b"), ("--tenant", "team-a")):
            result = backfill(journal.path, "--url", url, *options)
            assert (result.code, "401: no org id" in result.err) == (3, True), result
        result = backfill(journal.path, "--url", url, "--token-file", token, "--tenant", "team-a")
        assert (result.code, total(result)) == (0, server.stored_samples("r1"))


def test_a_server_that_is_none_is_exit_3(tmp_path: Path, backfill: Backfill, binary: str) -> None:
    """No server, another one, and one that takes no remote write: each is exit 3 with what it said."""
    journal = finished_run(tmp_path, age=DAY, steps=5)
    result = backfill(journal.path, "--url", f"http://127.0.0.1:{free_port()}")
    assert (result.code, "refused" in result.err) == (3, True)
    server = Prometheus(binary, tmp_path / "server", "--storage.tsdb.retention.time=5y")
    with running(server):
        result = backfill(journal.path, "--url", server.url)
        assert (result.code, "remote-write-receiver" in result.err) == (3, True), result.err
        result = backfill(journal.path, "--url", f"{server.url}/nowhere")
        assert (result.code, "404" in result.err) == (3, True), result.err


def test_ctrl_c_does_not_wait_for_a_server(tmp_path: Path) -> None:
    """Whoever interrupts a backfill while it waits for a busy server gets exit 130 at once."""
    journal = finished_run(tmp_path, age=DAY, steps=5)
    asked = threading.Event()

    def refuse(request: BaseHTTPRequestHandler) -> tuple[int, bytes] | None:
        if request.command != "POST":
            return None
        asked.set()
        return 503, b"busy"

    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server), gateway(server.url, refuse) as url:
        command = [sys.executable, "-m", "exporter", "backfill", str(journal.path), "--url", url]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            assert process.wait(60) == 130
            assert time.monotonic() - begin < 15


# ------------------------------------------------------------------ wrong usage


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "either --url"),
        (("--url", "http://h", "--openmetrics", "d"), "either --url"),
        (("--url", "localhost"), "no URL"),
        (("--url", "http://h", "--start", "2026-11-01"), "belong together"),
        (("--url", "http://h", "--start", "yesterday", "--step-seconds", "1"), "no time"),
        (("--url", "http://h", "--start", "1969-01-01", "--step-seconds", "1"), "later than 1970"),
        (("--url", "http://h", "--step-seconds", "0"), "x>=0.001"),
        (("--url", "http://h", "--user", "alice"), "belong together"),
        (("--url", "http://h", "--user", "a", "--password-file", "f", "--token-file", "f"), "exclude each other"),
        (("--url", "http://h", "--token-file", "nowhere"), "nowhere"),
        (("--url", "http://h", "--token-file", "binary"), "no text in UTF-8"),
    ],
)
def test_wrong_usage_is_exit_2(
    tmp_path: Path, backfill: Backfill, monkeypatch: pytest.MonkeyPatch, options: Sequence[str], says: str
) -> None:
    """Options that make no sense are an error before any request, with the rule."""
    monkeypatch.chdir(tmp_path)
    Path("f").write_text("x")
    Path("binary").write_bytes(b"\xff\xfe")
    journal = Journal(tmp_path).start().step(0, loss=1.0)
    result = backfill(journal.path, *options)
    assert (result.code, says in result.err) == (2, True), result.err


def test_without_the_library_the_remedy_is_exit_4(
    tmp_path: Path, backfill: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where cramjam is missing the command that installs it is the error."""
    monkeypatch.setitem(sys.modules, "cramjam", None)
    server = Prometheus(require("prometheus"), tmp_path / "server")
    with running(server):
        result = backfill(finished_run(tmp_path, steps=5).path, "--url", server.url)
    assert (result.code, "'telemetry-exporter[remote-write]'" in result.err) == (4, True)


def test_a_log_without_steps_is_exit_2(tmp_path: Path, backfill: Backfill) -> None:
    """Nothing to bring is an error that names the file."""
    journal = Journal(tmp_path)
    result = backfill(journal.path, "--openmetrics", tmp_path / "out")
    assert (result.code, str(journal.path) in result.err) == (2, True)


# ------------------------------------------------------------------ files for promtool


@pytest.mark.parametrize("generation", ["prometheus", "next prometheus"])
def test_promtool_makes_blocks_of_the_files(tmp_path: Path, backfill: Backfill, generation: str) -> None:
    """The command that is printed makes blocks in which a Prometheus without any window finds every sample."""
    journals = [finished_run(tmp_path, "it's r1"), finished_run(tmp_path, "r2", age=41 * DAY)]
    result = backfill(*(journal.path for journal in journals), "--openmetrics", tmp_path / "files")
    assert (result.code, len(list((tmp_path / "files").iterdir()))) == (0, 2)
    pick = require if generation == "prometheus" else next_one
    folder = tmp_path / "server"
    for command in result.out.splitlines():
        words = shlex.split(command)
        assert words[0] == "promtool"
        assert words.pop() == "DATA_DIRECTORY"
        subprocess.run(
            [pick("promtool"), *words[1:], str(folder / "data")], check=True, capture_output=True, timeout=60
        )
    server = Prometheus(pick("prometheus"), folder, "--storage.tsdb.retention.time=5y", window="")
    with running(server):
        for journal in journals:
            stored = server.stored(journal.run_id)
            assert_all_steps(stored, journal)
            path = tmp_path / "files" / f"{journal.run_id}.om"
            lines = [text for text in path.read_text().splitlines() if not text.startswith("#")]
            assert server.stored_samples(journal.run_id) == len(lines)
    again = backfill(journals[0].path, "--openmetrics", tmp_path / "files")
    assert (again.code, "is there already" in again.err) == (2, True)
