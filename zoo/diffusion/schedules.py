"""Schedules: the times that a sampler visits, as decreasing lists of whole numbers from 1 ... T that end at 0."""

import math

import torch

from zoo.diffusion.process import NoiseProcess
from zoo.errors import UserError

SPACINGS = ("trailing", "leading", "linspace", "quadratic")  # of `timesteps`; `times_for` also knows "karras"


def times_for(process: NoiseProcess, steps: int, spacing: str = "trailing") -> list[int]:
    """`timesteps`, or `karras_timesteps` for spacing "karras".

    Raises:
        UserError: if `steps` is not in 1 ... T or the spacing is unknown.
    """
    if spacing == "karras":
        return karras_timesteps(process, steps)
    if spacing not in SPACINGS:
        raise UserError(f"spacing must be one of {(*SPACINGS, 'karras')}, got {spacing!r}")
    return timesteps(process.num_timesteps, steps, spacing)


def timesteps(num_timesteps: int, steps: int, spacing: str = "trailing") -> list[int]:
    """`steps` decreasing times in 1 ... T, then 0. For i = 0 ... S - 1, rising:

        trailing: T (i + 1) / S      leading: 1 + T i / S, less than one stride below T
        linspace: 1 + (T - 1) i / (S - 1)      quadratic: 1 + (T - 1) (i / (S - 1))^2, dense near the data

    One step is T, whatever the spacing: sampling starts from noise. The quadratic times of DDIM (appendix D.2) end at
    0.8 T, where the linear schedule is nearly pure noise but the cosine schedule is not; these end at T.

    Raises:
        UserError: if `steps` is not in 1 ... T or the spacing is unknown.

    References:
        Song et al. 2020, arXiv:2010.02502, section 4.2; Lin et al. 2023, arXiv:2305.08891, table 2 (names).
    """
    if not 1 <= steps <= num_timesteps:
        raise UserError(f"steps must be between 1 and the model's {num_timesteps}, got {steps!r}")
    if spacing not in SPACINGS:
        raise UserError(f"spacing must be one of {SPACINGS}, got {spacing!r}")
    if spacing == "trailing" or steps == 1:
        rising = [round(num_timesteps * (i + 1) / steps) for i in range(steps)]
    elif spacing == "leading":
        rising = [1 + i * num_timesteps // steps for i in range(steps)]
    elif spacing == "linspace":
        rising = [round(1 + i * (num_timesteps - 1) / (steps - 1)) for i in range(steps)]
    else:
        rising = [1 + round((num_timesteps - 1) * (i / (steps - 1)) ** 2) for i in range(steps)]
        for i in range(1, steps):  # the squares crowd near 0: keep them distinct
            rising[i] = max(rising[i], rising[i - 1] + 1)
    return [*reversed(rising), 0]


def karras_timesteps(process: NoiseProcess, steps: int, rho: float = 7.0, sigma_max: float = 80.0) -> list[int]:
    """`steps` decreasing times in 1 ... T, then 0, whose noise levels sigma / a are evenly spaced in their rho-th root:

        (max^(1/rho) + i / (S - 1) (min^(1/rho) - max^(1/rho)))^rho, i = 0 ... S - 1

    over the process' own range, each rounded to the nearest time (in log sigma / a) and kept distinct.

    Args:
        sigma_max: higher levels are left out where enough times remain: those of a cosine schedule, up to 2e4, are all
            pure noise. So the first time is below T, and sampling starts there from the noise of T. 80 is the paper's
            choice.

    References:
        Karras et al. 2022, arXiv:2206.00364, eq. 5 and table 1.
    """
    last = process.num_timesteps
    if not 1 <= steps <= last:
        raise UserError(f"steps must be between 1 and the model's {last}, got {steps!r}")
    if steps == 1:  # the formula is 0 / 0
        return [last, 0]
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
