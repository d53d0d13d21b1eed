"""Real PPO runs, healthy and broken in six ways, through real servers with the shipped configuration."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter.demo.receiver import Notification, Receiver
from tests.support import conditions
from tests.support.conditions import Condition, became_true, logged
from tests.support.servers import (
    REPOSITORY,
    Alertmanager,
    Prometheus,
    Sidecar,
    free_port,
    get,
    require,
    running,
    wait_until,
)

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "tests/support/ppo_run.py"
HEALTHY_SEEDS = range(1, 21)
HEALTHY_PACES = (1, 2, 3, 5)
"""Updates per second, in turn: the same rules hold for slow runs and fast ones."""
FAILING_PACE = 4
SEEDS = {"step-size": 13, "entropy-sign": 2, "value-sign": 3, "nan": 1}
BEFORE_SIGNAL = 20
"""Updates before a run is killed or stopped."""
MOST_SECONDS = 600
STALL_SECONDS = 120.0
MEDIAN_LATENCY = 12.0

EXPECTED = {
    "step-size": {("KLDivergenceHigh", "critical"), ("ClipFractionHigh", "warning")},
    "entropy-sign": {("EntropyCollapse", "critical")},
    "value-sign": {("ExplainedVarianceLow", "warning")},
    "nan": {("TrainingNonFinite", "critical")},
    "killed": {("RunCrashed", "critical")},
    "stopped": {("RunStalled", "warning")},
}
"""What must be told of each broken run, and nothing else."""
CONDITIONS: Mapping[tuple[str, str], Condition] = {
    ("step-size", "KLDivergenceHigh"): conditions.kl_too_high,
    ("step-size", "ClipFractionHigh"): conditions.clipped_too_much,
    ("entropy-sign", "EntropyCollapse"): conditions.entropy_collapsed,
    ("value-sign", "ExplainedVarianceLow"): conditions.value_explains_little,
    ("nan", "TrainingNonFinite"): conditions.is_no_number,
}
SAID = {
    "step-size": r"KL \(update\) of run step-size is \d\S*, above 0\.1",
    "entropy-sign": r"Entropy of run entropy-sign fell to \S+ within minutes: -9\d\S*%, below -90%",
    "value-sign": r"Explained variance of run value-sign is \S+, below 0\.5",
    "nan": r"training_loss of run nan became NaN or infinite by step 6\d",
    "killed": r"Run killed crashed after step \d+ on " + re.escape(socket.gethostname()),
    "stopped": r"Run stopped has made no step for 2m \S+ after step \d+ on " + re.escape(socket.gethostname()),
}
"""What is read first about each broken run."""
Told = tuple[str, str, str]
"""Run, alert and severity."""


class Session(NamedTuple):
    """What was seen of all runs."""

    notifications: Sequence[Notification]
    fired: Counter[Told]
    """For how many seconds an alert was firing in Prometheus."""
    latencies: Mapping[tuple[str, str], float]
    """Seconds from the condition in the logged data to the first notification, by run and alert."""
    healthy: Mapping[str, int]
    """How many updates each healthy run made."""

    def told(self, run_id: str) -> set[tuple[str, str]]:
        """What was delivered about a run; a warning on the way to a critical alert is a part of that."""
        told = {(item.alertname, item.severity) for item in self.notifications if item.run_id == run_id}
        return told - {(name, "warning") for name, severity in told if severity == "critical"}


class Training:
    """A training process whose run id is its own."""

    def __init__(self, runs: Path, run_id: str, kind: str, seed: int, pace: float, port: int | None = None) -> None:
        self.journal = runs / run_id / "metrics.jsonl"
        arguments = (kind, run_id, runs, MOST_SECONDS, seed, pace, *([port] if port else []))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}
        self._process = subprocess.Popen(
            [sys.executable, SCRIPT, *map(str, arguments)],
            env={**environment, "PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"},
        )

    def updates(self) -> int:
        """How many have been logged."""
        return self.journal.read_text().count('"_type":"step"') if self.journal.exists() else 0

    def signal(self, number: signal.Signals) -> float:
        """Send a signal; returns when."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(10)
        return time.time()

    def stop(self) -> None:
        """Ask it to end, as its user would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def wait(self) -> None:
        """Until it has ended by itself; where it does not, it is killed."""
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
            raise


def end(trainings: Collection[Training]) -> None:
    """End them all at once."""
    for training in trainings:
        training.stop()
    for training in trainings:
        training.wait()


class Servers(NamedTuple):
    """What watches the runs."""

    runs: Path
    receiver: Receiver
    prometheus: Prometheus


@contextmanager
def watching(folder: Path) -> Iterator[Servers]:
    """Sidecar, Prometheus and Alertmanager with the shipped configuration, and a webhook."""
    receiver, runs = Receiver(), folder / "runs"
    sidecar = Sidecar(runs, folder / "sidecar.log")
    alertmanager = Alertmanager(require("prometheus-alertmanager"), folder, receiver.url)
    address = alertmanager.url.removeprefix("http://")
    prometheus = Prometheus(require("prometheus"), folder, [sidecar.address], address)
    with running(sidecar, alertmanager, prometheus):
        discovered = "prometheus_notifications_alertmanagers_discovered 1"
        wait_until(lambda: discovered in get(f"{prometheus.url}/metrics"), 30, "discovery of Alertmanager")
        yield Servers(runs, receiver, prometheus)
    receiver.close()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Every run at the same time, from its start to the last resolution."""
    with watching(tmp_path_factory.mktemp("failures")) as servers:
        began = time.time()
        runs = servers.runs
        healthy = {
            f"healthy-{seed}": Training(runs, f"healthy-{seed}", "healthy", seed, HEALTHY_PACES[seed % 4])
            for seed in HEALTHY_SEEDS
        }
        broken = {kind: Training(runs, kind, kind, seed, FAILING_PACE) for kind, seed in SEEDS.items()}
        # The one that is killed serves itself, too: its target must not outlive it.
        broken["killed"] = Training(runs, "killed", "healthy", 21, FAILING_PACE, free_port())
        broken["stopped"] = Training(runs, "stopped", "healthy", 22, FAILING_PACE)
        try:
            true_since = _follow(servers, broken)
            updates = {name: training.updates() for name, training in healthy.items()}
        finally:
            end([*healthy.values(), *broken.values()])
        wait_until(lambda: not _firing(servers.prometheus), 60, "the end of every alert")
        notifications = list(servers.receiver.notifications)
        fired = _fired(servers.prometheus, began)
    latencies = {key: _first(notifications, *key).received - at for key, at in true_since.items()}
    return Session(notifications, fired, latencies, updates)


