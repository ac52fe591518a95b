"""What the network predicts, and how x_0 follows from it.

With x_t = a x_0 + s eps; a = sqrt(abar_t), s = sqrt(1 - abar_t) if the process preserves the variance:

    eps:  x_0 = (x_t - s eps) / a
    x0:   x_0
    v:    v = a eps - s x_0,  x_0 = a x_t - s v        (preserving processes only)
    edm:  x_0 = c_skip z + c_out F,  z = x_t / a, with coefficients that depend on the noise level s / a

References:
    eps: Ho et al. 2020, arXiv:2006.11239, eq. 15. v: Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D.
    edm: Karras et al. 2022, arXiv:2206.00364, eqs. 7 and 8 and table 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess

PARAMETERIZATIONS = ("eps", "x0", "v", "edm")
SIGMA_DATA = 0.5  # standard deviation of the data, as in the paper


class Preconditioning(NamedTuple):
    """Coefficients of D(z; sigma) = skip z + out F(input z), where z = x_0 + sigma eps."""

    skip: Tensor
    out: Tensor
    input: Tensor


def preconditioning(noise_level: Tensor) -> Preconditioning:
    """With s = noise_level and d = SIGMA_DATA, so that input and target of F have unit variance at every level:

        c_skip = d^2 / (s^2 + d^2)    c_out = s d / sqrt(s^2 + d^2)    c_in = 1 / sqrt(s^2 + d^2)

    The paper conditions its network on c_noise = log(s) / 4; ours takes t, which determines s.

    References:
        Karras et al. 2022, arXiv:2206.00364, table 1 and appendix B.6.
    """
    total = noise_level**2 + SIGMA_DATA**2
    return Preconditioning(SIGMA_DATA**2 / total, noise_level * SIGMA_DATA / total**0.5, 1 / total**0.5)


def check(parameterization: str) -> None:
    """Raises ValueError unless the name is known."""
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {parameterization!r}")


def network_input(parameterization: str, process: NoiseProcess, x_t: Tensor, t: Tensor) -> Tensor:
    """The input of the network: x_t, or c_in x_t / a_t for "edm" and exploding processes, which has unit variance."""
    if parameterization != "edm" and not process.exploding:
        return x_t
    signal, sigma = process.signal_and_noise(t, x_t.ndim, torch.promote_types(x_t.dtype, torch.float32))
    return preconditioning(sigma / signal).input / signal * x_t


def training_target(parameterization: str, x0: Tensor, eps: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The target of the network: eps, x_0, v or F. All of shape (B, ...); signal and sigma broadcast.

    The squared error of F is lambda(sigma) = 1 / c_out^2 times that of x_0: the paper's weight.
    """
    check(parameterization)
    if parameterization == "eps":
        return eps
    if parameterization == "x0":
        return x0
    if parameterization == "edm":
        c = preconditioning(sigma / signal)
        return (x0 - c.skip * (x0 + sigma / signal * eps)) / c.out
    return signal * eps - sigma * x0


def prediction_to_x0(parameterization: str, prediction: Tensor, x_t: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The estimate of x_0 from a prediction. All of shape (B, ...); signal and sigma broadcast."""
    check(parameterization)
    if parameterization == "eps":
        return (x_t - sigma * prediction) / signal
    if parameterization == "x0":
        return prediction
    if parameterization == "edm":
        c = preconditioning(sigma / signal)
        return c.skip / signal * x_t + c.out * prediction
    return signal * x_t - sigma * prediction


def lognormal_times(
    process: NoiseProcess,
    count: int,
    *,
    mean: float = -1.2,
    std: float = 1.2,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Training times (count,) in 1 ... T, int64, with log(sigma_t / a_t) ~ N(mean, std^2), to the nearest time.

    References:
        Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std).
    """
    where = device if generator is None else generator.device
    wanted = mean + std * torch.randn(count, generator=generator, device=where)
    levels = process.noise_levels[1:].log().to(wanted)  # rising
    return (1 + torch.bucketize(wanted, (levels[1:] + levels[:-1]) / 2)).to(device)
