"""The dashboards on VictoriaMetrics: with the same samples it gives the same answers, but for what it documents."""

from __future__ import annotations

import json
import math
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.grafana import trainer
from tests.grafana.bench import NAMES, ask, job
from tests.grafana.conftest import SMOOTHINGS
from tests.grafana.foreign_logs import PIXEL
from tests.grafana.laboratory import RUNS, Laboratory
from tests.support.servers import Server, free_port, get, require, running

Points = dict[tuple[frozenset[tuple[str, str]], int], float]
"""Values by labels and millisecond."""

RATE = r"\brate\("
"""It does not extrapolate to the ends of the window, and takes the sample before the window as the first of two."""
LOOKBACK = r"(telemetry_\w+|training_nonfinite)_total\{|run_event|run_checkpoint_step"
"""It looks back as far as a series' own pace suggests, and not five minutes."""
STALE = r"ALERTS|run_phase_start_timestamp_seconds"
"""The copy that is made here lacks the marks of series that ended."""
ROUNDED_SECONDS = 1e-5
"""It keeps 15 digits of a number: a microsecond of a time."""


class VictoriaMetrics(Server):
    """A single node with a copy of what a Prometheus holds."""

    def __init__(self, binary: str, folder: Path) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        options = ("-retentionPeriod=100y", "-search.latencyOffset=0s", "-search.disableCache")
        command = [binary, f"-storageDataPath={folder / 'data'}", f"-httpListenAddr={address}", *options]
        super().__init__(command, folder / "victoria.log", lambda: get(f"{self.url}/health"))

    def copy(self, lab: Laboratory) -> None:
        """Take over every finite sample of the last two hours."""
        lines = [_line(series) for series in lab.newest.query('{__name__=~".+"}[2h]', time=lab.now)]
        body = "\n".join(line for line in lines if line).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/import", body, timeout=60) as answer:
            assert answer.status == 204
        get(f"{self.url}/internal/force_flush")


def _line(series: Mapping[str, Any]) -> str:
    points = [(round(time * 1000), float(text)) for time, text in series["values"] if math.isfinite(float(text))]
    times, values = [time for time, _ in points], [value for _, value in points]
    return json.dumps({"metric": series["metric"], "timestamps": times, "values": values}) if points else ""


def points_of(url: str, query: Mapping[str, Any]) -> Points:
    """A query's answer."""
    path, parameters = "query", {"query": query["expr"], "time": query["to"]}
    if not query["instant"]:
        path, parameters = "query_range", {"query": query["expr"], "start": query["from"], "end": query["to"]}
        parameters["step"] = query["step"]
    body = urllib.parse.urlencode(parameters).encode()
    with urllib.request.urlopen(f"{url}/api/v1/{path}", body, timeout=30) as answer:
        result = json.load(answer)["data"]["result"]
    return {
        (frozenset(series["metric"].items()), round(float(time) * 1000)): float(text)
        for series in result
        for time, text in series.get("values") or [series["value"]]
    }


@pytest.fixture(scope="module")
def queries(bench: None, lab: Laboratory) -> list[dict[str, Any]]:
    """Every query of every dashboard, of the runs that both servers count alike."""
    runs = [run for run in RUNS if is_counted_alike(run, lab)]
    assert len(runs) > 3
    jobs = [job(name, lab.now, run=runs) for name in NAMES]
    jobs += [job("compare", lab.now, run=runs, smoothing=smoothing) for smoothing in SMOOTHINGS]
    asked = [query for answer in ask(lab.newest.url, jobs) for query in answer["queries"]]
    return list({(query["expr"], query["from"]): query for query in asked}.values())


def is_counted_alike(run: str, lab: Laboratory) -> bool:
    """Whether a run has no NaN, which VictoriaMetrics does not store, and no step on the very end of a pixel."""
    if run == trainer.DIVERGED:
        return False
    quoted = run.replace('"', r"\"")
    ranks = lab.newest.query(f'training_step{{run_id="{quoted}"}}[2h]', time=lab.now)
    return all(time % PIXEL for steps in ranks for time, _ in steps["values"])


@pytest.fixture(scope="module", params=["victoria-metrics", "next victoria-metrics"])
def victoria(
    request: pytest.FixtureRequest, lab: Laboratory, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VictoriaMetrics]:
    """VictoriaMetrics as it is installed, and its next release where there is one."""
    binary = require("victoria-metrics")
    if request.param.startswith("next"):
        path = Path(os.environ.get("PROMETHEUS_NEXT", "")).with_name("victoria-metrics")
        if not path.is_file():
            pytest.skip("PROMETHEUS_NEXT has no victoria-metrics beside it")
        binary = str(path)
    server = VictoriaMetrics(binary, tmp_path_factory.mktemp("victoria"))
    with running(server):
        server.copy(lab)
        yield server


def test_answers_are_the_same(victoria: VictoriaMetrics, lab: Laboratory, queries: list[dict[str, Any]]) -> None:
    """Every query is understood and has the same series with the same values, but for the documented differences."""
    for query in queries:
        expected, found = points_of(lab.newest.url, query), points_of(victoria.url, query)
        expression = query["expr"]
        if re.search(STALE, expression):
            continue
        assert {labels for labels, _ in found} == {labels for labels, _ in expected}, expression
        if not re.search(LOOKBACK, expression):
            assert expected.keys() - found.keys() == set(), expression
            assert re.search(RATE, expression) or found.keys() - expected.keys() == set(), expression
        if not re.search(RATE, expression):
            both = found.keys() & expected.keys()
            rounding = ROUNDED_SECONDS if "time()" in expression else 1e-12
            assert {at: found[at] for at in both} == {
                at: pytest.approx(expected[at], rel=1e-9, abs=rounding) for at in both
            }, expression
    assert len(queries) > 200
