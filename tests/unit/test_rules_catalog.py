"""The rules of the catalog: decoded strictly, and the shipped ones are those that were asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest

from exporter.catalog import Condition, default_catalog, parse_catalog
from exporter.errors import ConfigError

SHIPPED = default_catalog()
TEXTS = "summary: s, meaning: m, action: a"


def catalog(rule: str, name: str = "A") -> str:
    """A catalog with a gauge m, a counter c, a histogram h and one rule."""
    metrics = "\n".join(f"  {m}: {{type: {kind}, group: g, help: h, labels: [kind]}}"
                        for m, kind in (("m", "gauge"), ("c", "counter"), ("h", "histogram")))  # fmt: skip
    return f"groups: {{g: {{title: t}}, k: {{title: u}}}}\nmetrics:\n{metrics}\nrules:\n  {name}: {rule}\n"


def test_each_severity_is_an_alert_and_ends_where_the_next_begins() -> None:
    """Bounds of one rule make bands that touch and do not overlap, on either side."""
    above = parse_catalog(catalog(f"{{metric: m, above: {{critical: 3, info: 1, warning: 2}}, {TEXTS}}}"), "x").alerts
    assert [(a.severity, a.above, a.up_to) for a in above] == [
        ("info", 1, 2), ("warning", 2, 3), ("critical", 3, None)]  # fmt: skip
    below = parse_catalog(catalog(f"{{metric: m, below: {{warning: 0.5, critical: 0}}, {TEXTS}}}"), "x").alerts
    assert [(a.severity, a.below, a.down_to) for a in below] == [("warning", 0.5, 0), ("critical", 0, None)]


@pytest.mark.parametrize(
    ("condition", "beyond", "within"),
    [
        (Condition("m", above=0.05, up_to=0.1), [0.0501, 0.1], [0.05, 0.1001, -1, float("nan")]),
        (Condition("m", above=0.1), [0.1001, 7, float("inf")], [0.1, float("nan")]),
        (Condition("m", below=0.5, down_to=0), [0.4999, 0], [0.5, -0.0001, float("nan")]),
        (Condition("m", below=0), [-0.0001, float("-inf")], [0, float("nan")]),
    ],
)
def test_a_condition_can_be_evaluated_without_a_server(
    condition: Condition, beyond: list[float], within: list[float]
) -> None:
    """The first bound is exclusive, the second inclusive, and NaN is beyond none."""
    assert all(condition.holds(number) for number in beyond)
    assert not any(condition.holds(number) for number in within)


def test_texts_may_differ_by_severity() -> None:
    """A text is one for all severities, or one for each."""
    rule = "{metric: m, above: {info: 1, warning: 2}, summary: s, meaning: {info: little, warning: much}, action: a}"
    assert [(a.summary, a.meaning) for a in parse_catalog(catalog(rule), "x").alerts] == [
        ("s", "little"),
        ("s", "much"),
    ]


BROKEN = {
    "a name in lower case": (catalog(f"{{metric: m, above: {{info: 1}}, {TEXTS}}}", "low"), "name 'low' must be words"),
    "an unknown key": (catalog(f"{{metric: m, over: 1, {TEXTS}}}"), "rules.A: unknown key 'over'"),
    "no bound": (catalog(f"{{metric: m, {TEXTS}}}"), "give exactly one of above, below"),
    "two sides": (catalog(f"{{metric: m, above: {{info: 1}}, below: {{info: 0}}, {TEXTS}}}"), "give exactly one of"),
    "a bound without severity": (catalog(f"{{metric: m, above: 1, {TEXTS}}}"), "above: 1 must be a mapping"),
    "an empty bound": (catalog(f"{{metric: m, above: {{}}, {TEXTS}}}"), "above needs a bound, such as warning: 0.5"),
    "an unknown severity": (
        catalog(f"{{metric: m, above: {{page: 1}}, {TEXTS}}}"),
        "unknown key 'page'; known are: info",
    ),
    "a bound as text": (
        catalog(f"{{metric: m, above: {{info: high}}, {TEXTS}}}"),
        "info: 'high' must be of type float",
    ),
    "an infinite bound": (catalog(f"{{metric: m, above: {{info: .inf}}, {TEXTS}}}"), "bound inf must be finite"),
    "a warning beyond critical": (
        catalog(f"{{metric: m, above: {{warning: 2, critical: 1}}, {TEXTS}}}"),
        "bounds [2.0, 1.0] must lie further above the worse the severity",
    ),
    "one bound for two severities": (
        catalog(f"{{metric: m, below: {{info: 1, critical: 1}}, {TEXTS}}}"),
        "further below",
    ),
    "an unknown metric": (catalog(f"{{metric: q, above: {{info: 1}}, {TEXTS}}}"), "unknown metric 'q'"),
    "neither metric nor expression": (
        catalog(f"{{group: g, above: {{info: 1}}, {TEXTS}}}"),
        "one of metric, expression",
    ),
    "an expression without a group": (
        catalog(f"{{expression: up, watches: up, above: {{info: 1}}, {TEXTS}}}"),
        "unknown group ''",
    ),
    "no action": (catalog("{metric: m, above: {info: 1}, summary: s, meaning: m}"), "action: it is missing"),
    "an empty text": (
        catalog("{metric: m, above: {info: 1}, summary: s, meaning: ' ', action: a}"),
        "meaning: it is empty",
    ),
    "a text for one severity only": (
        catalog("{metric: m, above: {info: 1, warning: 2}, summary: s, meaning: {info: x}, action: a}"),
        "meaning: warning is missing",
    ),
    "an unknown value": (catalog(f"{{metric: m, value: best, above: {{info: 1}}, {TEXTS}}}"), "unknown value 'best'"),
    "the increase of a gauge": (
        catalog(f"{{metric: m, value: increase, above: {{info: 1}}, {TEXTS}}}"),
        "increase of m needs a counter",
    ),
    "the median of a counter": (catalog(f"{{metric: c, above: {{info: 1}}, {TEXTS}}}"), "median of c needs a gauge"),
    "an unknown label": (
        catalog(f"{{metric: m, where: {{colour: x}}, above: {{info: 1}}, {TEXTS}}}"),
        "where: unknown label 'colour'",
    ),
    "no regular expression": (
        catalog(f"{{metric: m, where: {{kind: '('}}, above: {{info: 1}}, {TEXTS}}}"),
        "'(' is no regular expression",
    ),
    "an unknown comparison": (
        catalog(f"{{metric: m, against: me, above: {{info: 1}}, {TEXTS}}}"),
        "unknown against 'me'",
    ),
    "a window without unit": (
        catalog(f"{{metric: m, window: '5', above: {{info: 1}}, {TEXTS}}}"),
        "window '5' must be",
    ),
    "a duration of nothing": (catalog(f"{{metric: m, lasting: 0m, above: {{info: 1}}, {TEXTS}}}"), "'0m' must be"),
    "an unknown subject": (catalog(f"{{metric: m, about: you, above: {{info: 1}}, {TEXTS}}}"), "unknown about 'you'"),
    "an unknown metric it must not have": (
        catalog(f"{{metric: m, without: [q], above: {{info: 1}}, {TEXTS}}}"),
        "unknown metric 'q'",
    ),
    "an expression about nothing": (
        catalog(f"{{expression: up, group: g, above: {{info: 1}}, {TEXTS}}}"),
        "watches is missing: say which series",
    ),
    "an expression with a warm-up": (
        catalog(f"{{expression: up, group: g, watches: up, warm_up: 10, above: {{info: 1}}, {TEXTS}}}"),
        "warm_up 10 needs a metric: compare training_steps_total",
    ),
    "an expression about GPUs": (
        catalog(f"{{expression: up, group: g, watches: up, about: gpu, above: {{info: 1}}, {TEXTS}}}"),
        "about gpu needs a metric: join run_gpu_info",
    ),
    "an expression with a hold": (
        catalog(f"{{expression: up, group: g, watches: up, hold: 2h, above: {{info: 1}}, {TEXTS}}}"),
        "hold 2h is for a change",
    ),
    "an expression with what is a metric's": (
        catalog(f"{{expression: up, group: g, watches: up, value: mean, absolute: true, above: {{info: 1}}, {TEXTS}}}"),
        "absolute, value: that is for a metric",
    ),
    "an expression with a step": (
        catalog(
            "{expression: up, group: g, watches: up, above: {info: 1}, summary: 's{at_step}', meaning: m, action: a}"
        ),
        "summary: {at_step} is looked up in a metric",
    ),
    "an expression with the value of now": (
        catalog("{expression: up, group: g, watches: up, above: {info: 1}, summary: s, meaning: 'm{now}', action: a}"),
        "meaning: {now} is looked up in a metric",
    ),
    "a ratio of medians": (
        catalog(f"{{metric: m, per: m, above: {{info: 1}}, {TEXTS}}}"),
        "per has no meaning here: it is for value: mean",
    ),
    "the size of a mean": (
        catalog(f"{{metric: m, value: mean, absolute: true, above: {{info: 1}}, {TEXTS}}}"),
        "absolute has no meaning here: it is for value: median",
    ),
    "the size of a rate": (
        catalog(f"{{metric: c, value: rate, absolute: true, above: {{info: 1}}, {TEXTS}}}"),
        "absolute has no meaning here",
    ),
    "the size of a spread": (
        catalog(f"{{metric: m, against: spread, absolute: true, above: {{info: 1}}, {TEXTS}}}"),
        "absolute has no meaning here",
    ),
    "a gauge from nothing": (
        catalog(f"{{metric: m, from_nothing: true, above: {{info: 1}}, {TEXTS}}}"),
        "from_nothing has no meaning here: it is for value: increase",
    ),
    "a mean of sparse updates": (
        catalog(f"{{metric: m, value: mean, sparse_window: 1h, above: {{info: 1}}, {TEXTS}}}"),
        "sparse_window has no meaning here",
    ),
    "a mean that is compared": (
        catalog(f"{{metric: m, value: mean, against: before, above: {{info: 1}}, {TEXTS}}}"),
        "mean cannot be compared against before",
    ),
    "an increase that is compared": (
        catalog(f"{{metric: c, value: increase, against: spread, above: {{info: 1}}, {TEXTS}}}"),
        "increase cannot be compared against spread",
    ),
    "a rate against its highest": (
        catalog(f"{{metric: c, value: rate, against: highest, above: {{info: 1}}, {TEXTS}}}"),
        "rate cannot be compared against highest",
    ),
    "a baseline of nothing": (
        catalog(f"{{metric: m, baseline: 1h, above: {{info: 1}}, {TEXTS}}}"),
        "baseline has no meaning here: it is for against: before, highest, spread",
    ),
    "a lag of nothing": (
        catalog(f"{{metric: m, lag: 1h, above: {{info: 1}}, {TEXTS}}}"),
        "lag has no meaning here",
    ),
    "a scale of nothing": (
        catalog(f"{{metric: m, least_scale: 0.1, above: {{info: 1}}, {TEXTS}}}"),
        "least_scale has no meaning here",
    ),
    "half of nothing": (
        catalog(f"{{metric: m, half_full: true, above: {{info: 1}}, {TEXTS}}}"),
        "half_full has no meaning here",
    ),
    "a hold of a level": (
        catalog(f"{{metric: m, hold: 2h, above: {{info: 1}}, {TEXTS}}}"),
        "hold 2h is for a change: give against",
    ),
    "a hold of single updates": (
        catalog(f"{{metric: m, hold: 2h, against: before, value: worst, above: {{info: 1}}, {TEXTS}}}"),
        "hold 2h is for a change",
    ),
    "the worst of a GPU": (
        catalog(f"{{metric: m, about: gpu, value: worst, above: {{info: 1}}, {TEXTS}}}"),
        "about gpu takes no value worst",
    ),
    "a host's warm-up": (
        catalog(f"{{metric: m, about: host, warm_up: 5, above: {{info: 1}}, {TEXTS}}}"),
        "warm_up 5 is for what is about run, any run, gpu, not about host",
    ),
    "a second condition that says too much": (
        catalog(f"{{metric: m, also: [{{metric: m, per: m, above: 1}}], above: {{info: 1}}, {TEXTS}}}"),
        "also: per has no meaning here",
    ),
    "a bound as a whole number": (
        catalog("{metric: m, above: {info: 1}, summary: s, meaning: m, action: 'a {bound:d}'}"),
        "action: 'a {bound:d}' has a bound that cannot be written",
    ),
    "a template without an end": (
        catalog("{metric: m, above: {info: 1}, summary: '{{ $value is {{ $value }}', meaning: m, action: a}"),
        "has a {{ without its }}, so Prometheus would refuse all rules",
    ),
    "a second condition without bound": (
        catalog(f"{{metric: m, also: [{{metric: m}}], above: {{info: 1}}, {TEXTS}}}"),
        "also: give exactly one of above",
    ),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_an_error_that_names_the_place(text: str, message: str) -> None:
    """Each mistake is told with the file, the rule, and what was given."""
    with pytest.raises(ConfigError) as caught:
        parse_catalog(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml: rules.")
    assert message in str(caught.value)


# ------------------------------------------------------------------ the shipped rules


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("KLDivergenceHigh", {("warning", 0.05, 0.1), ("critical", 0.1, None)}),
        ("ClipFractionHigh", {("warning", 0.5, None)}),
        ("ClipFractionLow", {("info", 0.1, None)}),
        ("ExplainedVarianceLow", {("warning", 0.5, 0.0), ("critical", 0.0, None)}),
        ("GradientNormSpike", {("info", 6.0, None)}),
    ],
)
def test_thresholds_are_those_of_the_sources(name: str, bounds: set[tuple[str, float, float | None]]) -> None:
    """The guide's limits for KL, clip fraction and explained variance, and mean + 6 sigma for gradients."""
    conditions = [(alert.severity, alert.condition) for alert in SHIPPED.alerts if alert.name == name]
    ends = {(severity, c.bound, c.up_to if c.above is not None else c.down_to) for severity, c in conditions}
    assert ends == bounds


