"""Losses of policies and values: one value a sample, unreduced."""

import torch
from torch import Tensor


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: Tensor) -> Tensor:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A), r = exp(log_ratio) = pi(a | s) / pi_old(a | s).

    Args:
        log_ratio, advantages: (...,). clip: (), a tensor so that it may change in compiled code.

    References:
        Schulman et al. 2017, arXiv:1707.06347, equation 7; 000_507b39bbaa34acda.txt, equation 52.
    """
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, targets: Tensor, old_values: Tensor | None = None, clip: float | None = None) -> Tensor:
    """1/2 (V - G)^2; with `clip` the larger of that and 1/2 (V_old + clip(V - V_old, -clip, clip) - G)^2.

    Args:
        values, targets, old_values: (...,). The scale of `clip` is that of the values.

    References:
        Schulman et al. 2016, arXiv:1506.02438, section 5; the clipping is of OpenAI's baselines, in no paper.
    """
    plain = (values - targets).square()
    if clip is None or old_values is None:
        return 0.5 * plain
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near - targets).square())


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """(r - 1) - log r, whose mean over actions of the old policy is KL(old || new); never negative, of low variance.

    References:
        Schulman 2020, http://joschu.net/blog/kl-approx.html, estimator k3.
    """
    return log_ratio.expm1() - log_ratio


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum(w x) / sum(w): the mean over the valid rows alone, if weights are 0 and 1."""
    return (values * weights).sum() / weights.sum()


def standardized(values: Tensor, weights: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / (std + epsilon), both over the rows whose weight is 1; std divides by n - 1."""
    centred = values - weighted_mean(values, weights)
    variance = (centred.square() * weights).sum() / (weights.sum() - 1).clamp(min=1)
    return centred / (variance.sqrt() + epsilon)


def explained_variance(values: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """1 - Var(G - V) / Var(G) over the rows of weight 1: 1 for a perfect value function, 0 for a constant one."""

    def variance(x: Tensor) -> Tensor:
        return weighted_mean((x - weighted_mean(x, weights)).square(), weights)

    return 1 - variance(targets - values) / variance(targets)
