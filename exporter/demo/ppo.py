"""Proximal policy optimisation in plain numpy on a gusty cart-pole: the demo's trainer, with nothing simulated.

The algorithm is that of Schulman et al. 2017 (arXiv:1707.06347): clipped surrogate, entropy bonus, minibatch epochs,
with the advantages of Schulman et al. 2015 (arXiv:1506.02438). Policy and value are separate small tanh networks.
Their products are so small that further BLAS threads only burn time: set OPENBLAS_NUM_THREADS=1 in the environment.

    python -m exporter.demo.ppo --preset steady --run-id steady --directory runs --seconds 60
"""

from __future__ import annotations

import argparse
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from exporter.demo.cartpole import STATE_SIZE, CartPole, Conditions
from exporter.demo.objective import (
    ACTIONS,
    Adam,
    Array,
    Batch,
    Network,
    Rollout,
    explained_variance,
    gae,
    log_of_taken,
    log_softmax,
    policy_gradient,
    value_gradient,
)
from exporter.stopping import STOP_SIGNALS, Stop, stop_on_signals

if TYPE_CHECKING:
    from exporter import Run

__all__ = ["PRESETS", "Settings", "Trainer", "main", "stop_requested", "train"]

Timer = Callable[[str], AbstractContextManager[None]]

_RECENT_EPISODES = 100


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a run.

    Gusts and wide starts make the pole fall now and then however good the policy, so returns keep a variance for the
    value to explain. The entropy bonus halves towards its floor every ``entropy_half_life`` updates, so exploration
    ends, and with it the improvement, only after minutes.
    """

    environments: int = 16
    rollout_steps: int = 16
    epochs: int = 4
    minibatches: int = 2
    hidden_units: int = 32
    learning_rate: float = 0.01
    value_learning_rate: float = 0.001
    weight_decay: float = 0.2
    value_coefficient: float = 1.0
    max_grad_norm: float = 0.5
    clip: float = 0.06
    gamma: float = 0.98
    gae_lambda: float = 0.8
    entropy_start: float = 0.5
    entropy_floor: float = 0.1
    entropy_half_life: float = 1500.0
    start_spread: float = 0.5
    gust: float = 10.0

    def entropy_coefficient(self, updates: int) -> float:
        """The weight of the entropy bonus after so many updates."""
        remaining = math.pow(2.0, -updates / self.entropy_half_life)
        return self.entropy_floor + (self.entropy_start - self.entropy_floor) * remaining


_STEADY = Settings()
_DIVERGING = replace(_STEADY, learning_rate=0.3, entropy_floor=_STEADY.entropy_start)
PRESETS: Mapping[str, Settings] = MappingProxyType({"steady": _STEADY, "diverging": _DIVERGING})
"""Healthy, and with a step size 30 times too large.

