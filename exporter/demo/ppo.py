"""Proximal policy optimisation in plain numpy on a gusty cart-pole: the demo's trainer, with nothing simulated.

The algorithm is that of Schulman et al. 2017 (arXiv:1707.06347): clipped surrogate, entropy bonus, minibatch epochs,
with the advantages of Schulman et al. 2015 (arXiv:1506.02438). Policy and value are separate small tanh networks.
Their products are so small that further BLAS threads only burn time: set OPENBLAS_NUM_THREADS=1 in the environment.

    python -m exporter.demo.ppo --preset steady --run-id steady --directory runs --seconds 60
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.demo.cartpole import STATE_SIZE, CartPole, Conditions

if TYPE_CHECKING:
    from exporter import Run

__all__ = ["PRESETS", "Settings", "Trainer", "main"]

Array = NDArray[np.float64]
Timer = Callable[[str], AbstractContextManager[None]]

_ACTIONS = 2
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


class Network:
    """A perceptron with tanh hidden layers, its weights and biases in one flat vector."""

    def __init__(self, sizes: Sequence[int], output_gain: float, rng: np.random.Generator) -> None:
        self._shapes = [(inputs + 1, outputs) for inputs, outputs in itertools.pairwise(sizes)]
        self.parameters = np.zeros(sum(rows * columns for rows, columns in self._shapes))
        self._layers = self._views(self.parameters)
        for layer in self._layers:
            layer[:-1] = rng.standard_normal(layer[:-1].shape) / np.sqrt(len(layer) - 1)
        self._layers[-1][:-1] *= output_gain

    def forward(self, inputs: Array) -> list[Array]:
        """The inputs of every layer and, last, the outputs; each (..., width)."""
        values = [inputs]
        for layer in self._layers[:-1]:
            values.append(np.tanh(values[-1] @ layer[:-1] + layer[-1]))
        last = self._layers[-1]
        return [*values, values[-1] @ last[:-1] + last[-1]]

    def backward(self, values: list[Array], slopes: Array) -> Array:
        """The gradient by the parameters of a loss with these slopes, (rows, width), by the outputs of forward()."""
        gradient = np.empty_like(self.parameters)
        parts = self._views(gradient)
        for layer, part, inputs in zip(self._layers[::-1], parts[::-1], values[-2::-1], strict=True):
            part[:-1] = inputs.T @ slopes
            part[-1] = slopes.sum(axis=0)
            slopes = slopes @ layer[:-1].T * (1.0 - inputs**2)
        return gradient

    def _views(self, flat: Array) -> list[Array]:
        """Each layer's weights, and its biases as their last row."""
        ends = np.cumsum([rows * columns for rows, columns in self._shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), self._shapes, strict=True)]


class Adam:
    """Kingma & Ba 2015 (arXiv:1412.6980), with the decoupled decay of Loshchilov & Hutter 2019 (arXiv:1711.05101)."""

    def __init__(self, network: Network, rate: float, decay: float = 0.0) -> None:
        self._parameters, self._rate, self._decay = network.parameters, rate, decay
        self._mean, self._square = np.zeros_like(self._parameters), np.zeros_like(self._parameters)
        self._steps = 0

    def step(self, gradient: Array) -> None:
        """Move the network's parameters, in place, against the gradient."""
        self._steps += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean = self._mean / (1.0 - 0.9**self._steps)
        square = self._square / (1.0 - 0.999**self._steps)
        self._parameters -= self._rate * (mean / (np.sqrt(square) + 1e-8) + self._decay * self._parameters)


class Rollout(NamedTuple):
    """What was seen and done; (steps, environments) and, for observations, a last axis of STATE_SIZE."""

    observations: Array
    actions: NDArray[np.int64]
    log_probabilities: Array
    next_observations: Array
    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Batch(NamedTuple):
    """Steps to learn from, in any order: (rows,) and, for observations, (rows, STATE_SIZE)."""

    observations: Array
    actions: NDArray[np.int64]
    log_probabilities: Array
    advantages: Array
    returns: Array

    def rows(self, chosen: NDArray[np.int64]) -> Batch:
        """The batch of the rows with these numbers."""
        steps = self.observations[chosen], self.actions[chosen], self.log_probabilities[chosen]
        return Batch(*steps, self.advantages[chosen], self.returns[chosen])


