"""Noise for exploration: independent at each step, or drifting."""

import math

import torch
from torch import Tensor


def ornstein_uhlenbeck(
    normal: Tensor, start: Tensor, theta: float = 0.15, sigma: float = 0.2, dt: float = 0.01
) -> Tensor:
    """x_{t+1} = x_t - theta x_t dt + sigma sqrt(dt) w_t: noise that remembers itself for 1 / (theta dt) steps.

    Its variance in the long run is sigma^2 dt / (1 - (1 - theta dt)^2), about sigma^2 / (2 theta).

    Args:
        normal: (T, ...) w ~ N(0, 1). start: (...) x_0.

    Returns:
        (T, ...), x_1 to x_T.

    References:
        Lillicrap et al. 2015, arXiv:1509.02971, section 7; 003_679b8cdb08266a71.txt writes it without x_t and dt.
    """
    path, x = [], start
    for w in normal:
        x = (1 - theta * dt) * x + sigma * math.sqrt(dt) * w
        path.append(x)
    return torch.stack(path)


def clipped_gaussian(normal: Tensor, sigma: float, clip: float) -> Tensor:
    """clip(sigma w, -c, c): what TD3 adds to the actions of its target.

    References:
        Fujimoto et al. 2018, arXiv:1802.09477, equation 14; 000_507b39bbaa34acda.txt, equation 31.
    """
    return (sigma * normal).clamp(-clip, clip)
