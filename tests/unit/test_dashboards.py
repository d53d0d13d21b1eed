"""The dashboards and the stack they run in: derived from the catalog, valid to the real tools, pinned."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.catalog import Catalog, Metric, default_catalog, parse_catalog
from tests.support.servers import require

pytest.importorskip("grafana_foundation_sdk", reason="the dashboards' library needs Python 3.11")
from exporter.generate.dashboards import dashboards, overview

ROOT = Path(__file__).parents[2]
CATALOG = default_catalog()
FILES = dashboards(CATALOG)
PANELS: list[dict[str, Any]] = json.loads(overview(CATALOG))["panels"]
BY_TITLE = [pytest.param(panel, id=panel["title"]) for panel in PANELS]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES = [pytest.param(name, id=name) for name in COMPOSE["services"]]


def metric_of(panel: dict[str, Any], catalog: Catalog = CATALOG) -> Metric:
    """The metric that a panel shows: the one that its first query names first."""
    return next(known for name in names_in(panel["targets"][0]["expr"]) if (known := lookup(name, catalog)))


def lookup(sample: str, catalog: Catalog = CATALOG) -> Metric | None:
    """The metric that a sample name belongs to, by its type's suffixes."""
    suffixes = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    candidates = (metric for metric in catalog.metrics.values() if sample.startswith(metric.name))
    return next((m for m in candidates if sample.removeprefix(m.name) in suffixes[m.type]), None)


def names_in(expression: str) -> list[str]:
    """The metric names in a PromQL expression: what is no label, string, range, function or keyword."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on) \([^)]*\)", " ", expression)
    words = re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return [word for word in words if word not in {"and", "or", "unless", "max", "min", "sum"}]


def interpolated(expression: str) -> str:
    """The expression as Grafana sends it, with everything selected."""
    values = {"$__rate_interval": "1m", "$__interval": "1s", "$run": ".+", "$user": ".*"}
    for variable, value in values.items():
        expression = expression.replace(variable, value)
    return expression


def bounds_of(metric: Metric) -> list[float]:
    """Where the metric's alerts begin."""
    bounds = [bound for alert in metric.alerts for bound in (alert.above, alert.below)]
    return sorted({bound for bound in bounds if bound is not None})


def thresholds(panel: dict[str, Any]) -> list[float | None]:
    """Where the panel's colour changes, from below."""
    return [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]


def load_yaml(path: str) -> dict[str, Any]:
    """A YAML file of the repository."""
    return dict(yaml.safe_load((ROOT / path).read_text("utf-8")))


@pytest.mark.parametrize("name", FILES)
def test_committed_dashboards_are_the_generated_ones(name: str) -> None:
    """A committed dashboard is, byte for byte, what the catalog gives."""
    assert FILES[name] == (ROOT / "grafana" / "dashboards" / name).read_text("utf-8")


def test_no_dashboard_is_left_over() -> None:
    """The folder that Grafana is given holds the generated dashboards and nothing else."""
    assert set(FILES) == {path.name for path in (ROOT / "grafana" / "dashboards").iterdir()}


def test_dashboard_opens_live() -> None:
    """The overview shows the last 15 minutes in the viewer's time, refreshed with every scrape."""
    board = json.loads(overview(CATALOG))
    expected = ("telemetry-overview", "Training overview", "5s", "browser", ["telemetry-exporter"], 1)
    keys = ("uid", "title", "refresh", "timezone", "tags", "graphTooltip")
    assert expected == tuple(board[key] for key in keys)
    assert board["time"] == {"from": "now-15m", "to": "now"}


def test_panels_are_where_the_layout_has_them() -> None:
    """Seven panels in four rows, two to a row and the latency over the full width."""
    expected = [
        ("Training loss", 0, 0, 12),
        ("Learning rate", 12, 0, 12),
        ("KL divergence", 0, 8, 12),
        ("Clip fraction", 12, 8, 12),
        ("GPU utilisation", 0, 16, 12),
        ("Queue depth", 12, 16, 12),
        ("Forward-backward latency (p50, p99)", 0, 24, 24),
    ]
    positions = [(panel["title"], panel["gridPos"]) for panel in PANELS]
    assert expected == [(title, place["x"], place["y"], place["w"]) for title, place in positions]
    assert {place["h"] for _, place in positions} == {8}


def test_variables_narrow_the_runs_in_order() -> None:
    """The data source comes first, then users, then the runs of the chosen users; all of them at first."""
    datasource, user, run = json.loads(overview(CATALOG))["templating"]["list"]
    assert (datasource["name"], datasource["query"]) == ("datasource", "prometheus")
    assert (user["name"], user["query"]) == ("user", "label_values(run_info, user_id)")
    assert (run["name"], run["query"]) == ("run", 'label_values(run_info{user_id=~"$user"}, run_id)')
    assert all(variable["multi"] and variable["includeAll"] for variable in (user, run))


def test_runs_without_a_user_are_shown() -> None:
    """The choice of all users also matches the empty label of a run that names none."""
    users = json.loads(overview(CATALOG))["templating"]["list"][1]
    assert re.fullmatch(users["allValue"], "")


@pytest.mark.parametrize("panel", BY_TITLE)
def test_expressions_name_only_catalog_metrics(panel: dict[str, Any]) -> None:
    """Every metric in every expression is in the catalog, with a suffix that its type has."""
    for target in panel["targets"]:
        names = names_in(target["expr"])
        assert names
        assert [name for name in names if lookup(name) is None] == []


