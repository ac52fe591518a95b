"""The score of a denoiser, and score matching."""

from collections.abc import Callable

from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser


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
