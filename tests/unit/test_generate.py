"""What is derived from the catalog: rules, runbook and reference, as text."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from exporter.catalog import Alert, Alias, Catalog, Group, Metric, parse_catalog
from exporter.cli.generate import generate
from exporter.errors import MissingDependencyError
from exporter.generate import GENERATORS, differing, write
from exporter.generate.alerts import RUNBOOK_URL, alert_rules, condition, runbook
from exporter.generate.reference import metric_reference
from exporter.generate.text import GENERATED, wrap
from tests.support.journals import CATALOG

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(alert_rules(CATALOG))["groups"] for rule in group["rules"]
]
ALERTS = [(metric, alert) for metric in CATALOG.metrics.values() for alert in metric.alerts]


def an_alert(**fields: Any) -> Alert:
    """An alert with the given condition."""
    return Alert("Name", "warning", "summary", "meaning", "action", **fields)


def a_metric(**fields: Any) -> Metric:
    """A metric called x."""
    return Metric(**{"name": "x", "type": "gauge", "group": "g", "help": "Help.", **fields})


MEDIAN = "(quantile_over_time(0.5, x[1m]) or last_over_time(x[15m]))"


@pytest.mark.parametrize(
    ("metric", "alert", "text"),
    [
        (a_metric(), an_alert(above=0.5), f"{MEDIAN} > 0.5"),
        (a_metric(), an_alert(above=0.05, up_to=0.1), f"({MEDIAN} > 0.05) <= 0.1"),
        (a_metric(), an_alert(below=0.5), f"{MEDIAN} < 0.5"),
        (a_metric(), an_alert(below=0.5, down_to=-1.0), f"({MEDIAN} < 0.5) >= -1"),
        (a_metric(), an_alert(above=0.0), f"{MEDIAN} > 0"),
        (a_metric(type="counter", window="5m"), an_alert(increased=True), "increase(x_total[5m]) > 0"),
        (
            a_metric(window="2m", sparse_window="1h"),
            an_alert(above=1e-7, where={"kind": "a|b", "le": "1"}),
            (
                '(quantile_over_time(0.5, x{kind=~"a|b", le=~"1"}[2m]) or '
                'last_over_time(x{kind=~"a|b", le=~"1"}[1h])) > 1e-07'
            ),
        ),
    ],
)
def test_a_condition_is_the_median_beyond_its_bounds(metric: Metric, alert: Alert, text: str) -> None:
    """Bounds, windows and matchers of the catalog stand in the PromQL condition."""
    assert condition(metric, alert) == text


def test_every_alert_is_a_rule() -> None:
    """Each alert of the catalog is one rule, in its order, with its severity and texts."""
    assert [(rule["alert"], rule["labels"]) for rule in RULES] == [
        (alert.name, {"severity": alert.severity}) for _, alert in ALERTS
    ]
    for rule, (metric, alert) in zip(RULES, ALERTS, strict=True):
        assert rule["annotations"] == {
            "summary": alert.summary,
            "description": alert.meaning,
            "action": alert.action,
            "watches": metric.sample_name,
            "runbook_url": f"{RUNBOOK_URL}#{alert.name.lower()}",
        }


def test_every_rule_is_gated_by_the_run_s_status() -> None:
    """No rule looks at a run that is over, and one with a warm-up not at its first steps."""
    for rule, (_, alert) in zip(RULES, ALERTS, strict=True):
        gates = rule["expr"].split(" and on (run_id) ")[1:]
        assert gates[0] == 'run_status{status="running"} == 1'
        assert len(gates) == (2 if alert.warm_up else 1)
        if alert.warm_up:
            assert gates[1].startswith("last_over_time(training_steps_total[")
            assert gates[1].endswith(f">= {alert.warm_up}")


def test_severities_of_one_alert_never_overlap() -> None:
    """A warning ends where the critical rule of the same alert begins."""
    names = {alert.name for _, alert in ALERTS if alert.severity == "critical" and not alert.increased}
    assert names
    for name in names:
        bounds = {alert.severity: (alert.above, alert.up_to, alert.below, alert.down_to)
                  for _, alert in ALERTS if alert.name == name}  # fmt: skip
        assert bounds["warning"][1] == bounds["critical"][0]
        assert bounds["warning"][3] == bounds["critical"][2]


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_runbook_link_has_its_section() -> None:
    """The anchor of each rule's runbook_url is a heading of the runbook, which says what to do."""
    page = runbook(CATALOG)
    anchors = [slug(title) for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)]
    for rule in RULES:
        base, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert base == RUNBOOK_URL
        assert anchors.count(anchor) == 1
    for metric, alert in ALERTS:
        section = page.partition(f"### {alert.name}, {alert.severity}\n")[2].partition("\n### ")[0]
        for part in (metric.sample_name, condition(metric, alert), wrap(alert.meaning), wrap(alert.action)):
            assert part in section


def test_groups_without_alerts_are_left_out() -> None:
    """A rule file has no empty group."""
    groups = yaml.safe_load(alert_rules(CATALOG))["groups"]
    assert all(group["rules"] for group in groups)
    assert [group["name"] for group in groups] == [
        name for name in CATALOG.groups if any(metric.group == name for metric, _ in ALERTS)
    ]