def test_severities_of_an_alert_never_overlap() -> None:
    """The band of each severity ends where that of the next begins."""
    for one, other in pairwise(SHIPPED.alerts):
        if one.name == other.name:
            assert other.condition.bound in (one.condition.up_to, one.condition.down_to)


def test_every_rule_cites_its_source() -> None:
    """Each threshold says where it comes from, or that it is our own choice."""
    assert [alert.name for alert in SHIPPED.alerts if not alert.source] == []


def test_alerts_about_runs_name_the_run() -> None:
    """The summary of each alert about a run, or a GPU of one, says which; that of a host or exporter says where."""
    for alert in SHIPPED.alerts:
        assert (
            "$labels.run_id" if alert.about in ("run", "rank", "any run", "gpu") else "$labels.instance"
        ) in alert.summary


def test_the_first_question_is_answered() -> None:
    """What is wrong with the update, the training, the progress, the machine and the exporter is all watched."""
    names = {alert.name for alert in SHIPPED.alerts}
    assert names >= {
        "KLDivergenceHigh", "TrainInferenceMismatch", "ClipFractionHigh", "ClipFractionLow", "ExplainedVarianceLow",
        "EntropyCollapse", "EntropyExplosion", "DeadAdvantages", "ZeroRewardVariance", "ResponsesTruncated",
        "ReferenceKLRising", "TrainingNonFinite", "LossSpike", "LossDivergence", "GradientNormSpike", "Overfitting",
        "RunStalled", "RunCrashed", "ThroughputDropped", "QueueGrowing", "DataWaitHigh", "GPUIdle",
        "GPUMemoryNearlyFull", "GPUThrottled", "HostMemoryLow", "ContainerMemoryNearlyFull",
        "ContainerOOMKill", "DiskNearlyFull", "TelemetryLosingData",
        "TelemetryBadLines", "TelemetryBadLogLines", "TelemetrySeriesRefused", "TelemetryExporterDown",
        "TelemetryScraperAbsent",
    }  # fmt: skip


def test_a_metric_knows_the_alerts_about_its_own_values() -> None:
    """A panel can draw these bounds; those of changes, spikes, ratios and of one kind of several are none."""
    assert {alert.name for alert in SHIPPED.metrics["rl_kl_divergence"].alerts} == {"KLDivergenceHigh"}
    assert SHIPPED.metrics["rl_entropy"].alerts == ()
    assert SHIPPED.metrics["host_memory_available_bytes"].alerts == ()
    assert {alert.name for alert in SHIPPED.metrics["training_nonfinite"].alerts} == {"TrainingNonFinite"}
    assert SHIPPED.metrics["training_nonfinite"].alerts[0].above is None
