"""The catalog: decoded strictly, and the shipped one holds every metric that was asked for."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from exporter.catalog import Alias, Range, default_catalog, load_catalog, parse_catalog
from exporter.errors import ConfigError
from exporter.records import Family

SMALL = """
groups:
  g: {title: Group, prefixes: [g]}
metrics:
  m:
    type: gauge
    group: g
    help: A metric.
    labels: [kind]
    aliases:
      - {keys: [a.b, a/c], labels: {kind: x}, scale: 2, framework: f}
    healthy: {above: 1}
    panel: {title: M}
rules:
  A: {metric: m, above: {info: 1}, summary: s, meaning: m, action: a, where: {kind: x}}
"""


def test_a_small_catalog_is_decoded_whole():
    """Every part of a catalog file ends up where the model says, with defaults for what is absent."""
    catalog = parse_catalog(SMALL, "small.yaml")
    metric = catalog.metrics["m"]
    assert catalog.groups["g"].prefixes == ("g",)
    assert metric.labels == ("kind",)
    assert metric.aliases == (Alias(("a.b", "a/c"), {"kind": "x"}, 2.0, "f"),)
    assert metric.healthy == Range(above=1.0, below=None)
    assert metric.alerts == catalog.alerts
    assert (metric.alerts[0].severity, metric.alerts[0].where, metric.alerts[0].above) == ("info", {"kind": "x"}, 1.0)
    assert metric.panel is not None
    assert metric.panel.unit == "short"
    assert (metric.window, metric.sparse_window, metric.derived) == ("1m", "15m", False)
    assert catalog.family("m") == Family("m", "gauge", "A metric.")
    assert metric.sample_name == "m"


METRIC = "type: gauge, group: g, help: h"


def metric(extra, base=METRIC, name="m"):
    """A catalog of one metric, with more fields than the base."""
    return f"groups: {{g: {{title: t}}}}\nmetrics:\n  {name}: {{{base}{', ' if extra else ''}{extra}}}"


BROKEN = {
    "not YAML": ("groups: [", ["x.yaml: not YAML"]),
    "a date that is none": ("groups: 2024-13-45", ["x.yaml: not YAML", "month"]),
    "a key twice": (
        "groups: {}\nmetrics:\n  m: {type: gauge}\n  m: {type: gauge}",
        ["x.yaml: not YAML", "key 'm' is given twice", "line 3"],
    ),
    "a field twice": (metric("help: again"), ["key 'help' is given twice"]),
    "empty": ("", ["x.yaml: None must be a mapping"]),
    "a list": ("[1]", ["x.yaml: [1] must be a mapping"]),
    "no groups": ("metrics: {}", ["x.yaml: groups is missing"]),
    "no metrics": ("groups: {}", ["x.yaml: metrics is missing"]),
    "unknown top key": (
        "groups: {}\nmetrics: {}\nalerts: {}",
        ["x.yaml: unknown key 'alerts'", "groups, metrics, rules"],
    ),
    "groups as list": ("groups: []\nmetrics: {}", ["x.yaml: [] must be a mapping"]),
    "group as text": ("groups: {g: t}\nmetrics: {}", ["x.yaml: groups.g: 't' must be a mapping"]),
    "group without title": ("groups: {g: {}}\nmetrics: {}", ["groups.g: title is missing"]),
    "group's unknown key": ("groups: {g: {title: t, colour: x}}\nmetrics: {}", ["groups.g: unknown key 'colour'"]),
    "prefixes as text": ("groups: {g: {title: t, prefixes: train}}\nmetrics: {}", ["groups.g: prefixes: 'train'"]),
    "metric as text": ("groups: {}\nmetrics: {m: x}", ["x.yaml: m: 'x' must be a mapping"]),
    "unknown field": (metric("unit: s"), ["x.yaml: m: unknown key 'unit'"]),
    "no type": (metric("", "group: g, help: h"), ["x.yaml: m: type is missing"]),
    "unknown type": (metric("", "type: summary, group: g, help: h"), ["unknown type 'summary'", "gauge, counter"]),
    "unknown group": (metric("", "type: gauge, group: q, help: h"), ["unknown group 'q'; known are: g"]),
    "no help": (metric("", "type: gauge, group: g, help: ' '"), ["m: help is missing"]),
    "help as number": (metric("", "type: gauge, group: g, help: 5"), ["m: help: 5 must be of type str"]),
    "name with capitals": (metric("", name="Loss"), ["name 'Loss' must be lower-case"]),
    "name as number": (metric("", name="5"), ["5 must be of type str"]),
    "unknown headline": (metric("headline: last"), ["unknown headline 'last'; known are: min, max"]),
    "bool as text": (metric("derived: 'yes'"), ["m: derived: 'yes' must be of type bool"]),
    "window without unit": (metric("window: '5'"), ["window '5' must be a Prometheus duration"]),
    "sparse window of nothing": (metric("sparse_window: 0m"), ["window '0m' must be a Prometheus duration"]),
    "labels as text": (metric("labels: kind"), ["m: labels: 'kind' must be a list"]),
    "labels as numbers": (metric("labels: [5]"), ["m: labels: 5 must be of type str"]),
    "aliases as nothing": (metric("aliases:"), ["m: aliases: None must be a list"]),
    "alias as text": (metric("aliases: [loss]"), ["m: 'loss' must be a mapping"]),
    "alias without keys": (metric("aliases: [{scale: 2}]"), ["m: an alias needs keys"]),
    "alias with no key": (metric("aliases: [{keys: []}]"), ["m: an alias needs keys"]),
    "keys as text": (metric("aliases: [{keys: loss}]"), ["m: keys: 'loss' must be a list"]),
    "alias's unknown key": (metric("aliases: [{keys: [a], sign: -1}]"), ["m: unknown key 'sign'"]),
    "scale 0": (metric("aliases: [{keys: [a], scale: 0}]"), ["scale 0.0 must be finite and not 0"]),
    "a gauge of single steps": (
        metric("aliases: [{keys: [a], per_step: true}]"),
        ["m: per_step is for counters, which add up their steps"],
    ),
    "scale infinite": (metric("aliases: [{keys: [a], scale: .inf}]"), ["scale inf must be finite"]),
    "scale as text": (metric("aliases: [{keys: [a], scale: '2'}]"), ["scale: '2' must be of type float"]),
    "scale as bool": (metric("aliases: [{keys: [a], scale: true}]"), ["scale: True must be of type float"]),
    "alias without its labels": (metric("labels: [k], aliases: [{keys: [a]}]"), ["alias 'a' must give labels ('k',)"]),
    "alias with other labels": (
        metric("labels: [k], aliases: [{keys: [a], labels: {q: x}}]"),
        ["alias 'a' must give labels ('k',)"],
    ),
    "alias labels as list": (metric("labels: [k], aliases: [{keys: [a], labels: [k]}]"), ["['k'] must be a mapping"]),
    "alias label as number": (
        metric("labels: [k], aliases: [{keys: [a], labels: {k: 1}}]"),
        ["labels: 1 must be of type str"],
    ),
    "healthy as number": (metric("healthy: 5"), ["m: healthy: 5 must be a mapping"]),
    "healthy as text": (metric("healthy: {above: high}"), ["m: healthy: above: 'high' must be of type float"]),
    "panel without title": (metric("panel: {}"), ["m: panel: title is missing"]),
    "alerts in a metric": (metric("alerts: []"), ["m: alerts stand in the part 'rules'"]),
    "one key for two metrics": (
        metric("aliases: [{keys: [a/b]}]") + f"\n  n: {{{METRIC}, aliases: [{{keys: [a.b]}}]}}",
        ["native key 'a/b' belongs to both m and n"],
    ),
    "one key twice in a metric": (
        metric("labels: [k], aliases: [{keys: [a], labels: {k: x}}, {keys: [a], labels: {k: y}}]"),
        ["native key 'a' belongs to both m and m"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_catalog_is_an_error_that_names_the_place(text, expected):
    """Each rule that a catalog breaks is a ConfigError that names the file, the place, and what was given."""
    with pytest.raises(ConfigError) as caught:
        parse_catalog(text, "x.yaml")
    message = str(caught.value)
    assert message.startswith("x.yaml: ")
    assert [part for part in expected if part not in message] == []


def test_a_catalog_file_is_read(tmp_path):
    """A catalog may lie anywhere; errors name its path."""
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL)
    assert load_catalog(path).metrics["m"] == parse_catalog(SMALL, "other").metrics["m"]
    path.write_text("groups: []")
    with pytest.raises(ConfigError, match=re.escape(f"{path}: groups: [] must be a mapping")):
        load_catalog(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"], ids=["missing", "no UTF-8"])
def test_a_catalog_file_that_cannot_be_read_is_a_config_error(tmp_path, content):
    """A file that is not there or holds no text is an error that names it."""
    path = tmp_path / "mine.yaml"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read: ")):
        load_catalog(path)


# ---------------------------------------------------------------------------------------------- the shipped catalog

ASKED_FOR = {
    "signal.training.loss": ("training_loss", "gauge"),
    "signal.training.grad_norm": ("training_grad_norm", "gauge"),
    "signal.training.learning_rate": ("training_learning_rate", "gauge"),
    "signal.training.step": ("training_steps", "counter"),
    "signal.rl.policy_loss": ("rl_policy_loss", "gauge"),
    "signal.rl.value_loss": ("rl_value_loss", "gauge"),
    "signal.rl.entropy": ("rl_entropy", "gauge"),
    "signal.rl.kl_divergence": ("rl_kl_divergence", "gauge"),
    "signal.rl.clip_fraction": ("rl_clip_fraction", "gauge"),
    "signal.rl.advantage_mean": ("rl_advantage_mean", "gauge"),
    "signal.rl.advantage_std": ("rl_advantage_std", "gauge"),
    "signal.rl.explained_variance": ("rl_explained_variance", "gauge"),
    "signal.rl.reward_mean": ("rl_reward_mean", "gauge"),
    "signal.performance.forward_backward_duration_ms": ("performance_forward_backward_duration_seconds", "histogram"),
    "signal.performance.optim_step_duration_ms": ("performance_optim_step_duration_seconds", "histogram"),
    "signal.performance.queue_depth": ("performance_queue_depth", "gauge"),
    "signal.performance.gpu_utilization": ("gpu_utilization_ratio", "gauge"),
    "signal.performance.gpu_memory_used_gb": ("gpu_memory_used_bytes", "gauge"),
}
"""The tables of the monitoring guide that this product answers, and the canonical names of the design."""


@pytest.mark.parametrize(("canonical", "kind"), ASKED_FOR.values(), ids=ASKED_FOR.keys())
def test_every_metric_that_was_asked_for_is_in_the_catalog(canonical, kind):
    """Each metric of the guide's tables has its canonical name, type and help."""
    metric = default_catalog().metrics[canonical]
    assert metric.type == kind
    assert metric.help.endswith(".")


