"""Guidance: functions that take denoisers and return a denoiser, so that every sampler is guided alike.

One convention for the scale s, everywhere: eps_u + s (eps_c - eps_u). s = 1 is conditional, s = 0 unconditional. The w
of the classifier-free paper, and of 000_507b39bbaa34acda.txt, eq. 74, is s - 1; the w of its eq. 73 is s. Since
x_0 = (x_t - sigma eps) / a is linear in eps, mixing estimates of x_0 is the same as mixing eps, as long as neither has
been clipped: pass unclipped denoisers, and wrap the result in `clipped`.

A scale above 1 does not sample the data's law times p(c | x)^s: noising and tilting do not commute (docs/diffusion.md).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.diffusion.process import NoiseProcess
from zoo.diffusion.samplers import Denoiser

ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,), labels) -> x_0 (B, ...)
Classifier = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> logits (B, classes)
LogProb = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, ...), t (B,)) -> log p(c | x_t, t) (B,)


class Known(NamedTuple):
    """What is known of an image, or of each of a batch.

    Attributes:
        shape: of the whole image, (C, H, W), or of so many, (n, C, H, W).
        fit: estimates of x_0 (n, C, H, W) -> the nearest ones that agree with what is known.
    """

    shape: tuple[int, ...]
    fit: Callable[[Tensor], Tensor]


def classifier_free(
    denoise: ConditionalDenoiser,
    process: NoiseProcess,
    labels: Tensor,
    null_labels: Tensor,
    scale: float | Tensor,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """x_0 = x_u + s (x_c - x_u), x_c = denoise(x_t, t, labels), x_u = denoise(x_t, t, null_labels).

    Both come from one call with twice the batch, or with the batch itself where each sample needs only one of them: all
    scales 0 or 1, or t outside the interval.

    Args:
        denoise: unclipped estimate of x_0 of a network trained with some labels replaced by the null label.
        labels: (B,) or (B, columns), int64. null_labels: the same shape, or one row.
        scale: s, one number or one a sample, (B,).
        interval: noise levels sigma_t / a_t, both ends included, within which guidance is on; elsewhere s is 1. A noise
            level means the same in every process and on every list of times, which a share of the steps does not.
        rescale: phi in 0 ... 1; how far the standard deviation of x_0, over all axes of a sample, moves towards that of
            x_c. The paper rescales the network's prediction; here it is x_0, whatever the parameterisation.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, eq. 6 (with w = s - 1); 000_507b39bbaa34acda.txt, eq. 73.
        interval: Kynkaanniemi et al. 2024, arXiv:2404.07724, section 3.
        rescale: Lin et al. 2023, arXiv:2305.08891, eqs. 15 and 16.
    """
    scales = _checked_scale(scale).to(labels.device)
    if interval is not None and not 0 <= interval[0] <= interval[1]:
        raise ValueError(f"interval must be two noise levels, the lower first, got {interval!r}")
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be between 0 and 1, got {rescale!r}")
    scales = scales.expand(len(labels))
    if (scales == 1).all():
        interval = None  # it switches nothing
    nulls = null_labels.to(labels.device).expand_as(labels)
    own = (scales == 1).view(-1, *[1] * (labels.ndim - 1))
    single = bool(((scales == 0) | (scales == 1)).all())
    single_labels = torch.where(own, labels, nulls)
    both_labels = torch.cat([nulls, labels])

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        s = scales.to(x_t.dtype)
        if interval is not None:
            signal, sigma = process.signal_and_noise(t, 1)
            inside = (interval[0] <= sigma / signal) & (sigma / signal <= interval[1])
            if not inside.any():
                return denoise(x_t, t, labels)
            s = torch.where(inside, s, torch.ones_like(s))
        if single and interval is None:
            return denoise(x_t, t, single_labels)
        x_u, x_c = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), both_labels).chunk(2)
        # lerp is exact at both ends, where a sum of differences is not
        mixed = torch.lerp(x_u, x_c, s.to(x_u.dtype).view(-1, *[1] * (x_t.ndim - 1)))
        return _rescaled(mixed, x_c, rescale) if rescale else mixed

    return guided


def drop_labels(labels: Tensor, null_labels: Tensor, probability: float) -> Tensor:
    """Labels, each row null with the given probability; with several columns each entry also on its own.

    Args:
        labels: (B,) or (B, columns). null_labels: one row, (1, columns).

    Returns:
        Labels (B, columns).

    References:
        Ho & Salimans 2022, arXiv:2207.12598, algorithm 1.
    """
    labels = labels.view(len(labels), -1)
    lost = torch.rand(len(labels), 1, device=labels.device) < probability
    if labels.shape[1] > 1:
        lost = lost | (torch.rand(labels.shape, device=labels.device) < probability)
    return torch.where(lost, null_labels.to(labels.device), labels)


def _rescaled(mixed: Tensor, conditional: Tensor, share: float) -> Tensor:
    axes = tuple(range(1, mixed.ndim))
    spread = mixed.std(axes, correction=0, keepdim=True)
    flat = spread < 1e-6  # a constant estimate but for rounding: there is nothing to rescale
    ratio = conditional.std(axes, correction=0, keepdim=True) / torch.where(flat, 1, spread)
    return mixed * torch.where(flat, 1, share * ratio + 1 - share)


def classifier_guidance(
    denoise: Denoiser, process: NoiseProcess, log_prob: LogProb, scale: float | Tensor = 1.0
) -> Denoiser:
    """x_0' = x_0 + s sigma_t^2 / a_t grad_x log p(c | x_t, t), so eps' = eps - s sigma_t grad_x log p(c | x_t, t).

    Args:
        denoise: unclipped estimate of x_0, with or without a condition of its own.
        log_prob: log p(c | x_t, t) of a classifier trained on noised data, one value a sample.
        scale: s, one number or one a sample, (B,); 0 leaves the denoiser as it is.

    References:
        Dhariwal & Nichol 2021, arXiv:2105.05233, eq. 14 and algorithm 2; 000_507b39bbaa34acda.txt, eqs. 71 and 72.
    """
    scales = _checked_scale(scale)
    if not scales.any():
        return denoise

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        signal, sigma = process.signal_and_noise(t, x_t.ndim, x_t.dtype)
        s = scales.to(x_t.device, x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))
        return denoise(x_t, t) + s * sigma**2 / signal * log_prob_gradient(log_prob, x_t, t)

    return guided


def class_log_prob(classifier: Classifier, labels: Tensor) -> LogProb:
    """log p(c | x_t, t) of a classifier that gives logits, in float32; labels c (B,) or (B, 1)."""
    index = labels.long().view(-1, 1)
    return lambda x_t, t: classifier(x_t, t).float().log_softmax(1).gather(1, index)[:, 0]


def log_prob_gradient(log_prob: LogProb, x: Tensor, t: Tensor) -> Tensor:
    """grad_x log p(c | x, t), sample by sample: (B, ...). Works in inference mode; see `autograd.vector_jacobian`.

    The log-probability of one sample must not depend on another one: no batch normalisation in training mode.
    """
    from zoo.diffusion.autograd import vector_jacobian

    _, (gradient,) = vector_jacobian(lambda leaf: log_prob(leaf, t), x, [torch.ones(len(x), device=x.device)])
    return gradient


def clipped(denoise: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """The denoiser with its estimate of x_0 clipped to the data's range; the outermost wrapper, after all guidance."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)


def _checked_scale(scale: float | Tensor) -> Tensor:
    scales = torch.as_tensor(scale)
    wrong = [value for value in scales.flatten().tolist() if not math.isfinite(value)]
    if wrong:
        raise ValueError(f"scale must be finite, got {wrong[0]}")
    return scales
