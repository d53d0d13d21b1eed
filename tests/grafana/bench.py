"""Asks Grafana's own code what the panels of a dashboard are given to draw."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
DASHBOARDS = BENCH.parents[1] / "grafana" / "dashboards"
NAMES = sorted(path.stem for path in DASHBOARDS.glob("*.json"))

Answer = dict[str, Any]


def job(name: str, now: float, span: float = 3600.0, **variables: Any) -> dict[str, Any]:
    """A question: a dashboard over the last ``span`` seconds, with these variables."""
    return {
        "dashboard": str(DASHBOARDS / f"{name}.json"),
        "from": _iso(now - span),
        "to": _iso(now),
        "variables": variables,
    }


def build(target: str) -> None:
    """Bundle the bench's program for ``node`` or ``browser``."""
    assert (BENCH / "node_modules").is_dir(), (
        "Grafana's packages are not installed: run `make test-dashboards`, or `npm ci` in tests/grafana"
    )
    subprocess.run(["node", "src/build.mjs", target], cwd=BENCH, check=True)


def ask(prometheus: str, jobs: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """The answers to questions, in their order."""
    return _run("built/query.cjs", {"prometheus": prometheus, "jobs": list(jobs)})


def take_pictures(prometheus: str, chromium: str, jobs: Iterable[Mapping[str, Any]]) -> list[Answer]:
    """Pictures of dashboards; a question also says which file, and how high."""
    return _run("src/picture.mjs", {"prometheus": prometheus, "chromium": chromium, "jobs": list(jobs)})


def panel(answer: Answer, title: str) -> Answer:
    """The panel with a title."""
    return next(each for each in answer["panels"] if each["title"] == title)


def columns(frame: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of a frame's fields by name."""
    return {field["name"]: field["values"] for field in frame["fields"]}


def _run(script: str, question: Mapping[str, Any]) -> list[Answer]:
    command: Sequence[str] = ["node", script]
    done = subprocess.run(command, cwd=BENCH, input=json.dumps(question), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
