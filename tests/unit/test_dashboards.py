"""The dashboards: derived from the catalog, linked, explained, and understood by Prometheus."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.catalog import Catalog, Metric, default_catalog, parse_catalog
from tests.support.servers import require

pytest.importorskip("grafana_foundation_sdk", reason="the dashboards' library needs Python 3.11")
from exporter.generate.dashboards import dashboards

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
CATALOG = default_catalog()
FILES = dashboards(CATALOG)
BOARDS: dict[str, dict[str, Any]] = {name.removesuffix(".json"): json.loads(text) for name, text in FILES.items()}
OWN_TO_PROMETHEUS = {"ALERTS", "up", "scrape_duration_seconds", "scrape_samples_scraped"}
WORDS = {"and", "or", "unless", "by", "on", "group_left", "group_right", "offset", "bool", "Inf", "end"}
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
VARIABLES = {
    "${run:regex}": ".+",
    "${user:regex}": ".*",
    "${metric}": "training_loss",
    "${__to:date:seconds}": "1700000000",
    "$__rate_interval": "1m",
    "$__interval_ms": "1000",
    "$__interval": "1s",
    "$__range_s": "3600",
    "$__range": "3600s",
}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard, those of closed rows too."""
    every = [each for outer in board["panels"] for each in [outer, *outer.get("panels", [])]]
    return [each for each in every if each["type"] != "row"]


EVERY_PANEL = [
    pytest.param(panel, id=f"{name}-{panel['title']}") for name, board in BOARDS.items() for panel in panels(board)
]


def panel(name: str, title: str, boards: dict[str, dict[str, Any]] = BOARDS) -> dict[str, Any]:
    """The panel of a dashboard with a title."""
    [found] = [each for each in panels(boards[name]) if each["title"] == title]
    return found


def lookup(sample: str, catalog: Catalog = CATALOG) -> Metric | None:
    """The metric that a sample name belongs to, by its type's suffixes."""
    candidates = (metric for metric in catalog.metrics.values() if sample.startswith(metric.name))
    return next((m for m in candidates if sample.removeprefix(m.name) in SUFFIXES[m.type]), None)