def gae(rollout: Rollout, values: Array, next_values: Array, gamma: float, gae_lambda: float) -> Array:
    """Generalised advantages (arXiv:1506.02438, eq. 16), all arrays (steps, environments).

    No sum crosses the end of an episode; one cut by the time limit is worth the value of where it was cut.
    """
    deltas = rollout.rewards + gamma * next_values * ~rollout.terminated - values
    decays = gamma * gae_lambda * ~(rollout.terminated | rollout.truncated)
    advantages: Array = deltas.copy()
    for step in range(len(deltas) - 2, -1, -1):
        advantages[step] += decays[step] * advantages[step + 1]
    return advantages


def log_softmax(logits: Array) -> Array:
    """Log-probabilities (rows, actions) of the policy with these logits."""
    shifted: Array = logits - logits.max(axis=-1, keepdims=True)
    normaliser: Array = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted - normaliser


def log_of_taken(log_policy: Array, actions: NDArray[np.int64]) -> Array:
    """Log-probability (rows,) of the action taken in each row."""
    return log_policy[np.arange(len(actions)), actions]


def approximate_kl(log_ratios: Array) -> float:
    """The k3 estimate (nats) of KL(old, new) from log(new/old) of actions drawn from old.

    http://joschu.net/blog/kl-approx.html
    """
    return float(np.mean(np.expm1(log_ratios) - log_ratios))


def explained_variance(returns: Array, predictions: Array) -> float:
    """1 for perfect predictions, 0 for a constant, below 0 for worse than one."""
    return float(1.0 - np.var(returns - predictions) / np.var(returns))


def policy_gradient(
    policy: Network, batch: Batch, clip: float, entropy_coefficient: float
) -> tuple[dict[str, float], Array]:
    """Measurements, and the gradient of clipped surrogate loss minus entropy bonus (arXiv:1707.06347, eqs. 7, 9)."""
    values = policy.forward(batch.observations)
    log_policy = log_softmax(values[-1])
    probabilities = np.exp(log_policy)
    entropies = -(probabilities * log_policy).sum(axis=1)
    log_ratios = log_of_taken(log_policy, batch.actions) - batch.log_probabilities
    ratios = np.exp(log_ratios)
    free = ratios * batch.advantages
    clipped = np.clip(ratios, 1.0 - clip, 1.0 + clip) * batch.advantages
    # d ratio / d logits = ratio * (taken - probabilities); where the clipped term is the minimum it is constant.
    taken = np.eye(_ACTIONS)[batch.actions]
    slopes = -np.where(free <= clipped, free, 0.0)[:, None] * (taken - probabilities)
    slopes += entropy_coefficient * probabilities * (log_policy + entropies[:, None])
    measured = {
        "rl/policy_loss": -float(np.mean(np.minimum(free, clipped))),
        "rl/entropy": float(np.mean(entropies)),
        "train/approx_kl": approximate_kl(log_ratios),
        "rl/clip_fraction": float(np.mean(np.abs(ratios - 1.0) > clip)),
    }
    return measured, policy.backward(values, slopes / len(slopes))


def value_gradient(value: Network, batch: Batch) -> tuple[dict[str, float], Array]:
    """The loss, half the mean squared error, and its gradient."""
    values = value.forward(batch.observations)
    errors = values[-1] - batch.returns[:, None]
    return {"rl/value_loss": float(0.5 * np.mean(errors**2))}, value.backward(values, errors / len(errors))


class Trainer:
    """One training run, a function of settings and seed alone."""

    def __init__(self, settings: Settings, seed: int = 0, time_operation: Timer | None = None) -> None:
        self._settings = settings
        self._timer = time_operation or _untimed
        self._rng = np.random.default_rng(seed)
        self._carts = CartPole(settings.environments, self._rng, Conditions(settings.start_spread, settings.gust))
        hidden = [settings.hidden_units] * 2
        # A nearly uniform first policy: it explores, and no action is ruled out by chance.
        self._policy = Network([STATE_SIZE, *hidden, _ACTIONS], 0.01, self._rng)
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
        self.updates += 1
        return {
            **measured,
            **self._episodes(),
            "train/loss": measured["rl/policy_loss"] + measured["rl/value_loss"] - bonus,
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
    with _stop_requested() as stop, start_run(**identity, config=config, directory=options.directory) as run:
        trainer = Trainer(settings, options.seed, run.time_operation)
        _train(trainer, run, stop, time.monotonic() + options.seconds, 1.0 / options.updates_per_second)
    return 0


def _train(trainer: Trainer, run: Run, stop: threading.Event, deadline: float, period: float) -> None:
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
def _stop_requested() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, while the block runs, instead of ending the process."""
    stop = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(each, lambda *_: stop.set()) for each in signals]
    try:
        yield stop
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)


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
