"""What the alerts say, as the person reads it who is woken by them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.journals import CATALOG
from tests.support.promtool import (
    CRITICAL,
    INFO,
    PROMTOOLS,
    RULES,
    WARNING,
    Case,
    Scenario,
    find_beside_promtool,
    find_promtool,
    judge_texts,
    rules_of,
)
from tests.support.rule_cases import CASES
from tests.support.servers import require

GPU = {"gpu": "0", "name": "H200", "uuid": "GPU-1"}
HOST = {"run_id": "", "instance": "h:1", "job": "telemetry"}
SAID: dict[tuple[str, str], tuple[dict[str, str], str]] = {
    ("TrainingNonFinite", CRITICAL): (
        {"metric": "training_loss"},
        "training_loss of run r became NaN or infinite by step 60",
    ),
    ("LossSpike", INFO): ({}, "Loss of run r jumped to 2.7 at step 200"),
    ("LossDivergence", WARNING): ({}, "Loss of run r has risen to 3.2 and stays there"),
    ("GradientNormSpike", INFO): ({}, "Gradient norm of run r jumped to 1.7 at step 200"),
    ("GradientNormHigh", WARNING): ({}, "Gradient norm of run r stays at 3"),
    ("Overfitting", WARNING): (
        {},
        "Validation loss of run r rose to -1.8, 44.44% above its best, while the training loss falls",
    ),
    ("KLDivergenceHigh", WARNING): ({"kind": "update"}, "KL (update) of run r is 0.0501, above 0.05"),
    ("KLDivergenceHigh", CRITICAL): ({"kind": "update"}, "KL (update) of run r is 0.1001, above 0.1"),
    ("KLDivergenceSpike", INFO): ({"kind": "update"}, "KL (update) of run r was 0.3 at step 20, above 0.05, once"),
    ("TrainInferenceMismatch", WARNING): (
        {"kind": "inference"},
        "KL between trainer and inference engine of run r is 0.11, above 0.1",
    ),
    ("TrainInferenceMismatchGrowing", WARNING): (
        {"kind": "inference"},
        "KL between trainer and inference engine of run r grew to 0.009, by 350%",
    ),
    ("TrainInferenceProbabilityError", INFO): (
        {},
        "Probabilities of trainer and engine of run r differ by the factor 1.0201, above 1.02",
    ),
    ("TrainInferenceProbabilityError", WARNING): (
        {},
        "Probabilities of trainer and engine of run r differ by the factor 1.051, above 1.05",
    ),
    ("ReferenceKLRising", INFO): (
        {"kind": "reference"},
        "KL to the reference of run r rose to 0.02, by 100%; reward did not",
    ),
    ("ClipFractionHigh", WARNING): ({}, "50.01% of the samples of run r are clipped, above 50%"),
    ("ClipFractionSpike", INFO): ({}, "90% of the samples of run r were clipped at step 20, above 50%, once"),
    ("ClipFractionLow", INFO): ({}, "Only 9.99% of the samples of run r are clipped, below 10%"),
    ("ExplainedVarianceLow", WARNING): ({}, "Explained variance of run r is 0.4999, below 0.5"),
    ("ExplainedVarianceLow", CRITICAL): ({}, "Explained variance of run r is -0.0001, below 0"),
    ("ExplainedVarianceDip", INFO): ({}, "Explained variance of run r fell to -5 at step 20, below 0, once"),
    ("EntropyCollapse", WARNING): ({}, "Entropy of run r fell to 0.13 within minutes: -81.16%, below -80%"),
    ("EntropyCollapse", CRITICAL): ({}, "Entropy of run r fell to 0.05 within minutes: -92.75%, below -90%"),
    ("EntropyDropped", WARNING): ({}, "Entropy of run r fell to 0.1: -87.5% against two hours before, below -70%"),
    ("EntropyDropped", CRITICAL): ({}, "Entropy of run r fell to 0.05: -97.5% against two hours before, below -90%"),
    ("EntropyExplosion", WARNING): ({}, "Entropy of run r rose to 1.4 in a short time, by 112.5%, above 100%"),
    ("DeadAdvantages", WARNING): ({}, "95% of the groups of run r have no reward difference, above 90%"),
    ("ZeroRewardVariance", WARNING): ({}, "Reward of run r does not vary"),
    ("ZeroAdvantageVariance", WARNING): ({}, "Advantages of run r are all the same"),
    ("ResponsesTruncated", WARNING): ({}, "51% of the responses of run r are cut at the length limit, above 50%"),
    ("ResponsesTruncated", CRITICAL): ({}, "100% of the responses of run r are cut at the length limit, above 99%"),
    ("ThroughputDropped", INFO): (
        {},
        "Steps per second of run r fell to 0.367: -26.67% against the hour before, below -20%",
    ),
    ("ThroughputDropped", WARNING): (
        {},
        "Steps per second of run r fell to 0.167: -66.67% against the hour before, below -50%",
    ),
    ("QueueGrowing", WARNING): ({}, "Queue of run r has grown to 60, by 200%"),
    ("DataWaitHigh", INFO): ({}, "Run r waits for data 20% of the time, above 10%"),
    ("DataWaitHigh", WARNING): ({}, "Run r waits for data 60% of the time, above 50%"),
    ("DataWaitTimeHigh", INFO): ({}, "Run r waits for data 20% of the time, above 10%"),
    ("DataWaitTimeHigh", WARNING): ({}, "Run r waits for data 60% of the time, above 50%"),
    ("RankStraggling", INFO): (
        {"rank": "2", "phase": "data"},
        "Rank 2 of run r on node7, GPU 3 holds up the others 7.5% of the time in phase data, above 5%",
    ),
    ("RankStraggling", WARNING): (
        {"rank": "2", "phase": "data"},
        "Rank 2 of run r on node7, GPU 3 holds up the others 50% of the time in phase data, above 20%",
    ),
    ("GPUIdle", WARNING): (GPU, "GPU 0 of run r is 1% busy, below 5% for 15 minutes"),
    ("GPUMemoryNearlyFull", INFO): (GPU, "Memory of GPU 0 of run r is 96% full, above 95.0%"),
    ("GPUMemoryNearlyFull", WARNING): (GPU, "Memory of GPU 0 of run r is 99% full, above 98.5%"),
    ("GPUThrottled", WARNING): (GPU, "GPU 0 (H200) of run r is throttled 100% of the time"),
    ("GPULost", CRITICAL): (GPU, "GPU 0 of run r does not answer any more"),
    ("GPUErrors", WARNING): (GPU, "The driver reported an XID error of GPU 0 of run r"),
    ("HostMemoryLow", WARNING): (HOST, "Only 4% of the memory of h:1 is left, below 5%"),
    ("HostMemoryLow", CRITICAL): (HOST, "Only 1% of the memory of h:1 is left, below 2%"),
    ("ContainerMemoryNearlyFull", WARNING): ({}, "The container of run r uses 96% of its memory, above 95%"),
    ("ContainerMemoryNearlyFull", CRITICAL): ({}, "The container of run r uses 99% of its memory, above 98%"),
    ("ContainerOOMKill", WARNING): ({}, "The kernel killed a process in the container of run r for want of memory"),
    ("DiskNearlyFull", WARNING): ({**HOST, "path": "/runs"}, "Only 4% of /runs on h:1 is free, below 5%"),
    ("DiskNearlyFull", CRITICAL): ({**HOST, "path": "/runs"}, "Only 0.5% of /runs on h:1 is free, below 1%"),
    ("RunStalled", WARNING): ({}, "Run r has made no step for 2m 30s after step 30 on h"),
    ("RunStalled", CRITICAL): ({}, "Run r has made no step for 10m 5s after step 121 on h"),
    ("RankHanging", WARNING): (
        {"rank": "0", "phase": "data"},
        "Rank 0 of run r on node7 has been hanging for 2m 50s after step 7, last in phase data",
    ),
    ("RunSilent", INFO): ({}, "The log of run r has been silent for 10m 0s"),
    ("RunWithoutSteps", WARNING): ({}, "Run r started 31m 0s ago and has made no step yet"),
    ("RunCrashed", CRITICAL): ({"status": "crashed"}, "Run r crashed after step 10 on h"),
    ("RunFailed", WARNING): ({"status": "failed"}, "Run r failed after step 10 on h"),
    ("CheckCritical", CRITICAL): ({"check": "nccl"}, "Check nccl of run r is CRITICAL"),
    ("ErrorEvent", WARNING): (
        {"alert_type": "error", "title": "NCCL timeout"},
        "Run r reported an error: NCCL timeout",
    ),
    ("TelemetryLosingData", WARNING): ({"reason": "disk_full"}, "Run r loses records (disk_full)"),
    ("TelemetryBadLines", INFO): ({}, "2 lines of the journal of run r cannot be read"),
    ("TelemetryBadLines", WARNING): ({}, "50 lines of the journal of run r cannot be read"),
    ("TelemetryBadLogLines", INFO): ({}, "2 lines of the log of run r cannot be read"),
    ("TelemetryBadLogLines", WARNING): ({}, "50 lines of the log of run r cannot be read"),
    ("TelemetrySeriesRefused", WARNING): ({"reason": "run"}, "Metrics of run r are refused: too many series"),
    ("TelemetryKeysCollide", INFO): ({}, "Two keys of run r mean the same series"),
    ("TelemetryReadErrors", WARNING): ({"run_id": "", "instance": "h:1"}, "The exporter h:1 cannot read a journal"),
    ("TelemetryExporterDown", CRITICAL): (HOST, "The exporter h:1 does not answer"),
    ("TelemetryScraperAbsent", WARNING): (
        {"run_id": "", "instance": "h:1", "scraper": "other"},
        "other has stopped scraping h:1",
    ),
}
"""Labels beside run and severity, and the summary, in the first case in which the severity fires.

