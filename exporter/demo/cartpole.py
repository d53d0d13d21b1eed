"""The cart-pole problem, many carts at once.

A cart on a track is pushed left or right so that the pole hinged on it stays upright. The problem and its limits are
those of Barto, Sutton & Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems",
IEEE Transactions on Systems, Man, and Cybernetics 13 (1983) 834-846; the frictionless equations, the Euler steps and
the limit of 500 steps those of Gymnasium's CartPole-v1, after Sutton's own program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHYSICS", "STATE_SIZE", "CartPole", "Conditions", "Physics", "Transition"]


@dataclass(frozen=True)
class Physics:
    """The constants of the problem in SI units, after Barto, Sutton & Anderson (1983); angles in radians."""

    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    force: float = 10.0
    time_step: float = 0.02
    position_limit: float = 2.4
    angle_limit: float = float(np.radians(12.0))
    step_limit: int = 500


PHYSICS = Physics()

SCALES = np.array([PHYSICS.position_limit, 2.0, PHYSICS.angle_limit, 2.0])
"""One unit of each observed number: position (m), speed (m/s), angle (rad), angular speed (rad/s).

The limits for the two that have one, a brisk pace for the two others."""

STATE_SIZE = len(SCALES)


@dataclass(frozen=True)
class Conditions:
    """How hard the task is made; the defaults are the textbook's nearly centred starts in still air."""

    start_spread: float = 0.02
    """Starts are uniform within this share of SCALES around upright, centred and at rest."""
    gust: float = 0.0
    """Standard deviation (N) of a random push on the cart, drawn afresh at each step."""


class Transition(NamedTuple):
    """What one step did to each of n carts."""

    observations: NDArray[np.float64]
    """(n, STATE_SIZE): where the step led, before a finished cart starts again."""
    rewards: NDArray[np.float64]
    """(n,): one point for each step, the last one included."""
    terminated: NDArray[np.bool_]
    """(n,): the cart left the track or the pole fell."""
    truncated: NDArray[np.bool_]
    """(n,): the episode was cut at the step limit while still in balance."""
    lengths: NDArray[np.int64]
    """(n,): steps of the episode so far, this one included."""


class CartPole:
    """n carts side by side; each starts again by itself when its episode ends."""

    def __init__(self, count: int, rng: np.random.Generator, conditions: Conditions | None = None) -> None:
        """Set up the carts; ``state``, of shape (n, STATE_SIZE), is in SI units."""
        self._rng = rng
        self._conditions = conditions or Conditions()
        self.state = np.zeros((count, STATE_SIZE))
        self._lengths = np.zeros(count, dtype=np.int64)
        self.reset()

    @property
    def observations(self) -> NDArray[np.float64]:
        """The states in units of SCALES."""
        scaled: NDArray[np.float64] = self.state / SCALES
        return scaled

    def reset(self) -> NDArray[np.float64]:
        """Start every cart afresh and return what is observed then."""
        self._restart(np.ones(len(self.state), dtype=np.bool_))
        return self.observations

    def step(self, actions: NDArray[np.int64]) -> Transition:
        """Push each cart to the left (action 0) or to the right (action 1) for one time step."""
        self.state = self._moved(self._forces(actions))
        self._lengths += 1
        terminated = self._failed()
        truncated = ~terminated & (self._lengths >= PHYSICS.step_limit)
        rewards = np.ones(len(self.state))
        transition = Transition(self.observations, rewards, terminated, truncated, self._lengths.copy())
        self._restart(terminated | truncated)
        return transition

    def _forces(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        gusts = self._conditions.gust * self._rng.standard_normal(len(self.state))
        return PHYSICS.force * (2.0 * actions - 1.0) + gusts

    def _moved(self, forces: NDArray[np.float64]) -> NDArray[np.float64]:
        """The states one Euler step later, by the equations of Barto, Sutton & Anderson (1983), appendix."""
        _, speed, angle, spin = self.state.T
        sine, cosine = np.sin(angle), np.cos(angle)
        total_mass = PHYSICS.cart_mass + PHYSICS.pole_mass
        pole_moment = PHYSICS.pole_mass * PHYSICS.half_length
        push = (forces + pole_moment * spin**2 * sine) / total_mass
        lever = PHYSICS.half_length * (4.0 / 3.0 - PHYSICS.pole_mass * cosine**2 / total_mass)
        spin_rate = (PHYSICS.gravity * sine - cosine * push) / lever
        acceleration = push - pole_moment * spin_rate * cosine / total_mass
        return self.state + PHYSICS.time_step * np.stack([speed, acceleration, spin, spin_rate], axis=1)

    def _failed(self) -> NDArray[np.bool_]:
        position, angle = self.state[:, 0], self.state[:, 2]
        return (np.abs(position) > PHYSICS.position_limit) | (np.abs(angle) > PHYSICS.angle_limit)

    def _restart(self, chosen: NDArray[np.bool_]) -> None:
        spread = self._conditions.start_spread * SCALES
        self.state[chosen] = self._rng.uniform(-spread, spread, (np.count_nonzero(chosen), STATE_SIZE))
        self._lengths[chosen] = 0
