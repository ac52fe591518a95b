"""The neural autoregressive distribution estimator."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NADE(nn.Module):
    """h_d = sigmoid(b + sum_{j < d} W_j x_j),    a_d = c_d + V_d h_d.

    The sums of all d are one cumulative sum, so that training takes O(D H) additions an image and not O(D^2 H); a
    sample carries the sum from entry to entry and costs as much as one pass.

    Args:
        dims: D.
        outputs: P, numbers for each entry.
        hidden: H.
        dropout: probability of dropping a hidden unit.
        condition: numbers in the condition, which is added to b through a matrix, and to c; 0 for none.

    References:
        Larochelle & Murray 2011, equations 6 to 9 and algorithm 1; Uria et al. 2016, arXiv:1605.02226;
        001_7af9247201bdf7d9.txt, section 3.
    """

    def __init__(self, dims: int, outputs: int, hidden: int, dropout: float, condition: int) -> None:
        super().__init__()
        self.dims, self.outputs = dims, outputs
        self.encoder = nn.Parameter(torch.randn(dims, hidden) / math.sqrt(dims))  # W
        self.decoder = nn.Parameter(torch.randn(dims, outputs, hidden) / math.sqrt(hidden))  # V
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.bias = nn.Parameter(torch.zeros(dims, outputs))
        self.condition = nn.Linear(condition, hidden, bias=False) if condition else None
        self.condition_output = nn.Linear(condition, dims * outputs, bias=False) if condition else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Numbers for each entry given those before it: x (B, D), condition (B, K) -> (B, D, P)."""
        terms = x[..., None] * self.encoder  # (B, D, H)
        before = F.pad(
            terms[:, :-1].cumsum(1), (0, 0, 1, 0)
        )  # not cumsum - terms: rounding would leak the entry itself
        h = self.dropout((before + self._start(condition)).sigmoid())
        return torch.einsum("bdh,dph->bdp", h, self.decoder) + self._output(condition)

    def steps(self, batch: int, condition: Tensor | None = None) -> Callable[[int, Tensor], Tensor]:
        """Of entry i, given x (B, D) with those before it: (i, x) -> (B, P), for i = 0, 1, ... in turn, in O(H P)."""
        total = self._start(condition)[:, 0].expand(batch, -1)
        bias = self._output(condition).expand(batch, -1, -1)

        def step(i: int, x: Tensor) -> Tensor:
            nonlocal total
            if i:
                total = total + x[:, i - 1, None] * self.encoder[i - 1]
            return F.linear(total.sigmoid(), self.decoder[i]) + bias[:, i]

        return step

    def _start(self, condition: Tensor | None) -> Tensor:
        """b, (1, 1, H) or (B, 1, H)."""
        start = self.hidden_bias[None, None]
        return start if self.condition is None else start + self.condition(condition)[:, None]

    def _output(self, condition: Tensor | None) -> Tensor:
        """c, (1, D, P) or (B, D, P)."""
        if self.condition_output is None:
            return self.bias[None]
        return self.bias + self.condition_output(condition).unflatten(1, (self.dims, self.outputs))
