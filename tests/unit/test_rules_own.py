"""A user's own catalog: other thresholds for all runs or some, silences, more rules; and clear errors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from exporter.catalog import Alert, load_catalog
from exporter.cli import main
from exporter.errors import ConfigError
from exporter.generate.alerts import alert_rules
from exporter.generate.alerts.numbers import quoted
from tests.support.journals import CATALOG
from tests.support.promtool import CRITICAL, PROMTOOLS, WARNING, Scenario, find_promtool, firing
from tests.support.servers import REPOSITORY

OWN = """
thresholds:
  - {alert: KLDivergenceHigh, warning: 0.08}
  - {alert: KLDivergenceHigh, runs: {experiment: bold-.*}, warning: 0.3, critical: 0.9}
  - {alert: KLDivergenceHigh, runs: {experiment: bold-2}, critical: 2}
silences:
  - {runs: {run_id: "debug-.*"}}
  - {alert: ClipFractionHigh, runs: {user_id: alice}}
  - {alert: ExplainedVarianceLow, severity: warning}
metrics:
  rl_toxicity_ratio:
    type: gauge
    group: rl
    help: Share of the responses that a classifier calls toxic.
    aliases: [{keys: [safety/toxic]}]
rules:
  Toxic:
    metric: rl_toxicity_ratio
    above: {warning: 0.01, critical: 0.1}
    summary: "{{ $value | humanizePercentage }} of the responses of run {{ $labels.run_id }} are toxic"
    meaning: The policy found a reward that it should not have found.
    action: Look at samples.
  GPUIdle:
    lasting: 1h
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The file above."""
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    return path


def alerts(path: Path, name: str) -> list[Alert]:
    """The alerts of that name."""
    return [alert for alert in load_catalog(path).alerts if alert.name == name]


def test_what_a_file_does_not_name_stays_as_it_is(own: Path) -> None:
    """The shipped metrics and rules are all there, those that are changed excepted."""
    catalog = load_catalog(own)
    assert set(catalog.metrics) == {*CATALOG.metrics, "rl_toxicity_ratio"}
    changed = {"KLDivergenceHigh", "GPUIdle", "Toxic", "ClipFractionHigh", "ExplainedVarianceLow"}
    for alert in CATALOG.alerts:
        if alert.name not in changed and alert.about in ("host", "exporter"):
            assert alert in catalog.alerts
    assert {alert.name for alert in catalog.alerts} == {alert.name for alert in CATALOG.alerts} | {"Toxic"}


def test_a_threshold_moves_the_band_of_its_neighbour(own: Path) -> None:
    """Severities still touch, for all runs and for those with thresholds of their own."""
    bands = [(a.severity, a.above, a.up_to, dict(a.runs)) for a in alerts(own, "KLDivergenceHigh")]
    assert bands == [
        ("warning", 0.08, 0.1, {}),
        ("critical", 0.1, None, {}),
        ("warning", 0.3, 0.9, {"experiment": "bold-.*"}),
        ("critical", 0.9, None, {"experiment": "bold-.*"}),
        ("warning", 0.08, 2.0, {"experiment": "bold-2"}),
        ("critical", 2.0, None, {"experiment": "bold-2"}),
    ]


def test_part_of_a_rule_can_be_changed(own: Path) -> None:
    """A rule of a shipped name keeps what the file does not say."""
    (idle,) = alerts(own, "GPUIdle")
    (shipped,) = (alert for alert in CATALOG.alerts if alert.name == "GPUIdle")
    assert (idle.lasting, idle.below, idle.action) == ("1h", shipped.below, shipped.action)


def test_one_severity_can_be_switched_off(own: Path) -> None:
    """Without its warning the critical alert is as it was."""
    assert [(a.severity, a.below) for a in alerts(own, "ExplainedVarianceLow")] == [("critical", 0.0)]


def test_aliases_are_added_to_those_that_are_shipped(tmp_path: Path) -> None:
    """A key of one's own joins the known ones; other fields replace."""
    path = tmp_path / "mine.yaml"
    path.write_text("metrics: {training_loss: {window: 5m, aliases: [{keys: [my/loss]}]}}")
    metric = load_catalog(path).metrics["training_loss"]
    keys = [key for alias in metric.aliases for key in alias.keys]
    assert (metric.window, metric.help) == ("5m", CATALOG.metrics["training_loss"].help)
    assert "my/loss" in keys
    assert "train/loss" in keys


