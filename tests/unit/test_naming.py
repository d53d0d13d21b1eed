"""From native keys to series: by alias, else by prefix; the name is always legal and never one of our own."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.catalog import Namer, default_catalog, parse_catalog, sanitize

NAMER = Namer(default_catalog())
LEGAL = re.compile(r"[a-z_][a-z0-9_]*")
SAMPLE_SUFFIX = re.compile(r"_(total|sum|count|bucket|info|created)$")
MAX_LENGTH = 255


def means(key):
    """Canonical series, and canonical value of a native 1."""
    name = NAMER.resolve(key)
    labels = ",".join(f"{label}={value}" for label, value in name.labels)
    return name.family.name + (f"{{{labels}}}" if labels else ""), name.scale


@pytest.mark.parametrize(
    ("key", "series", "scale"),
    [
        # The flat and slashed names of the monitoring guide.
        ("train/loss", "training_loss", 1),
        ("training.loss", "training_loss", 1),
        ("loss", "training_loss", 1),
        ("train/grad_norm", "training_grad_norm", 1),
        ("lr", "training_learning_rate", 1),
        ("rl.kl_divergence", "rl_kl_divergence{kind=reference}", 1),
        ("rl/clip_fraction", "rl_clip_fraction", 1),
        ("performance.queue_depth", "performance_queue_depth", 1),
        # Units: milliseconds, percent and gigabytes become base units.
        ("performance/forward_backward_duration_ms", "performance_forward_backward_duration_seconds", 0.001),
        ("performance.optim_step_duration_ms", "performance_optim_step_duration_seconds", 0.001),
        ("performance/gpu_utilization", "gpu_utilization_ratio", 0.01),
        ("performance/gpu_memory_used_gb", "gpu_memory_used_bytes", 1e9),
        # Stable-Baselines3 logs minus the entropy.
        ("train/entropy_loss", "rl_entropy", -1),
        ("train/approx_kl", "rl_kl_divergence{kind=update}", 1),
        ("rollout/ep_rew_mean", "rl_reward_mean", 1),
        # CleanRL, verl, prime-rl.
        ("losses/clipfrac", "rl_clip_fraction", 1),
        ("charts/episodic_return", "rl_reward_mean", 1),
        ("actor/ppo_kl", "rl_kl_divergence{kind=update}", 1),
        ("actor/kl_loss", "rl_kl_divergence{kind=reference}", 1),
        ("mismatch_kl/all/mean", "rl_kl_divergence{kind=inference}", 1),
        ("optim/kl_sample_train_v1", "rl_kl_divergence{kind=inference}", 1),
        # A canonical name is its own alias.
        ("rl_entropy", "rl_entropy", 1),
        ("gpu_utilization_ratio", "gpu_utilization_ratio", 1),
        ("rl/episode_length_mean", "rl_episode_length_mean", 1),
    ],
)
def test_known_keys(key, series, scale):
    """A key of the catalog is its metric with its labels, scale and sign."""
    assert means(key) == (series, scale)
    assert NAMER.resolve(key).metric is default_catalog().metrics[series.partition("{")[0]]


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("time/compute_kl_sample_train", "custom_time_compute_kl_sample_train"),
        ("optim/kl_sample_train_v2", "custom_optim_kl_sample_train_v2"),
        ("cur_kl_coeff", "custom_cur_kl_coeff"),
        ("clip_factor", "custom_clip_factor"),
        ("val/clipfrac_avg", "validation_clipfrac_avg"),
        ("train/loss_sum", "training_loss_sum_value"),
        ("train/loss_total", "training_loss_total_value"),
        ("rl/entropy_count", "rl_entropy_count_value"),
        ("Train/Loss", "custom_train_loss"),
        ("train/loss/extra", "training_loss_extra"),
        ("xtrain/loss", "custom_xtrain_loss"),
        ("mytrain/kl", "custom_mytrain_kl"),
    ],
)
def test_keys_that_merely_look_alike(key, series):
    """A key that resembles an alias, even as a part or with a suffix, is a metric of its own."""
    assert means(key) == (series, 1)
    assert NAMER.resolve(key).metric is None


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("train/foo", "training_foo"),
        ("training/foo", "training_foo"),
        ("eval/accuracy@1", "validation_accuracy_1"),
        ("rl/reward/format", "rl_reward_format"),
        ("perf/sampleTime", "performance_sample_time"),
        ("other/foo", "custom_other_foo"),
        ("foo", "custom_foo"),
        ("Größe (kg)", "custom_gr_e_kg"),
        ("train/", "custom_train"),
        ("/foo", "custom_foo"),
        ("", "custom_unnamed"),
        ("\N{GRINNING FACE}", "custom_unnamed"),
        ("train/\N{GRINNING FACE}", "training_unnamed"),
        ("rl/9lives", "rl_9lives"),
    ],
)
def test_unknown_keys_keep_their_group(key, series):
    """A key outside the catalog is exported under its group's prefix, else as custom, in snake case."""
    assert means(key) == (series, 1)


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("train/step", "custom_train_step"),
        ("train/steps", "custom_train_steps"),
        ("train/steps_total", "training_steps_total_value"),
        ("train/nonfinite", "custom_train_nonfinite"),
        ("train/epoch", "custom_train_epoch"),
        ("run_status", "custom_run_status"),
        ("run/status", "custom_run_status"),
        ("telemetry_runs", "custom_telemetry_runs"),
        ("process_cpu_seconds_total", "custom_process_cpu_seconds_total_value"),
        ("up", "custom_up"),
        ("perf/forward_backward_duration_seconds", "custom_perf_forward_backward_duration_seconds"),
        ("perf/rollout_duration_seconds", "custom_perf_rollout_duration_seconds"),
    ],
)
def test_nobody_takes_the_exporters_own_names(key, series):
    """A key that would be a family the exporter fills itself is exported as custom."""
    assert means(key) == (series, 1)
    assert NAMER.resolve(key).family.type == "gauge"


