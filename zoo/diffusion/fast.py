"""Samplers of second order: good samples in 10 to 20 evaluations of the network. Plain functions, as in `samplers`.

Both solve the probability flow of x / a over the noise level sigma / a, where it reads d(x / a) / d(sigma / a) = eps.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import SPACINGS, Denoiser, OnStep, call, timesteps
from zoo.random import normal


def times_for(process: NoiseProcess, steps: int, spacing: str = "trailing") -> list[int]:
    """`samplers.timesteps`, or `karras_timesteps` for spacing "karras".

    Raises:
        ValueError: if `steps` is not in 1 ... T or the spacing is unknown.
    """
    if spacing == "karras":
        return karras_timesteps(process, steps)
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {(*SPACINGS, 'karras')}, got {spacing!r}")
    return timesteps(process.num_timesteps, steps, spacing)


def karras_timesteps(process: NoiseProcess, steps: int, rho: float = 7.0, sigma_max: float = 80.0) -> list[int]:
    """`steps` decreasing times in 1 ... T, then 0, whose noise levels sigma / a are evenly spaced in their rho-th root:

        (max^(1/rho) + i / (S - 1) (min^(1/rho) - max^(1/rho)))^rho, i = 0 ... S - 1

    over the process' own range, each rounded to the nearest time (in log sigma / a) and kept distinct.

    Args:
        sigma_max: levels above it are left out where enough times remain: the last steps of a cosine schedule, up to
            2e4, differ in nothing that can be seen. 80 is the paper's.

    References:
        Karras et al. 2022, arXiv:2206.00364, eq. 5 and table 1.
    """
    last = process.num_timesteps
    if not 1 <= steps <= last:
        raise ValueError(f"steps must be between 1 and the model's {last}, got {steps!r}")
    levels = process.noise_levels[1:].log()  # (T,) rising
    top = min(math.log(sigma_max), levels[-1].item())
    top = max(top, levels[0].item())
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu")
    high, low = math.exp(top / rho), math.exp(levels[0].item() / rho)
    wanted = rho * (high + ramp * (low - high)).log()
    falling = [1 + int((levels - level).abs().argmin()) for level in wanted]
    rising = falling[::-1]
    for i in range(1, steps):  # the lowest are the closest: keep them distinct, upwards, then within 1 ... T
        rising[i] = max(rising[i], rising[i - 1] + 1)
    for i in range(steps):
        rising[i] = min(rising[i], last - (steps - 1 - i))
    return [*reversed(rising), 0]


def heun(
    denoise: Denoiser, process: NoiseProcess, x: Tensor, times: Sequence[int], *, on_step: OnStep | None = None
) -> Tensor:
    """Heun's method, of second order, in the noise level sigma / a; with eps = (x_t - a_t x_0) / sigma_t at both ends,

        x' = a_s x_0 + sigma_s eps                                            (the step of `ddim`)
        x_s = x' + a_s (sigma_s / a_s - sigma_t / a_t) (eps' - eps) / 2       (not at s = 0, where sigma is 0)

    Two evaluations a step, one in the last. The step in sigma / a should not be a large multiple of where it ends: take
    the spacing "karras".

    Args:
        x: x at times[0], (B, ...). times: decreasing, ending at 0.

    References:
        Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """
    for t, s in itertools.pairwise(times):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        x0 = call(denoise, x, t)
        eps = (x - signal_t * x0) / sigma_t
        x = signal_s * x0 + sigma_s * eps
        if s > 0:
            second = (x - signal_s * call(denoise, x, s)) / sigma_s
            x = x + signal_s * (sigma_s / signal_s - sigma_t / signal_t) / 2 * (second - eps)
        if on_step is not None:
            on_step(s, x)
    return x


def dpm_solver_pp(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    order: int = 2,
    sde: bool = False,
    generator: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """`ddim` with x_0 extrapolated from the step before: with lambda = log(a / sigma), h = lambda_s - lambda_t,

        D = x_0 + h / (2 h_previous) (x_0 - x_0 of the step before)        (order 2; order 1 and the first step: x_0)
        x_s = sigma_s / sigma_t x_t + a_s (1 - e^{-h}) D                                                       (ODE)
        x_s = sigma_s / sigma_t e^{-h} x_t + a_s (1 - e^{-2h}) D + sigma_s sqrt(1 - e^{-2h}) z                 (SDE)

    One evaluation a step. Order 1 is `ddim` with eta = 0, and with eta = 1 for the SDE. At s = 0, where h is infinite,
    the step is of order 1 and returns x_0 itself: both limits are exact.

    Args:
        x: x at times[0], (B, ...). times: decreasing, ending at 0.
        order: 1, or 2 for the multistep method "2M".
        sde: whether to solve the reverse SDE instead of the probability flow.

    References:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2 (2M); the SDE variants are in its second version.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    before: tuple[Tensor, float] | None = None  # x_0 of the step before, and its h
    for t, s in itertools.pairwise(times):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        x0 = estimate = call(denoise, x, t)
        if s > 0:
            h = math.log(signal_s / sigma_s) - math.log(signal_t / sigma_t)
            if order == 2 and before is not None:
                x0 = estimate + h / (2 * before[1]) * (estimate - before[0])
            before = estimate, h
        if sde:
            q = process.posterior(
                t, s
            )  # its weights are those of the SDE step, e^{-h} = (sigma_s / a_s) (a_t / sigma_t)
            x = q.x0_weight * x0 + q.xt_weight * x
            if s > 0:
                x = x + math.sqrt(q.variance) * normal(x.shape, generator, x.device)
        else:
            x = signal_s * x0 + sigma_s * ((x - signal_t * x0) / sigma_t)
        if on_step is not None:
            on_step(s, x)
    return x
