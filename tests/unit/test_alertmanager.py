"""The shipped Alertmanager configuration: whom it tells, what it leaves out, and how that reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.demo.receiver import Receiver
from tests.support.journals import CATALOG
from tests.support.notification_sinks import Mail, mail_server, slack_server
from tests.support.promtool import RULES
from tests.support.servers import REPOSITORY, Server, free_port, get, require, running, wait_until

SHIPPED = REPOSITORY / "alerts/alertmanager.yml"
RULE = {
    (rule["alert"], rule["labels"]["severity"]): rule["annotations"]
    for group in yaml.safe_load(RULES)["groups"]
    for rule in group["rules"]
}


def with_examples(text: str) -> str:
    """The configuration as it is when somebody has taken the comment signs off."""
    return text.replace("# Example: ", "")


@pytest.fixture(params=["amtool", "PROMTOOL_NEXT"])
def amtool(request: pytest.FixtureRequest) -> str:
    """The amtool of the PATH, and the one beside the next promtool."""
    if request.param == "amtool":
        return require("amtool")
    path = Path(os.environ.get("PROMTOOL_NEXT", "")).with_name("amtool") if os.environ.get("PROMTOOL_NEXT") else None
    if path is None or not path.is_file():
        pytest.skip("PROMTOOL_NEXT has no amtool beside it")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped folder, with the configuration as it is and with its examples."""
    shutil.copytree(SHIPPED.parent, tmp_path / "alerts")
    (tmp_path / "alerts/examples.yml").write_text(with_examples(SHIPPED.read_text()))
    return tmp_path / "alerts"


