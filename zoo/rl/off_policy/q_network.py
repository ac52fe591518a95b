"""Q(s, a) of a discrete action: the network that DQN learns, and the policy that is greedy in it."""

import itertools
import math

import torch
from torch import Tensor, nn

from zoo.rl.convolutions import Convolutions
from zoo.rl.distributions import EpsilonGreedy
from zoo.rl.off_policy.actors import relu_layers
from zoo.rl.policies import Policy

DUELING = ("none", "mean", "max")


def dueling_values(value: Tensor, advantages: Tensor, form: str) -> Tensor:
    """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a'), or - max_a' A(s, a'): (..., 1), (..., K) -> (..., K).

    A constant that is added to A changes nothing. V(s) is the mean of Q(s, .), or with "max" its largest value.

    References:
        Wang et al. 2016, arXiv:1511.06581, equations 8 and 9; 004_2b20c020fc470ac5.txt, section 4.2.1.
    """
    baseline = advantages.mean(-1, keepdim=True) if form == "mean" else advantages.amax(-1, keepdim=True)
    return value + (advantages - baseline)


class QNetwork(Policy):
    """Q(s, .): a network of ReLUs, and the policy that takes argmax_a Q(s, a), or explores with probability epsilon.

    Weights and biases begin as those of `nn.Linear`.

    Args:
        observation_shape, num_actions, action_low, action_high: as `ActorCritic`; one discrete action.
        hidden: widths. Dueling streams, of V and of A, have the last one each, and share those before.
        dueling: "none", "mean" or "max", see `dueling_values`.
        epsilon: with which it explores when it plays.
        channels: of `Convolutions` before the hidden layers, for pictures.

    Attributes:
        in_bfloat16: whether to multiply in it between hidden layers.

    Raises:
        ValueError: as `Policy`; if the action is not one discrete one, or a value is not among those named.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...],
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        hidden: tuple[int, ...] = (128, 128),
        dueling: str = "none",
        epsilon: float = 0.05,
        channels: tuple[int, ...] = (),
    ) -> None:
        super().__init__(observation_shape, num_actions, action_low, action_high, hidden)
        if len(num_actions) != 1:
            raise ValueError(f"a Q-network takes one discrete action, got num_actions {num_actions}")
        if dueling not in DUELING:
            raise ValueError(f"dueling must be one of {', '.join(DUELING)}, got {dueling!r}")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon must be between 0 and 1, got {epsilon}")
        self.distribution = EpsilonGreedy(num_actions[0], epsilon)
        self.dueling, self.in_bfloat16 = dueling, False
        self.convolutions = Convolutions(observation_shape, channels) if channels else None
        inputs = self.convolutions.features if self.convolutions else math.prod(observation_shape)
        # both streams are one layer of twice the width
        widths = [inputs, *hidden[:-1], hidden[-1] * (1 if dueling == "none" else 2)]
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(hidden[-1], num_actions[0])
        self.value_head = None if dueling == "none" else nn.Linear(hidden[-1], 1)

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two observations."""
        return {"observations": torch.randn((2, *self.shape), generator=generator)}

    def forward(self, observations: Tensor) -> Tensor:
        """(..., *observation_shape) -> (..., K), Q(s, .)."""
        return self.outputs(observations)[0]

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        x = observations.flatten(-len(self.observation_shape))
        x = relu_layers(self.trunk, x if self.convolutions is None else self.convolutions(x), self.in_bfloat16)
        if self.value_head is None:
            return self.head(x), x
        of_value, of_advantages = x.chunk(2, -1)
        return dueling_values(self.value_head(of_value), self.head(of_advantages), self.dueling), x
