"""What is derived from the catalog: rules, runbook and reference, as text."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from exporter.catalog import Alert, Alias, Catalog, Condition, Group, Metric, parse_catalog
from exporter.cli.generate import generate
from exporter.errors import MissingDependencyError
from exporter.generate import GENERATORS, differing, write
from exporter.generate.alerts import alert_rules, condition, expression, runbook
from exporter.generate.reference import metric_reference
from exporter.generate.text import GENERATED, wrap
from tests.support.journals import CATALOG

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(alert_rules(CATALOG))["groups"] for rule in group["rules"]
]


def an_alert(*, name: str = "Name", **fields: Any) -> Alert:
    """A warning whose condition has the given fields."""
    return Alert(name, "warning", "summary", "meaning", "action", Condition("x", **fields))


def a_metric(**fields: Any) -> Metric:
    """A metric called x."""
    return Metric(**{"name": "x", "type": "gauge", "group": "g", "help": "Help.", **fields})


def flat(text: str) -> str:
    """An expression on one line."""
    return " ".join(text.split()).replace("( ", "(").replace(" )", ")")


def of_x(alert: Alert, **fields: Any) -> str:
    """The condition of an alert on one line, where x is such a metric."""
    return flat(condition(alert, Catalog({"g": Group("G")}, {"x": a_metric(**fields), "y": a_metric(name="y")})))


ON = "and on (run_id, rank)"


def enough(window: str, count: int = 3) -> str:
    """At least so many updates in the window."""
    return f"count_over_time(x[{window}]) >= {count}"


def no_restart(window: str) -> str:
    """All of the window is of one attempt."""
    return f"unless on (run_id, rank) (stddev_over_time(run_attempts[{window}]) > 0)"


MEDIAN = (
    f"quantile_over_time(0.5, x[1m]) and {enough('1m')} or "
    f"quantile_over_time(0.5, x[5m]) and {enough('5m')} {no_restart('5m')} or "
    f"quantile_over_time(0.5, x[15m]) and {enough('15m')} {no_restart('15m')} or "
    f"last_over_time(x[15m]) {no_restart('15m')} or last_over_time(x[5m]) {no_restart('5m')} or "
    f"last_over_time(x[1h]) and count_over_time(x[1h]) <= 5 {no_restart('1h')}"
)


@pytest.mark.parametrize(
    ("alert", "text"),
    [
        (an_alert(above=0.5), f"({MEDIAN}) > 0.5"),
        (an_alert(above=0.05, up_to=0.1), f"(({MEDIAN}) > 0.05) <= 0.1"),
        (an_alert(below=0.5), f"({MEDIAN}) < 0.5"),
        (an_alert(below=0.5, down_to=-1.0), f"(({MEDIAN}) < 0.5) >= -1"),
        (an_alert(above=0.0, absolute=True), f"abs({MEDIAN}) > 0"),
        (an_alert(above=1.0, value="mean", per="y"), "(avg_over_time(x[1m]) / avg_over_time(y[1m])) > 1"),
        (
            an_alert(above=2.0, value="lowest", window="2m", sparse_window="2m"),
            "(min_over_time(x[2m]) and count_over_time(x[2m]) >= 3) > 2",
        ),
        (
            an_alert(above=6.0, value="worst", against="spread", window="15m", least_scale=0.02, least_updates=20),
            (
                "max_over_time(x[15m]) > avg_over_time(x[150m] offset 15m) + 6 * (stddev_over_time(x[150m] offset 15m) "
                "> 0.02 * abs(avg_over_time(x[150m] offset 15m)) or 0.02 * abs(avg_over_time(x[150m] offset 15m))) and "
                "count_over_time(x[150m] offset 15m) >= 20 "
                "unless on (run_id, rank) (stddev_over_time(run_attempts[165m]) > 0)"
            ),
        ),
    ],
)
def test_a_condition_is_a_number_beyond_its_bounds(alert: Alert, text: str) -> None:
    """Bounds, windows and counts of the catalog stand in the PromQL condition."""
    assert of_x(alert) == text


def increase(window: str) -> str:
    """The increase of x within a window, which must end higher than it began."""
    x = f"x_total[{window}]"
    return f"(increase({x}) and last_over_time({x}) > min_over_time({x}))"


def test_an_increase_after_a_restart_must_be_recent() -> None:
    """Over a window with a restart only its last sixth counts; a counter that appears may count as an increase."""
    counter: dict[str, Any] = {"type": "counter", "window": "30m"}
    assert of_x(an_alert(above=0.0, value="increase"), **counter) == (
        f"({increase('30m')} unless on (run_id, rank) (stddev_over_time(run_attempts[30m]) > 0) "
        f"or {increase('5m')}) > 0"
    )
    assert of_x(an_alert(above=0.0, value="increase", from_nothing=True), **counter) == (
        f"({increase('30m')} > 0 or (last_over_time(x_total[30m]) unless last_over_time(x_total[1d] offset 30m)) > 0)"
    )


def test_windows_and_matchers_are_those_of_the_metric() -> None:
    """A rule without windows of its own has its metric's, and its label patterns are quoted."""
    alert = an_alert(above=1e-7, where={"kind": r"a|\d", "le": '"'})
    text = of_x(alert, window="2m", sparse_window="1h")
    matchers = r'x{kind=~"a|\\d", le=~"\""}'
    for window in ("2m", "20m", "1h"):
        assert f"quantile_over_time(0.5, {matchers}[{window}])" in text
    assert text.endswith("> 1e-07")