@pytest.mark.parametrize("name", PROMTOOLS)
def test_each_run_has_the_threshold_of_its_labels(name: str, tmp_path: Path, own: Path) -> None:
    """The default leaves out the runs with thresholds of their own; of several that fit, the last one holds."""
    scenario = Scenario(rules=alert_rules(load_catalog(own)))
    bold, bold_2 = {"experiment": "bold-1"}, {"experiment": "bold-2"}
    rule_of = {"bold-1": {"runs": "experiment bold-.*"}, "bold-2": {"runs": "experiment bold-2"}}
    runs = {
        "plain": ({}, 0.09, WARNING), "plain-2": ({}, 0.07, ""), "plain-3": ({"experiment": "x"}, 0.2, CRITICAL),
        "b1": (bold, 0.2, ""), "b1w": (bold, 0.5, WARNING), "b1c": (bold, 1.0, CRITICAL),
        "b2": (bold_2, 1.0, WARNING), "b2c": (bold_2, 3.0, CRITICAL), "debug-1": ({}, 9.0, ""),
        "debug-2": ({"experiment": "bold-1"}, 9.0, ""),
    }  # fmt: skip
    for run, (labels, kl, _) in runs.items():
        scenario.add("run_status", "1+0x60", run_id=run, status="running", **labels)
        scenario.add("rl_kl_divergence", f"{kl}+0x60", run_id=run, kind="update", **labels)
    fires = [
        firing(
            "KLDivergenceHigh",
            severity,
            run_id=run,
            kind="update",
            **labels,
            **rule_of.get(labels.get("experiment"), {}),
        )
        for run, (labels, _, severity) in runs.items()
        if severity
    ]
    scenario.expect([60, 290], fires).check(find_promtool(name), tmp_path)


def bands(path: Path, name: str) -> list[tuple[str, float, float | None, dict[str, str], list[dict[str, str]]]]:
    """Severity, band and runs of each alert of that name."""
    return [(a.severity, a.above, a.up_to, dict(a.runs), list(map(dict, a.excluded))) for a in alerts(path, name)]


def test_what_is_left_of_a_rule_covers_the_values_of_a_silenced_severity(tmp_path: Path) -> None:
    """Without its critical severity the warning has no upper bound, also for the runs with thresholds of their own."""
    path = tmp_path / "mine.yaml"
    path.write_text("""
thresholds: [{alert: KLDivergenceHigh, runs: {experiment: bold}, warning: 0.3, critical: 0.9}]
silences: [{alert: KLDivergenceHigh, severity: critical}, {alert: DataWaitHigh, severity: info}]
""")
    bold = {"experiment": "bold"}
    assert bands(path, "KLDivergenceHigh") == [("warning", 0.05, None, {}, [bold]), ("warning", 0.3, None, bold, [])]
    assert bands(path, "DataWaitHigh") == [("warning", 0.5, None, {}, [])]


def test_a_severity_is_silenced_for_some_runs(tmp_path: Path) -> None:
    """For these the milder severity has no upper bound, with their own threshold where they have one; others stay."""
    path = tmp_path / "mine.yaml"
    path.write_text("""
thresholds: [{alert: KLDivergenceHigh, runs: {experiment: bold}, warning: 0.3, critical: 0.9}]
silences: [{severity: critical, runs: {user_id: a}}, {alert: KLDivergenceHigh, severity: critical, runs: {user_id: b}}]
""")
    a, b, bold = {"user_id": "a"}, {"user_id": "b"}, {"experiment": "bold"}
    assert bands(path, "KLDivergenceHigh") == [
        ("warning", 0.05, 0.1, {}, [bold, a, b]),
        ("critical", 0.1, None, {}, [bold, a, b]),
        ("warning", 0.05, None, b, [bold, a]),
        ("warning", 0.05, None, a, [bold]),
        ("warning", 0.3, 0.9, bold, [a, b]),
        ("critical", 0.9, None, bold, [a, b]),
        ("warning", 0.3, None, {**bold, **b}, [a]),
        ("warning", 0.3, None, {**bold, **a}, []),
    ]
    assert [(c.severity, list(c.excluded)) for c in alerts(path, "RunCrashed")] == [("critical", [a])]
    assert [(c.severity, list(c.excluded)) for c in alerts(path, "GPUIdle")] == [("warning", [])]


