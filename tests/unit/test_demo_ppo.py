"""The laws of the demo trainer: its physics, its gradients, its estimators, and what its two presets promise."""

from __future__ import annotations

import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from exporter.demo import objective, ppo
from exporter.demo.cartpole import PHYSICS, STATE_SIZE, CartPole
from exporter.demo.objective import Batch, Network, Rollout
from exporter.demo.ppo import PRESETS, Trainer

Array = NDArray[np.float64]

UPDATES = 120
KEYS = {
    "train/loss",
    "train/learning_rate",
    "train/grad_norm",
    "train/approx_kl",
    "rl/policy_loss",
    "rl/value_loss",
    "rl/entropy",
    "rl/clip_fraction",
    "rl/explained_variance",
    "rl/advantage_mean",
    "rl/advantage_std",
    "rl/reward_mean",
    "rollout/ep_len_mean",
}


class FakeRun:
    """Keeps what is logged, and calls ``on_log`` after each step."""

    def __init__(self, on_log: Callable[[int], None]) -> None:
        self.on_log = on_log
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Keep the metrics; steps count the updates from 1."""
        assert step == len(self.logged) + 1
        self.logged.append(metrics)
        self.on_log(step)

    @contextmanager
    def time_operation(self, name: str) -> Iterator[None]:
        """Time nothing."""
        yield

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.finished += 1


def carts(count: int = 1) -> CartPole:
    """Textbook carts."""
    return CartPole(count, np.random.default_rng(0))


def balancing(observations: Array) -> NDArray[np.int64]:
    """Push towards where the pole leans and the cart strays: good enough to stay up for any time."""
    leans: NDArray[np.bool_] = observations @ np.array([0.3, 0.3, 1.0, 1.0]) > 0
    return leans.astype(np.int64)


def batch(rows: int = 40) -> Batch:
    """Steps whose ratios lie on both sides of the clip limits and advantages on both sides of 0."""
    rng = np.random.default_rng(1)
    return Batch(
        rng.standard_normal((rows, STATE_SIZE)),
        rng.integers(0, 2, rows),
        np.log(rng.uniform(0.3, 0.8, rows)),
        rng.standard_normal(rows),
        rng.standard_normal(rows),
    )


def slopes(network: Network, loss: Callable[[], float]) -> Array:
    """Central differences of the loss by each parameter."""
    found = np.empty_like(network.parameters)
    for index in range(len(found)):
        kept = network.parameters[index]
        network.parameters[index] = kept + 1e-6
        above = loss()
        network.parameters[index] = kept - 1e-6
        found[index] = (above - loss()) / 2e-6
        network.parameters[index] = kept
    return found


def train(preset: str, updates: int, seed: int = 1) -> list[dict[str, float]]:
    """What so many updates measure."""
    trainer = Trainer(PRESETS[preset], seed)
    return [trainer.update() for _ in range(updates)]


@pytest.fixture(scope="module")
def steady() -> list[dict[str, float]]:
    """The first seconds of the steady preset."""
    return train("steady", UPDATES)


@pytest.fixture(scope="module")
def diverging() -> list[dict[str, float]]:
    """The first seconds of the diverging preset."""
    return train("diverging", UPDATES)


def start(monkeypatch: pytest.MonkeyPatch, on_log: Callable[[int], None], *arguments: str) -> FakeRun:
    """Run main with a fake run."""
    run = FakeRun(on_log)

    def start_run(**given: Any) -> FakeRun:
        assert given["config"]["learning_rate"] == PRESETS["steady"].learning_rate
        return run

    monkeypatch.setattr("exporter.start_run", start_run)
    assert ppo.main(["--preset", "steady", "--run-id", "r", *arguments]) == 0
    return run


def test_first_push() -> None:
    """A push on a cart at rest gives the speeds that the published equations give by hand."""
    env = carts()
    env.state[:] = 0.0
    env.step(np.array([1]))
    assert env.state[0] == pytest.approx([0.0, 0.02 * 400 / 41, 0.0, -0.02 * 600 / 41])


@pytest.mark.parametrize(("column", "limit"), [(0, PHYSICS.position_limit), (2, PHYSICS.angle_limit)])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_limits(column: int, limit: float, side: float) -> None:
    """A cart beyond the position or angle limit, and only that, terminates and starts again near the centre."""
    env = carts(2)
    env.state[:] = 0.0
    env.state[:, column] = side * limit * np.array([1.001, 0.999])
    transition = env.step(np.array([0, 0]))
    assert transition.terminated.tolist() == [True, False]
    assert not transition.truncated.any()
    assert abs(transition.observations[0, column]) > 1.0
    assert np.abs(env.observations[0]).max() < 0.1


def test_time_limit() -> None:
    """A pole kept in balance is cut off, not failed, after exactly 500 steps."""
    env = carts()
    for _ in range(499):
        transition = env.step(balancing(env.observations))
        assert not (transition.terminated | transition.truncated).any()
    transition = env.step(balancing(env.observations))
    assert transition.truncated.all()
    assert not transition.terminated.any()
    assert transition.lengths[0] == 500
    assert env.step(balancing(env.observations)).lengths[0] == 1


@pytest.mark.parametrize("clip", [0.06, 0.3])
def test_policy_gradient(clip: float) -> None:
    """The policy's gradient is that of clipped surrogate loss minus weighted entropy."""
    policy = Network([STATE_SIZE, 5, 5, 2], 1.0, np.random.default_rng(2))

    def loss() -> float:
        measured, _ = objective.policy_gradient(policy, batch(), clip, 0.3)
        return measured["rl/policy_loss"] - 0.3 * measured["rl/entropy"]

    _, gradient = objective.policy_gradient(policy, batch(), clip, 0.3)
    assert gradient == pytest.approx(slopes(policy, loss), abs=1e-7)


