"""Data whose best denoiser, probability flow and entropy are known exactly."""

import math

import pytest
import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess


class Gaussian:
    """x_0 ~ N(mean, std^2 I), so x_t ~ N(a mean, (a^2 std^2 + s^2) I) with a = sqrt(abar_t), s^2 = 1 - abar_t."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def denoiser(self, process: NoiseProcess):
        """E[x_0 | x_t] = mean + a std^2 / (a^2 std^2 + s^2) (x_t - a mean), computed in float64."""

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            abar = process.alpha_bar[t].view(-1, *[1] * (x_t.ndim - 1))
            gain = abar.sqrt() * self.std**2 / (abar * self.std**2 + 1 - abar)
            return (self.mean + gain * (x_t.double() - abar.sqrt() * self.mean)).to(x_t.dtype)

        return denoise

    def posterior_variance(self, process: NoiseProcess, t: int) -> float:
        """Var[x_0 | x_t] = 1 / (1 / std^2 + SNR)."""
        abar = process.alpha_bar[t].item()
        return 1 / (1 / self.std**2 + abar / (1 - abar))

    def flow(self, process: NoiseProcess, x_t: Tensor, t: int) -> Tensor:
        """x_0 at the end of the probability-flow ODE from x_t: it keeps the standardised value."""
        abar = process.alpha_bar[t].item()
        standardised = (x_t - math.sqrt(abar) * self.mean) / math.sqrt(abar * self.std**2 + 1 - abar)
        return self.mean + self.std * standardised


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian(mean=0.3, std=0.5)


@pytest.fixture
def narrow_gaussian() -> Gaussian:
    """Practically all of its mass within [-1, 1]: data on a grid of grey levels (7 standard deviations)."""
    return Gaussian(mean=0.1, std=0.125)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