@pytest.mark.parametrize("name", PROMTOOLS)
def test_a_run_without_critical_alerts_is_warned_of_the_worst_values(name: str, tmp_path: Path) -> None:
    """Whatever a value beyond the bound, exactly one alert says so."""
    (tmp_path / "mine.yaml").write_text("""
thresholds: [{alert: KLDivergenceHigh, runs: {experiment: bold}, warning: 0.3, critical: 0.9}]
silences:
  - {severity: critical, runs: {user_id: a.*}}
  - {alert: KLDivergenceHigh, severity: critical, runs: {user_id: .*b}}
""")
    bold, scenario = {"experiment": "bold"}, Scenario(rules=alert_rules(load_catalog(tmp_path / "mine.yaml")))
    fires = []
    for user, rule in (("a", "user_id a.*"), ("b", "user_id .*b"), ("ab", "user_id a.*"), ("c", "")):
        for run, kl, tags, more in ((f"{user}-plain", 0.5, {}, ""), (f"{user}-bold", 1.0, bold, "experiment bold")):
            labels = {"run_id": run, "user_id": user, **tags}
            scenario.add("run_status", "1+0x60", status="running", **labels)
            scenario.add("rl_kl_divergence", f"{kl}+0x60", kind="update", **labels)
            runs = ", ".join(filter(None, (more, rule)))
            severity = WARNING if rule else CRITICAL
            fires.append(
                firing("KLDivergenceHigh", severity, kind="update", **labels, **({"runs": runs} if runs else {}))
            )
    scenario.expect([290], fires).check(find_promtool(name), tmp_path)


@pytest.mark.parametrize("name", PROMTOOLS)
def test_silences_leave_out_runs_and_rules(name: str, tmp_path: Path, own: Path) -> None:
    """A silenced run raises nothing, a silenced alert not for those runs, and other runs are as before."""
    scenario = Scenario(rules=alert_rules(load_catalog(own)))
    fires = []
    for run, user in (("a", "alice"), ("b", "bob"), ("debug-1", "bob")):
        scenario.add("run_status", "1+0x60", run_id=run, user_id=user, status="running")
        scenario.add("rl_clip_fraction", "0.9+0x60", run_id=run, user_id=user)
        scenario.add("rl_toxicity_ratio", "0.5+0x60", run_id=run, user_id=user)
        scenario.add("rl_explained_variance", "0.1+0x60", run_id=run, user_id=user)
        scenario.add("training_steps_total", "99+0x60", run_id=run, user_id=user)
        if run != "debug-1":
            fires.append(firing("Toxic", CRITICAL, run_id=run, user_id=user))
    fires.append(firing("ClipFractionHigh", WARNING, run_id="b", user_id="bob"))
    scenario.expect([60, 290], fires).check(find_promtool(name), tmp_path)


READ_OTHERWISE = ["x{,3}", "[[:alpha:]]+"]
UNLIKE_PROMETHEUS = [
    "(?!prod-).*", "a(?=b)b", ".*(?<=x)", "(?<!x)y", r"(a)\1", "(?P<a>x)(?P=a)", r"(a)?(?(1)b|c)", r"x\Z", r"\u0061b",
    "(?#c)x", "(?x) a", "(?s:(?a:x))", "a++", "(?>a)", r"[(\]]x(?!y)", *READ_OTHERWISE,
]  # fmt: skip
"""Regular expressions of Python that Prometheus refuses, or reads otherwise."""
LIKE_PROMETHEUS = [
    "ppo|dqn", r"run-\d+(?:\.\d+)?", "[(?=]+", r"\\Z", r"[^]\]]*", "(?i:PPO).*", "(?P<name>x+)", "x{2,3}?", r"a\+\+",
    "[*+]+", r"\x41",
]  # fmt: skip