def test_value_gradient() -> None:
    """The value's gradient is that of half the mean squared error."""
    value = Network([STATE_SIZE, 5, 5, 1], 1.0, np.random.default_rng(3))
    _, gradient = objective.value_gradient(value, batch())
    numeric = slopes(value, lambda: objective.value_gradient(value, batch())[0]["rl/value_loss"])
    assert gradient == pytest.approx(numeric, abs=1e-7)


def test_gae_definition() -> None:
    """An advantage is the discounted sum of the deltas up to its episode's end; only a fall has no value after it."""
    rng = np.random.default_rng(4)
    rewards, values, next_values = rng.standard_normal((3, 30, 4))
    terminated, truncated = rng.random((2, 30, 4)) < 0.1
    rollout = Rollout(rewards, rewards.astype(np.int64), rewards, rewards, rewards, terminated, truncated)
    expected = np.zeros_like(rewards)
    for start_step, cart in np.ndindex(rewards.shape):
        for step in range(start_step, 30):
            after = 0.0 if terminated[step, cart] else 0.9 * next_values[step, cart]
            delta = rewards[step, cart] + after - values[step, cart]
            expected[start_step, cart] += (0.9 * 0.7) ** (step - start_step) * delta
            if terminated[step, cart] or truncated[step, cart]:
                break
    assert objective.gae(rollout, values, next_values, 0.9, 0.7) == pytest.approx(expected)


def test_kl_estimator() -> None:
    """The k3 estimate is 0 for identical policies and, over many samples, the exact KL of two different ones."""
    old, new = np.array([0.3, 0.7]), np.array([0.5, 0.5])
    drawn = np.random.default_rng(5).choice(2, 100_000, p=old)
    assert objective.approximate_kl(np.zeros(9)) == 0.0
    assert objective.approximate_kl(np.log(new / old)[drawn]) == pytest.approx(float(old @ np.log(old / new)), rel=0.02)


