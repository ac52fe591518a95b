"""What networks of sequences read: the entry before, the place, and the condition."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Inputs(nn.Module):
    """e_d = U (x_{d-1}, ..., x_{d-n}) + p_d + C c, with zeros before the first entry, and a learned p_d for each place.

    The shift by one stands here alone: a network that is causal, e_1 ... e_d -> output d, needs no other.

    Args:
        dims: D.
        width: of e_d.
        condition: numbers in the condition c, 0 for none.
        window: n, how many entries before d are read at once.
        names: K, of entries that are names, whole numbers 0 ... K - 1, each with a vector of its own (n is 1); 0 for
            amounts.
    """

    def __init__(self, dims: int, width: int, condition: int, window: int = 1, names: int = 0) -> None:
        super().__init__()
        self.window, self.names = window, names
        # the first vector of names is that of no entry
        self.value: nn.Module = nn.Embedding(names + 1, width) if names else nn.Linear(window, width, bias=False)
        self.place = nn.Parameter(0.5 * torch.randn(dims, width))
        self.condition = nn.Linear(condition, width, bias=False) if condition else None

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """x (B, D), condition (B, K) -> (B, D, width)."""
        if self.names:
            before = F.pad(x[:, :-1] + 1, (1, 0))
        else:
            before = F.pad(x[:, :-1], (self.window, 0)).unfold(1, self.window, 1)  # (B, D, window)
        return self.value(before) + self.place + self._condition(condition)

    def at(self, i: int, x: Tensor, condition: Tensor | None) -> Tensor:
        """e of entry i alone, (B, 1, width), of x (B, D) with the entries before it."""
        before = x[:, max(0, i - self.window) : i] + (1 if self.names else 0)
        before = F.pad(before, (self.window - before.shape[1], 0))
        return self.value(before if self.names else before[:, None]) + self.place[i] + self._condition(condition)

    def _condition(self, condition: Tensor | None) -> Tensor | float:
        return 0.0 if self.condition is None else self.condition(condition)[:, None]
