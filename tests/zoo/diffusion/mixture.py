"""A mixture of Gaussians, in which scores, posteriors of the class and marginals of the diffusion are known exactly."""

import math

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess


class Mixture:
    """x_0 | c ~ N(mean_c, std_c^2 I), c ~ weight: so x_t | c ~ N(a mean_c, (a^2 std_c^2 + sigma^2) I), in the plane."""

    def __init__(self) -> None:
        self.weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        self.mean = torch.tensor([[-0.6, -0.2], [0.5, -0.5], [0.2, 0.7]], dtype=torch.float64)
        self.std = torch.tensor([0.3, 0.2, 0.25], dtype=torch.float64)

    def _components(self, process: NoiseProcess, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        signal, sigma = process.signal_and_noise(t, 2, torch.float64)  # (B, 1)
        variance = signal**2 * self.std**2 + sigma**2  # (B, K)
        off = x_t.double()[:, None, :] - signal[:, :, None] * self.mean  # (B, K, 2)
        log_joint = self.weight.log() - (2 * math.pi * variance).log() - off.square().sum(-1) / (2 * variance)
        return signal, variance, off, log_joint

    def conditional(self, process: NoiseProcess):
        """E[x_0 | x_t, c], or E[x_0 | x_t] where c is 3: a perfect network of three classes and a null label."""

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            signal, variance, off, log_joint = self._components(process, x_t, t)
            each = self.mean + (signal * self.std**2 / variance)[:, :, None] * off  # (B, K, 2)
            allowed = (labels[:, None] == 3) | (labels[:, None] == torch.arange(3))
            share = log_joint.masked_fill(~allowed, -math.inf).softmax(1)
            return (share[:, :, None] * each).sum(1).to(x_t.dtype)

        return denoise

    def denoiser(self, process: NoiseProcess, label: int = 3):
        denoise = self.conditional(process)
        return lambda x_t, t: denoise(x_t, t, torch.full((len(x_t),), label))

    def class_log_prob(self, process: NoiseProcess, labels: Tensor):
        """log p(c | x_t, t), differentiable."""

        def log_prob(x_t: Tensor, t: Tensor) -> Tensor:
            log_joint = self._components(process, x_t, t)[-1]
            return log_joint.log_softmax(1).gather(1, labels[:, None])[:, 0]

        return log_prob

    def log_prob(self, process: NoiseProcess, x_t: Tensor, t: float) -> Tensor:
        """log of the density of x_t, (B,)."""
        times = torch.full((len(x_t),), t, dtype=torch.float64)
        return self._components(process, x_t, times)[-1].logsumexp(1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        label = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, dtype=torch.float64, generator=generator)
        return self.mean[label] + self.std[label, None] * noise
