"""What passes between the environments of a team, its replay and its losses."""

import math
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor


class TeamSpaces(TypedDict):
    """What a team must know of its environment, in plain values.

    Attributes:
        observation_sizes: of each of A agents; D is the largest, and shorter observations are padded with zeros.
        num_actions: of each agent; K is the largest, and an agent never takes an action beyond its own.
        state_size: S, of what only the training sees.
    """

    observation_sizes: tuple[int, ...]
    num_actions: tuple[int, ...]
    state_size: int


class TeamEpisodes(NamedTuple):
    """N episodes of at most T steps, time-major, agents after episodes; what follows the end of one is padding.

    Attributes:
        observations: (T + 1, N, A, D), the true last one too. states: (T + 1, N, S).
        available: (T + 1, N, A, K) bool, the actions that an agent may take.
        actions: (T, N, A) int64. rewards: (T, N), of the team.
        terminated: (T, N) bool: nothing follows, and has the value 0. An episode that ends otherwise was truncated:
            what would follow has a value.
        valid: (T, N) bool, whether the step was taken.
    """

    observations: Tensor
    states: Tensor
    available: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor

    def pack(self) -> Tensor:
        """(N, width) float32, an episode a row, as a replay buffer keeps it."""
        return torch.cat([part.transpose(0, 1).flatten(1).float() for part in self], 1)

    @classmethod
    def unpack(cls, rows: Tensor, limit: int, spaces: TeamSpaces) -> "TeamEpisodes":
        """What `pack` made of episodes of at most `limit` steps."""
        sizes, actions = spaces["observation_sizes"], max(spaces["num_actions"])
        agents = len(sizes)
        shapes = (
            (limit + 1, agents, max(sizes)), (limit + 1, spaces["state_size"]),
            (limit + 1, agents, actions), (limit, agents), (limit,), (limit,), (limit,),
        )  # fmt: skip
        parts = rows.split([math.prod(shape) for shape in shapes], 1)
        o, s, available, u, r, terminated, valid = (
            part.unflatten(1, shape).transpose(0, 1) for part, shape in zip(parts, shapes, strict=True)
        )
        return cls(o, s, available > 0, u.long(), r, terminated > 0, valid > 0)
