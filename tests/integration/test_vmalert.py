"""The shipped rules with VictoriaMetrics in Prometheus' place: scraped, evaluated by vmalert, delivered, resolved."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from exporter import Run, start_run
from exporter.demo.receiver import Receiver
from tests.support.servers import (
    REPOSITORY,
    Alertmanager,
    Server,
    Sidecar,
    free_port,
    get,
    require,
    running,
    wait_until,
)

STEPS_PER_SECOND = 10


@pytest.fixture(params=["PATH", "PROMTOOL_NEXT"])
def binaries(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """VictoriaMetrics and vmalert of the PATH, and those beside the next promtool."""
    names = ("victoria-metrics", "vmalert")
    if request.param == "PATH":
        return {name: require(name) for name in names}
    folder = Path(os.environ.get("PROMTOOL_NEXT", "")).parent
    if not all((folder / name).is_file() for name in names):
        pytest.skip("PROMTOOL_NEXT has no VictoriaMetrics beside it")
    return {name: str(folder / name) for name in names}


class Trainer:
    """Logs the same values again and again, from a thread."""

    def __init__(self, run: Run, metrics: Mapping[str, float]) -> None:
        self._run = run
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """End the run."""
        self._stop.set()
        self._thread.join()
        self._run.finish()

    def _train(self) -> None:
        while not self._stop.wait(1 / STEPS_PER_SECOND):
            self._run.log(self._metrics)


def victoria(binary: str, folder: Path, sidecar: Sidecar) -> tuple[Server, str]:
    """VictoriaMetrics with the scrape configuration that ships for Prometheus."""
    shutil.copytree(REPOSITORY / "prometheus", folder / "prometheus")
    (folder / "prometheus/targets/exporter.json").write_text(f'[{{"targets": ["{sidecar.address}"]}}]')
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        binary,
        f"-promscrape.config={folder / 'prometheus/prometheus.yml'}",
        "-promscrape.config.strictParse=false",  # it also says what is Prometheus' alone
        f"-storageDataPath={folder / 'data'}",
        f"-httpListenAddr={url.removeprefix('http://')}",
        "-search.latencyOffset=0s",
    ]
    return Server(command, folder / "victoria.log", lambda: get(f"{url}/health")), url


def vmalert(binary: str, folder: Path, store: str, alertmanager: str) -> Server:
    """The evaluation of the shipped rules as often as Prometheus would."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary,
        f"-rule={REPOSITORY / 'alerts/*.rules.yml'}",
        f"-datasource.url={store}",
        f"-remoteWrite.url={store}",
        f"-notifier.url={alertmanager}",
        f"-httpListenAddr={address}",
        "-evaluationInterval=5s",
    ]
    return Server(command, folder / "vmalert.log", lambda: get(f"http://{address}/health"))


@pytest.mark.slow
def test_victoriametrics_and_vmalert_deliver_the_same_alerts(binaries: Mapping[str, str], tmp_path: Path) -> None:
    """A high KL and a NaN, which is never stored, are told and resolved; of a healthy run nothing is told."""
    receiver, runs = Receiver(), tmp_path / "runs"
    sidecar = Sidecar(runs, tmp_path / "sidecar.log")
    alertmanager = Alertmanager(require("prometheus-alertmanager"), tmp_path, receiver.url)
    store, url = victoria(binaries["victoria-metrics"], tmp_path, sidecar)
    with running(sidecar, alertmanager, store):
        rules = vmalert(binaries["vmalert"], tmp_path, url, alertmanager.url)
        with running(rules):
            trainers = [
                Trainer(start_run(name, directory=runs), {"train/loss": 0.5, **metrics})
                for name, metrics in {
                    "kl": {"train/approx_kl": 0.3},
                    "nan": {"train/approx_kl": 0.01, "train/loss": math.nan},
                    "healthy": {"train/approx_kl": 0.01},
                }.items()
            ]
            expected = {("KLDivergenceHigh", "critical", "kl"), ("TrainingNonFinite", "critical", "nan")}
            wait_until(lambda: _told(receiver, "firing") >= expected, 90, f"{expected} (got {receiver.notifications})")
            for trainer in trainers:
                trainer.finish()
            wait_until(lambda: _told(receiver, "resolved") >= expected, 90, "every resolution")
    receiver.close()
    assert _told(receiver, "firing") == expected


def _told(receiver: Receiver, status: str) -> set[tuple[str, str, str]]:
    """Name, severity and run of what came with this status."""
    return {(n.alertname, n.severity, n.run_id) for n in receiver.notifications if n.status == status}