def test_explained_variance() -> None:
    """Explained variance is 1 for perfect predictions and 0 for the mean."""
    returns = np.array([1.0, 2.0, 4.0])
    assert objective.explained_variance(returns, returns) == 1.0
    assert objective.explained_variance(returns, np.full(3, returns.mean())) == pytest.approx(0.0)


def test_steady_is_healthy(steady: list[dict[str, float]]) -> None:
    """The steady preset's update KL stays below 0.05, its clip fraction is moderate, and its reward grows."""
    assert max(each["train/approx_kl"] for each in steady) < 0.05
    assert 0.1 < np.median([each["rl/clip_fraction"] for each in steady]) < 0.4
    assert np.median([each["rl/explained_variance"] for each in steady[50:]]) > 0.6
    assert steady[-1]["rl/reward_mean"] > 2 * steady[0]["rl/reward_mean"]
    assert steady[-1]["rl/entropy"] < steady[0]["rl/entropy"]


def test_diverging_diverges(diverging: list[dict[str, float]]) -> None:
    """The diverging preset's update KL is far too large, and most of its ratios are clipped."""
    assert np.median([each["train/approx_kl"] for each in diverging]) > 0.1
    assert np.median([each["rl/clip_fraction"] for each in diverging]) > 0.4


def test_a_negative_value_coefficient_unlearns(steady: list[dict[str, float]]) -> None:
    """The coefficient weights the value's part of the loss and of the gradient: below 0 the value gets worse."""
    trainer = Trainer(replace(PRESETS["steady"], value_coefficient=-1.0), 1)
    last = [trainer.update() for _ in range(30)][-1]
    bonus = PRESETS["steady"].entropy_coefficient(29) * last["rl/entropy"]
    assert last["train/loss"] == pytest.approx(last["rl/policy_loss"] - last["rl/value_loss"] - bonus)
    assert last["rl/value_loss"] > 100 * steady[29]["rl/value_loss"]


def test_all_is_measured(steady: list[dict[str, float]], diverging: list[dict[str, float]]) -> None:
    """Every update of either preset measures the same keys, all finite."""
    assert all(each.keys() == KEYS for each in steady + diverging)
    assert all(math.isfinite(value) for each in steady + diverging for value in each.values())


def test_seed_decides() -> None:
    """The same seed gives the same numbers, another seed others."""
    assert train("steady", 5) == train("steady", 5)
    assert train("steady", 5) != train("steady", 5, seed=2)


def test_no_episode_no_mean() -> None:
    """Before any episode is over, no mean of episodes is reported."""
    short = ppo.Settings(environments=2, rollout_steps=1, minibatches=1, start_spread=0.0)
    assert "rl/reward_mean" not in Trainer(short).update()


def test_few_timings() -> None:
    """An update times four minibatches, so that timings do not outnumber steps by much."""
    seen: Counter[str] = Counter()

    @contextmanager
    def count(name: str) -> Iterator[None]:
        seen[name] += 1
        yield

    Trainer(PRESETS["steady"], time_operation=count).update()
    assert seen == {"forward_backward": 4, "optim_step": 4}


def test_deadline_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline the run is finished, and until then no update came sooner than allowed."""
    run = start(monkeypatch, lambda step: None, "--seconds", "0.5", "--updates-per-second", "5")
    assert 2 <= len(run.logged) <= 3
    assert run.finished == 1
    assert run.logged[0].keys() == KEYS
    assert all(each.keys() == KEYS | {"performance/env_steps_per_second"} for each in run.logged[1:])
    assert all(0 < each["performance/env_steps_per_second"] <= 5 * 16 * 16 for each in run.logged[1:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the training after the update at hand, the run is finished, and handlers are restored."""
    before = signal.getsignal(number)

    def send(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    run = start(monkeypatch, send, "--seconds", "60")
    assert (len(run.logged), run.finished) == (3, 1)
    assert signal.getsignal(number) is before