Steps count from 0 there, one a value.
"""


def case_of(alert: str, severity: str) -> tuple[Case, int]:
    """The first case in which a severity fires, and when."""
    return next((case, at) for case in CASES[alert] for at, fires in case.fires.items() if fires == severity)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_says_what_is_wrong_where_and_by_how_much(tmp_path: Path, alert: str) -> None:
    """The summary names the run or machine, the value and the bound, and of a single update the step."""
    for (name, severity), (labels, summary) in SAID.items():
        if name == alert:
            case, at = case_of(alert, severity)
            own = {label: value for label, value in {"run_id": "r", **labels}.items() if value}
            judge_texts(require("promtool"), tmp_path, alert, case, at, {**own, "severity": severity}, summary)


def summaries(alert: str) -> str:
    """The rules of one alert with no text but the summary."""
    groups = yaml.safe_load(rules_of(alert))["groups"]
    for rule in groups[0]["rules"]:
        rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    return yaml.safe_dump({"groups": groups}, width=1000)


def said(severity: str, labels: Mapping[str, str], summary: str) -> dict[str, Any]:
    """An alert of run r as promtool expects it."""
    return {"exp_labels": {"run_id": "r", "severity": severity, **labels}, "exp_annotations": {"summary": summary}}


@pytest.mark.parametrize("name", [*PROMTOOLS, "vmalert-tool"])
def test_each_rank_is_told_apart_and_has_its_own_value(name: str, tmp_path: Path) -> None:
    """Where a series has a rank the summary ends with it, and the value that is looked up is that rank's."""
    scenario = Scenario(rules=summaries("EntropyCollapse"))
    for labels, end in (({}, 0.04), ({"rank": "1"}, 0.05), ({"rank": "2"}, 0.03)):
        scenario.add("run_status", "1+0x80", run_id="r", status="running", **labels)
        scenario.add("rl_entropy", f"1x40 {end}x40", run_id="r", **labels)
    alerts = [
        said(CRITICAL, {}, "Entropy of run r fell to 0.04 within minutes: -96%, below -90%"),
        said(CRITICAL, {"rank": "1"}, "Entropy of run r fell to 0.05 within minutes: -95%, below -90% (rank 1)"),
        said(CRITICAL, {"rank": "2"}, "Entropy of run r fell to 0.03 within minutes: -97%, below -90% (rank 2)"),
    ]
    test = {"eval_time": "300s", "alertname": "EntropyCollapse", "exp_alerts": alerts}
    if name == "vmalert-tool":
        scenario.check_texts_with_vmalert(find_beside_promtool(name), tmp_path, test)
    else:
        scenario.check(find_promtool(name), tmp_path, alert_rule_test=[test])


