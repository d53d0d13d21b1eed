"""What Compare draws is what the definitions say, computed with numpy from the samples that are stored."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping

import pytest

from tests.grafana import foreign_logs, trainer
from tests.grafana.bench import Answer, ask, columns, job
from tests.grafana.laboratory import (
    DIVERGING,
    LONG,
    LONG_STEPS,
    RESUMED,
    RESUMED_FROM,
    RESUMED_STEPS,
    RUNS,
    STEADY,
    Laboratory,
    counts_both_ends,
    long_loss,
)
from tests.grafana.smoothing_reference import Points, View, pixels, smoothed
from tests.support.servers import Prometheus

BY_STEP, BY_ELAPSED, BY_TIME = (f"$metric by {what}" for what in ("step", "time since start", "time"))
RAW = " raw"
SPANS = {"an hour": 3600, "ten minutes": 600, "two minutes": 120}
WIDTHS = {"10s": 10, "1m": 60, "5m": 300}
Case = tuple[str, str, str, str]
"""Metric, time range, smoothing and width."""

SMOOTHED = list(itertools.product(("sma", "ema", "gaussian"), WIDTHS))
METRICS = {
    "training_loss": list(RUNS),
    "validation_loss": [LONG, trainer.FINE_TUNING, trainer.SINGLE],
    "rl_kl_divergence": [STEADY, DIVERGING, foreign_logs.SB3, foreign_logs.RLLIB],
    "training_grad_norm": [LONG, trainer.FINE_TUNING, trainer.DIVERGED, STEADY, DIVERGING],
}
CASES = [
    *(("training_loss", span, method, width) for span in SPANS for method, width in [("none", "1m"), *SMOOTHED]),
    *(
        (metric, "ten minutes", method, "1m")
        for metric in [name for name in METRICS if name != "training_loss"]
        for method in ("none", "sma", "ema", "gaussian")
    ),
]


@pytest.fixture(scope="module")
def compared(bench: None, lab: Laboratory) -> dict[tuple[str, Case], Answer]:
    """The three views of a metric of all runs, for each server and case."""
    titles = [BY_STEP, BY_ELAPSED, BY_TIME]
    jobs = [
        {**job("compare", lab.now, SPANS[span], metric=metric, smoothing=method, width=width), "titles": titles}
        for metric, span, method, width in CASES
    ]
    return {
        (name, case): answer
        for name, server in lab.servers.items()
        for case, answer in zip(CASES, ask(server.url, jobs), strict=True)
    }


def stored(server: Prometheus, metric: str, run: str, now: float) -> dict[int, float]:
    """Every stored sample of the main rank of a run; milliseconds to value."""
    quoted = run.replace('"', r"\"")
    [series] = server.query(f'{metric}{{run_id="{quoted}", rank=""}}[2h]', time=now)
    return {round(time * 1000): float(value) for time, value in series["values"]}


def start_of(server: Prometheus, run: str, now: float) -> float:
    """When a run started, in seconds since 1970."""
    return set(stored(server, "run_start_timestamp_seconds", run, now).values()).pop()


def view_of(answer: Answer, server: Prometheus, span: str) -> View:
    """The pixels that a dashboard asked for."""
    query = next(each for each in answer["queries"] if each["refId"] == "y0")
    begin, end, pixel = (round(1000 * query[name]) for name in ("from", "to", "step"))
    return View(begin, end, pixel, SPANS[span], counts_both_ends(server))


def drawn(answer: Answer, title: str, x: str, curve: str) -> dict[float, float]:
    """The points of a curve."""
    [frame] = next(each for each in answer["panels"] if each["title"] == title)["frames"]
    fields = columns(frame)
    values = fields.get(curve, [None] * len(fields[x]))
    return {at: value for at, value in zip(fields[x], values, strict=True) if isinstance(value, float | int)}


def last_in_pixel(samples: Mapping[int, float], view: View) -> Points:
    """The last sample in each pixel; one at the end of a pixel is in the next one, too, where both ends count."""
    last: Points = {}
    for time, value in sorted(samples.items()):
        end = math.ceil(time / view.pixel) * view.pixel
        last[end] = value
        if view.is_closed and end == time:
            last[end + view.pixel] = value
    return last


def kept(samples: Mapping[int, float], view: View) -> Points:
    """The steps of the pixels that no later sample takes back, as a run does that goes on from a checkpoint."""
    times = sorted(samples)
    backwards = (samples[time] for time in reversed(times))
    lowest_from = [*itertools.accumulate(backwards, min, initial=math.inf)][::-1]
    pixels_steps = last_in_pixel(samples, view).items()
    return {end: step for end, step in pixels_steps if step < lowest_from[bisect.bisect_right(times, end)]}


def check_curve(answer: Answer, curve: str, expected: Points, steps: Points, start: float) -> None:
    """A curve has the expected points in all three views, at its own times and at the steps that count."""
    places = {
        (BY_TIME, "Time"): expected,
        (BY_STEP, "step"): {steps[time]: value for time, value in expected.items() if time in steps},
        (BY_ELAPSED, "time since start"): {time / 1000 - start: value for time, value in expected.items()},
    }
    for (title, x), points in places.items():
        found = drawn(answer, title, x, curve)
        assert sorted(points) == pytest.approx(sorted(found), abs=1e-6), f"{curve} in {title}"
        values = [value for _, value in sorted(found.items())]
        assert values == pytest.approx([value for _, value in sorted(points.items())], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_curves_are_the_defined_ones(lab: Laboratory, compared: dict[tuple[str, Case], Answer], case: Case) -> None:
    """Smooth and raw curves of every run equal the definitions, by time, by time since start and by step."""
    metric, span, method, width = case
    for name, server in lab.servers.items():
        answer = compared[name, case]
        view = view_of(answer, server, span)
        for run in METRICS[metric]:
            samples = stored(server, metric, run, lab.now)
            steps = kept(stored(server, "training_step", run, lab.now), view)
            start = start_of(server, run, lab.now)
            curve = f"{run} update" if metric == "rl_kl_divergence" else run
            check_curve(answer, curve + RAW, finite(view.inside(pixels(samples, view))), steps, start)
            check_curve(answer, curve, finite(smoothed(samples, view, method, WIDTHS[width])), steps, start)


def finite(points: Points) -> Points:
    """Points that can be drawn."""
    return {time: value for time, value in points.items() if math.isfinite(value)}


@pytest.mark.parametrize(
    ("metric", "run", "step", "value", "sign"),
    [
        ("rl_reward_mean", foreign_logs.SB3, "time/total_timesteps", "rollout/ep_rew_mean", 1),
        ("rl_entropy", foreign_logs.SB3, "time/total_timesteps", "train/entropy_loss", -1),
        ("rl_reward_mean", foreign_logs.RLLIB, "training_iteration", "episode_reward_mean", 1),
    ],
)
def test_foreign_logs_are_drawn_step_by_step(
    bench: None, lab: Laboratory, metric: str, run: str, step: str, value: str, sign: int
) -> None:
    """By step, a run of another trainer has exactly the points that stand in its log."""
    [answer] = ask(lab.prometheus.url, [{**job("compare", lab.now, metric=metric, run=[run]), "titles": [BY_STEP]}])
    rows = {foreign_logs.SB3: lab.sb3, foreign_logs.RLLIB: lab.rllib}[run]
    assert drawn(answer, BY_STEP, "step", run) == {
        row[step]: pytest.approx(sign * row[value], rel=1e-12) for row in rows
    }


@pytest.mark.parametrize("span", [1800, 43_200])
def test_a_resumed_run_is_one_curve_by_step(bench: None, lab: Laboratory, span: int) -> None:
    """What a run did beyond the checkpoint from which it went on is not drawn, however much a pixel holds."""
    question = {**job("compare", lab.now, span, run=[RESUMED]), "titles": [BY_STEP, "Training loss"]}
    for server in lab.servers.values():
        [answer] = ask(server.url, [question])
        for title in question["titles"]:
            points = drawn(answer, title, "step", RESUMED)
            steps = sorted(points)
            assert steps[-1] == RESUMED_STEPS - 1
            of_first_attempt = [step for step in steps if step > RESUMED_FROM and points[step] > 1]
            assert len(of_first_attempt) <= 2 * (span > 3600), (
                "but the two pixels beside the moment at which it went on"
            )
            assert len(steps) > (100 if span <= 3600 else 5)


def test_native_steps_are_drawn_one_by_one(bench: None, lab: Laboratory) -> None:
    """By step, a run that steps every two seconds has each of its last steps as a point with the logged value."""
    question = job("compare", lab.now, SPANS["ten minutes"], metric="training_loss", run=[LONG])
    [answer] = ask(lab.prometheus.url, [{**question, "titles": [BY_STEP]}])
    points = drawn(answer, BY_STEP, "step", LONG)
    assert sorted(points) == list(range(LONG_STEPS - len(points), LONG_STEPS))
    assert len(points) > 100
    assert points == {step: pytest.approx(long_loss(int(step)), rel=1e-12) for step in points}
