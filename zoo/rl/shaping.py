"""Potential-based reward shaping: potentials by name, and what they add to a reward."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class Potential(NamedTuple):
    """Phi(s), (N, *shape) -> (N,), for observations of one shape."""

    shape: tuple[int, ...]
    function: Callable[[Floats], Floats]


def mountain_car_energy(observations: Floats) -> Floats:
    """Phi(x, v) = 50 (E / E_goal - 1) / 2, E = v^2 / 2 + 0.0025 sin(3 x) / 3: from -50 at rest in the valley to 0.

    E is what gravity alone keeps; the car climbs only by raising it. E_goal is that of rest at the goal, x = 0.5.
    """
    x, v = observations[:, 0], observations[:, 1]
    goal = 0.0025 / 3 * np.sin(1.5)
    return np.asarray(25 * ((v**2 / 2 + 0.0025 / 3 * np.sin(3 * x)) / goal - 1))


POTENTIALS = {"mountain_car_energy": Potential((2,), mountain_car_energy)}


def shaping(
    potential: Callable[[Floats], Floats], now: Floats, after: Floats, terminated: NDArray[np.bool_], gamma: float
) -> Floats:
    """F = gamma Phi(s') - Phi(s), with Phi = 0 after a termination: (N, ...), (N, ...), (N,) -> (N,).

    What it adds to the return of an episode depends on its first state alone, so no policy gains on another, if gamma
    is the learner's and truncated episodes keep Phi(s').

    References:
        Ng, Harada and Russell 1999, theorem 1; 004_2b20c020fc470ac5.txt, section 4.5.2.
    """
    return gamma * np.where(terminated, 0.0, potential(after)) - potential(now)