@pytest.mark.parametrize(
    ("key", "series"),
    [
        ("learners/default_policy/total_loss", "training_loss"),
        ("learners.p0.vf_loss", "rl_value_loss"),
        ("info/learner/default_policy/learner_stats/kl", "rl_kl_divergence{kind=update}"),
        ("info/learner/learner_stats/extra/kl", "custom_info_learner_learner_stats_extra_kl"),
        ("learners//total_loss", "custom_learners_total_loss"),
        ("learners/a/b/total_loss", "custom_learners_a_b_total_loss"),
        ("xlearners/a/total_loss", "custom_xlearners_a_total_loss"),
        ("learners/a/total_loss/b", "custom_learners_a_total_loss_b"),
    ],
)
def test_a_star_is_one_part_of_a_path(key, series):
    """A * in an alias stands for exactly one part of the path, with nothing before or behind the alias."""
    assert means(key)[0] == series


@pytest.mark.parametrize(
    ("key", "factor", "series"),
    [
        ("mfu(%)", 0.01, "performance_mfu_ratio"),
        ("throughput/mfu", 0.01, "performance_mfu_ratio"),
        ("perf/mfu/actor", 1, "performance_mfu_ratio"),
        ("time_ms", 0.001, "performance_step_seconds"),
        ("step_time", 1, "performance_step_seconds"),
        ("actor/entropy_loss", 1, "rl_entropy"),
        ("train/entropy_loss", -1, "rl_entropy"),
        ("objective/kl", 1, "rl_sequence_kl_divergence{kind=reference}"),
        ("objective/entropy", 1, "rl_sequence_entropy"),
        ("rollout_corr/kl", 1, "rl_kl_divergence{kind=inference}"),
    ],
)
def test_dangerous_aliases_are_transformed(key, factor, series):
    """Where trainers differ in unit, sign, or in what a sum runs over, a key is converted or a metric of its own."""
    assert means(key) == (series, factor)


def test_a_key_has_one_meaning():
    """No key of the catalog, with any name for its *, is matched by an alias of another meaning."""
    aliases = [
        (re.compile("[^/]+".join(map(re.escape, key.replace(".", "/").split("*")))), metric.name, alias)
        for metric in default_catalog().metrics.values()
        for alias in metric.aliases
        for key in alias.keys
    ]
    keys = {key.replace(".", "/").replace("*", "p0") for _, _, alias in aliases for key in alias.keys}
    for key in keys:
        assert len([name for pattern, name, _ in aliases if pattern.fullmatch(key)]) == 1, key


@pytest.mark.parametrize(
    ("key", "framework"),
    [
        ("rollout/ep_rew_mean", "sb3"),
        ("losses.clipfrac", "cleanrl"),
        ("learners/p0/total_loss", "rllib"),
        ("mfu(%)", "torchtitan"),
        ("train/loss", ""),
        ("my/own", ""),
    ],
)
def test_the_framework_of_a_key(key, framework):
    """A key tells the one framework that uses it; a common or unknown key tells none."""
    assert NAMER.framework(key) == framework


OWN = {
    item.name + suffix
    for item in default_catalog().metrics.values()
    for suffix in ("", "_total", "_sum", "_count", "_bucket")
    if item.derived or item.type != "gauge" or item.group in ("run", "telemetry", "process", "host")
}

