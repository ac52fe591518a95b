"""A table of action values, and the policy that is greedy in it."""

import torch
from torch import Tensor, nn

from zoo.rl.distributions import EpsilonGreedy
from zoo.rl.policies import Policy


class Table(Policy):
    """Q(s, a) of each state and action, and the policy argmax_a Q(s, a), the first of equal ones.

    A state is a whole number; environments show it one-hot, as every Discrete observation.

    Args:
        observation_shape: (S,). num_actions: (A,). action_low, action_high: empty.
        epsilon: with which it explores when it plays; then ties are broken at random.

    Raises:
        ValueError: if there is not one discrete observation and one discrete action.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...],
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        epsilon: float = 0.1,
    ) -> None:
        super().__init__(observation_shape, num_actions, action_low, action_high, hidden=(1,))
        if len(observation_shape) != 1 or len(num_actions) != 1:
            raise ValueError(f"a table has one state and one action, got {observation_shape} and {num_actions}")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.distribution = EpsilonGreedy(num_actions[0], epsilon)
        self.q = nn.Parameter(torch.zeros(observation_shape[0], num_actions[0]))

    @property
    def epsilon(self) -> float:
        return self.distribution.epsilon

    def forward(self, observations: Tensor) -> Tensor:
        """Q(s, .), (..., S) one-hot -> (..., A)."""
        return self.q[observations.argmax(-1)]

    def state_values(self) -> Tensor:
        """V(s) = max_a Q(s, a), (S,)."""
        return self.q.detach().amax(1)

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two states: that of the largest values, since many a state is never met, and one at random."""
        largest = self.q.detach().cpu().abs().sum(1).argmax()[None]
        states = torch.cat([largest, torch.randint(self.shape[0], (1,), generator=generator)])
        return {"observations": nn.functional.one_hot(states, self.shape[0]).float()}

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self(observations), observations

    def draw(self, observations: Tensor, noise: Tensor) -> Tensor:
        """One of the best actions, or with probability epsilon of all: (N, S), (N, 2) -> (N, 1)."""
        q = self(observations)
        allowed = (q == q.amax(-1, keepdim=True)) | (noise[:, :1] < self.epsilon)
        counted = allowed.cumsum(-1)
        return (counted > (noise[:, 1:] * counted[:, -1:]).floor()).int().argmax(-1, keepdim=True).float()
