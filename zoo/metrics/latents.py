"""How well single latents stand for single properties of the data."""

import torch
from torch import Tensor

BINS = 20


def information_gaps(latents: Tensor, factors: Tensor) -> Tensor:
    """(I(z_1; v_k) - I(z_2; v_k)) / H(v_k) of each factor, z_1 and z_2 the latents that tell most about it.

    1 if one latent alone tells all about a factor, 0 if two tell as much of it; their mean is the mutual information
    gap. Numbers are sorted into BINS bins of equal counts, classes into bins of their own.

    Args:
        latents: (N, Z), such as means of q(z | x); at least two.
        factors: (N, K).

    Returns:
        (K,)

    References:
        Chen et al. 2018, Isolating sources of disentanglement, arXiv:1802.04942, equation 6.
    """
    gaps = []
    binned = [_bins(column) for column in latents.T.contiguous()]
    for factor in factors.T.contiguous():
        value = _bins(factor)
        best = torch.stack([_mutual_information(column, value) for column in binned]).topk(2).values
        gaps.append((best[0] - best[1]) / _mutual_information(value, value))
    return torch.stack(gaps)


def _bins(x: Tensor) -> Tensor:
    """The number of a bin of each value (N,): of its lowest rank among all, or of its class if there are few."""
    values, index = x.unique(return_inverse=True)
    if len(values) <= BINS:
        return index
    rank = torch.searchsorted(x.sort().values, x)
    return rank * BINS // len(x)


def _mutual_information(a: Tensor, b: Tensor) -> Tensor:
    """I(a; b) in nats of the shares of pairs of whole numbers (N,), in float64."""
    joint = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    joint.index_put_((a.cpu(), b.cpu()), torch.tensor(1 / len(a), dtype=torch.float64), accumulate=True)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    return torch.special.xlogy(joint, joint / independent.clamp(min=1e-300)).sum()
