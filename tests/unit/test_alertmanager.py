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
        alerts = json.loads(get(f"{self.url}/api/v2/alerts"))
        labels = [item["labels"] for item in alerts if item["status"]["inhibitedBy"]]
        return sorted((item["alertname"], item.get("run_id") or item["instance"]) for item in labels)


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