def test_a_warm_up_is_told_in_the_runbook() -> None:
    """Where a rule waits for a number of steps, people are told."""
    page = runbook(CATALOG)
    assert page.count("has logged 50 steps") == sum(alert.warm_up == 50 for _, alert in ALERTS)


def test_every_file_says_that_it_is_generated() -> None:
    """The first line of each file tells where it comes from; YAML and Markdown each in their comments."""
    for name in ("alerts", "reference"):
        for path, content in GENERATORS[name](CATALOG).items():
            mark = f"# {GENERATED}" if path.endswith(".yml") else f"<!-- {GENERATED} -->"
            assert content.splitlines()[0] == mark


# ------------------------------------------------------------------ the reference


def rows(page: str) -> list[list[str]]:
    """The cells of each row of the page's tables; an escaped bar is part of a cell."""
    found = [row for row in page.splitlines() if row.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in found]


def test_every_metric_has_its_row() -> None:
    """Each metric stands once, under its group's title, with type, labels, meaning, keys and alerts."""
    page = metric_reference(CATALOG)
    table = {cells[0].strip("`"): cells for cells in rows(page)}
    assert len(table) == len(rows(page)) == len(CATALOG.metrics)
    for metric in CATALOG.metrics.values():
        cells = table[metric.sample_name]
        assert len(cells) == 6
        assert cells[1] == metric.type
        assert cells[2] == ", ".join(f"`{label}`" for label in metric.labels)
        assert cells[3] == " ".join(metric.help.split())
        keys = [key for alias in metric.aliases for key in alias.keys]
        assert re.findall(r"`([^`]+)`", cells[4]) == keys
    for name, group in CATALOG.groups.items():
        section = page.partition(f"## {group.title}\n")[2].partition("\n## ")[0]
        assert len(rows(section)) == sum(metric.group == name for metric in CATALOG.metrics.values())


@pytest.mark.parametrize(
    ("alert", "text"),
    [
        (an_alert(above=0.05, up_to=0.1), "warning: > 0.05 ≤ 0.1"),
        (an_alert(below=0.5), "warning: < 0.5"),
        (an_alert(below=0.5, down_to=0.1), "warning: < 0.5 ≥ 0.1"),
        (an_alert(increased=True), "warning: any increase"),
    ],
)
def test_an_alert_is_told_in_the_reference(alert: Alert, text: str) -> None:
    """Bounds are shown as signs."""
    catalog = Catalog({"g": Group("G")}, {"x": a_metric(alerts=(alert,))})
    assert rows(metric_reference(catalog))[0][-1] == text


def test_a_factor_is_told_in_the_reference() -> None:
    """A key whose values are scaled says by what."""
    metric = a_metric(aliases=(Alias(("a", "b"), scale=-1.0), Alias(("c",), scale=0.01), Alias(("d",))))
    catalog = Catalog({"g": Group("G")}, {"x": metric})
    assert rows(metric_reference(catalog))[0][4] == "`a` (× -1), `b` (× -1), `c` (× 0.01), `d`"


def test_text_of_a_user_s_catalog_does_not_break_the_table() -> None:
    """A bar in a meaning stays in its cell, and a line break ends no row."""
    text = 'groups: {g: {title: G}}\nmetrics: {g_x: {type: gauge, group: g, help: "A | B\\nand so on."}}\n'
    (cells,) = rows(metric_reference(parse_catalog(text, "test")))
    assert len(cells) == 6
    assert cells[3] == r"A \| B and so on."


# ------------------------------------------------------------------ files


def test_missing_and_changed_files_differ(tmp_path: Path) -> None:
    """A file differs if it is missing, has another content, or is a folder."""
    files = {"a.txt": "é\n", "b/c.txt": "x", "d": "y"}
    assert differing(files, tmp_path) == ["a.txt", "b/c.txt", "d"]
    write({"a.txt": "é\n", "b/c.txt": "x"}, tmp_path)
    (tmp_path / "d").mkdir()
    assert differing(files, tmp_path) == ["d"]
    (tmp_path / "b/c.txt").write_text("changed")
    assert differing(files, tmp_path) == ["b/c.txt", "d"]
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()


def test_paragraphs_are_one_line() -> None:
    """Line breaks and runs of blanks become one blank."""
    assert wrap("  a\n   b \t c\n") == "a b c"


def test_without_its_library_everything_but_dashboards_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where grafana-foundation-sdk cannot be had, asking for dashboards is an error, and for everything a remark."""
    monkeypatch.setitem(sys.modules, "exporter.generate.dashboards", None)
    with pytest.raises(MissingDependencyError, match="grafana-foundation-sdk"):
        GENERATORS["dashboards"](CATALOG)
    result = CliRunner().invoke(generate, ["--output", str(tmp_path)])
    assert result.exit_code == 0
    assert "left out: dashboards" in result.stderr
    assert (tmp_path / "alerts/training.rules.yml").is_file()
    assert not (tmp_path / "grafana").exists()