def _follow(servers: Servers, broken: dict[str, Training]) -> dict[tuple[str, str], float]:
    """Let each run fail, be told and be over; returns when each condition came true, by run and alert."""
    stopped, killed = broken["stopped"], broken["killed"]
    wait_until(lambda: min(stopped.updates(), killed.updates()) >= BEFORE_SIGNAL, 60, "the first updates")
    stopped.signal(signal.SIGSTOP)
    true_since = {("killed", "RunCrashed"): killed.signal(signal.SIGKILL)}
    true_since["stopped", "RunStalled"] = logged(stopped.journal)[-1].time + STALL_SECONDS
    learning = set(EXPECTED) - {"stopped"}
    wait_until(lambda: all(_told(servers, name, "firing") for name in learning), 180, "every failure being told")
    end([broken[name] for name in SEEDS])
    for (name, alert), condition in CONDITIONS.items():
        true_since[name, alert] = became_true(condition, logged(broken[name].journal))
    # A crash is told for an hour, or until the run is resumed.
    broken["killed"] = Training(servers.runs, "killed", "healthy", 21, FAILING_PACE)
    wait_until(lambda: _told(servers, "stopped", "firing"), 180, "the stalled run being told")
    stopped.signal(signal.SIGCONT)
    wait_until(lambda: all(_told(servers, name, "resolved") for name in EXPECTED), 90, "every resolution")
    return true_since


