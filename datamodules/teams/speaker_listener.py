"""`mpe2/simple_speaker_listener_v4` for training: all copies in one array, and equal to mpe2's to rounding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.teams.frame import Bools, Floats, Frame
from datamodules.teams.spread import DAMPING, LIMIT, MOVES, STEP
from zoo.teams.types import TeamSpaces

LANDMARKS = 3
COLOURS = 0.15 + 0.5 * np.eye(LANDMARKS)
WORDS = np.eye(LANDMARKS)


class SpeakerListener:
    """A speaker sees the colour of the goal and cannot move; a listener sees landmarks and hears one of three words.

    Both are paid -|x - g|^2, x the place of the listener and g that of the goal. A word is heard one step later.

    References:
        Lowe et al. 2017, arXiv:1706.02275; mpe2 1.1.1, simple_speaker_listener.py and core.py.
    """

    def __init__(self, count: int) -> None:
        sizes = LANDMARKS, 2 + 2 * LANDMARKS + len(WORDS)
        self.limit = LIMIT
        self.spaces: TeamSpaces = {
            "observation_sizes": sizes, "num_actions": (len(WORDS), len(MOVES)), "state_size": sum(sizes)
        }  # fmt: skip
        self._goal, self._steps = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._position, self._velocity = np.zeros((count, 2)), np.zeros((count, 2))
        self._landmarks, self._heard = np.zeros((count, LANDMARKS, 2)), np.zeros((count, len(WORDS)))
        own = np.arange(len(MOVES)) < np.array([[len(WORDS)], [len(MOVES)]])
        self._available = np.tile(own, (count, 1, 1))

    def reset(self, seeds: Sequence[int | None]) -> Frame:
        for n, seed in enumerate(seeds):
            if seed is not None:
                generator = np.random.default_rng(seed)
                self._goal[n] = generator.integers(LANDMARKS)
                places = generator.uniform(-1, 1, (2 + LANDMARKS, 2))  # the first is the speaker's, which none sees
                self._position[n], self._landmarks[n] = places[1], places[2:]
                self._velocity[n], self._heard[n], self._steps[n] = 0, 0, 0
        return self._frame()

    def step(self, actions: NDArray[np.int64], running: Bools) -> tuple[Frame, Floats, Bools, Bools]:
        move = running[:, None]
        self._position = np.where(move, self._position + STEP * self._velocity, self._position)
        self._velocity = np.where(move, (1 - DAMPING) * self._velocity + STEP * MOVES[actions[:, 1]], self._velocity)
        self._heard = np.where(move, WORDS[actions[:, 0]], self._heard)
        self._steps += running
        goals = self._landmarks[np.arange(len(actions)), self._goal]
        reward = np.where(running, -np.square(self._position - goals).sum(-1), 0).astype(np.float32)
        rewards = np.repeat(reward[:, None], 2, 1)
        return self._frame(), rewards, np.zeros_like(running), running & (self._steps >= LIMIT)

    def close(self) -> None: ...

    def _frame(self) -> Frame:
        speaker = COLOURS[self._goal]
        landmarks = (self._landmarks - self._position[:, None]).reshape(len(speaker), -1)
        listener = np.concatenate([self._velocity, landmarks, self._heard], -1)
        seen = np.zeros((len(speaker), 2, listener.shape[-1]), np.float32)
        seen[:, 0, :LANDMARKS], seen[:, 1] = speaker, listener
        return Frame(seen, np.concatenate([speaker, listener], -1).astype(np.float32), self._available)