def test_every_alert_about_a_run_says_which_rank() -> None:
    """Of what each rank may have for itself 64 alerts must not read the same; none says it twice."""
    texts = {rule["alert"]: rule["annotations"]["summary"] for rule in rules()}
    for alert in CATALOG.alerts:
        is_of_run = alert.about in ("run", "rank", "any run", "gpu")
        is_named, is_added = "$labels.rank" in texts[alert.name], texts[alert.name].endswith(" (rank {{ . }}){{ end }}")
        assert is_named + is_added == is_of_run, alert.name


def test_a_change_is_told_with_the_value_that_it_led_to() -> None:
    """A percentage alone does not say how bad it is: rules that compare with the time before look up the value."""
    for rule in rules():
        (alert, *_) = (one for one in CATALOG.alerts if one.name == rule["alert"])
        if alert.condition.against in ("before", "highest"):
            assert "to {{ .Value | printf `%.3g` }}" in rule["annotations"]["summary"], alert.name


@pytest.mark.parametrize("name", PROMTOOLS)
def test_a_gpu_is_told_with_its_host(name: str, tmp_path: Path) -> None:
    """Every host has a GPU 0, so the alert says on which host it is, that of its rank."""
    scenario = Scenario(60, summaries("GPULost"))
    for rank, host in (("", "node1"), ("8", "node2")):
        labels = {"run_id": "r", **({"rank": rank} if rank else {})}
        scenario.add("run_status", "1+0x80", status="running", **labels)
        scenario.add("run_info", "1+0x80", host=host, **labels)
        scenario.add("run_gpu_info", "1+0x80", gpu="0", uuid=f"GPU-{host}", **labels)
        scenario.add("gpu_up", "0+0x80", uuid=f"GPU-{host}", instance=host)
    texts = {
        ("node1",): "GPU 0 of run r on node1 does not answer any more",
        ("node2", "8"): "GPU 0 of run r on node2 does not answer any more (rank 8)",
    }
    alerts = [
        said(CRITICAL, {"gpu": "0", "uuid": f"GPU-{host}", **({"rank": rank[0]} if rank else {})}, text)
        for (host, *rank), text in texts.items()
    ]
    scenario.check(
        find_promtool(name),
        tmp_path,
        alert_rule_test=[{"eval_time": "10m", "alertname": "GPULost", "exp_alerts": alerts}],
    )


def test_every_severity_of_every_alert_is_shown() -> None:
    """The table above is complete."""
    assert SAID.keys() == {(alert.name, alert.severity) for alert in CATALOG.alerts}


def rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    return [rule for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]


def test_every_rule_says_what_it_means_what_to_do_and_what_it_watches() -> None:
    """Beside the summary there are sentences that explain and advise, the quantity, and a link."""
    for rule in rules():
        notes = rule["annotations"]
        assert notes.keys() == {"summary", "description", "action", "watches", "runbook_url"}
        assert notes["description"].endswith(".")
        assert notes["action"].endswith((".", "?"))
        assert not notes["summary"].endswith(".")
        assert "{bound" not in str(notes)


def test_a_rule_on_the_kl_says_which_one() -> None:
    """Of a KL the kind is told in what is watched, and in the summary."""
    for rule in rules():
        if rule["annotations"]["watches"].startswith("rl_kl_divergence"):
            assert "kind=~" in rule["annotations"]["watches"]
            assert any(word in rule["annotations"]["summary"] for word in ("$labels.kind", "inference", "reference"))
