"""The demo a newcomer sees: two real runs, their pages, and each notification as it is delivered."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from exporter.demo.receiver import Notification, Receiver
from exporter.demo.stack import Stack, get_text
from exporter.errors import MissingDependencyError
from exporter.stopping import Stop, stop_on_signals

__all__ = ["outcome", "progress", "run_demo"]

_PRESETS = ("steady", "diverging")
_PROGRESS_SECONDS = 5.0
_RESOLVE_SECONDS = 60.0
_INSTALL_HINT = (
    "Prometheus and Alertmanager were not found, so the demo goes on without alerts; "
    "get them with: apt-get install prometheus prometheus-alertmanager"
)


def run_demo(*, once: bool, seconds: int) -> int:
    """Run the demo; returns the exit code: 0 when exactly the expected notifications came."""
    if importlib.util.find_spec("numpy") is None:
        raise MissingDependencyError("the demo trains with numpy: pip install 'telemetry-exporter[demo]'")
    stop = stop_on_signals()
    receiver = Receiver(_print_notification)
    with tempfile.TemporaryDirectory(prefix="telemetry-demo-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder), receiver.url)
        try:
            return _show(stack, receiver, stop, once=once, seconds=seconds)
        finally:
            stack.close()
            receiver.close()


def outcome(notifications: Sequence[Notification]) -> str:
    """What is wrong with the notifications of a finished demo; empty when all is as it must be."""
    wrong = [item for item in notifications if item.run_id != "diverging"]
    if wrong:
        return f"{wrong[0].alertname} was delivered for {wrong[0].run_id!r}, which is healthy"
    statuses = [
        item.status for item in notifications if item.alertname == "KLDivergenceHigh" and item.severity == "critical"
    ]
    if "firing" not in statuses:
        return "no critical KL alert was delivered for 'diverging'"
    if "resolved" not in statuses[statuses.index("firing") :]:
        return "the critical KL alert of 'diverging' was not resolved when the run ended"
    return ""


def _show(stack: Stack, receiver: Receiver, stop: Stop, *, once: bool, seconds: int) -> int:
    alerting = bool(stack.prometheus_url)
    _print_addresses(stack)
    trainers = [stack.train(preset, seconds) for preset in _PRESETS]
    _watch(stack, trainers, stop)
    problem = _failures(stack, trainers)
    if alerting and not problem:
        _wait_for_resolved(receiver, stop)
        problem = outcome(receiver.notifications)
    verdict = "Both runs are over, and all alerts came as expected." if alerting else "Both runs are over."
    print(f"PROBLEM: {problem}" if problem else verdict, flush=True)
    if not once and not stop.is_set():
        print("Serving until Ctrl-C.", flush=True)
        stop.wait()
    return 1 if problem and once else 0


def _failures(stack: Stack, trainers: list[subprocess.Popen[str]]) -> str:
    """The last words of a trainer that failed; empty when none did."""
    for preset, trainer in zip(_PRESETS, trainers, strict=True):
        if trainer.returncode:
            words = (stack.folder / f"{preset}.log").read_text()[-2000:]
            return f"training {preset!r} ended with exit code {trainer.returncode}: {words}"
    return ""


def _print_addresses(stack: Stack) -> None:
    print(f"metrics       {stack.exporter_url}/metrics")
    if stack.prometheus_url:
        query = "/graph?g0.expr=rl_kl_divergence&g0.tab=0&g0.range_input=5m"
        print(f"Prometheus    {stack.prometheus_url}{query}")
        print(f"Alertmanager  {stack.alertmanager_url}")
    else:
        print(_INSTALL_HINT)
    print(f"journals      {stack.runs}", flush=True)


def _print_notification(item: Notification) -> None:
    clock = time.strftime("%H:%M:%S", time.localtime(item.received))
    print(f"{clock}  {item.status.upper()} {item.severity} {item.alertname}: {item.summary}", flush=True)
    if item.status == "firing":
        print(f"          what to do: {item.action}", flush=True)


def _watch(stack: Stack, trainers: list[subprocess.Popen[str]], stop: Stop) -> None:
    """Print progress until both runs are over."""
    while any(trainer.poll() is None for trainer in trainers) and not stop.wait(_PROGRESS_SECONDS):
        page = get_text(f"{stack.exporter_url}/metrics") or ""
        states = list(filter(None, (progress(page, preset) for preset in _PRESETS)))
        if states:
            print(f"{time.strftime('%H:%M:%S')}  {'   |   '.join(states)}", flush=True)


def progress(page: str, run_id: str) -> str:
    """How far a run is and how it does, by the latest page; empty where that has nothing of it."""
    names = {
        "training_step": "step",
        "rl_reward_mean": "reward",
        "rl_kl_divergence": "KL",
        "rl_clip_fraction": "clipped",
    }
    values = []
    for name, title in names.items():
        match = re.search(rf'^{name}{{[^}}]*run_id="{run_id}"[^}}]*}} (\S+)$', page, re.MULTILINE)
        if match:
            value = float(match[1])
            values.append(f"{title} {value:.0f}" if value.is_integer() else f"{title} {value:.3g}")
    return f"{run_id}: {', '.join(values)}" if values else ""


def _wait_for_resolved(receiver: Receiver, stop: Stop) -> None:
    """Give Alertmanager time to say that what fired is over."""
    deadline = time.monotonic() + _RESOLVE_SECONDS
    while time.monotonic() < deadline and not stop.wait(0.5):
        latest = {(item.alertname, item.severity, item.run_id): item.status for item in receiver.notifications}
        if latest and "firing" not in latest.values():
            return
