"""Proximal policy optimisation in plain numpy on noisy cart-pole: the demo's trainer, with nothing simulated.

The algorithm is Schulman et al. 2017 (arXiv:1707.06347): clipped surrogate, entropy bonus, Adam, with advantages
after Schulman et al. 2015 (arXiv:1506.02438).  Policy and value are separate small tanh networks.  The products are
tiny, so more than one BLAS thread only burns time: start the process with OPENBLAS_NUM_THREADS=1.

    python -m exporter.demo.ppo --preset steady --run-id steady --directory runs --seconds 60
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.demo.cartpole import STATE_SIZE, CartPole, Conditions

__all__ = ["PRESETS", "Adam", "Batch", "Network", "Settings", "Trainer", "main"]

Array = NDArray[np.float64]
TimeOperation = Callable[[str], AbstractContextManager[Any]]

ACTIONS = 2
RECENT_EPISODES = 100


@dataclass(frozen=True)
class Settings:
    """The hyper-parameters of a run."""

    environments: int = 32
    rollout_steps: int = 16
    epochs: int = 2
    minibatches: int = 2
    hidden_units: int = 32
    learning_rate: float = 1e-3
    value_learning_rate: float = 1e-3
    clip: float = 0.1
    gamma: float = 0.98
    gae_lambda: float = 0.8
    entropy_coefficient: float = 0.01
    max_gradient_norm: float = 0.5
    start_spread: float = 0.5
    gust: float = 5.0


STEADY = Settings()
PRESETS = {"steady": STEADY, "diverging": replace(STEADY, learning_rate=3e-2)}


class Network:
    """A perceptron with two hidden tanh layers; its weights and biases are views into one flat vector."""

    def __init__(self, sizes: Sequence[int], output_gain: float, rng: np.random.Generator) -> None:
        shapes = [(rows + 1, columns) for rows, columns in itertools.pairwise(sizes)]
        self.parameters: Array = np.zeros(sum(rows * columns for rows, columns in shapes))
        self._shapes = shapes
        self._layers = self._views(self.parameters)
        gains = [1.0] * (len(shapes) - 1) + [output_gain]
        for layer, gain in zip(self._layers, gains, strict=True):
            layer[:-1] = gain * rng.standard_normal(layer[:-1].shape) / np.sqrt(len(layer) - 1)

    def forward(self, inputs: Array) -> list[Array]:
        """Return the inputs of every layer and, last, the outputs, each of shape (rows, width)."""
        values = [inputs]
        for layer in self._layers[:-1]:
            values.append(np.tanh(values[-1] @ layer[:-1] + layer[-1]))
        values.append(values[-1] @ self._layers[-1][:-1] + self._layers[-1][-1])
        return values

    def backward(self, values: list[Array], slope: Array) -> Array:
        """Return the loss's gradient by the parameters, given forward()'s values and its slope by the outputs."""
        gradient = np.empty_like(self.parameters)
        for layer, part, inputs in zip(self._layers[::-1], self._views(gradient)[::-1], values[-2::-1], strict=True):
            part[:-1] = inputs.T @ slope
            part[-1] = slope.sum(axis=0)
            slope = (slope @ layer[:-1].T) * (1.0 - inputs**2)
        return gradient

    def _views(self, flat: Array) -> list[Array]:
        ends = np.cumsum([rows * columns for rows, columns in self._shapes])
        return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self._shapes, strict=True)]


class Adam:
    """Kingma & Ba 2015 (arXiv:1412.6980), algorithm 1."""

    def __init__(self, size: int, rate: float) -> None:
        self._rate = rate
        self._steps = 0
        self._mean = np.zeros(size)
        self._square = np.zeros(size)

    def step(self, parameters: Array, gradient: Array) -> None:
        """Move the parameters, in place, against the gradient."""
        self._steps += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        mean = self._mean / (1.0 - 0.9**self._steps)
        square = self._square / (1.0 - 0.999**self._steps)
        parameters -= self._rate * mean / (np.sqrt(square) + 1e-8)


class Rollout(NamedTuple):
    observations: Array
    actions: NDArray[np.int64]
    log_probabilities: Array
    rewards: Array
    next_observations: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Batch(NamedTuple):
    observations: Array
    actions: NDArray[np.int64]
    log_probabilities: Array
    advantages: Array
    returns: Array


def gae(rollout, values, next_values, gamma, gae_lambda):
    deltas = rollout.rewards + gamma * np.where(rollout.terminated, 0.0, next_values) - values
    carry = gamma * gae_lambda * ~(rollout.terminated | rollout.truncated)
    advantages = np.empty_like(deltas)
    running = np.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        running = deltas[t] + carry[t] * running
        advantages[t] = running
    return advantages


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def approximate_kl(log_ratios):
    return float(np.mean(np.expm1(log_ratios) - log_ratios))


def explained_variance(returns, predictions):
    return float(1.0 - np.var(returns - predictions) / np.var(returns))


def policy_gradient(network, batch, settings):
    values = network.forward(batch.observations)
    log_p = log_softmax(values[-1])
    p = np.exp(log_p)
    rows = np.arange(len(batch.actions))
    log_ratios = log_p[rows, batch.actions] - batch.log_probabilities
    ratios = np.exp(log_ratios)
    surrogate = ratios * batch.advantages
    clipped = np.clip(ratios, 1 - settings.clip, 1 + settings.clip) * batch.advantages
    entropy = -(p * log_p).sum(axis=1)
    chosen = np.eye(ACTIONS)[batch.actions]
    weights = np.where(surrogate <= clipped, surrogate, 0.0)
    slope = -weights[:, None] * (chosen - p) + settings.entropy_coefficient * p * (log_p + entropy[:, None])
    stats = {
        "rl/policy_loss": float(-np.mean(np.minimum(surrogate, clipped))),
        "rl/entropy": float(entropy.mean()),
        "train/approx_kl": approximate_kl(log_ratios),
        "rl/clip_fraction": float(np.mean(np.abs(ratios - 1) > settings.clip)),
    }
    return stats, network.backward(values, slope / len(rows))


def value_gradient(network, batch):
    values = network.forward(batch.observations)
    errors = values[-1][:, 0] - batch.returns
    return {"rl/value_loss": float(0.5 * np.mean(errors**2))}, network.backward(values, (errors / len(errors))[:, None])


class Trainer:
    def __init__(self, settings, seed=0, time_operation=nullcontext):
        self.s = s = settings
        self.rng = rng = np.random.default_rng(seed)
        self.env = CartPole(s.environments, rng, Conditions(s.start_spread, s.gust))
        h = s.hidden_units
        self.policy = Network([STATE_SIZE, h, h, ACTIONS], 0.01, rng)
        self.value = Network([STATE_SIZE, h, h, 1], 1.0, rng)
        self.pa = Adam(self.policy.parameters.size, s.learning_rate)
        self.va = Adam(self.value.parameters.size, s.value_learning_rate)
        self.lengths = deque(maxlen=RECENT_EPISODES)
        self.time = time_operation

    def collect(self):
        rows = []
        for _ in range(self.s.rollout_steps):
            obs = self.env.observations
            logp = log_softmax(self.policy.forward(obs)[-1])
            a = (self.rng.random(len(obs)) < np.exp(logp[:, 1])).astype(np.int64)
            t = self.env.step(a)
            self.lengths.extend(t.lengths[t.terminated | t.truncated].tolist())
            rows.append((obs, a, logp[np.arange(len(a)), a], t.rewards, t.observations, t.terminated, t.truncated))
        return Rollout(*map(np.stack, zip(*rows)))

    def update(self):
        s = self.s
        r = self.collect()
        scale = 1 / (1 - s.gamma)
        v = self.value.forward(r.observations)[-1][..., 0] * 1
        nv = self.value.forward(r.next_observations)[-1][..., 0] * 1
        rew = r._replace(rewards=r.rewards * (1 - s.gamma) * VS)
        adv = gae(rew, v, nv, s.gamma, s.gae_lambda)
        ret = adv + v
        advn = (adv - adv.mean()) / (adv.std() + 1e-8)
        flat = Batch(r.observations.reshape(-1, 4), r.actions.ravel(), r.log_probabilities.ravel(), advn.ravel(), ret.ravel())
        out = []
        for _ in range(s.epochs):
            for idx in np.split(self.rng.permutation(len(flat.actions)), s.minibatches):
                b = Batch(*(x[idx] for x in flat))
                ps, pg = policy_gradient(self.policy, b, s)
                vs, vg = value_gradient(self.value, b)
                norm = np.sqrt(pg @ pg + vg @ vg)
                sc = min(1, s.max_gradient_norm / (norm + 1e-8))
                self.pa.step(self.policy.parameters, pg * sc)
                self.va.step(self.value.parameters, vg * sc)
                out.append({**ps, **vs, "train/grad_norm": norm})
        m = {k: float(np.mean([o[k] for o in out])) for k in out[0]}
        m["rl/explained_variance"] = explained_variance(ret, v)
        m["rl/advantage_mean"] = adv.mean(); m["rl/advantage_std"] = adv.std()
        m["rl/reward_mean"] = float(np.mean(self.lengths))
        return m

VS = 1.0
