"""RL health: whether the policy update, the value function and the reward are as they should be."""

from __future__ import annotations

from exporter.catalog import Catalog
from exporter.generate.dashboards import promql
from exporter.generate.dashboards.board import Section, board
from exporter.generate.dashboards.catalog_panels import more, panel_rows
from exporter.generate.dashboards.explain import description
from exporter.generate.dashboards.panels import FAINT, Line, query
from exporter.generate.dashboards.run_panels import DASHED, legend, run_panel
from exporter.generate.dashboards.sdk import dashboard, timeseries

__all__ = ["rl_health"]

_EARLY_SECONDS = 600
_EARLY_WINDOW = "30s"
_LOOK_BACK = "1d"
"""How old a run may be whose early level is still drawn; the range of the dashboard may be much shorter."""


def rl_health(catalog: Catalog) -> dashboard.Dashboard:
    """The dashboard."""
    [update] = panel_rows(catalog, ("rl_kl_divergence", "rl_clip_fraction"))
    [[explained]] = panel_rows(catalog, ("rl_explained_variance",))
    [episodes] = panel_rows(catalog, ("rl_episode_length_mean",))
    sections = [
        Section("", [update, [explained, _entropy(catalog)]]),
        Section("Reward", [[_reward(catalog), *episodes]]),
        Section(
            "Advantages and losses",
            panel_rows(catalog, ("rl_advantage_mean", "rl_advantage_std", "rl_policy_loss", "rl_value_loss")),
        ),
        Section(
            "Language models",
            panel_rows(
                catalog,
                ("rl_response_length_tokens", "rl_response_truncated_ratio", "rl_reward_zero_std_ratio"),
                ("rl_importance_ratio", "rl_inference_probability_error"),
                ("rl_sequence_kl_divergence", "rl_sequence_entropy"),
            ),
        ),
    ]
    return board("rl-health", "RL health", [*sections, *more("More", catalog, ["rl"], sections)])


def _entropy(catalog: Catalog) -> timeseries.Panel:
    """With the level that each run began with: the median of its first ten minutes."""
    metric = catalog.metrics["rl_entropy"]
    entropy = promql.mean(metric.name)
    level = promql.mean(metric.name, window=_EARLY_WINDOW)
    first = f"{level} and on (run_id) time() - {promql.started()} < {_EARLY_SECONDS}"
    early = f"quantile_over_time(0.5, ({first})[{_LOOK_BACK}:{_EARLY_WINDOW}]) and {entropy}"
    panel = run_panel(metric, catalog).title("Entropy, and its level in the first ten minutes")
    panel.with_target(query(Line("early", early, legend((), "early"))))
    return panel.override_by_query("early", DASHED)


def _reward(catalog: Catalog) -> timeseries.Panel:
    """The mean, and faint lines a standard deviation above and below."""
    reward, spread = promql.mean("rl_reward_mean"), promql.mean("rl_reward_std")
    metrics = [catalog.metrics[name] for name in ("rl_reward_mean", "rl_reward_std")]
    panel = run_panel(metrics[0], catalog).title("Reward ± standard deviation")
    panel.description("\n\n".join(description(metric, catalog) for metric in metrics))
    for name, sign in (("above", "+"), ("below", "-")):
        panel.with_target(query(Line(name, f"{reward} {sign} on (run_id) {spread}", legend())))
        panel.override_by_query(name, FAINT)
    return panel
