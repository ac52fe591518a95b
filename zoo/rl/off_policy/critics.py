"""Action values: several independent networks as one, so that two critics cost one call of each product."""

import itertools
import math

import torch
from torch import Tensor, nn


class Critics(nn.Module):
    """Q_1, ..., Q_n: n networks of ReLUs that share nothing, weights (n, inputs, outputs), one batched product a layer.

    Weights and biases begin as those of `nn.Linear`: uniform within 1 / sqrt(inputs).

    Args:
        inputs: numbers that describe an observation, and a continuous action beside it.
        outputs: 1 for Q(s, a); the number of actions for Q(s, .).
        hidden: widths. count: n.

    Attributes:
        in_bfloat16: whether to multiply in it between hidden layers.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, inputs: int, outputs: int = 1, hidden: tuple[int, ...] = (256, 256), count: int = 2) -> None:
        super().__init__()
        if not hidden or min((*hidden, inputs, outputs, count)) < 1:
            raise ValueError("hidden must not be empty, and inputs, outputs, hidden and count must be positive")
        self.in_bfloat16 = False
        widths = [inputs, *hidden, outputs]
        pairs = list(itertools.pairwise(widths))
        self.weights = nn.ParameterList(_uniform((count, a, b), a) for a, b in pairs)
        self.biases = nn.ParameterList(_uniform((count, 1, b), a) for a, b in pairs)

    def forward(self, x: Tensor, count: int | None = None) -> Tensor:
        """(B, inputs) -> (n, B), or (n, B, outputs) for several outputs; of the first `count` critics alone, if given.

        With `in_bfloat16` the products between hidden layers, where the time is, round their factors to it.
        """
        weights, biases = ([part[:count] for part in parts] for parts in (self.weights, self.biases))
        x = torch.baddbmm(biases[0], x.expand(len(weights[0]), *x.shape), weights[0]).relu()
        for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
            if self.in_bfloat16:
                x = (torch.bmm(x.bfloat16(), weight.bfloat16()).float() + bias).relu()
            else:
                x = torch.baddbmm(bias, x, weight).relu()
        if weights[-1].shape[-1] == 1:  # a product with one column is a sum, which a compiler fuses with its neighbours
            return (x * weights[-1].mT).sum(-1) + biases[-1][..., 0]
        return torch.baddbmm(biases[-1], x, weights[-1])


def _uniform(shape: tuple[int, ...], inputs: int) -> nn.Parameter:
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
