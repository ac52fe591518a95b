"""Matrix games as environments, all copies in one array: one step, or the two steps of QMIX's example."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.teams.frame import Bools, Floats, Frame
from zoo.teams.payoffs import PAYOFFS, TWO_STEP, payoff
from zoo.teams.types import TeamSpaces

GAMES = (*PAYOFFS, "two-step")


class MatrixGames:
    """N copies of a game of two agents, who see the one-hot number of the matrix that is played and get its payoff.

    In `two-step` the first agent's first action chooses the matrix of the second step; the reward comes there.
    """

    def __init__(self, game: str, count: int) -> None:
        # matrix 0 is a choice that pays nothing
        tables = np.asarray([np.zeros((2, 2)), *TWO_STEP]) if game == "two-step" else payoff(game).numpy()[None]
        self._tables: NDArray[np.float32] = tables.astype(np.float32)
        self._at = np.zeros(count, np.int64)
        states, actions = tables.shape[:2]
        self.limit = 2 if game == "two-step" else 1
        self.spaces: TeamSpaces = {
            "observation_sizes": (states, states), "num_actions": (actions, actions), "state_size": states
        }  # fmt: skip

    def reset(self, seeds: Sequence[int | None]) -> Frame:
        self._at[[seed is not None for seed in seeds]] = 0
        return self._frame()

    def step(self, actions: NDArray[np.int64], running: Bools) -> tuple[Frame, Floats, Bools, Bools]:
        rewards = np.where(running, self._tables[self._at, actions[:, 0], actions[:, 1]], 0).astype(np.float32)
        chooses = running & (self._at == 0) & (self.limit == 2)
        self._at = np.where(chooses, 1 + actions[:, 0], self._at)
        return self._frame(), np.stack([rewards, rewards], 1), running & ~chooses, np.zeros_like(running)

    def close(self) -> None: ...

    def _frame(self) -> Frame:
        states = np.eye(len(self._tables), dtype=np.float32)[self._at]
        count, actions = len(self._at), self._tables.shape[1]
        return Frame(np.stack([states, states], 1), states, np.ones((count, 2, actions), bool))
