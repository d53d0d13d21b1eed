"""The demo's processes: sidecar, Prometheus and Alertmanager with the shipped configuration on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import ServerError
from exporter.shipped import shipped_folder

__all__ = ["Stack", "find_server", "free_port", "get_text"]

_NAMES = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
_SHIPPED_WEBHOOK = "http://127.0.0.1:9465/alerts"
_START_SECONDS = 30.0


class Stack:
    """Everything the demo starts, in one temporary folder, ended by pid."""

    def __init__(self, folder: Path, webhook_url: str) -> None:
        """Start the sidecar, and Prometheus and Alertmanager where they can be found."""
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.prometheus_url = ""
        self.alertmanager_url = ""
        self._processes: list[subprocess.Popen[str]] = []
        self.exporter_url = self._start_sidecar()
        prometheus, alertmanager = find_server("prometheus"), find_server("alertmanager")
        if prometheus and alertmanager:
            self._start_servers(prometheus, alertmanager, webhook_url)

    def train(self, preset: str, seconds: int) -> subprocess.Popen[str]:
        """Start one training run; its id is the preset's name."""
        command = [sys.executable, "-m", "exporter.demo.ppo", "--preset", preset, "--run-id", preset]
        return self._start([*command, "--directory", str(self.runs), "--seconds", str(seconds)], f"{preset}.log")

    def close(self) -> None:
        """End every process that is still running."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def _start(self, command: Sequence[str], log: str, *, pipe: bool = False) -> subprocess.Popen[str]:
        # One BLAS thread each: the nets are tiny, and two runs and three servers share the machine.
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with (self.folder / log).open("w") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                text=True,
                env=environ,
            )
        self._processes.append(process)
        return process

    def _start_sidecar(self) -> str:
        command = [sys.executable, "-m", "exporter", "serve", str(self.runs), "--listen", "127.0.0.1:0"]
        process = self._start(command, "sidecar.log", pipe=True)
        line = process.stdout.readline() if process.stdout else ""
        url = line.rpartition(" on ")[2].strip().removesuffix("/metrics")
        if not url.startswith("http"):
            raise ServerError(f"the sidecar did not start: {(self.folder / 'sidecar.log').read_text()}")
        return url

    def _start_servers(self, prometheus: str, alertmanager: str, webhook_url: str) -> None:
        addresses = {name: f"127.0.0.1:{free_port()}" for name in ("prometheus", "alertmanager")}
        self._write_configuration(addresses["alertmanager"], webhook_url)
        self.alertmanager_url = f"http://{addresses['alertmanager']}"
        self.prometheus_url = f"http://{addresses['prometheus']}"
        self._start(
            [
                alertmanager,
                f"--config.file={self.folder / 'alerts/alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager-data'}",
                f"--web.listen-address={addresses['alertmanager']}",
                "--cluster.listen-address=",
            ],
            "alertmanager.log",
        )
        self._wait_until(f"{self.alertmanager_url}/-/ready", "")
        self._start(
            [
                prometheus,
                f"--config.file={self.folder / 'prometheus/prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'prometheus-data'}",
                "--storage.tsdb.retention.time=5y",
                f"--web.listen-address={addresses['prometheus']}",
            ],
            "prometheus.log",
        )
        # Alerts that fire before Alertmanager is discovered are delivered a minute late.
        self._wait_until(f"{self.prometheus_url}/metrics", "prometheus_notifications_alertmanagers_discovered 1")

    def _write_configuration(self, alertmanager_address: str, webhook_url: str) -> None:
        """The shipped files as they are; only addresses differ."""
        for name in ("prometheus", "alerts"):
            shutil.copytree(shipped_folder(name), self.folder / name)
        targets = self.folder / "prometheus/targets"
        for file, address in (
            ("exporter.json", self.exporter_url.removeprefix("http://")),
            ("alertmanager.json", alertmanager_address),
        ):
            (targets / file).write_text(json.dumps([{"targets": [address]}]))
        configuration = self.folder / "alerts/alertmanager.yml"
        configuration.write_text(configuration.read_text().replace(_SHIPPED_WEBHOOK, webhook_url))

    def _wait_until(self, url: str, text: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while (page := get_text(url)) is None or text not in page:
            if time.monotonic() > deadline:
                raise ServerError(f"{url} did not come up within {_START_SECONDS:.0f} s; see the logs in {self.folder}")
            time.sleep(0.2)


def find_server(name: str) -> str | None:
    """Path of prometheus or alertmanager under any of its names."""
    return next(filter(None, map(shutil.which, _NAMES[name])), None)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get_text(url: str) -> str | None:
    """The body at a loopback URL, or None while there is none."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return None
