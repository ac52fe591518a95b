"""Training losses, one value per sample."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.diffusion.parameterization import SIGMA_DATA, check, training_target
from zoo.diffusion.process import NoiseProcess

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def denoising_loss(
    network: Network,
    process: NoiseProcess,
    parameterization: str,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """|target - network(sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, t)|^2, averaged over the entries of each sample.

    With parameterization "eps" this is L_simple. Arithmetic outside the network is float32 whatever the autocast type.

    Args:
        x0: data (B, ...). t: whole times (B,) in 1 ... T. noise: N(0, I) of the shape of x0. labels: (B,) or None.

    Returns:
        Loss of shape (B,).

    References:
        Ho et al. 2020, arXiv:2006.11239, eq. 14; 000_507b39bbaa34acda.txt, section 13.3.2.
    """
    signal, sigma = process.signal_and_noise(t, x0.ndim)
    prediction = network(signal * x0 + sigma * noise, t, labels).float()
    target = training_target(parameterization, x0, noise, signal, sigma)
    return (prediction - target).square().flatten(1).mean(1)


def min_snr_weight(snr: Tensor, parameterization: str, gamma: float = 5.0) -> Tensor:
    """Weight of the per-sample loss: min(SNR, gamma) on x_0, expressed for the network's own target.

        eps: min(SNR, gamma) / SNR      x0: min(SNR, gamma)      v: min(SNR, gamma) / (SNR + 1)
        edm: min(SNR, gamma) / (SNR + 1 / SIGMA_DATA^2)

    References:
        Hang et al. 2023, arXiv:2303.09556, eq. 7 and appendix.
    """
    check(parameterization)
    if gamma <= 0:
        raise ValueError(f"gamma must be positive, got {gamma!r}")
    clipped = torch.clamp(snr, max=gamma)
    of_target = {
        "eps": snr,
        "x0": torch.ones_like(snr),
        "v": snr + 1,
        "edm": snr + 1 / SIGMA_DATA**2,
    }  # its error over that of x_0
    return clipped / of_target[parameterization]
