"""The score-based view: the score of a denoiser, the reverse SDE, Langevin corrections, and score matching."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser, OnStep, call
from zoo.random import normal


def score(denoise: Denoiser, process: NoiseProcess, x: Tensor, t: Tensor) -> Tensor:
    """grad_x log p_t(x) = (a_t E[x_0 | x_t = x] - x) / sigma_t^2, which is -eps / sigma_t.

    Args:
        denoise: estimate of x_0, unclipped. x: (B, ...). t: times (B,) above 0.

    References:
        000_507b39bbaa34acda.txt, eqs. 67 (Tweedie) and 70 (whose alpha_t is abar_t); Song et al. 2021,
        arXiv:2011.13456, section 2.
    """
    signal, sigma = process.signal_and_noise(t, x.ndim, x.dtype)
    return (signal * denoise(x, t) - x) / sigma**2


def euler_maruyama(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The reverse SDE dx = (f(t) x - g(t)^2 score) dt + g(t) dw, step by step down the list of times:

        x_s = x_t + (1 - a_t / a_s) x_t + v score(x_t, t) + sqrt(v) z        v the variance of q(x_t | x_s)

    Drift and diffusion of a step are those of the table, not beta(t) dt of a formula, which takes them as they are over
    long steps too (the authors' "reverse diffusion" sampler). The last step, to s = 0, is Tweedie's formula: it returns
    x_0. Wants hundreds of steps.

    Args:
        x: x at times[0], (B, ...), usually N(0, prior_std^2 I). times: decreasing, ending at 0.

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
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """A step of `euler_maruyama` to time s, then `corrector_steps` of Langevin's dynamics at s:

        x <- x + e score(x, s) + sqrt(2 e) z        e = 2 (snr sigma_s)^2

    The paper has e = 2 (snr |z| / |score|)^2 with norms averaged over the batch; |z| / |score| of a good score is about
    sigma_s, whose use leaves a sample independent of its batch. No correction at s = 0. 1 + corrector_steps evaluations
    a step, one in the last.

    Args:
        x: x at times[0], (B, ...), usually N(0, prior_std^2 I). times: decreasing, ending at 0.
        snr: r of the paper, 0.16 its choice for exploding processes of images, positive.

    References:
        Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5 (one for both kinds of process).
    """
    if corrector_steps < 0:
        raise ValueError(f"corrector_steps must be at least 0, got {corrector_steps!r}")
    if not 0 < snr < 1:
        raise ValueError(f"snr must lie between 0 and 1, got {snr!r}")

    def score_at(x: Tensor, t: int) -> Tensor:
        signal, sigma = process.at(t)
        return (signal * call(denoise, x, t) - x) / sigma**2

    for t, s in itertools.pairwise(times):
        if s == 0:
            x = call(denoise, x, t)
        else:
            variance = process.posterior(t, s).forward_variance
            growth = 2 - process.at(t)[0] / process.at(s)[0]
            x = growth * x + variance * score_at(x, t) + math.sqrt(variance) * normal(x.shape, generator, x.device)
            size = 2 * (snr * process.at(s)[1]) ** 2
            for _ in range(corrector_steps):
                x = x + size * score_at(x, s) + math.sqrt(2 * size) * normal(x.shape, generator, x.device)
        if on_step is not None:
            on_step(s, x)
    return x


def denoising_score_matching(
    score: Callable[[Tensor, Tensor], Tensor], process: NoiseProcess, x0: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """sigma_t^2 |score(x_t, t) - grad log q(x_t | x_0)|^2, averaged over the entries; grad log q = -noise / sigma_t.

    It is `denoising_loss` of parameterization "eps" for eps = -sigma_t score: the weight sigma_t^2 makes all times
    count alike. Its minimum is the score of the noised data, though it compares with that of one clean sample.

    Args:
        score: (x_t (B, ...), t (B,)) -> (B, ...). x0: data (B, ...). t: times (B,) above 0. noise: N(0, I), as x0.

    Returns:
        Loss of shape (B,).

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders", eq. 9; Song et al. 2021,
        arXiv:2011.13456, eq. 7 and section 3.3; 000_507b39bbaa34acda.txt, eqs. 69 and 70.
    """
    signal, sigma = process.signal_and_noise(t, x0.ndim, x0.dtype)
    return (sigma * score(signal * x0 + sigma * noise, t) + noise).square().flatten(1).mean(1)