def names_in(expression: str) -> set[str]:
    """The metric names in a PromQL expression: what is no label, string, range, function or keyword."""
    bare = re.sub(r'"[^"]*"|`[^`]*`|\$\{[^}]*\}|\$\w+', " ", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - WORDS - {"d", "m", "s"}


def interpolated(expression: str, boards: dict[str, dict[str, Any]] = BOARDS) -> str:
    """The expression as Grafana sends it, with everything selected and smoothing by EMA."""
    for variable in boards["compare"]["templating"]["list"]:
        if variable.get("valuesFormat") == "json":
            chosen = {"smoothing": "ema", "width": "1m"}[variable["name"]]
            [properties] = [option for option in json.loads(variable["query"]) if option["value"] == chosen]
            for key, text in properties.items():
                expression = expression.replace(f"${{{variable['name']}.{key}}}", text)
            expression = expression.replace(f"${{{variable['name']}}}", chosen)
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def thresholds(of_panel: dict[str, Any]) -> list[tuple[float | None, str]]:
    """Where the panel's colour changes, from below, and to which."""
    return [(step["value"], step["color"]) for step in of_panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]


@pytest.mark.parametrize("name", FILES)
def test_committed_dashboards_are_the_generated_ones(name: str) -> None:
    """A committed dashboard is, byte for byte, what the catalog gives."""
    assert FILES[name] == (FOLDER / name).read_text("utf-8")


def test_no_dashboard_is_left_over() -> None:
    """The folder that Grafana is given holds the generated dashboards and nothing else."""
    assert set(FILES) == {path.name for path in FOLDER.iterdir()}


def test_there_are_six_dashboards() -> None:
    """Each has a title and an address of its own, which follows from its file's name."""
    titles = {name: board["title"] for name, board in BOARDS.items()}
    assert titles == {
        "runs": "Runs",
        "compare": "Compare",
        "rl-health": "RL health",
        "training": "Training",
        "performance": "Performance & GPU",
        "exporter": "Exporter",
    }
    assert {board["uid"] for board in BOARDS.values()} == {f"telemetry-{name}" for name in BOARDS}


@pytest.mark.parametrize("name", BOARDS)
def test_dashboards_are_live(name: str) -> None:
    """They are refreshed with every scrape, in the viewer's time, and share the crosshair."""
    board = BOARDS[name]
    assert (board["refresh"], board["timezone"], board["graphTooltip"]) == ("5s", "browser", 1)
    assert board["time"]["to"] == "now"


@pytest.mark.parametrize("name", BOARDS)
def test_dashboards_are_linked_with_the_selection_kept(name: str) -> None:
    """Each links to all of them by their common tag, and takes runs and time along."""
    [link] = BOARDS[name]["links"]
    assert (link["type"], link["includeVars"], link["keepTime"]) == ("dashboards", True, True)
    assert link["tags"] == BOARDS[name]["tags"] == ["telemetry-exporter"]


@pytest.mark.parametrize("name", BOARDS)
def test_variables_narrow_the_runs_in_order(name: str) -> None:
    """The data source comes first, then users, then the runs of the chosen users; all of them at first."""
    datasource, user, run = BOARDS[name]["templating"]["list"][:3]
    assert (datasource["name"], datasource["query"]) == ("datasource", "prometheus")
    assert (user["name"], user["query"]) == ("user", "label_values(run_info, user_id)")
    assert run["name"] == "run"
    assert "user_id=~`${user:regex}`" in run["query"]
    assert all(variable["multi"] and variable["includeAll"] for variable in (user, run))
    assert re.fullmatch(user["allValue"], ""), "a run without a user is among those of all users"


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_side_by_side(name: str) -> None:
    """No two panels of a dashboard overlap, none leaves its 24 columns, and each has a number of its own."""
    for group in [BOARDS[name]["panels"], *(row.get("panels", []) for row in BOARDS[name]["panels"])]:
        cells = [
            (x, y)
            for place in (each["gridPos"] for each in group)
            for x, y in itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        ]
        assert len(cells) == len(set(cells))
        assert all(0 <= x < 24 for x, _ in cells)
    numbers = [each["id"] for outer in BOARDS[name]["panels"] for each in [outer, *outer.get("panels", [])]]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("of_panel", EVERY_PANEL)
def test_expressions_name_only_known_metrics(of_panel: dict[str, Any]) -> None:
    """Every metric in every expression is in the catalog, with a suffix that its type has, or Prometheus' own."""
    for target in of_panel["targets"]:
        names = names_in(interpolated(target["expr"])) - OWN_TO_PROMETHEUS
        assert [name for name in names if lookup(name) is None] == []


def test_every_metric_is_on_a_dashboard() -> None:
    """There is a panel, a table's column or a mark for each metric of the catalog."""
    text = json.dumps(BOARDS)
    queries = re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', text)
    samples = {name for query in queries for name in names_in(interpolated(query.replace('\\"', '"')))}
    shown = {metric.name for metric in map(lookup, samples) if metric}
    assert set(CATALOG.metrics) - shown == set()


def test_a_new_metric_has_a_panel_at_once() -> None:
    """A metric that a user adds, even in a group of its own, is shown without another line of code."""
    text = (ROOT / "exporter" / "catalog" / "catalog.yaml").read_text("utf-8")
    text = text.replace("groups:\n", "groups:\n  robots: {title: Robots, prefixes: [robots]}\n", 1)
    text += "  robots_falls: {type: counter, group: robots, help: How often it fell.}\n"
    boards = {name.removesuffix(".json"): json.loads(board) for name, board in dashboards(with_rules(text)).items()}
    assert "robots_falls_total" in panel("training", "Falls per second", boards)["targets"][0]["expr"]


def with_rules(text: str) -> Catalog:
    """A catalog of another text."""
    return parse_catalog(text, "another")


@pytest.mark.parametrize("of_panel", EVERY_PANEL)
def test_panels_explain_themselves_when_empty(of_panel: dict[str, Any]) -> None:
    """A panel without data says what is missing instead of "No data"."""
    words = of_panel["fieldConfig"]["defaults"]["noValue"]
    assert len(words.split()) >= 4


@pytest.mark.parametrize(
    "metric", [m for m in CATALOG.metrics.values() if m.group in ("rl", "training", "validation")], ids=lambda m: m.name
)
def test_panels_explain_their_metric(metric: Metric) -> None:
    """A panel says what its metric means, its healthy range, and what each alert on it means and asks for."""
    shown = [
        each
        for name in ("rl-health", "training")
        for each in panels(BOARDS[name])
        if any(lookup(sample) == metric for target in each["targets"] for sample in names_in(target["expr"]))
    ]
    description = " ".join(" ".join(each["description"] for each in shown).split())
    assert " ".join(metric.help.split()) in description
    assert ("Healthy:" in description) == bool(metric.healthy)
    for alert in CATALOG.alerts:
        if alert.condition.metric == metric.name:
            assert " ".join(alert.action.split())[:40] in description, alert.name


@pytest.mark.parametrize("of_panel", EVERY_PANEL)
def test_colours_are_told_apart_with_any_colour_vision(of_panel: dict[str, Any]) -> None:
    """Curves have the colour-blind-safe palette; bands and texts have its colours, and never Grafana's red or green."""
    config = of_panel["fieldConfig"]
    if of_panel["type"] != "table":
        assert config["defaults"]["color"]["mode"] == "palette-colorblind"
    colours = set(re.findall(r'"(?:color|fixedColor)": "([^"]+)"', json.dumps(config)))
    assert colours <= {"transparent", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#D55E00", "#999999", "green"}
    assert "green" not in colours or of_panel["type"] == "table", "the library's default, which a table does not draw"


def test_bands_are_the_healthy_range_and_the_alerts() -> None:
    """KL, clip fraction and explained variance are coloured where they are healthy and where alerts begin."""
    good, info, warning, critical = "#009E73", "#56B4E9", "#E69F00", "#D55E00"
    assert thresholds(panel("rl-health", "KL divergence")) == [(None, "transparent"), (0.05, warning), (0.1, critical)]
    assert thresholds(panel("rl-health", "Clip fraction")) == [
        *((None, info), (0.1, good), (0.3, "transparent"), (0.5, warning))
    ]
    assert thresholds(panel("rl-health", "Explained variance")) == [
        *((None, critical), (0.0, warning), (0.5, "transparent"), (0.7, good))
    ]


def test_an_outlier_does_not_flatten_the_rest() -> None:
    """The KL axis ends at ten times the critical bound; a share cannot be more than 1 and needs no end."""
    ends = [
        panel("rl-health", title)["fieldConfig"]["defaults"].get("max") for title in ("KL divergence", "Clip fraction")
    ]
    assert ends == [1.0, None]


def test_the_number_on_the_x_axis_keeps_its_own_scale() -> None:
    """An end of the values' axis is taken back for the steps that they are drawn over."""
    [override] = [
        each
        for each in panel("compare", "KL divergence")["fieldConfig"]["overrides"]
        if each["matcher"]["options"] == "step"
    ]
    assert {each["id"]: each.get("value") for each in override["properties"]} == {
        "unit": "none",
        "min": None,
        "max": None,
        "decimals": None,
    }


def test_the_first_look_is_still_there() -> None:
    """Loss and learning rate, KL and clip fraction, GPU and queue, latency: the rows of the first overview."""
    first = {
        name: [(each["title"], each["gridPos"]["y"], each["gridPos"]["w"]) for each in BOARDS[name]["panels"][:count]]
        for name, count in (("training", 5), ("rl-health", 2))
    }
    assert first["training"] == [
        ("Training loss", 0, 12),
        ("Learning rate", 0, 12),
        ("GPU utilisation", 8, 12),
        ("Queue depth", 8, 12),
        ("Forward-backward latency (p50, p99)", 16, 24),
    ]
    assert first["rl-health"] == [("KL divergence", 0, 12), ("Clip fraction", 0, 12)]


def test_every_smoothing_and_width_has_what_the_queries_need() -> None:
    """Exactly one method of each choice selects runs, and a width's windows follow from its seconds."""
    smoothing, width = BOARDS["compare"]["templating"]["list"][-2:]
    assert (smoothing["valuesFormat"], width["valuesFormat"]) == ("json", "json")
    for choice in json.loads(smoothing["query"]):
        chosen = [key for key, value in choice.items() if value == ".+"]
        assert chosen == [choice["value"]]
    for choice in json.loads(width["query"]):
        seconds = int(choice["seconds"])
        assert (choice["sma"], choice["ema"]) == (f"{1000 * seconds - 1}ms", f"{5000 * seconds - 1}ms")
        assert choice["gaussian"] == f"{500 * seconds - 1}ms"
        units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        assert int(choice["value"][:-1]) * units[choice["value"][-1]] == seconds


@pytest.mark.parametrize("of_panel", EVERY_PANEL)
def test_runs_are_quoted_so_that_any_name_works(of_panel: dict[str, Any]) -> None:
    """The chosen runs stand in backticks and escaped, because a run's name may hold both kinds of quotes."""
    for target in of_panel["targets"]:
        assert not re.search(r"\$run\b|\$\{run\}|\"\$\{run|\$user\b|\"\$\{user", target["expr"])


def test_expressions_parse_in_prometheus(tmp_path: Path) -> None:
    """Prometheus accepts every expression, as a recording rule."""
    rules = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(every_expression())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    done = subprocess.run(
        [require("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout + done.stderr


def every_expression() -> Iterator[str]:
    """What Prometheus is asked by panels and marks."""
    for board in BOARDS.values():
        for of_panel in panels(board):
            yield from (interpolated(target["expr"]) for target in of_panel["targets"])
        yield from (interpolated(each["expr"]) for each in board["annotations"].get("list", []))


def test_another_bound_moves_its_line() -> None:
    """A catalog with another healthy range gives a dashboard with another band and explanation."""
    text = (ROOT / "exporter" / "catalog" / "catalog.yaml").read_text("utf-8")
    moved = with_rules(text.replace("healthy: {above: 0.1, below: 0.3}", "healthy: {above: 0.125, below: 0.25}"))
    boards = {name.removesuffix(".json"): json.loads(board) for name, board in dashboards(moved).items()}
    clip = panel("rl-health", "Clip fraction", boards)
    assert (0.125, "#009E73") in thresholds(clip)
    assert "Healthy: above 12% and below 25%." in clip["description"]
