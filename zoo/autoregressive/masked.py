"""Perceptrons whose weights are masked, so that an output depends on earlier entries only: FVSBN and MADE."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskedPerceptron(nn.Module):
    """h_l = relu(b_l + (W_l * M_l) h_{l-1}),    a = c + (V * N) h_depth + (A * N') x.

    Entry d has a place m(d) = 1 ... D in the order, a hidden unit a place m(j) = 1 ... D - 1, and output d the place of
    its entry. A weight into a hidden unit is kept if m(from) <= m(to), one into an output if m(from) < m(to): output d
    sees only entries before d. Masks multiply weights and never change them, so several orders share all weights.
    Without hidden layers this is a fully visible belief network: D regressions, each on the entries before it.

    Args:
        dims: D.
        outputs: P, numbers for each entry.
        hidden: units of a hidden layer.
        depth: hidden layers; 0 for a fully visible belief network.
        dropout: probability of dropping a hidden unit.
        condition: numbers in the condition, 0 for none.
        orders: how many orders there are; the first is 0 ... D - 1, the others are random.

    References:
        Germain et al. 2015, arXiv:1502.03509, equations 12 to 15; FVSBN: Gan et al. 2015, section 2;
        001_7af9247201bdf7d9.txt, section 3.
    """

    order: Tensor  # (orders, D): the entries, in the order in which they are drawn
    places: Tensor  # of the hidden units

    def __init__(
        self, dims: int, outputs: int, hidden: int, depth: int, dropout: float, condition: int, orders: int = 1
    ) -> None:
        super().__init__()
        self.dims, self.outputs = dims, outputs
        generator = torch.Generator().manual_seed(0)
        random = [torch.randperm(dims, generator=generator, device="cpu") for _ in range(orders - 1)]
        self.register_buffer("order", torch.stack([torch.arange(dims, device="cpu"), *random]))
        # evenly spread: at random some entries could be left without a path
        self.register_buffer("places", torch.arange(hidden) % max(1, dims - 1) + 1, persistent=False)
        sizes = [dims, *[hidden] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(dropout)
        self.direct = nn.Linear(dims, dims * outputs)
        self.output = nn.Linear(hidden, dims * outputs, bias=False) if depth else None
        sizes = [*[hidden] * min(depth, 1), dims * outputs]
        self.condition = nn.ModuleList(nn.Linear(condition, size, bias=False) for size in sizes) if condition else None

    def forward(self, x: Tensor, condition: Tensor | None = None, order: int = 0) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        return self._some(x, condition, order, torch.arange(self.dims, device=x.device))

    def steps(self, batch: int, condition: Tensor | None = None, order: int = 0) -> Callable[[int, Tensor], Tensor]:
        """Of the i-th entry in the order, given x (B, D) with those before it: (i, x) -> (B, P). Nothing is cached."""
        return lambda i, x: self._some(x, condition, order, self.order[order, i : i + 1])[:, 0]

    def _some(self, x: Tensor, condition: Tensor | None, order: int, entries: Tensor) -> Tensor:
        """Numbers for some of the entries, (B, entries, P)."""
        first = self.order[order].argsort() + 1  # the place of each entry
        places, h = first, x
        for i, layer in enumerate(self.hidden):
            assert isinstance(layer, nn.Linear)  # for mypy
            h = F.linear(h, layer.weight * (places <= self.places[:, None]), layer.bias)
            h = h + self.condition[0](condition) if self.condition is not None and not i else h
            places, h = self.places, self.dropout(h.relu())
        rows = (entries[:, None] * self.outputs + torch.arange(self.outputs, device=x.device)).flatten()
        last = first[entries].repeat_interleave(self.outputs)[:, None]
        out = F.linear(x, self.direct.weight[rows] * (first < last), self.direct.bias[rows])
        if self.output is not None:
            out = out + F.linear(h, self.output.weight[rows] * (self.places < last))
        if self.condition is not None:
            out = out + self.condition[-1](condition)[:, rows]
        return out.unflatten(1, (len(entries), self.outputs))
