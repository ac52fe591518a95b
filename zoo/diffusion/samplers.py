"""Samplers: plain functions over a denoiser (x_t, t) -> estimate of x_0, on any decreasing list of times.

Since eps is always derived from the denoiser's x_0, a denoiser that clips x_0 needs nothing further.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.random import normal

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,) int64) -> x_0 (B, ...)
OnStep = Callable[[int, Tensor], None]  # (time just reached, x there)

SPACINGS = ("trailing", "leading", "linspace", "quadratic")


def timesteps(num_timesteps: int, steps: int, spacing: str = "trailing") -> list[int]:
    """`steps` decreasing times in 1 ... T, then 0.

    trailing: T, T - T/S, ...     leading: ..., 1 + T//S, 1     linspace: T ... 1, both ends
    quadratic: 1 + (i sqrt(0.8 T) / (S - 1))^2, dense near the data (DDIM, appendix D.2)

    Raises:
        ValueError: if `steps` is not in 1 ... T or the spacing is unknown.

    References:
        Song et al. 2020, arXiv:2010.02502, section 4.2; Lin et al. 2023, arXiv:2305.08891, table 2 (names).
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"steps must be between 1 and the model's {num_timesteps}, got {steps!r}")
    if spacing == "trailing":
        rising = [round(num_timesteps * (i + 1) / steps) for i in range(steps)]
    elif spacing == "leading":
        rising = [1 + i * (num_timesteps // steps) for i in range(steps)]
    elif spacing == "linspace":
        rising = [round(1 + i * (num_timesteps - 1) / max(1, steps - 1)) for i in range(steps)]
    elif spacing == "quadratic":
        rising = [1 + int((i * math.sqrt(0.8 * num_timesteps) / max(1, steps - 1)) ** 2) for i in range(steps)]
        for i in range(1, steps):  # the squares crowd near 0: keep them distinct
            rising[i] = max(rising[i], rising[i - 1] + 1)
    else:
        raise ValueError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
    return [*reversed(rising), 0]


def call(denoise: Denoiser, x: Tensor, t: int) -> Tensor:
    """denoise(x, t) for one time for the whole batch."""
    return denoise(x, torch.full((len(x),), t, device=x.device))


def ancestral(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    variance: str = "small",
    mean_gradient: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_s = mean of q(x_s | x_t, x_0 = denoise(x_t, t)) + sigma z, down the list of times; no noise at s = 0.

    Args:
        x: x at times[0], (B, ...), usually N(0, I).
        times: decreasing, ending at 0. On a sub-sequence beta is 1 - abar_t / abar_s.
        variance: "small" (posterior variance, beta-tilde) or "large" (beta).
        mean_gradient: classifier guidance: (x_t, t) -> s grad log p(c | x_t, t), which, times the variance, is added to
            the mean. It is taken at x_t, as in the authors' code, not at the mean, as the paper derives it. Like the
            noise, it is left out at s = 0.

    References:
        Ho et al. 2020, arXiv:2006.11239, algorithm 2 and section 3.2; 000_507b39bbaa34acda.txt, figure 1.
        mean_gradient: Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 1.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    for t, s in itertools.pairwise(times):
        q = process.posterior(t, s)
        mean = q.x0_weight * call(denoise, x, t) + q.xt_weight * x
        if s > 0:
            p_variance = q.variance if variance == "small" else q.forward_variance
            if mean_gradient is not None:
                mean = mean + p_variance * call(mean_gradient, x, t)
            mean = mean + math.sqrt(p_variance) * normal(x.shape, generator, x.device)
        x = mean
        if on_step is not None:
            on_step(s, x)
    return x


def ddim(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z, where x_0 = denoise(x_t, t),

        eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)
        sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)

    eta = 0 is deterministic; eta = 1 is `ancestral` with the small variance.

    Args:
        x: x at times[0], (B, ...). times: decreasing, ending at 0.

    References:
        Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16; 000_507b39bbaa34acda.txt, eqs. 63 to 66 (in whose eq. 66
        sigma^2 must scale with eta^2).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 and 1, got {eta!r}")
    for t, s in itertools.pairwise(times):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        x0 = call(denoise, x, t)
        eps = (x - signal_t * x0) / sigma_t
        sigma = eta * math.sqrt(process.posterior(t, s).variance)
        x = signal_s * x0 + math.sqrt(max(0.0, sigma_s**2 - sigma**2)) * eps
        if sigma > 0:
            x = x + sigma * normal(x.shape, generator, x.device)
        if on_step is not None:
            on_step(s, x)
    return x


def ddim_invert(denoise: Denoiser, process: NoiseProcess, x0: Tensor, times: Sequence[int]) -> Tensor:
    """The latent x_T that `ddim` with eta = 0 turns back into x0: its steps run upwards, x_s -> x_t, with x_0 and eps
    from the denoiser at the lower end (at s = 0 the denoiser has nothing to tell: x_0 is known, eps is asked for at t).

    The round trip errs by the step size, so more steps bring it closer.

    Args:
        x0: data (B, ...). times: the decreasing list that `ddim` will use, ending at 0.

    References:
        Song et al. 2020, arXiv:2010.02502, sections 4.3 and 5.4, eq. 14.
    """
    x = x0
    rising = list(reversed(times))
    for s, t in itertools.pairwise(rising):
        (signal_s, sigma_s), (signal_t, sigma_t) = process.at(s), process.at(t)
        if s == 0:  # x is x_0 itself; the noise direction is asked for at the first noisy time
            prediction = x
            eps = (x - signal_t * call(denoise, x, t)) / sigma_t
        else:
            prediction = call(denoise, x, s)
            eps = (x - signal_s * prediction) / sigma_s
        x = signal_t * prediction + sigma_t * eps
    return x


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, theta the angle of a and b, sample by sample.

    The mean of two Gaussian latents by straight lines is too short by a factor 0.71; this keeps their length.

    Args:
        a, b: latents of shape (B, ...). weight: 0 gives a, 1 gives b.

    References:
        Song et al. 2020, arXiv:2010.02502, appendix D.5, eq. 67.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    theta = cosine.acos().view(-1, *[1] * (a.ndim - 1))
    straight = theta.sin() < 1e-6  # parallel latents: the formula is 0 / 0, its limit the straight line
    sine = torch.where(straight, torch.ones_like(theta), theta.sin())
    left = torch.where(straight, torch.full_like(theta, 1 - weight), ((1 - weight) * theta).sin() / sine)
    right = torch.where(straight, torch.full_like(theta, weight), (weight * theta).sin() / sine)
    return left * a + right * b
