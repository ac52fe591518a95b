"""The variational bound of the data log-likelihood, for data on a grid of grey levels in [-1, 1]."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser
from zoo.random import normal


class Bound(NamedTuple):
    """-log p(x_0) <= total = prior + denoising + reconstruction, each (B,) in nats."""

    total: Tensor
    prior: Tensor
    denoising: Tensor
    reconstruction: Tensor


def variational_bound(
    denoise: Denoiser,
    process: NoiseProcess,
    x0: Tensor,
    *,
    levels: int,
    variance: str = "small",
    generator: torch.Generator | None = None,
) -> Bound:
    """KL(q(x_T | x_0) | N(0, I)) + sum_{t = 2..T} KL(q(x_{t-1} | x_t, x_0) | p(x_{t-1} | x_t)) - log p(x_0 | x_1).

    Sums all T terms with one draw of x_t each: an unbiased estimate of the bound.

    Args:
        denoise: estimate of x_0; clipped to the data's range, as samplers clip it, it gives a smaller bound.
        x0: data (B, ...) on the grid 2 k / (levels - 1) - 1, k = 0 ... levels - 1.
        levels: number of grey levels.
        variance: "small" or "large", the variance of p, as in `samplers.ancestral`.

    References:
        Ho et al. 2020, arXiv:2006.11239, eqs. 5, 8 and 13; 000_507b39bbaa34acda.txt, section 13.2.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    axes = tuple(range(1, x0.ndim))
    dims = x0[0].numel()
    last = process.num_timesteps
    signal, sigma = process.at(last)
    # KL(N(m, s^2) | N(0, 1)) = (s^2 + m^2 - 1) / 2 - log s
    prior = 0.5 * (signal * x0).square().sum(axes) + dims * (0.5 * (sigma**2 - 1) - math.log(sigma))

    denoising = torch.zeros_like(prior)
    for t in range(2, last + 1):
        q = process.posterior(t, t - 1)
        p_variance = q.variance if variance == "small" else q.forward_variance
        squared_error = (x0 - _estimate(denoise, process, x0, t, generator)).square().sum(axes)
        ratio = q.variance / p_variance
        denoising += 0.5 * (dims * (ratio - 1 - math.log(ratio)) + q.x0_weight**2 / p_variance * squared_error)

    # At t = 1 the posterior variance is 0: the decoder takes that of t = 2, as the authors' code does.
    second = process.posterior(min(2, last), 1) if last > 1 else process.posterior(1, 0)
    std = math.sqrt(second.variance if variance == "small" and last > 1 else process.posterior(1, 0).forward_variance)
    mean = _estimate(denoise, process, x0, 1, generator)
    reconstruction = -discretised_gaussian_log_prob(x0, mean, std, levels).sum(axes)
    return Bound(prior + denoising + reconstruction, prior, denoising, reconstruction)


def _estimate(
    denoise: Denoiser, process: NoiseProcess, x0: Tensor, t: int, generator: torch.Generator | None
) -> Tensor:
    times = torch.full((len(x0),), t, device=x0.device)
    return denoise(process.add_noise(x0, normal(x0.shape, generator, x0.device), times), times)


def discretised_gaussian_log_prob(x: Tensor, mean: Tensor, std: float, levels: int) -> Tensor:
    """log of the mass that N(mean, std^2) puts into the bin of x; the first and last bin reach to infinity.

    Bins are 2 / (levels - 1) wide and centred on the grid 2 k / (levels - 1) - 1.

    Returns:
        log-probabilities in nats, shape of x, float32. The levels of one entry sum to 1.

    References:
        Ho et al. 2020, arXiv:2006.11239, eq. 13.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels!r}")
    half_bin = 1 / (levels - 1)
    z = (x - mean).double()
    # By symmetry take both ends on the negative side, where log Phi keeps its relative precision.
    upper, lower = (z + half_bin) / std, (z - half_bin) / std
    flip = z > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    open_above, open_below = x > 1 - half_bin, x < -1 + half_bin
    upper = torch.where(torch.where(flip, open_below, open_above), torch.full_like(upper, math.inf), upper)
    lower = torch.where(torch.where(flip, open_above, open_below), torch.full_like(lower, -math.inf), lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    # log(e^u - e^l) = u + log(1 - e^(l - u))
    return (log_upper + torch.log1p(-torch.exp((log_lower - log_upper).clamp(max=-1e-12)))).float()