def test_a_median_passes_over_nan_where_that_is_normal() -> None:
    """A window that holds a NaN is asked at sixty moments instead, as Prometheus takes NaN for the smallest number."""
    text = of_x(an_alert(below=0.5), nan_is_normal=True)
    assert (
        "(quantile_over_time(0.5, x[1m]) and sum_over_time(x[1m]) == sum_over_time(x[1m]) "
        "or quantile_over_time(0.5, (x == x)[1m:1s])) and count_over_time(x[1m]) >= 3"
    ) in text


def test_more_conditions_are_joined_by_run() -> None:
    """What must hold as well, and what a run must not have, is that of the same run and rank."""
    more = Condition("y", above=3.0, value="mean")
    alert = replace(an_alert(above=1.0, value="mean"), also=(more,), without=("y",))
    assert of_x(alert) == (
        f"avg_over_time(x[1m]) > 1 {ON} (avg_over_time(y[1m]) > 3) unless on (run_id, rank) last_over_time(y[1m])"
    )


# ------------------------------------------------------------------ which runs


def whole(**fields: Any) -> str:
    """The whole expression of an alert with these fields, on one line."""
    alert = replace(an_alert(above=1.0, value="mean"), **fields)
    return flat(expression(alert, Catalog({"g": Group("G")}, {"x": a_metric()})))


@pytest.mark.parametrize(
    ("fields", "gates"),
    [
        ({}, f' {ON} run_status{{status="running"}} == 1'),
        ({"about": "any run"}, ""),
        ({"about": "exporter"}, ""),
        ({"about": "host"}, ' and on (instance, job) telemetry_runs{status="running"} > 0'),
        ({"runs": {"team": "a|b"}}, f' {ON} run_status{{status="running", team=~"a|b"}} == 1'),
        ({"about": "any run", "runs": {"run_id": "x"}}, f' {ON} run_status{{run_id=~"x"}}'),
        (
            {"excluded": ({"team": "a", "user_id": "u"}, {"run_id": "debug-.*"})},
            (
                f' {ON} run_status{{status="running"}} == 1 '
                'unless on (run_id, rank) run_status{team=~"a", user_id=~"u"} '
                'unless on (run_id, rank) run_status{run_id=~"debug-.*"}'
            ),
        ),
        (
            {"warm_up": 50},
            (
                f' {ON} run_status{{status="running"}} == 1 {ON} last_over_time(training_steps_total[4m]) >= 50 '
                "unless on (run_id, rank) (max by (run_id, rank) (count_over_time(x[1m])) "
                "> on (run_id, rank) last_over_time(training_steps_total[4m]) - 49)"
            ),
        ),
    ],
)
def test_an_expression_says_which_runs_it_is_about(fields: dict[str, Any], gates: str) -> None:
    """Runs that are running, those that are chosen, without those that are left out, after their warm-up."""
    assert whole(**fields) == f"avg_over_time(x[1m]) > 1{gates}"


def test_a_gpu_is_joined_to_its_run() -> None:
    """By uuid, and the instance of a divided GPU; what a trainer logs has its run already."""
    gate = f'{ON} run_status{{status="running"}} == 1'
    number = "max by (uuid, gpu_instance_id) (avg_over_time(x[1m]))"
    assert whole(about="gpu") == f"(run_gpu_info * on (uuid, gpu_instance_id) group_left () {number}) > 1 {gate}"


def test_every_alert_is_a_rule() -> None:
    """Each severity of each alert of the catalog is one rule, with its texts."""
    rules = {(rule["alert"], rule["labels"]["severity"]): rule for rule in RULES}
    assert len(rules) == len(RULES) == len(CATALOG.alerts)
    for alert in CATALOG.alerts:
        rule = rules[alert.name, alert.severity]
        notes = rule["annotations"]
        assert list(notes) == ["summary", "description", "action", "watches", "runbook_url"]
        assert notes["action"] == wrap(alert.action)
        assert notes["runbook_url"] == f"{CATALOG.runbook_url}#{alert.name.lower()}"
        assert rule.get("for", "") == alert.lasting