@pytest.mark.parametrize("pattern", UNLIKE_PROMETHEUS)
def test_a_pattern_that_prometheus_would_refuse_is_refused(tmp_path: Path, pattern: str) -> None:
    """What only Python has in regular expressions is an error with the pattern, instead of a file without any alert."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"silences": [{"runs": {"run_id": pattern}}]}))
    with pytest.raises(
        ConfigError, match=r"silences, entry 1: runs: run_id: .*which Prometheus' regular expressions lack"
    ):
        load_catalog(path)


@pytest.mark.parametrize("name", PROMTOOLS)
def test_a_pattern_that_is_taken_is_taken_by_prometheus(name: str, tmp_path: Path) -> None:
    """Promtool accepts rules with all of them, and none with those that are refused because Prometheus would."""
    silences = [{"runs": {"run_id": pattern}} for pattern in LIKE_PROMETHEUS]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"silences": silences}))
    assert promtool_complaint(find_promtool(name), tmp_path, alert_rules(load_catalog(tmp_path / "mine.yaml"))) == ""
    for pattern in UNLIKE_PROMETHEUS:
        rules = {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": f"up{{job=~{quoted(pattern)}}}"}]}]}
        is_refused = bool(promtool_complaint(find_promtool(name), tmp_path, yaml.safe_dump(rules)))
        assert is_refused != (pattern in READ_OTHERWISE)


def promtool_complaint(promtool: str, folder: Path, rules: str) -> str:
    """What promtool says of rules that it does not accept."""
    (folder / "rules.yml").write_text(rules)
    command = [promtool, "check", "rules", "rules.yml"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr if answer.returncode else ""


BROKEN = {
    "an unknown part": (
        "alerts: {}",
        "unknown key 'alerts'; known are: groups, metrics, rules, thresholds, silences, runbook_url",
    ),
    "an unknown alert": ("thresholds: [{alert: KLHigh, warning: 1}]", "thresholds, entry 1: unknown alert 'KLHigh'"),
    "no alert": ("thresholds: [{warning: 1}]", "thresholds, entry 1: alert is missing"),
    "a severity that the alert does not have": (
        "thresholds: [{alert: KLDivergenceHigh, info: 1}]",
        "unknown severity of KLDivergenceHigh 'info'; known are: warning",
    ),
    "a bound as text": (
        "thresholds: [{alert: KLDivergenceHigh, warning: high}]",
        "warning: 'high' must be of type float",
    ),
    "a warning beyond critical": (
        "thresholds: [{alert: KLDivergenceHigh, warning: 0.2}]",
        "bounds [0.2, 0.1] must lie further above",
    ),
    "a label that no run has": (
        "thresholds: [{alert: KLDivergenceHigh, runs: {recipe: ppo}, warning: 0.06}]",
        "'recipe' is no label of a run; those are run_id, user_id, rank and the run's tags",
    ),
    "a pattern that is none": (
        "silences: [{runs: {run_id: '('}}]",
        "silences, entry 1: runs: run_id: '(' is no regular expression",
    ),
    "runs of a host": (
        "thresholds: [{alert: DiskNearlyFull, runs: {user_id: a}, warning: 0.2}]",
        "DiskNearlyFull is about the host, so it cannot be set for some runs",
    ),
    "a silence for nothing": ("silences: [{severity: info}]", "silences, entry 1: give an alert, runs, or both"),
    "a runbook that is no address": (
        "runbook_url: alerts/RUNBOOK.md",
        "runbook_url: 'alerts/RUNBOOK.md' must be the address",
    ),
    "a runbook with an anchor": (
        "runbook_url: 'http://w/#x'",
        "'http://w/#x' must be the address of RUNBOOK.md without",
    ),
    "a silence and a threshold of the same label": (
        """