def _told(servers: Servers, run_id: str, status: str) -> bool:
    """Whether all that is expected of a run was delivered with a status."""
    told = {(item.alertname, item.severity) for item in servers.receiver.notifications
            if item.run_id == run_id and item.status == status}  # fmt: skip
    return told >= EXPECTED[run_id]


def _first(notifications: Sequence[Notification], run_id: str, alert: str) -> Notification:
    """Of the severity that is expected."""
    expected = [(run_id, *told) for told in EXPECTED[run_id] if told[0] == alert]
    return next(item for item in notifications if (item.run_id, item.alertname, item.severity) in expected)


def _firing(prometheus: Prometheus) -> bool:
    return bool(prometheus.query('ALERTS{alertstate="firing", severity!="info"}'))


def _fired(prometheus: Prometheus, began: float) -> Counter[Told]:
    """For how many seconds each alert fired."""
    query = {"query": 'ALERTS{alertstate="firing"}', "start": began, "end": time.time(), "step": 1}
    answer = json.loads(get(f"{prometheus.url}/api/v1/query_range?{urllib.parse.urlencode(query)}"))
    fired: Counter[Told] = Counter()
    for item in answer["data"]["result"]:
        labels = item["metric"]
        fired[labels.get("run_id", ""), labels["alertname"], labels["severity"]] += len(item["values"])
    return fired


@pytest.mark.parametrize("run_id", EXPECTED)
def test_each_failure_is_told_as_what_it_is_and_as_nothing_else(session: Session, run_id: str) -> None:
    """The alerts delivered about a broken run are exactly those of what is broken."""
    assert session.told(run_id) == EXPECTED[run_id]


@pytest.mark.parametrize("run_id", EXPECTED)
def test_a_notification_says_what_is_wrong_and_where(session: Session, run_id: str) -> None:
    """Its summary has the value or the step, and the host of a process; beside it stands what to do."""
    own = [item for item in session.notifications if item.run_id == run_id and item.status == "firing"]
    for item in own:
        print(f"{item.severity} {item.alertname}: {item.summary}")
    assert any(re.fullmatch(SAID[run_id], item.summary) for item in own)
    assert all(item.action for item in own)


def test_every_notification_is_resolved(session: Session) -> None:
    """The last that is delivered of each alert is that it is over: the run ended, went on, or was resumed."""
    last = {(item.run_id, item.alertname, item.severity): item.status for item in session.notifications}
    assert last
    assert set(last.values()) == {"resolved"}


def test_a_notification_arrives_soon_after_its_condition_is_true(session: Session) -> None:
    """From the update that makes it true to the webhook: at most 12 s in the median."""
    for (run_id, alert), seconds in session.latencies.items():
        print(f"{run_id}, {alert}: {seconds:.1f} s")
    median = statistics.median(session.latencies.values())
    print(f"condition true -> webhook: median {median:.1f} s, longest {max(session.latencies.values()):.1f} s")
    assert {alert for _, alert in session.latencies} == {alert for told in EXPECTED.values() for alert, _ in told}
    assert min(session.latencies.values()) > 0
    assert median <= MEDIAN_LATENCY


def test_healthy_runs_wake_nobody(session: Session) -> None:
    """Of 20 healthy runs no warning and no critical alert fires at any moment, and nothing is delivered."""
    alarms = {told: seconds for told, seconds in session.fired.items() if told[2] != "info" and told[0] not in EXPECTED}
    hints = Counter(alert for run_id, alert, severity in session.fired if run_id in session.healthy)
    print(f"{len(session.healthy)} healthy runs, {sum(session.healthy.values())} updates: {len(alarms)} alarms;")
    print(f"runs with an info alert: {dict(hints)}")
    assert len(session.healthy) == 20
    assert min(session.healthy.values()) > 100
    assert alarms == {}
    assert {item.run_id for item in session.notifications} == EXPECTED.keys()