def test_rules_that_look_far_back_are_evaluated_less_often() -> None:
    """A rule with an interval of its own stands in a group with that interval, all others in one without."""
    groups = yaml.safe_load(alert_rules(CATALOG))["groups"]
    intervals = {rule["alert"]: group.get("interval", "") for group in groups for rule in group["rules"]}
    assert intervals == {alert.name: alert.interval for alert in CATALOG.alerts}
    assert intervals["EntropyExplosion"] == "15s"
    assert intervals["KLDivergenceHigh"] == ""


def test_every_rule_about_runs_is_gated_by_their_status() -> None:
    """No rule looks at a run that is over, except those that tell of its end."""
    ends = {rule["alert"] for rule in RULES if 'run_status{status="running"} == 1' not in rule["expr"]}
    assert ends == {alert.name for alert in CATALOG.alerts if alert.about in ("any run", "host", "exporter")}
    assert {name for name in ends if name.startswith("Run")} == {"RunCrashed", "RunFailed"}


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_every_runbook_link_has_its_section() -> None:
    """The anchor of each rule's runbook_url is a heading of the runbook, which says what to do."""
    page = runbook(CATALOG)
    anchors = [slug(title) for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)]
    for rule in RULES:
        base, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert base == CATALOG.runbook_url
        assert anchors.count(anchor) == 1
    for alert in CATALOG.alerts:
        section = page.partition(f"### {alert.name}, {alert.severity}\n")[2].partition("\n### ")[0]
        for part in (condition(alert, CATALOG), wrap(alert.action)):
            assert part in section


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"above": 0.05, "up_to": 0.1}, "The median of the recent updates is above 0.05 and at most 0.1"),
        ({"below": 0.5, "down_to": 0.0}, "The median of the recent updates is below 0.5 and at least 0"),
        ({"above": 1.0, "absolute": True}, "The median of the recent updates without its sign is above 1"),
        ({"above": 6.0, "value": "worst"}, "One recent update, unlike most of the others, is above 6"),
        ({"above": 6.0, "against": "spread"}, "lies 6 standard deviations above the mean of the time before"),
        ({"below": -2.5, "against": "spread"}, "lies 2.5 standard deviations below the mean of the time before"),
        (
            {"below": -0.7, "down_to": -0.9, "against": "highest"},
            (
                "The change of the median of the recent updates against the highest of the time before is below -70% "
                "and at least -90%"
            ),
        ),
        ({"above": 0.9, "value": "mean", "per": "y"}, "The mean over the window divided by `y` is above 0.9"),
    ],
)
def test_the_runbook_says_in_words_when_an_alert_fires(fields: dict[str, Any], words: str) -> None:
    """Nobody has to read PromQL at three in the morning."""
    alert = replace(an_alert(**fields), group="g")
    page = runbook(Catalog({"g": Group("G")}, {"x": a_metric(), "y": a_metric(name="y")}, (alert,)))
    assert f"{words}, while the run is running." in page.partition("**Fires when.** ")[2]


def test_groups_without_alerts_are_left_out() -> None:
    """A rule file has no empty group."""
    groups = yaml.safe_load(alert_rules(CATALOG))["groups"]
    assert all(group["rules"] for group in groups)
    names = list(dict.fromkeys(group["name"].partition(",")[0] for group in groups))
    assert names == [name for name in CATALOG.groups if any(alert.group == name for alert in CATALOG.alerts)]


def test_a_warm_up_is_told_in_the_runbook() -> None:
    """Where a rule waits for a number of steps, people are told."""
    page = runbook(CATALOG)
    assert page.count("has logged 50 steps") == sum(alert.warm_up == 50 for alert in CATALOG.alerts) > 0


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


def test_the_alerts_of_a_metric_are_links_into_the_runbook() -> None:
    """Each alert on the metric stands once, whatever its severities, with the heading that the runbook has for it."""
    alerts = (an_alert(name="TooHigh", above=0.1), an_alert(name="TooHigh", above=0.5), an_alert(name="Jumps"))
    other = replace(an_alert(name="Other"), condition=Condition("y"))
    catalog = Catalog({"g": Group("G")}, {"x": a_metric()}, (*alerts, other))
    links = "[TooHigh](../alerts/RUNBOOK.md#toohigh), [Jumps](../alerts/RUNBOOK.md#jumps)"
    assert rows(metric_reference(catalog))[0][-1] == links


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
