"""Prioritised replay: which rows of a buffer are drawn how often, and the weights that correct for it."""

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-6  # added to |delta|: a row without an error may be drawn again
BLOCK = 32  # rows


def importance_weights(probabilities: Tensor, size: int, exponent: float) -> Tensor:
    """w_i = (N P(i))^(-beta) / max_j w_j, the largest of each minibatch: with beta = 1 a draw has no bias left.

    Args:
        probabilities: (..., B) P. size: N, the rows stored now. exponent: beta.

    References:
        Schaul et al. 2016, arXiv:1511.05952, section 3.4; 004_2b20c020fc470ac5.txt, section 4.3.1, which has the
        capacity in the place of N.
    """
    weights = (size * probabilities) ** -exponent
    return weights / weights.amax(-1, keepdim=True)


class Priorities:
    """P(i) = p_i^alpha / sum_j p_j^alpha, p_i = |delta_i| + 1e-6, or p_i = 1 / rank(i), rank 1 the largest |delta_i|.

    A new row counts as if it had the largest |delta| so far, whichever row was there before. Ranks are among the values
    of the last sorting, which is repeated after as many changes as there are rows. All lies in the memory of the CPU.

    Args:
        capacity: rows. exponent: alpha; 0 draws uniformly. ranked: whether p is 1 / rank.

    References:
        Schaul et al. 2016, arXiv:1511.05952, section 3.3 and algorithm 1; 004_2b20c020fc470ac5.txt, section 4.3.1.
    """

    def __init__(self, capacity: int, exponent: float, ranked: bool = False) -> None:
        self.exponent, self.ranked = exponent, ranked
        self.errors = torch.zeros(capacity, dtype=torch.float64)
        self.sums = Sums(capacity)
        self.largest = torch.ones((), dtype=torch.float64)
        self.size = self.changed = 0  # rows; those that changed since the last sorting
        self.falling = self.errors[:0]  # -|delta|, in order, at the last sorting

    def add(self, rows: Tensor) -> None:
        """New rows (n,) in these places, over whatever was there."""
        self.size = max(self.size, int(rows.max()) + 1)
        self._set(rows, self.largest.expand(len(rows)))

    def update(self, rows: Tensor, errors: Tensor) -> None:
        """|delta| of rows, (n,) and (n,): unweighted and not clipped; of a row that is named twice, either."""
        errors = errors.double()
        self.largest = torch.maximum(self.largest, errors.max())
        self._set(rows, errors)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` rows with replacement, (n,) int64, and P of each (n,) float64, by PyTorch's own random numbers."""
        if self.ranked and self.changed >= self.size:
            self._sort()
        return self.sums.find(torch.rand(count, dtype=torch.float64))

    def state(self) -> dict[str, Tensor | int]:
        """What `restore` needs."""
        size = self.size
        tensors = {"errors": self.errors[:size], "weights": self.sums.weights[:size], "falling": self.falling}
        # a part of a tensor would be saved with the whole
        saved: dict[str, Tensor | int] = {name: tensor.clone() for name, tensor in tensors.items()}
        return saved | {"largest": self.largest, "changed": self.changed}

    def restore(self, state: dict[str, Any]) -> None:
        """Makes them exactly what they were, for a buffer of the same capacity."""
        self.size, self.changed, self.largest = len(state["errors"]), state["changed"], state["largest"].clone()
        self.errors[: self.size] = state["errors"]
        self.falling = state["falling"].clone()
        self.sums.set(torch.arange(self.size), state["weights"])

    def _set(self, rows: Tensor, errors: Tensor) -> None:
        self.errors[rows] = errors
        self.changed += len(rows)
        ranks = 1.0 + torch.searchsorted(self.falling, -errors) if self.ranked else None
        priorities = errors + SMALLEST if ranks is None else 1 / ranks.double()
        self.sums.set(rows, priorities**self.exponent)

    def _sort(self) -> None:
        self.falling, order = (-self.errors[: self.size]).sort(stable=True)
        self.sums.set(order, torch.arange(1, self.size + 1, dtype=torch.float64) ** -self.exponent)
        self.changed = 0


class Sums:
    """Weights w_i >= 0 in float64, from which row i is drawn with probability w_i / sum_j w_j.

    A sum tree of two levels: blocks of 32 rows, and their sums. A change adds up its blocks anew, so that no rounding
    builds up; a draw searches the running sums of the blocks, and then one block.

    Args:
        capacity: rows. device: where the weights lie.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        self.blocks = torch.zeros(-(-capacity // BLOCK), BLOCK, dtype=torch.float64, device=device)
        self.sums = torch.zeros(len(self.blocks), dtype=torch.float64, device=device)

    @property
    def weights(self) -> Tensor:
        """w; those beyond the capacity are 0."""
        return self.blocks.view(-1)

    def set(self, rows: Tensor, weights: Tensor) -> None:
        """w[rows] = weights, (n,) and (n,)."""
        self.weights[rows] = weights
        changed = rows // BLOCK
        self.sums[changed] = self.blocks[changed].sum(1)

    def find(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The rows i with w_0 + ... + w_{i-1} <= u sum_j w_j < w_0 + ... + w_i, and their probabilities.

        A row of weight 0 is never found: the comparison is strict, and what rounding leaves beyond a sum is cut off.

        Args:
            uniform: (n,) float64 u in [0, 1).

        Returns:
            (n,) int64 and (n,) float64.
        """
        running = self.sums.cumsum(0)
        left = torch.minimum(uniform * running[-1], _below(running[-1]))
        block = torch.searchsorted(running, left, right=True)
        inside = self.blocks[block].cumsum(1)
        left = (left - (running[block] - self.sums[block])).clamp(min=0)
        left = torch.minimum(left, _below(inside[:, -1]))
        place = torch.searchsorted(inside, left[:, None], right=True)[:, 0]
        rows = block * BLOCK + place
        return rows, self.weights[rows] / running[-1]


def _below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))
