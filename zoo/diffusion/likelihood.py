"""The probability flow, and the log-likelihood that it gives, as a continuous normalising flow does.

With z = x / a, u = log(sigma / a) and D the estimate of x_0, the flow of every process is the same:

    dz/du = z - D(a z, t(u)),    d log p(z)/du = -(d - trace of dD/dz),    d the number of dimensions

It is smooth over the whole range of u, where the same equation over time is stiff at both ends.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from zoo.diffusion.autograd import vector_jacobian
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser
from zoo.errors import UserError
from zoo.random import normal

TRACES = ("hutchinson", "exact")


def probability_flow(
    denoise: Denoiser, process: NoiseProcess, x: Tensor, start: float, end: float, steps: int = 100
) -> Tensor:
    """x at time `end` of the probability flow through x at time `start`, by the classical Runge-Kutta method.

    From a lower to a higher time it encodes, the other way it decodes. Four evaluations a step, error of fourth order.
    To reach the data, end at 1 and apply the denoiser there.

    Args:
        denoise: estimate of x_0, defined between whole times too. x: (B, ...).
        start, end: times above 0. steps: evenly spaced in log(sigma / a).

    References:
        Song et al. 2021, arXiv:2011.13456, eq. 13; in this variable, Lu et al. 2022, arXiv:2206.00927, section 3.
    """

    def velocity(z: Tensor, u: float) -> tuple[Tensor, Tensor]:
        return z - _estimate(denoise, process, z, u), z.new_zeros(())

    z, _ = _runge_kutta(velocity, x / process.at(start)[0], _log_level(process, start), _log_level(process, end), steps)
    return z * process.at(end)[0]


def log_likelihood(
    denoise: Denoiser,
    process: NoiseProcess,
    x0: Tensor,
    *,
    trace: str = "hutchinson",
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x_0) = log N(x_T / a_T; 0, (prior_std / a_T)^2 I) + integral over u of (d - trace of dD/dz).

    p is the density of the prior carried to t = 1 by the flow: of the model's data with noise of level sigma_1 / a_1.
    Works in inference mode.

    Data on a grid of grey levels has no density. Pass `dequantise(x0, levels)` and add `log_bin_volume`: the mean over
    the noise within a bin is a lower bound of the level's log-probability (Jensen), comparable with
    `bound.variational_bound`.

    Args:
        denoise: estimate of x_0, unclipped (clipping has no derivative), defined between whole times too.
        x0: continuous data (B, ...); float64 data is computed in float64.
        trace: "exact", d products with the Jacobian an evaluation, or "hutchinson", one product with a random sign
            vector that is fixed over the solve: unbiased.
        steps: of Runge-Kutta, evenly spaced in log(sigma / a), four evaluations each.

    Returns:
        Nats, (B,), in the type of x0.

    References:
        Song et al. 2021, arXiv:2011.13456, eq. 39 and appendix D.2; 000_507b39bbaa34acda.txt, section 12.4 (with the
        sign of its trace corrected).
    """
    if trace not in TRACES:
        raise UserError(f"trace must be one of {TRACES}, got {trace!r}")
    signs = None
    if trace == "hutchinson":
        signs = torch.where(normal(x0.shape, generator, x0.device) < 0, -1.0, 1.0).to(x0.dtype)

    def velocity(z: Tensor, u: float) -> tuple[Tensor, Tensor]:
        probes = _unit_vectors(z) if signs is None else [signs]
        probes = list(probes)
        estimate, products = vector_jacobian(lambda leaf: _estimate(denoise, process, leaf, u), z, probes)
        jacobian_trace = sum(
            ((v * p).flatten(1).sum(1) for v, p in zip(probes, products, strict=True)), z.new_zeros(len(z))
        )
        return z - estimate, z[0].numel() - jacobian_trace

    last = process.num_timesteps
    z, change = _runge_kutta(velocity, x0, _log_level(process, 1), _log_level(process, last), steps)
    std = process.prior_std / process.at(last)[0]
    prior = -0.5 * (z / std).square() - math.log(std * math.sqrt(2 * math.pi))
    return prior.flatten(1).sum(1) + change


def dequantise(x0: Tensor, levels: int, generator: torch.Generator | None = None) -> Tensor:
    """x0 on the grid 2 k / (levels - 1) - 1, plus noise uniform over its bin, 2 / (levels - 1) wide and centred on it.

    References:
        Theis et al. 2016, arXiv:1511.01844, section 3.1.
    """
    if levels < 2:
        raise UserError(f"levels must be at least 2, got {levels!r}")
    noise = torch.rand(x0.shape, generator=generator, device=x0.device if generator is None else generator.device)
    return x0 + (noise.to(x0) - 0.5) * (2 / (levels - 1))


def log_bin_volume(dims: int, levels: int) -> float:
    """d log(2 / (levels - 1)), the term that turns a log-density of dequantised data into one of grey levels."""
    return dims * math.log(2 / (levels - 1))


def _log_level(process: NoiseProcess, t: float) -> float:
    signal, sigma = process.at(t)
    return math.log(sigma / signal)


def _estimate(denoise: Denoiser, process: NoiseProcess, z: Tensor, u: float) -> Tensor:
    t = process.time_of(math.exp(u))
    return denoise(z * process.at(t)[0], torch.full((len(z),), t, dtype=torch.float64, device=z.device))


def _unit_vectors(z: Tensor) -> Iterable[Tensor]:
    basis = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
    return (row.view(1, *z.shape[1:]).expand_as(z) for row in basis)


def _runge_kutta(
    velocity: Callable[[Tensor, float], tuple[Tensor, Tensor]], z: Tensor, start: float, end: float, steps: int
) -> tuple[Tensor, Tensor]:
    """z at `end`, and the integral of the second of the velocities along the way."""
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps!r}")
    h = (end - start) / steps
    total: Tensor | float = 0.0
    for i in range(steps):
        u = start + i * h
        k1, g1 = velocity(z, u)
        k2, g2 = velocity(z + h / 2 * k1, u + h / 2)
        k3, g3 = velocity(z + h / 2 * k2, u + h / 2)
        k4, g4 = velocity(z + h * k3, u + h)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + h / 6 * (g1 + 2 * g2 + 2 * g3 + g4)
    return z, torch.as_tensor(total)
