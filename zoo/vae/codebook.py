"""Codebooks: one that follows the vectors which it stands for, and a fixed grid."""

import hashlib
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UserError

MOST_CODES = 2**16  # of a lattice
SMALLEST = 1e-6  # size of a code that still moves: below it, sums are mostly rounding


class Codebook(nn.Module):
    """k(z) = argmin_j |z - e_j|^2. Each code is the running mean of the vectors that are nearest to it:

        n_j <- r n_j + (1 - r) count_j,    m_j <- r m_j + (1 - r) sum of the vectors of j,    e_j = m_j / n_j

    A code of which too little is left is put at a vector of the batch, with n_j = 1 and m_j = e_j: had it kept m_j and
    n_j, they would take it back in the next step. The sizes begin at zero, so that the first batch places the codes.

    Args:
        codes: K.
        width: of a code.

    References:
        van den Oord et al. 2017, arXiv:1711.00937, equation 1 and appendix A.1.
    """

    codes: Tensor  # e, (K, width)
    sizes: Tensor  # n, (K,)
    sums: Tensor  # m, (K, width)

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(codes, width))
        self.register_buffer("sizes", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    def forward(self, index: Tensor) -> Tensor:
        """The codes of whole numbers (...), (..., width)."""
        return F.embedding(index, self.codes)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The number of the code nearest to each vector, (..., width) -> (...); the lowest of several."""
        z = z.to(self.codes)  # half of the precision would mix up near codes
        return (self.codes.square().sum(1) - 2 * z @ self.codes.T).argmin(-1)

    @torch.no_grad()
    def update(self, z: Tensor, decay: float, restart_below: float, generator: torch.Generator | None = None) -> int:
        """Moves the codes towards vectors z (N, width), and returns how many were put at one of these instead.

        Args:
            decay: r.
            restart_below: the size n_j below which a code is lost; 0 for never.
            generator: chooses the vectors.
        """
        z = z.to(self.codes)
        assigned = F.one_hot(self.nearest(z), len(self.codes)).to(z)
        self.sizes.lerp_(assigned.sum(0), 1 - decay)
        self.sums.lerp_(assigned.T @ z, 1 - decay)
        lost = (self.sizes < restart_below).nonzero()[:, 0]
        chosen = torch.randint(len(z), (len(lost),), generator=generator).to(z.device)
        self.sizes[lost], self.sums[lost] = 1.0, z[chosen]
        moves = self.sizes > SMALLEST
        self.codes[moves] = self.sums[moves] / self.sizes[moves, None]
        return len(lost)


class Lattice(nn.Module):
    """All K = prod_i L_i points of a grid in [-1, 1]^width, and k(z) the nearest one to z, entry by entry:

        e_i = 2 n_i / (L_i - 1) - 1,    n_i = round((L_i - 1) (z_i + 1) / 2),    k = sum_i n_i prod_{j > i} L_j

    Finite scalar quantisation: nothing is learned here, no code dies, and the encoder ends in a hyperbolic tangent. The
    grid is symmetric for even L_i too, where the paper shifts it by half a step.

    Args:
        levels: L_i, at least 2 each.

    References:
        Mentzer et al. 2023, arXiv:2309.15505, section 3.
    """

    codes: Tensor  # e, (K, width)
    levels: Tensor  # L, (width,)

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if min(levels) < 2:
            raise UserError(f"scalar_levels must be at least 2 each, got {levels!r}")
        if math.prod(levels) > MOST_CODES:
            raise UserError(f"scalar_levels must make at most {MOST_CODES} codes, got {levels!r}")
        numbers = torch.unravel_index(torch.arange(math.prod(levels)), levels)
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("codes", 2 * torch.stack(numbers, 1) / (sizes - 1) - 1, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """The codes of whole numbers (...), (..., width)."""
        return F.embedding(index, self.codes)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """The number of the code nearest to each vector of [-1, 1]^width, (..., width) -> (...)."""
        numbers = ((z.to(self.codes) + 1) * (self.levels - 1) / 2).round().long()
        index = numbers[..., 0]
        for i in range(1, len(self.levels)):
            index = index * self.levels[i] + numbers[..., i]
        return index


def digest(tensors: Iterable[Tensor]) -> str:
    """Twelve letters that tell tensors from any others."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def perplexity(counts: Tensor) -> Tensor:
    """exp H of the shares of counts (K,): how many codes would be in use if all were used alike."""
    share = counts.double() / counts.sum()
    return torch.special.entr(share).sum().exp()