@pytest.mark.parametrize("name", ["alertmanager.yml", "examples.yml"])
def test_the_configuration_is_valid(amtool: str, folder: Path, name: str) -> None:
    """Also with its examples, and its templates are found."""
    answer = subprocess.run([amtool, "check-config", folder / name], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert " - 1 templates" in answer.stdout


@pytest.mark.parametrize(
    ("name", "labels", "receivers"),
    [
        ("alertmanager.yml", "severity=critical", "webhook"),
        ("alertmanager.yml", "severity=warning team=vision", "webhook"),
        ("alertmanager.yml", "severity=info", "nobody"),
        ("examples.yml", "severity=info team=vision", "nobody"),
        ("examples.yml", "severity=warning", "webhook"),
        ("examples.yml", "severity=critical", "mail,webhook"),
        ("examples.yml", "severity=warning team=vision", "slack"),
        ("examples.yml", "severity=critical team=vision", "mail,slack"),
        ("examples.yml", "severity=critical team=visions", "mail,webhook"),
    ],
)
def test_an_alert_goes_to_whom_it_concerns(amtool: str, folder: Path, name: str, labels: str, receivers: str) -> None:
    """Info goes to nobody, everything else to the webhook; in the examples by severity and by team."""
    labels += " alertname=KLDivergenceHigh run_id=r"
    command = [amtool, "config", "routes", "test", f"--config.file={folder / name}", *labels.split()]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == receivers, answer.stderr


def test_rules_that_are_inhibited_exist() -> None:
    """Each name in the inhibition rules is an alert of the catalog."""
    names = set(re.findall(r"\b[A-Z][A-Za-z]+\b", str(yaml.safe_load(SHIPPED.read_text())["inhibit_rules"])))
    assert len(names) > 5
    assert names <= {alert.name for alert in CATALOG.alerts}


# ------------------------------------------------------------------ delivered by a real Alertmanager


class Stack:
    """Alertmanager with the shipped configuration and its examples, and everything it delivers to."""

    def __init__(self, server: Server, url: str, receiver: Receiver, slack: list[Any], mails: list[Mail]) -> None:
        self.server = server
        self.url = url
        self.receiver = receiver
        self.slack = slack
        self.mails = mails

    def post(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """Alerts as Prometheus sends them."""
        headers = {"Content-Type": "application/json"}
        data = json.dumps(list(alerts)).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/api/v2/alerts", data, headers), timeout=10).close()

    @property
    def told(self) -> list[tuple[str, str, str, str]]:
        """Status, name, severity and run of what came to the webhook."""
        return [(n.status, n.alertname, n.severity, n.run_id) for n in self.receiver.notifications]

    @property
    def inhibited(self) -> list[tuple[str, str]]:
        """Name and run or host of the alerts that Alertmanager holds back because of another."""
        return sorted((item["alertname"], item.get("run_id") or item["instance"]) for item in self.held_back)

    @property
    def held_back(self) -> list[dict[str, str]]:
        """The labels of those alerts."""
        alerts = json.loads(get(f"{self.url}/api/v2/alerts"))
        return [item["labels"] for item in alerts if item["status"]["inhibitedBy"]]


@pytest.fixture
def stack(folder: Path) -> Iterator[Stack]:
    """The processes; waiting times are shortened, for they are not the subject."""
    address = f"127.0.0.1:{free_port()}"
    receiver = Receiver()
    with slack_server() as (slack_url, messages), mail_server() as (mail_address, mails):
        text = with_examples(SHIPPED.read_text())
        for old, new in {
            "http://127.0.0.1:9465/alerts": receiver.url,
            "api_url_file: /etc/alertmanager/slack-url": f"api_url: {slack_url}",
            "smarthost: mail.example.org:587": f"smarthost: {mail_address}\n        require_tls: false",
            "group_wait: 2s": "group_wait: 1s",
            "group_interval: 10s": "group_interval: 1s",
        }.items():
            assert old in text
            text = text.replace(old, new)
        (folder / "alertmanager.yml").write_text(text)
        command = [
            require("prometheus-alertmanager"),
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ]
        url = f"http://{address}"
        server = Server(command, folder / "alertmanager.log", lambda: get(f"{url}/-/ready"))
        with running(server):
            yield Stack(server, url, receiver, messages, mails)
    receiver.close()


def alert(name: str, severity: str, run: str = "ppo-1", *, value: str = "0.2103", **labels: str) -> dict[str, Any]:
    """A firing alert with the texts of its rule."""
    notes = dict(RULE[name, severity])
    for old, new in {
        "{{ $labels.run_id }}": run,
        "{{ $labels.kind }}": "update",
        "{{ $labels.metric }}": "training_loss",
        '{{ $value | printf "%.4g" }}': value,
        '{{ with (index $labels "rank") }} (rank {{ . }}){{ end }}': "",
    }.items():
        notes = {key: text.replace(old, new) for key, text in notes.items()}
    return {
        "labels": {"alertname": name, "severity": severity, "run_id": run, **labels},
        "annotations": notes,
        "startsAt": "2026-01-02T03:12:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=x",
    }


def over(alerts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same alerts, resolved."""
    return [{**item, "endsAt": datetime.now(timezone.utc).isoformat()} for item in alerts]


def test_a_critical_alert_silences_its_own_warning_only(stack: Stack) -> None:
    """Of one name and run only the critical one is told; other runs' and other names' warnings are."""
    stack.post([alert("KLDivergenceHigh", "critical"), alert("TrainingNonFinite", "critical", metric="training_loss")])
    wait_until(lambda: len(stack.told) >= 2, 30, "the critical notifications")
    stack.post([
        alert("KLDivergenceHigh", "warning"),
        alert("KLDivergenceHigh", "warning", "ppo-2"),
        alert("ClipFractionHigh", "warning"),
        alert("EntropyCollapse", "warning"),
        alert("EntropyCollapse", "warning", "ppo-2"),
        alert("ClipFractionLow", "info"),
    ])  # fmt: skip
    expected = {
        ("firing", "KLDivergenceHigh", "critical", "ppo-1"),
        ("firing", "TrainingNonFinite", "critical", "ppo-1"),
        ("firing", "KLDivergenceHigh", "warning", "ppo-2"),
        ("firing", "ClipFractionHigh", "warning", "ppo-1"),
        ("firing", "EntropyCollapse", "warning", "ppo-2"),
    }
    wait_until(lambda: expected <= set(stack.told), 30, "the other notifications")
    assert set(stack.told) == expected
    assert stack.inhibited == [("EntropyCollapse", "ppo-1"), ("KLDivergenceHigh", "ppo-1")]


SERIES: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("KLDivergenceHigh", {"kind": "update"}, {"kind": "reference"}),
    ("RunStalled", {"rank": "3"}, {"rank": "5"}),
    ("RunStalled", {}, {"rank": "5"}),
    ("GPUIdle", {"uuid": "GPU-1", "gpu_instance_id": "1"}, {"uuid": "GPU-1", "gpu_instance_id": "2"}),
    ("RankStraggling", {"rank": "1", "phase": "forward"}, {"rank": "1", "phase": "backward"}),
    ("CheckCritical", {"check": "nccl"}, {"check": "reward"}),
    ("TrainingNonFinite", {"metric": "training_loss"}, {"metric": "training_grad_norm"}),
    ("GPUThrottled", {"uuid": "GPU-1", "reason": "hw_slowdown"}, {"uuid": "GPU-1", "reason": "hw_power_brake"}),
]
"""Alerts of one name and run, by the labels that tell two of its series apart."""


def test_a_critical_alert_silences_the_warning_of_its_own_series_only(stack: Stack) -> None:
    """Of two series of a run, the warning of the one that is critical is held back, and that of the other is told."""
    notes = {"summary": "s", "description": "d", "action": "a", "watches": "w"}
    matters = [(name, f"r{number}", *labels) for number, (name, *labels) in enumerate(SERIES)]

    def one(name: str, severity: str, run: str, labels: Mapping[str, str]) -> dict[str, Any]:
        return {"labels": {"alertname": name, "severity": severity, "run_id": run, **labels}, "annotations": notes}

    stack.post([one(name, "critical", run, bad) for name, run, bad, _ in matters])
    wait_until(lambda: len(stack.told) == len(SERIES), 30, "the critical notifications")
    stack.post([one(name, "warning", run, labels) for name, run, *both in matters for labels in both])
    wait_until(lambda: len(stack.held_back) >= len(SERIES), 30, "Alertmanager's judgement")
    held_back = sorted(stack.held_back, key=lambda labels: labels["run_id"])
    assert held_back == [one(name, "warning", run, bad)["labels"] for name, run, bad, _ in matters]


def test_every_label_that_tells_series_of_a_rule_apart_is_compared() -> None:
    """Whatever metric a rule, a user's too, watches with a label of the catalog's rules, series are not mixed up."""
    equal = yaml.safe_load(SHIPPED.read_text())["inhibit_rules"][0]["equal"]
    watched = [CATALOG.metrics[alert.condition.metric] for alert in CATALOG.alerts if alert.condition.metric]
    same_as_uuid = {"gpu", "name"}
    assert {label for metric in watched for label in metric.labels} - same_as_uuid <= set(equal)


def test_what_follows_from_a_crash_is_not_told(stack: Stack) -> None:
    """A crashed run's slow steps and idle GPU are no news, those of another run are."""
    stack.post([alert("RunCrashed", "critical", status="crashed")])
    wait_until(lambda: stack.told, 30, "the crash")
    stack.post([alert(name, "warning", run) for name in ("ThroughputDropped", "GPUIdle") for run in ("ppo-1", "ppo-2")])
    told = {("firing", name, "warning", "ppo-2") for name in ("ThroughputDropped", "GPUIdle")}
    wait_until(lambda: told <= set(stack.told), 30, "the other run's")
    assert set(stack.told) == told | {("firing", "RunCrashed", "critical", "ppo-1")}
    assert stack.inhibited == [("GPUIdle", "ppo-1"), ("ThroughputDropped", "ppo-1")]


def test_disks_of_two_hosts_are_two_matters(stack: Stack) -> None:
    """A critical alert without a run silences the warning of its own machine only."""
    stack.post([alert("DiskNearlyFull", "critical", "", instance="a:1", path="/runs")])
    wait_until(lambda: stack.told, 30, "the full disk")
    stack.post([alert("DiskNearlyFull", "warning", "", instance=host, path="/runs") for host in ("a:1", "b:1")])
    wait_until(lambda: ("firing", "DiskNearlyFull", "warning", "") in stack.told, 30, "the other host's")
    assert stack.inhibited == [("DiskNearlyFull", "a:1")]


def test_slack_and_mail_read_well_at_three_in_the_morning(stack: Stack) -> None:
    """What, which run, value, meaning, what to do, and a link; at the end that it is over. One message a run."""
    alerts = [alert("KLDivergenceHigh", "critical", kind=kind, team="vision") for kind in ("update", "reference")]
    stack.post(alerts)
    wait_until(lambda: stack.slack and stack.mails, 30, "a message")
    stack.post(over(alerts))
    wait_until(lambda: len(stack.slack) > 1 and len(stack.mails) > 1, 30, "the end")
    (first,), (last,) = (message["attachments"] for message in (stack.slack[0], stack.slack[-1]))
    print(first["title"], first["text"], last["title"], last["text"], *stack.mails, sep="\n")
    link = "alerts/RUNBOOK.md#kldivergencehigh"
    assert first["title"] == stack.mails[0].subject == "CRITICAL: KLDivergenceHigh, run ppo-1"
    assert first["color"] == "danger"
    assert first["title_link"].endswith(link)
    for text in (first["text"], stack.mails[0].text):
        assert "KL (update) of run ppo-1 is 0.2103, above 0.1" in text
        for part in ("performance usually collapses", "Stop the run or lower the step size now", link, "03:12"):
            assert text.replace("\r\n", "\n").count(part) in (1, 2)
        assert "<no value>" not in text
        assert "&#" not in text
    assert first["text"].count("*What to do:*") == 1
    assert last["title"] == stack.mails[-1].subject == "RESOLVED: KLDivergenceHigh, run ppo-1"
    assert last["color"] == "good"
    assert "~KL (update) of run ppo-1 is 0.2103, above 0.1~" in last["text"]
    assert "Over: KL (update) of run ppo-1" in stack.mails[-1].text


def test_one_message_tells_a_warning_and_a_critical_alert_of_a_run_apart(stack: Stack) -> None:
    """The title is that of the worse one, and each line says its severity."""
    stack.post([
        alert("KLDivergenceHigh", "warning", kind="reference", team="vision", value="0.06"),
        alert("KLDivergenceHigh", "critical", kind="update", team="vision"),
    ])  # fmt: skip
    wait_until(lambda: stack.slack, 30, "a message")
    (message,) = stack.slack[0]["attachments"]
    assert (message["title"], message["color"]) == ("CRITICAL: KLDivergenceHigh, run ppo-1", "danger")
    assert "*warning: KL (update) of run ppo-1 is 0.06, above 0.05*" in message["text"]
    assert "*critical: KL (update) of run ppo-1 is 0.2103, above 0.1*" in message["text"]
    assert "Stop the run or lower the step size now" in message["text"]
    assert "Watch reward and entropy" not in message["text"]


# ------------------------------------------------------------------ rendered by amtool


def rendered(amtool: str, folder: Path, name: str, alerts: Iterable[Mapping[str, Any]]) -> str:
    """A template of the shipped file with a notification of these alerts, all of one name and run."""
    content = [{"status": "resolved" if "endsAt" in item else "firing", **item} for item in alerts]
    severities = {item["labels"]["severity"] for item in content}
    data = {
        "status": "firing" if any(item["status"] == "firing" for item in content) else "resolved",
        "alerts": content,
        "groupLabels": {"alertname": content[0]["labels"]["alertname"], "run_id": "ppo-1"},
        "commonLabels": {"severity": severities.pop()} if len(severities) == 1 else {},
    }
    (folder / "data.json").write_text(json.dumps(data))
    template = f'{{{{ template "telemetry.{name}" . }}}}'
    command = [amtool, "template", "render", "--template.glob", folder / "notification.tmpl"]
    command += ["--template.text", template, "--template.data", folder / "data.json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    print(answer.stdout)
    return answer.stdout.strip()


def of_severities(*severities: str) -> list[dict[str, Any]]:
    """Alerts of one name and run, with these severities."""
    names = {"info": "DataWaitHigh", "warning": "KLDivergenceHigh", "critical": "KLDivergenceHigh"}
    return [alert(names[severity], severity) for severity in severities]


@pytest.mark.parametrize(
    ("severities", "worst", "color"),
    [
        (("warning", "critical"), "critical", "danger"),
        (("critical", "warning"), "critical", "danger"),
        (("warning", "warning"), "warning", "warning"),
        (("info", "warning", "info"), "warning", "warning"),
        (("info", "critical", "warning", "info"), "critical", "danger"),
        (("info",), "info", "warning"),
    ],
)
def test_a_notification_is_as_bad_as_the_worst_of_its_alerts(
    amtool: str, folder: Path, severities: tuple[str, ...], worst: str, color: str
) -> None:
    """Title, colour, meaning and advice are those of the worst severity that fires, wherever it stands."""
    alerts = of_severities(*severities)
    assert rendered(amtool, folder, "title", alerts).startswith(f"{worst.upper()}: ")
    assert rendered(amtool, folder, "color", alerts) == color
    said = next(item["annotations"] for item in alerts if item["labels"]["severity"] == worst)
    for name in ("slack", "mail"):
        text = rendered(amtool, folder, name, alerts)
        assert text.count(said["action"]) == text.count(said["description"]) == 1
        assert ("critical: KL" in text) == (len(set(severities)) > 1 and worst == "critical")


def test_what_is_over_makes_a_notification_no_worse(amtool: str, folder: Path) -> None:
    """A critical alert that has ended beside a warning that fires leaves a warning; the end of both is an end."""
    warning, critical = of_severities("warning", "critical")
    assert rendered(amtool, folder, "title", [*over([critical]), warning]).startswith("WARNING: ")
    assert rendered(amtool, folder, "color", [*over([critical]), warning]) == "warning"
    assert rendered(amtool, folder, "title", over([critical, warning])).startswith("RESOLVED: ")
    assert rendered(amtool, folder, "color", over([critical, warning])) == "good"
    assert rendered(amtool, folder, "slack", over([critical])).endswith("It is over.")


@pytest.mark.parametrize("name", ["slack", "mail"])
def test_a_notification_of_many_ranks_stays_readable(amtool: str, folder: Path, name: str) -> None:
    """Of 64 alerts ten are listed and all are counted, and the advice follows; so it is with those that are over."""
    alerts = [alert("KLDivergenceHigh", "warning", value=f"0.0{rank}") for rank in range(64)]
    text = rendered(amtool, folder, name, alerts)
    assert text.count("KL (update) of run ppo-1") == 10
    assert "and so on, 64 in all" in text
    text = rendered(amtool, folder, name, [*over(alerts[:11]), *alerts[:2]])
    assert text.count("KL (update) of run ppo-1") == 2 + 10
    assert "and so on, 11 are over" in text
    assert "in all" not in text


@pytest.mark.parametrize("name", ["slack", "mail"])
def test_without_a_runbook_there_is_no_link_to_one(amtool: str, folder: Path, name: str) -> None:
    """Rules whose catalog has an empty ``runbook_url`` have no such annotation, and nothing points nowhere."""
    (one,) = of_severities("critical")
    assert "unbook" in rendered(amtool, folder, name, [one])
    del one["annotations"]["runbook_url"]
    text = rendered(amtool, folder, name, [one])
    assert "unbook" not in text
    assert "<|" not in text
    assert "http://prometheus:9090/graph" in text
