"""`mpe2/simple_spread_v3` for training: all copies in one array, a hundred times as fast, and equal to rounding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.teams.frame import Bools, Floats, Frame
from zoo.teams.types import TeamSpaces

AGENTS, LIMIT = 3, 25
STEP, DAMPING, PUSH = 0.1, 0.25, 5.0  # seconds, share of the velocity lost in one, force of an action
REACH, CONTACT, MARGIN = 0.3, 1e2, 1e-3  # two radii; stiffness and softness of contact
MOVES = PUSH * np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


class Spread:
    """Three agents are paid for each landmark by the distance of the nearest agent, and for not touching each other.

    The reward of an agent is half of -sum_l min_i |x_i - x_l|, and half of minus the number of agents that it touches.

    References:
        Lowe et al. 2017, arXiv:1706.02275; mpe2 1.1.1, simple_spread.py and core.py.
    """

    def __init__(self, count: int) -> None:
        size = 4 + 2 * AGENTS + 4 * (AGENTS - 1)
        self.limit = LIMIT
        self.spaces: TeamSpaces = {
            "observation_sizes": (size,) * AGENTS, "num_actions": (len(MOVES),) * AGENTS, "state_size": AGENTS * size
        }  # fmt: skip
        # apart also where no episode has begun
        self._position = np.arange(AGENTS)[:, None] + np.zeros((count, AGENTS, 2))
        self._velocity = np.zeros((count, AGENTS, 2))
        self._landmarks, self._steps = np.zeros((count, AGENTS, 2)), np.zeros(count, np.int64)
        self._available = np.ones((count, AGENTS, len(MOVES)), bool)
        self._others = np.array([[j for j in range(AGENTS) if j != i] for i in range(AGENTS)])

    def reset(self, seeds: Sequence[int | None]) -> Frame:
        for n, seed in enumerate(seeds):
            if seed is not None:
                places = np.random.default_rng(seed).uniform(-1, 1, (2 * AGENTS, 2))
                self._position[n], self._landmarks[n] = places[:AGENTS], places[AGENTS:]
                self._velocity[n], self._steps[n] = 0, 0
        return self._frame()

    def step(self, actions: NDArray[np.int64], running: Bools) -> tuple[Frame, Floats, Bools, Bools]:
        apart, distance = self._pairs()
        soft = MARGIN * np.logaddexp(0, (REACH - distance) / MARGIN)  # 0 beyond reach, and REACH - distance within
        contact = (CONTACT * soft / distance)[..., None] * apart  # of an agent with itself: apart is 0
        force = MOVES[actions] + contact.sum(2)
        move = running[:, None, None]
        self._position = np.where(move, self._position + STEP * self._velocity, self._position)
        self._velocity = np.where(move, (1 - DAMPING) * self._velocity + STEP * force, self._velocity)
        self._steps += running
        nearest = np.linalg.norm(self._landmarks[:, :, None] - self._position[:, None], axis=-1).min(2).sum(1)
        touched = (self._pairs()[1] < REACH).sum(2)
        rewards = np.where(running[:, None], -0.5 * nearest[:, None] - 0.5 * touched, 0).astype(np.float32)
        return self._frame(), rewards, np.zeros_like(running), running & (self._steps >= LIMIT)

    def close(self) -> None: ...

    def _pairs(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x_i - x_j (N, A, A, 2) and its length, which is infinite for i = j."""
        apart = self._position[:, :, None] - self._position[:, None]
        return apart, np.where(np.eye(AGENTS, dtype=bool), np.inf, np.linalg.norm(apart, axis=-1))

    def _frame(self) -> Frame:
        place = self._position[:, :, None]
        landmarks = (self._landmarks[:, None] - place).reshape(*self._position.shape[:2], -1)
        others = (self._position[:, self._others] - place).reshape(*self._position.shape[:2], -1)
        parts = self._velocity, self._position, landmarks, others, np.zeros_like(others)  # nobody speaks
        seen = np.concatenate(parts, -1).astype(np.float32)
        return Frame(seen, seen.reshape(len(seen), -1), self._available)
