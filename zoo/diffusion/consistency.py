"""Consistency functions: f(x_t, t) is the end of the probability flow that passes through x_t, in one evaluation.

A consistency function is a denoiser (x_t, t) -> x_0 with f(x_0, 0) = x_0 that is constant along each path of the flow.
Every parameterisation but "x0" meets the condition at t = 0 exactly, where a = 1 and sigma = 0. The papers stop at a
smallest noise level instead; a process of this project reaches the data itself, as its samplers do.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser, OnStep, call
from zoo.diffusion.schedules import times_for
from zoo.random import Source, normal

SOLVERS = ("ddim", "heun")


def doubled(step: int, total: float, first: int, last: int) -> int:
    """Intervals at a training step: min(first 2^floor(k / K'), last), K' = floor(K / (log2 floor(last / first) + 1)).

    Args:
        step: k, from 0. total: K, steps of the run; one without an end never doubles.
        first, last: s_0 and s_1 of the paper, whose N(k), one more, counts the ends of the intervals.

    References:
        Song & Dhariwal 2023, arXiv:2310.14189, section 3.4 and table 1.
    """
    if math.isinf(total):
        return first
    period = max(1, math.floor(total / (math.log2(last // first) + 1)))
    return min(first * 2 ** (step // period), last)


@lru_cache(maxsize=64)
def grid(process: NoiseProcess, intervals: int, spacing: str) -> tuple[Tensor, Tensor]:
    """Rising times 0 ... T of so many intervals, (intervals + 1,), and the logarithm of their noise levels, -inf first.

    Raises:
        UserError: as `times_for`.
    """
    times = torch.tensor(times_for(process, intervals, spacing)[::-1], device="cpu")
    return times, process.noise_levels[times].log()


def random_intervals(
    log_levels: Tensor, count: int, mean: float = -1.1, std: float = 2.0, generator: torch.Generator | None = None
) -> Tensor:
    """The lower ends (count,), 0 ... N - 2, of intervals drawn in proportion to the mass of N(mean, std^2) in them:

        p(i) ~ erf((log sigma_{i+1} - mean) / (sqrt(2) std)) - erf((log sigma_i - mean) / (sqrt(2) std))

    Args:
        log_levels: of the ends of the intervals, (N,), rising.

    References:
        Song & Dhariwal 2023, arXiv:2310.14189, section 3.5 and table 1.
    """
    mass = torch.special.ndtr((log_levels - mean) / std).diff()
    return torch.multinomial(mass, count, replacement=True, generator=generator)


def flow_step(
    denoise: Denoiser, process: NoiseProcess, x: Tensor, t: Tensor, s: Tensor, solver: str = "heun"
) -> Tensor:
    """One step of the probability flow from x_t to x_s, each sample between times of its own.

    It is the step of `samplers.ddim` or `solvers.heun` to the bit, for t and s (B,) whole, s < t.
    """
    exact_t, exact_s = (process.signal_and_noise(time, x.ndim, torch.float64) for time in (t, s))
    signal_t, sigma_t, signal_s, sigma_s = (number.to(x.dtype) for number in (*exact_t, *exact_s))
    x0 = denoise(x, t)
    eps = (x - signal_t * x0) / sigma_t
    reached = signal_s * x0 + sigma_s * eps
    if solver == "ddim":
        return reached
    second = (reached - signal_s * denoise(reached, s)) / sigma_s
    half = (exact_s[0] * (exact_s[1] / exact_s[0] - exact_t[1] / exact_t[0]) / 2).to(x.dtype)
    return torch.where(exact_s[1] > 0, reached + half * (second - eps), reached)


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """sqrt(|d|^2 + c^2) - c, one value a sample (B,); its gradient is that of |d|^2 / 2c near 0, and of |d| far off.

    References:
        Song & Dhariwal 2023, arXiv:2310.14189, section 3.3 (c = 0.00054 sqrt(D) for D numbers a sample).
    """
    return (difference.flatten(1).square().sum(1) + c**2).sqrt() - c


def consistency_loss(
    consistency: Denoiser, process: NoiseProcess, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor, c: float
) -> Tensor:
    """d(f(x_t, t), f(x_s, s)) / (sigma_t / a_t - sigma_s / a_s), with d the `pseudo_huber` distance.

    f(x_s, s) is a constant: no gradient flows through it. Both evaluations drop the same features.

    Args:
        x_t, x_s: two points on one path of the flow, (B, ...), at times s < t (B,).

    Returns:
        Loss of shape (B,).

    References:
        Song & Dhariwal 2023, arXiv:2310.14189, eq. 7 and table 1: its target is the student itself, not an average.
    """
    with torch.random.fork_rng(devices=[x_t.device] if x_t.is_cuda else []):
        reached = consistency(x_t, t)
    # the second pass: autocast would keep weights that were cast without gradient, and use them in both
    with torch.no_grad():
        target = consistency(x_s, s)
    (a_t, sigma_t), (a_s, sigma_s) = (process.signal_and_noise(time, 1, torch.float64) for time in (t, s))
    return pseudo_huber(reached - target, c) / (sigma_t / a_t - sigma_s / a_s).to(reached.dtype)


def multistep(
    consistency: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """x_0 = f(x_t, t), then x_s = a_s x_0 + sigma_s z with fresh noise, down the list of times.

    References:
        Song et al. 2023, arXiv:2303.01469, algorithm 1.
    """
    for t, s in itertools.pairwise(times):
        x = x0 = call(consistency, x, t)
        if s > 0:
            signal, sigma = process.at(s)
            x = signal * x0 + sigma * normal(x.shape, generator, x.device)
        if on_step is not None:
            on_step(s, x, x0)
    return x
