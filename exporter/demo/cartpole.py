"""The cart-pole balancing problem, many carts at once.

A cart on a track is pushed left or right so that the pole hinged on it stays upright.  Problem and limits: Barto,
Sutton & Anderson, "Neuronlike adaptive elements that can solve difficult learning control problems", IEEE
Transactions on Systems, Man, and Cybernetics 13 (1983) 834-846.  Equations without friction, explicit Euler steps and
the limit of 500 steps: Sutton's own C program, as in Gymnasium's CartPole-v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PHYSICS", "STATE_SIZE", "CartPole", "Conditions", "Physics", "Transition"]

STATE_SIZE = 4
"""Numbers in a state: position (m), speed (m/s), angle from upright (rad), angular speed (rad/s)."""


@dataclass(frozen=True)
class Physics:
    """The constants of the problem in SI units, after Barto, Sutton & Anderson (1983), page 845."""

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
"""What one unit of each observed number means: the two limits, and a brisk speed (m/s and rad/s)."""


@dataclass(frozen=True)
class Conditions:
    """How hard the task is made; the defaults are the textbook problem, nearly still starts and no gusts."""

    start_spread: float = 0.02
    """Starts are uniform within this share of SCALES on either side of upright, centred and at rest."""
    gust: float = 0.0
    """Standard deviation (N) of a random push on the cart, drawn afresh for each step."""


class Transition(NamedTuple):
    """What one step did to each of n carts."""

    observations: NDArray[np.float64]
    """(n, STATE_SIZE): where the step led, before a finished cart starts again."""
    rewards: NDArray[np.float64]
    """(n,): one point for each step, the failing one included."""
    terminated: NDArray[np.bool_]
    """(n,): the cart left the track or the pole fell."""
    truncated: NDArray[np.bool_]
    """(n,): the episode was cut at the step limit while still in balance."""
    lengths: NDArray[np.int64]
    """(n,): steps of the episode so far, this one included."""


class CartPole:
    """n carts side by side; each starts again by itself when its episode ends."""

    def __init__(self, count: int, rng: np.random.Generator, conditions: Conditions | None = None) -> None:
        self._rng = rng
        self._conditions = conditions or Conditions()
        self.state = np.zeros((count, STATE_SIZE))
        self.lengths = np.zeros(count, dtype=np.int64)
        self.reset()

    @property
    def observations(self) -> NDArray[np.float64]:
        """The current states in units of SCALES, shape (n, STATE_SIZE)."""
        return self.state / SCALES

    def reset(self) -> NDArray[np.float64]:
        """Start every cart afresh and return what is observed then."""
        self._restart(np.ones(len(self.state), dtype=np.bool_))
        return self.observations

    def step(self, actions: NDArray[np.int64]) -> Transition:
        """Push each cart to the left (action 0) or to the right (action 1) for one time step."""
        self.state = self._moved(self._forces(actions))
        self.lengths += 1
        terminated = self._failed()
        truncated = ~terminated & (self.lengths >= PHYSICS.step_limit)
        rewards = np.ones(len(self.state))
        transition = Transition(self.observations, rewards, terminated, truncated, self.lengths.copy())
        self._restart(terminated | truncated)
        return transition

    def _forces(self, actions: NDArray[np.int64]) -> NDArray[np.float64]:
        gusts = self._conditions.gust * self._rng.standard_normal(len(self.state))
        return PHYSICS.force * (2.0 * actions - 1.0) + gusts

    def _moved(self, forces: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the states one Euler step later; accelerations as in Barto, Sutton & Anderson (1983), eq. A1."""
        _, speed, angle, spin = self.state.T
        sine, cosine = np.sin(angle), np.cos(angle)
        total_mass = PHYSICS.cart_mass + PHYSICS.pole_mass
        pole_moment = PHYSICS.pole_mass * PHYSICS.half_length
        push = (forces + pole_moment * spin**2 * sine) / total_mass
        inertia = PHYSICS.half_length * (4.0 / 3.0 - PHYSICS.pole_mass * cosine**2 / total_mass)
        spin_rate = (PHYSICS.gravity * sine - cosine * push) / inertia
        acceleration = push - pole_moment * spin_rate * cosine / total_mass
        return self.state + PHYSICS.time_step * np.stack([speed, acceleration, spin, spin_rate], axis=1)

    def _failed(self) -> NDArray[np.bool_]:
        position, angle = self.state[:, 0], self.state[:, 2]
        return (np.abs(position) > PHYSICS.position_limit) | (np.abs(angle) > PHYSICS.angle_limit)

    def _restart(self, chosen: NDArray[np.bool_]) -> None:
        spread = self._conditions.start_spread * SCALES
        self.state[chosen] = self._rng.uniform(-spread, spread, (int(chosen.sum()), STATE_SIZE))
        self.lengths[chosen] = 0