That alone would at times saturate the policy, whose updates then have no effect; weight decay and an entropy bonus
that does not fade keep every update a blow.
"""


class Trainer:
    """One training run, a function of settings and seed alone."""

    def __init__(self, settings: Settings, seed: int = 0, time_operation: Timer | None = None) -> None:
        self._settings = settings
        self._timer = time_operation or _untimed
        self._rng = np.random.default_rng(seed)
        self._carts = CartPole(settings.environments, self._rng, Conditions(settings.start_spread, settings.gust))
        hidden = [settings.hidden_units] * 2
        # A nearly uniform first policy: it explores, and no action is ruled out by chance.
        self._policy = Network([STATE_SIZE, *hidden, ACTIONS], 0.01, self._rng)
        self._value = Network([STATE_SIZE, *hidden, 1], 1.0, self._rng)
        self._policy_adam = Adam(self._policy, settings.learning_rate, settings.weight_decay)
        self._value_adam = Adam(self._value, settings.value_learning_rate)
        self._lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self.steps_per_update = settings.environments * settings.rollout_steps
        self.updates = 0

    def update(self) -> dict[str, float]:
        """Collect a rollout, learn from it, and return what was measured under the native keys."""
        entropy_coefficient = self._settings.entropy_coefficient(self.updates)
        rollout = self._rollout()
        values = self._value.forward(rollout.observations)[-1][..., 0]
        advantages = self._advantages(rollout, values)
        returns = advantages + values
        measured = self._learn(_batch(rollout, advantages, returns), entropy_coefficient)
        bonus = entropy_coefficient * measured["rl/entropy"]
        value_loss = self._settings.value_coefficient * measured["rl/value_loss"]
        self.updates += 1
        return {
            **measured,
            **self._episodes(),
            "train/loss": measured["rl/policy_loss"] + value_loss - bonus,
            "train/learning_rate": self._settings.learning_rate,
            "rl/explained_variance": explained_variance(returns, values),
            "rl/advantage_mean": float(advantages.mean()),
            "rl/advantage_std": float(advantages.std()),
        }

    def _rollout(self) -> Rollout:
        steps = [self._act() for _ in range(self._settings.rollout_steps)]
        return Rollout(*(np.stack(parts) for parts in zip(*steps, strict=True)))

    def _act(self) -> Rollout:
        """One step of every environment; the arrays lack the axis of steps."""
        observations = self._carts.observations
        log_policy = log_softmax(self._policy.forward(observations)[-1])
        actions = (self._rng.random(len(log_policy)) < np.exp(log_policy[:, 1])).astype(np.int64)
        log_probabilities = log_of_taken(log_policy, actions)
        seen, rewards, terminated, truncated, lengths = self._carts.step(actions)
        self._lengths.extend(lengths[terminated | truncated].tolist())
        return Rollout(observations, actions, log_probabilities, seen, rewards, terminated, truncated)

    def _advantages(self, rollout: Rollout, values: Array) -> Array:
        """Of rewards scaled by 1 - gamma, so that values, at most 1, suit a network as they are."""
        gamma = self._settings.gamma
        next_values = self._value.forward(rollout.next_observations)[-1][..., 0]
        scaled = rollout._replace(rewards=(1.0 - gamma) * rollout.rewards)
        return gae(scaled, values, next_values, gamma, self._settings.gae_lambda)

    def _learn(self, batch: Batch, entropy_coefficient: float) -> dict[str, float]:
        """All epochs over the batch; returns the minibatches' means."""
        measured = []
        for _ in range(self._settings.epochs):
            parts = np.split(self._rng.permutation(len(batch.actions)), self._settings.minibatches)
            for index, rows in enumerate(parts):
                # The first minibatch of each epoch tells enough about the speed of all.
                timer = _untimed if index else self._timer
                measured.append(self._step(batch.rows(rows), entropy_coefficient, timer))
        return {key: float(np.mean([each[key] for each in measured])) for key in measured[0]}

    def _step(self, batch: Batch, entropy_coefficient: float, timer: Timer) -> dict[str, float]:
        with timer("forward_backward"):
            policy_measured, policy_slope = policy_gradient(
                self._policy, batch, self._settings.clip, entropy_coefficient
            )
            value_measured, value_slope = value_gradient(self._value, batch)
            value_slope *= self._settings.value_coefficient
        norm = float(np.hypot(np.linalg.norm(policy_slope), np.linalg.norm(value_slope)))
        scale = min(1.0, self._settings.max_grad_norm / (norm + 1e-12))
        with timer("optim_step"):
            self._policy_adam.step(scale * policy_slope)
            self._value_adam.step(scale * value_slope)
        return policy_measured | value_measured | {"train/grad_norm": norm}

    def _episodes(self) -> dict[str, float]:
        """Means of the latest finished episodes; a step earns one point, so return and length are the same."""
        if not self._lengths:
            return {}
        mean = float(np.mean(self._lengths))
        return {"rl/reward_mean": mean, "rollout/ep_len_mean": mean}


def _batch(rollout: Rollout, advantages: Array, returns: Array) -> Batch:
    """The rollout's steps in one row each, advantages with mean 0 and variance 1."""
    normal = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    observations = rollout.observations.reshape(-1, STATE_SIZE)
    return Batch(
        observations, rollout.actions.ravel(), rollout.log_probabilities.ravel(), normal.ravel(), returns.ravel()
    )


def _untimed(_name: str) -> AbstractContextManager[None]:
    return nullcontext()


def main(argv: Sequence[str] | None = None) -> int:
    """Train a preset and log every update until the time is over or SIGTERM or SIGINT arrives."""
    from exporter import start_run

    options = _options(argv)
    settings = PRESETS[options.preset]
    identity = {"run_id": options.run_id, "user_id": "demo", "recipe": "ppo", "base_model": "cartpole-mlp"}
    config = {"preset": options.preset, "seed": options.seed, **asdict(settings)}
    # Signals are caught before there is a run to finish, and until it is finished.
    with stop_requested() as stop, start_run(**identity, config=config, directory=options.directory) as run:
        trainer = Trainer(settings, options.seed, run.time_operation)
        train(trainer, run, stop, time.monotonic() + options.seconds, 1.0 / options.updates_per_second)
    return 0


def train(trainer: Trainer, run: Run, stop: Stop, deadline: float, period: float) -> None:
    """Update and log, at most once a period (s), until told to stop or the monotonic clock reaches the deadline."""
    started = time.monotonic()
    pace: dict[str, float] = {}
    while started < deadline and not stop.is_set():
        run.log(trainer.update() | pace, step=trainer.updates)
        stop.wait(min(started + period, deadline) - time.monotonic())
        ended = time.monotonic()
        # Logged with the next update: a period that the end cuts short says nothing about the pace.
        pace = {"performance/env_steps_per_second": trainer.steps_per_update / (ended - started)}
        started = ended


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """A stop that SIGTERM or SIGINT sets, while the block runs, instead of ending the process."""
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield stop_on_signals()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m exporter.demo.ppo", description="Train PPO on cart-pole.")
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--directory", default="runs", help="the folder runs are written to")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates-per-second", type=float, default=25.0, help="at most so many")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