@pytest.mark.parametrize("panel", BY_TITLE)
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """Title, unit, help, what each alert asks for, and what to log when empty come from the catalog."""
    metric = metric_of(panel)
    assert metric.panel
    assert panel["title"].removesuffix(" (p50, p99)") == metric.panel.title
    assert panel["fieldConfig"]["defaults"]["unit"] == metric.panel.unit
    assert panel["description"].startswith(metric.help)
    assert all(alert.action in panel["description"] for alert in metric.alerts)
    assert metric.aliases[0].keys[0] in panel["fieldConfig"]["defaults"]["noValue"]


@pytest.mark.parametrize("panel", BY_TITLE)
def test_threshold_lines_are_the_alert_bounds(panel: dict[str, Any]) -> None:
    """A line is drawn, and the axis reaches to it, exactly where an alert of the metric begins."""
    defaults = panel["fieldConfig"]["defaults"]
    expected = bounds_of(metric_of(panel))
    assert thresholds(panel) == [None, *expected]
    assert bool(expected) == ("thresholdsStyle" in defaults["custom"])
    assert not expected or defaults["custom"]["axisSoftMax"] >= expected[-1]


def test_threshold_colours_are_severities() -> None:
    """From a bound on, a band has the colour of its alert's severity, and the healthy band none."""
    steps = {panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in PANELS}
    assert [step["color"] for step in steps["KL divergence"]] == ["transparent", "yellow", "red"]
    assert [step["color"] for step in steps["Clip fraction"]] == ["blue", "transparent", "yellow"]


def test_an_outlier_does_not_flatten_the_rest() -> None:
    """The KL axis ends at ten times the critical bound; a share cannot be more than 1 and needs no end."""
    ends = {panel["title"]: panel["fieldConfig"]["defaults"].get("max") for panel in PANELS}
    assert (ends["KL divergence"], ends["Clip fraction"]) == (1.0, None)


def test_another_bound_moves_its_line() -> None:
    """A catalog with another alert bound gives a dashboard with another line and explanation."""
    text = (ROOT / "exporter" / "catalog" / "catalog.yaml").read_text("utf-8")
    moved = parse_catalog(text.replace("above: 0.5\n", "above: 0.625\n"), "moved")
    panel = json.loads(overview(moved))["panels"][3]
    assert thresholds(panel) == [None, 0.1, 0.625]
    assert "Warning: above 62%" in panel["description"]


@pytest.mark.parametrize("panel", BY_TITLE)
def test_series_are_told_apart_by_run(panel: dict[str, Any]) -> None:
    """Every query keeps the run and the metric's own labels, and its legend names them."""
    metric = metric_of(panel)
    for target in panel["targets"]:
        for label in ("run_id", *metric.labels):
            assert f"{{{{{label}}}}}" in target["legendFormat"]
            assert re.search(rf"\bby \([^)]*\b{label}\b[^)]*\)", target["expr"])


def test_expressions_parse_in_prometheus(tmp_path: Path) -> None:
    """Prometheus accepts every expression, as a recording rule."""
    rules = [
        {"record": f"panel_{panel['id']}_{target['refId']}", "expr": interpolated(target["expr"])}
        for panel in PANELS
        for target in panel["targets"]
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    checked = run_tool("promtool", "check", "rules", str(file))
    assert f"{len(rules)} rules found" in checked


def test_compose_file_is_valid() -> None:
    """docker-compose accepts the file, with and without the demo."""
    run_tool("docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "-q")
    run_tool("docker-compose", "-f", str(ROOT / "docker-compose.yml"), "--profile", "demo", "config", "-q")


def run_tool(name: str, *arguments: str) -> str:
    """Run a binary that must succeed; returns what it printed."""
    done = subprocess.run([require(name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    """An image that is pulled has a patch version; one that is built is built from such images."""
    service = COMPOSE["services"][name]
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    images = bases if "build" in service else [service["image"]]
    assert images
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?$", image)] == []


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_watched_or_end(name: str) -> None:
    """A service restarts and has a health check, or it is part of the demo and ends by itself."""
    service = COMPOSE["services"][name]
    if service.get("profiles") == ["demo"]:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_machine_only(name: str) -> None:
    """No service listens on an address that another machine can reach."""
    ports = COMPOSE["services"][name].get("ports", [])
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_exist(name: str) -> None:
    """What a service mounts is a folder of the repository or a named volume."""
    for mount in COMPOSE["services"][name]["volumes"]:
        source = mount.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


def test_grafana_finds_what_is_provisioned() -> None:
    """The folder and the variable that the provisioning names are the ones that the service is given."""
    [provider] = load_yaml("grafana/provisioning/dashboards/telemetry.yaml")["providers"]
    [source] = load_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    grafana = COMPOSE["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert source["url"].removeprefix("$") in grafana["environment"]


def test_compose_targets_replace_all_targets() -> None:
    """Each target file of a machine without containers has its counterpart that names a service."""
    local = {path.name for path in (ROOT / "prometheus" / "targets").glob("*.json")}
    assert local == {path.name for path in (ROOT / "prometheus" / "compose").iterdir()}
    for path in (ROOT / "prometheus" / "compose").iterdir():
        [[target]] = [group["targets"] for group in json.loads(path.read_text("utf-8"))]
        service, port = target.split(":")
        assert f"127.0.0.1:{port}:{port}" in COMPOSE["services"][service]["ports"]
