"""A team as a policy: agents that each act on what they see, greedily in their utilities."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from zoo.teams.agents import Agents
from zoo.teams.types import TeamSpaces


class Team(nn.Module):
    """u_i = argmax Q_i(tau_i, .) for each agent i: the decentralised policy that methods of value decomposition learn.

    Args:
        observation_sizes, num_actions, state_size: as `TeamSpaces`; the state is no input of the policy.
        hidden, recurrent, shared, last_action, agent_id, quantiles, horizon: as `Agents`.
        epsilon: probability of a random action of each agent, when it explores.

    Raises:
        ValueError: as `Agents`; if a size is not positive, or not there for each agent.
    """

    own: Tensor
    labels = ()

    def __init__(
        self,
        observation_sizes: tuple[int, ...],
        num_actions: tuple[int, ...],
        state_size: int,
        hidden: tuple[int, ...] = (64, 64),
        recurrent: bool = False,
        shared: bool = True,
        last_action: bool = True,
        agent_id: bool = True,
        quantiles: int = 1,
        horizon: int = 0,
        epsilon: float = 0.05,
    ) -> None:
        super().__init__()
        if not num_actions or len(num_actions) != len(observation_sizes) or min(num_actions) < 1 or state_size < 1:
            raise ValueError(
                "observation_sizes and num_actions must have one positive number for each agent, and state_size be "
                f"positive, got {observation_sizes}, {num_actions} and {state_size}"
            )
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.observation_sizes, self.num_actions = tuple(observation_sizes), tuple(num_actions)
        self.state_size, self.epsilon = state_size, epsilon
        most = max(num_actions)
        self.agents = Agents(
            len(num_actions), max(observation_sizes), most, hidden, recurrent, shared, last_action, agent_id, quantiles,
            horizon,
        )  # fmt: skip
        own = torch.arange(most) < torch.tensor(num_actions)[:, None]
        self.register_buffer("own", own, persistent=False)  # (A, K), what an agent can ever do
        self.reset(0)

    @property
    def shape(self) -> tuple[int, int]:
        """(A, D), the observations of the agents."""
        return len(self.num_actions), max(self.observation_sizes)

    @property
    def spaces(self) -> TeamSpaces:
        return {
            "observation_sizes": self.observation_sizes,
            "num_actions": self.num_actions,
            "state_size": self.state_size,
        }

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Three steps of two episodes."""
        observations = torch.randn((3, 2, *self.shape), generator=generator)
        last = torch.randint(min(self.num_actions), (3, 2, self.shape[0]), generator=generator)
        last[0] = -1
        return {"observations": observations, "last": last}

    def forward(self, observations: Tensor, last: Tensor) -> Tensor:
        """(T, N, A, D) and (T, N, A) -> (T, N, A, K), mean utilities from the beginning of the episodes."""
        return self.agents(observations, last)[0].mean(-1)

    def reset(self, n: int) -> None:
        """Begins n episodes: the agents forget what they saw and did."""
        self._count, self._steps = n, 0
        self._memory: Tensor | None = None
        self._last: Tensor | None = None

    @torch.no_grad()
    def act(
        self,
        observations: Tensor,
        explore: bool = False,
        generator: torch.Generator | None = None,
        available: Tensor | None = None,
    ) -> Tensor:
        """The next actions of the team in each of N episodes.

        Args:
            observations: (A, D) or (N, A, D); another N than that of the last call begins new episodes.
            explore: whether each agent acts at random with probability `epsilon`.
            available: (N, A, K) bool, the actions that agents may take now; by default all of their own.

        Returns:
            (A,) or (N, A) int64.

        Raises:
            ValueError: if the observations have another shape.
        """
        given = torch.as_tensor(observations, dtype=torch.float32, device=self.own.device)
        if given.shape[-2:] != self.shape or given.ndim not in (2, 3):
            raise ValueError(f"observations must be of shape {self.shape}, one or a batch, got {tuple(given.shape)}")
        batch = given.reshape(-1, *self.shape)
        if len(batch) != self._count or self._last is None:
            self.reset(len(batch))
            self._last = torch.full(batch.shape[:2], -1, device=batch.device)
        values, self._memory = self.agents(batch[None], self._last[None], self._memory, self._steps)
        allowed = self.own.expand(len(batch), -1, -1) if available is None else available
        actions = greedy(values[0].mean(-1), allowed)
        if explore:
            draws = torch.rand((2, *actions.shape), generator=generator).to(actions.device)
            actions = torch.where(draws[0] < self.epsilon, draw(allowed, draws[1]), actions)
        self._last, self._steps = actions, self._steps + 1
        return actions if given.ndim == 3 else actions[0]

    def predict(
        self, observations: ArrayLike, explore: bool = False, generator: torch.Generator | None = None
    ) -> np.ndarray[Any, Any]:
        """`act` from NumPy to NumPy."""
        actions: np.ndarray[Any, Any] = self.act(torch.as_tensor(np.asarray(observations)), explore, generator).numpy()
        return actions


def greedy(values: Tensor, available: Tensor) -> Tensor:
    """argmax_u Q(tau, u) over available actions, (..., K) and (..., K) bool -> (...,)."""
    return values.masked_fill(~available, -torch.inf).argmax(-1)


def draw(available: Tensor, uniform: Tensor) -> Tensor:
    """A uniform choice among available actions, (..., K) bool, by numbers in [0, 1), (...,) -> (...,)."""
    count = available.sum(-1)
    wanted = (uniform * count).long().clamp(max=count - 1) + 1
    return (available.cumsum(-1) == wanted[..., None]).long().argmax(-1)