def shipped():
    """The metrics of the shipped catalog."""
    return default_catalog().metrics.values()


def test_names_are_prometheus_names():
    """Every sample name is legal in the classic data model, in lower case."""
    assert [item.name for item in shipped() if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", item.name)] == []


def test_no_name_ends_like_a_sample_of_another_type():
    """A family's name has no suffix that its format gives to samples; only info gauges, always 1, end in _info."""
    wrong = [item.name for item in shipped() if re.search(r"_(total|sum|count|bucket|created)$", item.name)]
    assert wrong == []
    infos = [item for item in shipped() if item.name.endswith("_info")]
    assert {item.type for item in infos} == {"gauge"}
    assert all("always 1" in item.help for item in infos)


def test_units_are_base_units():
    """No name says milliseconds, gigabytes or percent."""
    assert [
        i.name for i in shipped() if re.search(r"_(ms|us|milliseconds|minutes|kb|mb|gb|percent)(_|$)", i.name)
    ] == []


def test_names_begin_with_their_group():
    """A metric's name begins with the name of its group, so that a name tells where to look."""
    assert [item.name for item in shipped() if not item.name.startswith(f"{item.group}_")] == []


def test_no_two_families_share_a_sample():
    """The samples of two families never have one name."""
    suffixes = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    samples = Counter(item.name + suffix for item in shipped() for suffix in suffixes[item.type])
    assert [name for name, count in samples.items() if count > 1] == []


def test_counters_are_sampled_with_total():
    """A counter's main series ends in _total, every other one is named like its family."""
    catalog = default_catalog()
    assert catalog.metrics["training_steps"].sample_name == "training_steps_total"
    assert catalog.metrics["training_loss"].sample_name == "training_loss"


def test_the_default_catalog_is_read_once():
    """Who asks twice gets the same object."""
    assert default_catalog() is default_catalog()


def test_an_unknown_family_is_a_bug():
    """The package's own names are all in the catalog: another one is a KeyError, not a new series."""
    with pytest.raises(KeyError):
        default_catalog().family("no_such_metric")