thresholds: [{alert: KLDivergenceHigh, runs: {run_id: a.*}, warning: 0.06}]
silences: [{severity: critical, runs: {run_id: .*b}}]
""",
        "silences, entry 1: runs: run_id '.*b' cannot be joined with that of a threshold, 'a.*'",
    ),
    "a silence of an unknown alert": ("silences: [{alert: Loud}]", "unknown alert 'Loud'"),
    "thresholds as mapping": ("thresholds: {}", "thresholds: {} must be a list"),
    "a key that belongs to another metric": (
        "metrics: {rl_entropy: {aliases: [{keys: [train/loss]}]}}",
        "belongs to both training_loss and rl_entropy",
    ),
    "a rule without a metric": ("rules: {Mine: {above: {info: 1}}}", "rules.Mine: "),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file, the entry, what was given, and what would be right."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_the_command_writes_the_rules_of_one_s_own_catalog(tmp_path: Path, own: Path) -> None:
    """``generate alerts --catalog FILE -o DIR`` writes rules and runbook with what the file changes."""
    arguments = ["generate", "alerts", "--catalog", str(own), "-o", str(tmp_path)]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    rules = (tmp_path / "alerts/training.rules.yml").read_text()
    assert 'run_status{status="running", experiment=~"bold-2"}' in rules
    assert "Toxic" in (tmp_path / "alerts/RUNBOOK.md").read_text()
    own.write_text("silences: [{}]")
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


REFUSED = """
rules:
  Mine:
    group: rl
    watches: rl_reward_mean
    expression: rl_reward_mean <<< 3
    above: {warning: 0}
    summary: "{{ $value | sideways }}"
    meaning: m
    action: a
"""


def test_rules_that_promtool_refuses_are_not_written(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in an expression is an error with promtool's words, and the rules that stood there before stay."""
    rules = tmp_path / "alerts/training.rules.yml"
    arguments = ["generate", "alerts", "--catalog", str(own), "-o", str(tmp_path)]
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    before = rules.read_text()
    for text in (REFUSED, REFUSED.replace("<<<", "<")):
        own.write_text(text)
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert rules.read_text() == before
        error = capsys.readouterr().err
        assert f"{own}: promtool refuses its rules" in error
        assert ("unexpected <op:<>" if "<<<" in text else 'function "sideways" not defined') in error
        assert "alerts/training.rules.yml" in error
    own.write_text(REFUSED.replace("<<<", "<").replace(" | sideways", ""))
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert rules.read_text() != before


def test_without_promtool_it_is_said_that_rules_are_not_checked(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are written, and one line says what was left out; of files without rules nothing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for what, lines in (("reference", 0), ("alerts", 1)):
        with pytest.raises(SystemExit, match="0"):
            main(["generate", what, "--catalog", str(own), "-o", str(tmp_path)])
        assert capsys.readouterr().err.count("\n") == lines
    assert (tmp_path / "alerts/training.rules.yml").is_file()


@pytest.mark.parametrize(
    ("url", "link"), [("https://wiki/R.md", "https://wiki/R.md#gpulost"), ("", None)], ids=["own", "none"]
)
def test_links_lead_to_one_s_own_runbook(tmp_path: Path, url: str, link: str | None) -> None:
    """Each alert links to its section of the runbook at ``runbook_url``, and to nothing where that is empty."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"runbook_url: '{url}'\n")
    groups = yaml.safe_load(alert_rules(load_catalog(path)))["groups"]
    links = {rule["alert"]: rule["annotations"].get("runbook_url") for group in groups for rule in group["rules"]}
    assert links["GPULost"] == link
    assert len(set(links.values())) == (len(links) if url else 1)


@pytest.mark.parametrize("name", PROMTOOLS)
def test_the_documented_file_gives_rules_without_a_complaint(name: str, tmp_path: Path) -> None:
    """The example of docs/operation.md loads, and promtool's lint finds no two rules that it cannot tell apart."""
    text = (REPOSITORY / "docs/operation.md").read_text()
    (tmp_path / "mine.yaml").write_text(text.partition("```yaml\n# mine.yaml\n")[2].partition("```")[0])
    catalog = load_catalog(tmp_path / "mine.yaml")
    assert "SuccessLost" in {alert.name for alert in catalog.alerts}
    (tmp_path / "rules.yml").write_text(alert_rules(catalog))
    command = [find_promtool(name), "check", "rules", "--lint-fatal", "rules.yml"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_help_says_how_to_use_one_s_own_catalog() -> None:
    """The option's help says that the file is added to the shipped catalog."""
    from exporter.cli.generate import generate

    assert "shipped" in CliRunner().invoke(generate, ["--help"]).output
