"""From a condition in the logged data to the webhook, with the shipped configuration and real servers."""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path

import pytest

from exporter import Run, start_run
from exporter.demo.receiver import Notification, Receiver
from tests.support.servers import Alertmanager, Prometheus, Sidecar, get, require, running, wait_until

WINDOW_SECONDS = 60.0
THRESHOLD = 0.1
STEPS_PER_SECOND = 25
HEALTHY_SECONDS = 8.0
MOST_SECONDS = 20.0
GOOD, BAD = 0.01, 0.3


class Trainer:
    """Logs a healthy KL, then one far too high, and notes when the window's median passes the threshold."""

    def __init__(self, run: Run, begin_after: float, *, fails: bool = True) -> None:
        self.run = run
        self.condition_true: float | None = None
        self._begin_after = begin_after
        self._fails = fails
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._train)
        self._thread.start()

    def finish(self) -> None:
        """End the run."""
        self._stop.set()
        self._thread.join()
        self.run.finish()

    def _train(self) -> None:
        self._stop.wait(self._begin_after)
        begin = time.monotonic()
        updates: list[tuple[float, float]] = []
        while not self._stop.is_set():
            kl = BAD if self._fails and time.monotonic() - begin > HEALTHY_SECONDS else GOOD
            self.run.log({"train/approx_kl": kl, "train/loss": 0.5})
            updates = [item for item in updates if item[0] > time.time() - WINDOW_SECONDS] + [(time.time(), kl)]
            if self.condition_true is None and statistics.median(value for _, value in updates) > THRESHOLD:
                self.condition_true = time.time()
            time.sleep(1 / STEPS_PER_SECOND)


@pytest.mark.slow
def test_a_notification_arrives_soon_after_its_condition_is_true(tmp_path: Path) -> None:
    """Each failing run is delivered as critical within 20 s and resolved when it ends; a healthy one never is."""
    receiver = Receiver()
    runs = tmp_path / "runs"
    sidecar = Sidecar(runs, tmp_path / "sidecar.log")
    alertmanager = Alertmanager(require("prometheus-alertmanager"), tmp_path, receiver.url)
    address = alertmanager.url.removeprefix("http://")
    prometheus = Prometheus(require("prometheus"), tmp_path, [sidecar.address], address)
    with running(sidecar, alertmanager, prometheus):
        discovered = "prometheus_notifications_alertmanagers_discovered 1"
        wait_until(lambda: discovered in get(f"{prometheus.url}/metrics"), 30, "discovery of Alertmanager")
        failing = {f"failing-{n}": Trainer(_start(runs, f"failing-{n}"), 1.7 * n) for n in range(6)}
        healthy = Trainer(_start(runs, "healthy"), 0, fails=False)
        wait_until(lambda: all(_firing(receiver, name) for name in failing), 60, "every critical notification")
        latencies = {name: _firing(receiver, name).received - failing[name].condition_true for name in failing}
        for trainer in (*failing.values(), healthy):
            trainer.finish()
        wait_until(lambda: all(_resolved(receiver, name) for name in failing), 60, "every resolution")
    receiver.close()
    numbers = sorted(latencies.values())
    print(f"condition true -> webhook: median {statistics.median(numbers):.1f} s, all {[f'{n:.1f}' for n in numbers]}")
    assert numbers[-1] <= MOST_SECONDS
    assert {item.run_id for item in receiver.notifications} == failing.keys()
    firing = {(item.alertname, item.severity) for item in receiver.notifications if item.status == "firing"}
    assert firing == {("KLDivergenceHigh", "critical")}


def _start(runs: Path, run_id: str) -> Run:
    return start_run(run_id=run_id, directory=runs)


def _firing(receiver: Receiver, run_id: str) -> Notification | None:
    return next((n for n in receiver.notifications if n.run_id == run_id and n.status == "firing"), None)


def _resolved(receiver: Receiver, run_id: str) -> bool:
    return any(item.run_id == run_id and item.status == "resolved" for item in receiver.notifications)
