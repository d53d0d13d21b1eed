"""What PPO optimises and with what: small networks, Adam, advantages, and the gradients of both losses.

Formulas: Schulman et al. 2017 (arXiv:1707.06347), advantages of Schulman et al. 2015 (arXiv:1506.02438).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIONS",
    "Adam",
    "Array",
    "Batch",
    "Network",
    "Rollout",
    "approximate_kl",
    "explained_variance",
    "gae",
    "log_of_taken",
    "log_softmax",
    "policy_gradient",
    "value_gradient",
]

Array = NDArray[np.float64]

ACTIONS = 2
"""Push left, push right."""


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
    taken = np.eye(ACTIONS)[batch.actions]
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
