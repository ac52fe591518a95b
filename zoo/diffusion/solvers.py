"""Samplers of second order: good samples in 10 to 20 evaluations of the network. One signature with `samplers`.

Both solve the probability flow of x / a over the noise level sigma / a, where it reads d(x / a) / d(sigma / a) = eps.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from zoo.diffusion.guidance import LogProb, classifier_guidance, log_prob_gradient
from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser, OnStep, ancestral, call, ddim, euler_maruyama, predictor_corrector
from zoo.errors import UserError
from zoo.random import Source, normal


def heun(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Heun's method in the noise level sigma / a; with eps = (x_t - a_t x_0) / sigma_t at both ends of the step,

        x' = a_s x_0 + sigma_s eps                                            (the step of `ddim`)
        x_s = x' + a_s (sigma_s / a_s - sigma_t / a_t) (eps' - eps) / 2       (not at s = 0, where sigma is 0)

    Two evaluations a step, one in the last. A step in sigma / a should not be a large multiple of the level where it
    ends: use the spacing "karras". Draws no noise.

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
            on_step(s, x, x0)
    return x


def dpm_solver_pp(
    denoise: Denoiser,
    process: NoiseProcess,
    x: Tensor,
    times: Sequence[int],
    *,
    order: int = 2,
    sde: bool = False,
    generator: Source = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """`ddim` with x_0 extrapolated from the previous step: with lambda = log(a / sigma), h = lambda_s - lambda_t,

        D = x_0 + h / (2 h_previous) (x_0 - x_0 of the previous step)      (order 2; order 1 and the first step: x_0)
        x_s = sigma_s / sigma_t x_t + a_s (1 - e^{-h}) D                                                       (ODE)
        x_s = sigma_s / sigma_t e^{-h} x_t + a_s (1 - e^{-2h}) D + sigma_s sqrt(1 - e^{-2h}) z                 (SDE)

    One evaluation a step. Order 1 is `ddim` with eta = 0, and with eta = 1 for the SDE. At s = 0, where h is infinite,
    the step is of order 1 and returns x_0 itself: both limits are exact.

    Args:
        order: 1, or 2 for the multistep method "2M".
        sde: whether to solve the reverse SDE instead of the probability flow.

    References:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2 (2M); the SDE variants are in its second version.
    """
    if order not in (1, 2):
        raise UserError(f"order must be 1 or 2, got {order!r}")
    previous: tuple[Tensor, float] | None = None  # x_0 and h of the previous step
    for t, s in itertools.pairwise(times):
        (signal_t, sigma_t), (signal_s, sigma_s) = process.at(t), process.at(s)
        x0 = extrapolated = call(denoise, x, t)
        if s > 0:
            h = math.log(signal_s / sigma_s) - math.log(signal_t / sigma_t)
            if order == 2 and previous is not None:
                extrapolated = x0 + h / (2 * previous[1]) * (x0 - previous[0])
            previous = x0, h
        if sde:
            # the weights of the SDE step, since e^{-h} = (sigma_s / a_s) (a_t / sigma_t)
            q = process.posterior(t, s)
            x = q.x0_weight * extrapolated + q.xt_weight * x
            if s > 0:
                x = x + math.sqrt(q.variance) * normal(x.shape, generator, x.device)
        else:
            x = signal_s * extrapolated + sigma_s * ((x - signal_t * extrapolated) / sigma_t)
        if on_step is not None:
            on_step(s, x, x0)
    return x


SamplerName = Literal["ddim", "ddpm", "heun", "dpm++2m", "dpm++2m-sde", "euler-maruyama", "predictor-corrector"]

# every sampler of this file and of `samplers`, by the name that users know
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "ddpm": ancestral,
    "heun": heun,
    "dpm++2m": dpm_solver_pp,
    "dpm++2m-sde": partial(dpm_solver_pp, sde=True),
    "euler-maruyama": euler_maruyama,
    "predictor-corrector": predictor_corrector,
}


def sampler_of(name: str, **options: object) -> Callable[..., Tensor]:
    """The sampler of that name, with those of its own options that are set: neither None nor 0.

    Raises:
        UserError: if there is no such sampler, or if it has no such option.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    given = {option: value for option, value in options.items() if value}
    for option, value in given.items():
        if not takes(SAMPLERS[name], option):
            able = " or ".join(repr(other) for other in SAMPLERS if takes(SAMPLERS[other], option))
            raise UserError(f"{option} {value} has no meaning for sampler {name!r}: leave it out, or take {able}")
    return partial(SAMPLERS[name], **given)


def takes(solve: Callable[..., Tensor], option: str) -> bool:
    """Whether a sampler has such an option of its own."""
    return option in inspect.signature(solve).parameters


def with_classifier(
    solve: Callable[..., Tensor],
    denoise: Denoiser,
    process: NoiseProcess,
    log_prob: LogProb,
    scale: float | Tensor,
) -> tuple[Callable[..., Tensor], Denoiser]:
    """A sampler and a denoiser guided by a classifier: by the mean of the step where the sampler can, else through x_0.

    Arguments as of `guidance.classifier_guidance`.
    """
    if not takes(solve, "mean_gradient"):
        return solve, classifier_guidance(denoise, process, log_prob, scale)

    def gradient(x_t: Tensor, t: Tensor) -> Tensor:
        s = torch.as_tensor(scale, dtype=x_t.dtype, device=x_t.device).view(-1, *[1] * (x_t.ndim - 1))
        return s * log_prob_gradient(log_prob, x_t, t)

    return partial(solve, mean_gradient=gradient), denoise
