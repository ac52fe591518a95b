"""The interface of all environments of teams."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.teams.types import TeamSpaces

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


class Frame(NamedTuple):
    """What N copies show: observations (N, A, D), states (N, S), available (N, A, K) bool."""

    observations: Floats
    states: Floats
    available: Bools


class TeamEnvs(Protocol):
    """N copies of an environment of A agents.

    Attributes:
        spaces: its sizes. limit: the largest number of steps of an episode, after which it is truncated.
    """

    spaces: TeamSpaces
    limit: int

    def reset(self, seeds: Sequence[int | None]) -> Frame:
        """Begins an episode in every copy that has a seed; the others stand still."""

    def step(self, actions: NDArray[np.int64], running: Bools) -> tuple[Frame, Floats, Bools, Bools]:
        """(N, A) actions of the copies that are `running` (N,) -> frame, rewards (N, A), terminated, truncated (N,)."""

    def close(self) -> None: ...
