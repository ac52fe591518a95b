"""Samplers of first order: plain functions over a denoiser (x_t, t) -> estimate of x_0, on a decreasing list of times.

All samplers, those of `solvers` too, share one signature:

    sampler(denoise, process, x, times, *, <its own options>, generator=None, on_step=None) -> x at times[-1]

x is x_t at times[0], (B, ...), usually N(0, prior_std^2 I), and times decrease to 0, where x is the sample. After each
step `on_step(t, x, x0)` is called with the time just reached, x there, and the estimate of x_0 that the step used.
Since eps is always derived from the denoiser's x_0, a denoiser that clips x_0 needs nothing further.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError
from zoo.random import Source, normal

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,) int64) -> x_0 (B, ...)
OnStep = Callable[[int, Tensor, Tensor], None]  # (time just reached, x there, estimate of x_0 that led there)


def call(denoise: Denoiser, x: Tensor, t: int) -> Tensor:
    """denoise(x, t) at one time for the whole batch."""
    return denoise(x, torch.full((len(x),), t, device=x.device))


def ancestral(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    variance: str = "small",
    mean_gradient: Callable[[Tensor, Tensor], Tensor] | None = None,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_s = mean of q(x_s | x_t, x_0 = denoise(x_t, t)) + sigma z, with no noise in the step to s = 0.

    On a sub-sequence of the times beta is 1 - abar_t / abar_s.

    Args:
        variance: sigma^2, "small" (posterior variance, beta-tilde) or "large" (beta).
        mean_gradient: classifier guidance: (x_t, t) -> s grad log p(c | x_t, t), which, times the variance, is added to
            the mean. It is taken at x_t, as in the authors' code, not at the mean, as the paper derives it. Like the
            noise, it is left out at s = 0.

    References:
        Ho et al. 2020, arXiv:2006.11239, algorithm 2 and section 3.2; 000_507b39bbaa34acda.txt, figure 1.
        mean_gradient: Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 1.
    """
    if variance not in ("small", "large"):
        raise UserError(f"variance must be 'small' or 'large', got {variance!r}")
    for t, s in itertools.pairwise(times):
        q = process.posterior(t, s)
        x0 = call(denoise, x, t)
        mean = q.x0_weight * x0 + q.xt_weight * x
        if s > 0:
            p_variance = q.variance if variance == "small" else q.forward_variance
            if mean_gradient is not None:
                mean = mean + p_variance * call(mean_gradient, x, t)
            mean = mean + math.sqrt(p_variance) * normal(x.shape, generator, x.device)
        x = mean
        if on_step is not None:
            on_step(s, x, x0)
    return x


def ddim(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    eta: float = 0.0,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z, where x_0 = denoise(x_t, t),

        eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t)
        sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)

    Args:
        eta: 0 is deterministic; 1 is `ancestral` with the small variance.

    References:
        Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16; 000_507b39bbaa34acda.txt, eqs. 63 to 66 (in whose eq. 66
        sigma^2 must scale with eta^2).
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta must be between 0 and 1, got {eta!r}")
    for t, s in itertools.pairwise(times):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        x0 = call(denoise, x, t)
        eps = (x - signal_t * x0) / sigma_t
        sigma = eta * math.sqrt(process.posterior(t, s).variance)
        x = signal_s * x0 + math.sqrt(max(0.0, sigma_s**2 - sigma**2)) * eps
        if sigma > 0:
            x = x + sigma * normal(x.shape, generator, x.device)
        if on_step is not None:
            on_step(s, x, x0)
    return x


def euler_maruyama(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The reverse SDE dx = (f(t) x - g(t)^2 score) dt + g(t) dw, step by step down the list of times:

        x_s = x_t + (1 - a_t / a_s) x_t + v score(x_t, t) + sqrt(v) z        v the variance of q(x_t | x_s)

    Drift and diffusion of a step come from the process' table, not from beta(t) dt, so they hold over long steps too
    (the authors' "reverse diffusion" sampler). The last step, to s = 0, is Tweedie's formula: it returns x_0. Needs
    hundreds of steps.

    References:
        Song et al. 2021, arXiv:2011.13456, eqs. 6 and 46; 000_507b39bbaa34acda.txt, section 15.
    """
    return predictor_corrector(denoise, process, x, times, corrector_steps=0, generator=generator, on_step=on_step)


def predictor_corrector(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    corrector_steps: int = 1,
    snr: float = 0.16,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """A step of `euler_maruyama` to time s, then `corrector_steps` steps of Langevin dynamics at s:

        x <- x + e score(x, s) + sqrt(2 e) z        e = 2 (snr sigma_s)^2

    The paper has e = 2 (snr |z| / |score|)^2 with norms averaged over the batch. For a good score |z| / |score| is
    about sigma_s; using sigma_s itself keeps a sample independent of its batch. There is no correction at s = 0.
    1 + corrector_steps evaluations a step, one in the last.

    Args:
        snr: r of the paper, in 0 ... 1; 0.16 is its choice for exploding processes of images.

    References:
        Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5 (one for both kinds of process).
    """
    if corrector_steps < 0:
        raise UserError(f"corrector_steps must be at least 0, got {corrector_steps!r}")
    if not 0 < snr < 1:
        raise UserError(f"snr must lie between 0 and 1, got {snr!r}")

    def score(x: Tensor, t: int, x0: Tensor) -> Tensor:
        signal, sigma = process.at(t)
        return (signal * x0 - x) / sigma**2

    for t, s in itertools.pairwise(times):
        x0 = call(denoise, x, t)
        if s == 0:
            x = x0
        else:
            variance = process.posterior(t, s).forward_variance
            growth = 2 - process.at(t)[0] / process.at(s)[0]
            x = growth * x + variance * score(x, t, x0) + math.sqrt(variance) * normal(x.shape, generator, x.device)
            size = 2 * (snr * process.at(s)[1]) ** 2
            for _ in range(corrector_steps):
                drift = size * score(x, s, call(denoise, x, s))
                x = x + drift + math.sqrt(2 * size) * normal(x.shape, generator, x.device)
        if on_step is not None:
            on_step(s, x, x0)
    return x


def ddim_invert(denoise: Denoiser, process: NoiseProcess, x0: Tensor, times: Sequence[int]) -> Tensor:
    """The latent x_T that `ddim` with eta = 0 turns back into x0: the same steps upwards, x_s -> x_t, with x_0 and eps
    from the denoiser at the lower end. At s = 0 x_0 is known, and eps comes from the denoiser at t.

    The error of the round trip is of first order in the step size.

    Args:
        x0: data (B, ...). times: the decreasing list that `ddim` will use, ending at 0.

    References:
        Song et al. 2020, arXiv:2010.02502, sections 4.3 and 5.4, eq. 14.
    """
    x = x0
    rising = list(reversed(times))
    for s, t in itertools.pairwise(rising):
        (signal_s, sigma_s), (signal_t, sigma_t) = process.at(s), process.at(t)
        if s == 0:  # x is x_0 itself, without noise from which eps could be derived
            prediction = x
            eps = (x - signal_t * call(denoise, x, t)) / sigma_t
        else:
            prediction = call(denoise, x, s)
            eps = (x - signal_s * prediction) / sigma_s
        x = signal_t * prediction + sigma_t * eps
    return x


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b, theta the angle of a and b, sample by sample.

    A straight line between two Gaussian latents is too short in the middle, by a factor 0.71; this keeps their length.

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
