"""Actors of off-policy methods: what acts, without the critics that taught it."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.rl.distributions import Categorical, Deterministic, SquashedGaussian
from zoo.rl.policies import Policy

KINDS = ("stochastic", "deterministic")


class Actor(Policy):
    """pi(a | s): a network of ReLUs and a squashed Gaussian, a categorical distribution, or tanh and no distribution.

    Weights and biases begin as those of `nn.Linear`. Continuous actions are in [-1, 1], and scaled at the border.

    Args:
        observation_shape, num_actions, action_low, action_high: as `ActorCritic`; one discrete action at most.
        hidden: widths.
        kind: "stochastic" or "deterministic".
        sigma: of the noise by which a deterministic one explores, in units of half the range of actions.
        drift: whether that noise is an Ornstein-Uhlenbeck process.

    Attributes:
        in_bfloat16: whether to multiply in it between hidden layers, where the time is.

    Raises:
        ValueError: as `Policy`; if the kind is unknown, or takes no discrete actions.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: tuple[int, ...] = (),
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        hidden: tuple[int, ...] = (256, 256),
        kind: str = "stochastic",
        sigma: float = 0.1,
        drift: bool = False,
    ) -> None:
        super().__init__(observation_shape, num_actions, action_low, action_high, hidden)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if len(num_actions) > 1 or (num_actions and kind == "deterministic"):
            raise ValueError(f"a {kind} actor takes continuous actions{' or one discrete' * (kind == KINDS[0])}")
        self.distribution: Any
        if num_actions:
            self.distribution = Categorical(tuple(num_actions))
        elif kind == "stochastic":
            self.distribution = SquashedGaussian(len(action_low))
        else:
            self.distribution = Deterministic(len(action_low), sigma, drift)
        widths = [math.prod(observation_shape), *hidden]
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(hidden[-1], self.distribution.outputs)
        self.in_bfloat16 = False

    def example(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Two observations."""
        return {"observations": torch.randn((2, *self.shape), generator=generator)}

    def forward(self, observations: Tensor) -> Tensor:
        """What the head says, (..., *observation_shape) -> (..., outputs): mu and log sigma, logits, or atanh(a)."""
        return self.outputs(observations)[0]

    def outputs(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        x = relu_layers(self.trunk, observations.flatten(-len(self.observation_shape)), self.in_bfloat16)
        return self.head(x), x


def relu_layers(layers: nn.ModuleList, x: Tensor, in_bfloat16: bool) -> Tensor:
    """ReLU after each linear layer; with `in_bfloat16` the products between hidden layers round their factors to it."""
    layer: Any  # a Linear; a list of modules says less
    for k, layer in enumerate(layers):
        low = k and in_bfloat16
        x = ((x.bfloat16() @ layer.weight.bfloat16().mT).float() + layer.bias if low else layer(x)).relu()
    return x