keys = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=string.ascii_letters + string.digits + "_/. -", max_size=300),
    st.builds("{}{}{}{}".format,
        st.sampled_from(["train", "training", "rl", "perf", "performance", "val", "run", "telemetry", "process", ""]),
        st.sampled_from(["/", ".", "_", "//", "-"]),
        st.sampled_from(["step", "steps", "loss", "status", "info", "nonfinite", "x_duration_seconds", "A", "9"]),
        st.sampled_from(["", "_total", "_sum", "/count", ".bucket", "_info", "_created", "Total", " total "])),
)  # fmt: skip


@given(keys)
def test_every_name_is_legal(key):
    """Whatever the key, its name is legal, no sample of another type, of bounded length, and not one of our own."""
    name = NAMER.resolve(key)
    if name.metric is not None:
        assert name.metric in default_catalog().metrics.values()
        return
    assert LEGAL.fullmatch(name.family.name)
    assert not SAMPLE_SUFFIX.search(name.family.name)
    assert len(name.family.name) <= MAX_LENGTH
    assert name.family.name not in OWN
    assert not name.family.name.startswith(("run_", "telemetry_", "process_", "host_"))
    assert not re.fullmatch(r"performance_.*_duration_seconds", name.family.name)
    assert name.family.type == "gauge"
    assert name.scale == 1
    assert len(name.family.help) <= 2 * MAX_LENGTH + 20


@given(keys)
def test_names_are_deterministic(key):
    """Another namer of the same catalog, and a key with dots for slashes, give the same series."""
    first = NAMER.resolve(key)
    assert Namer(default_catalog()).resolve(key) == first
    assert NAMER.resolve(key.replace("/", ".")).family.name == first.family.name


@given(st.text(max_size=60))
def test_sanitized_text_is_snake_case(text):
    """Sanitised text is words of lower-case ASCII letters and digits, joined by single underscores; twice is once."""
    result = sanitize(text)
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", result)
    assert sanitize(result) == result


def test_long_keys_stay_apart():
    """Two keys that differ beyond the longest name get different names."""
    first, second = ("train/" + "x" * 10_000 + end for end in "ab")
    assert means(first) != means(second)
    assert all(len(means(key)[0]) <= MAX_LENGTH for key in (first, second))


def test_help_says_the_native_key():
    """The help of a key outside the catalog says as what it was logged, cut when long."""
    assert NAMER.resolve("train/foo\n").family.help == r"Logged as 'train/foo\n'."
    assert NAMER.resolve("y" * 300).family.help == f"Logged as '{'y' * 200}...'."


@pytest.mark.parametrize(
    ("operation", "series"),
    [
        ("forward_backward", "performance_forward_backward_duration_seconds"),
        ("optim_step", "performance_optim_step_duration_seconds"),
        ("roll out", "performance_roll_out_duration_seconds"),
        ("", "performance_unnamed_duration_seconds"),
    ],
)
def test_timed_operations_are_histograms(operation, series):
    """A timed operation is a histogram in seconds named after it; the catalog's own ones are the catalog's."""
    name = NAMER.timing(operation)
    assert (name.family.name, name.family.type, name.labels, name.scale) == (series, "histogram", (), 1)
    assert (name.metric is not None) == (operation in ("forward_backward", "optim_step"))


@given(st.text(max_size=400))
def test_every_timing_name_is_legal(operation):
    """Whatever an operation is called, its histogram's name is legal and of bounded length."""
    name = NAMER.timing(operation).family.name
    assert LEGAL.fullmatch(name)
    assert not SAMPLE_SUFFIX.search(name)
    assert len(name) <= MAX_LENGTH


def test_a_user_catalog_decides():
    """Another catalog has other groups, aliases and canonical names."""
    namer = Namer(parse_catalog(
        "groups: {a: {title: A, prefixes: [x]}}\n"
        "metrics: {a_m: {type: gauge, group: a, help: h, aliases: [{keys: [k.1], scale: 3}]}}", "mine"))  # fmt: skip
    assert namer.resolve("k/1").scale == 3
    assert namer.resolve("x/y").family.name == "a_y"
    assert namer.resolve("x/m").family.name == "a_m"
    assert namer.resolve("train/loss").family.name == "custom_train_loss"


def test_an_update_kl_that_counts_padding_is_watched_by_no_rule() -> None:
    """TRL's policy/approxkl_avg is averaged over padding and reaches 20 in healthy runs: its kind has no alert."""
    name = Namer(default_catalog()).resolve("policy/approxkl_avg")
    assert (name.family.name, name.labels) == ("rl_kl_divergence", (("kind", "update_padded"),))
    watched = {alert.where["kind"] for alert in default_catalog().metrics["rl_kl_divergence"].alerts}
    assert watched == {"update|reference"}
