"""Real servers for tests: found on the PATH, started on free ports, ended by their own pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def require(name: str) -> str:
    """Path of a program; without it the test is skipped, and fails where CI has promised it."""
    path = shutil.which(name)
    if path is None and name == "prometheus-alertmanager":
        path = shutil.which("alertmanager")
    if path:
        return path
    message = f"{name} is not installed; `make servers` gets it where it may"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, headers: dict[str, str] | None = None) -> str:
    """The body at a loopback URL."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as answer:
        return str(answer.read().decode())


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll a condition until it is true; returns what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if result := condition():
                return result
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.05)


class Server:
    """A process that can be killed and started again with the same command."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], Any]) -> None:
        self.command = list(command)
        self._log = log
        self._ready = ready
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(self._ready, 30, f"{self.command[0]} answering (log: {self._log.read_text()[-2000:]})")

    def kill(self) -> None:
        """SIGKILL, as the out-of-memory killer does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        """Start it again."""
        self.process = self._start()
        self.wait()

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


class Prometheus(Server):
    """Prometheus with the shipped configuration; only the target files differ."""

    def __init__(
        self, binary: str, folder: Path, exporters: Sequence[str], alertmanager: str = "", scraper: str = "prometheus"
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        for name in ("prometheus", "alerts"):
            shutil.copytree(REPOSITORY / name, folder / name, dirs_exist_ok=True)
        configuration = folder / "prometheus/prometheus.yml"
        configuration.write_text(configuration.read_text().replace("scraper: [prometheus]", f"scraper: [{scraper}]"))
        self.targets = folder / "prometheus/targets"
        self.set_targets("exporter.json", exporters)
        self.set_targets("alertmanager.json", [alertmanager] if alertmanager else [])
        super().__init__(
            [
                binary,
                f"--config.file={configuration}",
                f"--storage.tsdb.path={folder / 'data'}",
                "--storage.tsdb.retention.time=5y",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            folder / "prometheus.log",
            lambda: get(f"{self.url}/-/ready"),
        )

    def set_targets(self, name: str, addresses: Sequence[str]) -> None:
        """Point a discovery file elsewhere."""
        temporary = self.targets / f"{name}.tmp"
        temporary.write_text(json.dumps([{"targets": list(addresses)}]))
        temporary.replace(self.targets / name)

    def query(self, expression: str, **parameters: Any) -> list[dict[str, Any]]:
        """An instant query's result."""
        text = urllib.parse.urlencode({"query": expression, **parameters})
        return list(json.loads(get(f"{self.url}/api/v1/query?{text}"))["data"]["result"])

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that is pending or fires, with its texts."""
        return list(json.loads(get(f"{self.url}/api/v1/alerts"))["data"]["alerts"])

    def samples(self, selector: str, window: str = "10m") -> dict[int, str]:
        """Every stored sample of the one series that a selector matches: milliseconds to value."""
        result = self.query(f"{selector}[{window}]")
        assert len(result) == 1, f"{selector} matches {len(result)} series: {[item['metric'] for item in result]}"
        return {round(float(time) * 1000): value for time, value in result[0]["values"]}


class Alertmanager(Server):
    """Alertmanager with the shipped configuration; only the webhook's address differs."""

    def __init__(self, binary: str, folder: Path, webhook: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        configuration = folder / "alertmanager.yml"
        text = (REPOSITORY / "alerts/alertmanager.yml").read_text()
        configuration.write_text(text.replace("http://127.0.0.1:9465/alerts", webhook))
        super().__init__(
            [
                binary,
                f"--config.file={configuration}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--cluster.listen-address=",
            ],
            folder / "alertmanager.log",
            lambda: get(f"{self.url}/-/ready"),
        )


class Sidecar(Server):
    """``telemetry-exporter serve`` on a fixed free port, so that it can be restarted."""

    def __init__(self, runs: Path, log: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        command = [sys.executable, "-m", "exporter", "serve", str(runs), "--listen", self.address]
        super().__init__(command, log, lambda: get(f"{self.url}/-/ready"))


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Wait for servers, and end them at the end."""
    try:
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.stop()
