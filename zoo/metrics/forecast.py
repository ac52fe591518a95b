"""Proper scores of forecasts that are samples."""

import torch
from torch import Tensor


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """E |X - y| - E |X - X'| / 2, the continuous ranked probability score, in the units of y; lower is better.

    It is the integral of (F(z) - 1{z >= y})^2, F the distribution function of the forecast, and |X - y| of a point.
    The estimate from m samples has no bias: X and X' are never the same sample.

    Args:
        samples: X, (..., m), m at least 2.
        truth: y, (...).

    References:
        Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation, equation 21.
    """
    count = samples.shape[-1]
    rank = torch.arange(1, count + 1, dtype=samples.dtype, device=samples.device)
    pairs = (samples.sort(-1).values * (2 * rank - count - 1)).sum(-1)  # sum of |x_i - x_j| over i < j
    return (samples - truth[..., None]).abs().mean(-1) - pairs / (count * (count - 1))
