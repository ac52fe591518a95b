"""Monotone rational-quadratic splines on [-b, b], the identity outside.

In bin k, with xi = (x - x_k) / w_k, slope s_k = h_k / w_k and derivatives d_k, d_{k+1} at its ends,

    y = y_k + h_k (s_k xi^2 + d_k xi (1 - xi)) / (s_k + (d_k + d_{k+1} - 2 s_k) xi (1 - xi)).

References:
    Durkan et al. 2019, Neural spline flows, arXiv:1906.04032, equations 4 to 8.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-3  # least width and height of a bin, as a share of the interval, and least derivative
UNIT = math.log(math.expm1(1 - SMALLEST))  # its softplus, with SMALLEST added, is 1


def parameters_per_entry(bins: int) -> int:
    """Widths and heights of all bins, derivatives at the knots between them."""
    return 3 * bins - 1


def spline(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """The spline, or its inverse, entry by entry.

    Args:
        x: (...).
        raw: unconstrained parameters (3 K - 1, ...) for K bins: widths, heights, derivatives. Zeros give the identity.
            They come first because a softmax over a short last dimension is many times slower on a CPU.
        bound: b, half the length of the interval.

    Returns:
        y and log |dy/dx|, both (...).
    """
    inside = x.abs() <= bound
    x_in = x.clamp(-bound, bound)
    x_k, y_k, width, height, d_k, d_next = _bin(x_in, raw, bound, inverse)
    slope = height / width
    bend = d_k + d_next - 2 * slope
    if inverse:
        rise = x_in - y_k
        a = height * (slope - d_k) + rise * bend
        b = height * d_k - rise * bend
        c = -slope * rise
        # the root in [0, 1], in the form that loses no digits where a is near zero
        xi = (2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())).clamp(0, 1)
    else:
        xi = ((x_in - x_k) / width).clamp(0, 1)
    rest = 1 - xi
    between = xi * rest
    below = slope + bend * between
    share = slope / below
    log_derivative = (share * share * (d_next * xi * xi + 2 * slope * between + d_k * rest * rest)).log()
    if inverse:
        y, log_derivative = x_k + xi * width, -log_derivative
    else:
        y = y_k + height * (slope * xi * xi + d_k * between) / below
    return torch.where(inside, y, x), torch.where(inside, log_derivative, 0)


def _bin(x: Tensor, raw: Tensor, bound: float, inverse: bool) -> list[Tensor]:
    """x_k, y_k, w_k, h_k, d_k, d_{k+1} of the bin in which each x (each y, of the inverse) lies, all (...)."""
    bins = (len(raw) + 1) // 3
    shares = raw[: 2 * bins].unflatten(0, (2, bins)).softmax(1)
    sizes = 2 * bound * (SMALLEST + (1 - SMALLEST * bins) * shares)  # (2, K, ...): widths, heights
    starts = sizes.cumsum(1) - sizes - bound
    k = (x >= starts[int(inverse), 1:].detach()).sum(0, keepdim=True)  # (1, ...) in 0 ... K - 1
    index = k.expand(2, 1, *x.shape)
    zero = torch.zeros_like(raw[:1])  # derivative 1 at both ends, to meet the identity outside
    derivatives = torch.cat([zero, raw[2 * bins :], zero]).gather(0, torch.cat([k, k + 1]))
    return [
        *starts.gather(1, index).squeeze(1).unbind(),
        *sizes.gather(1, index).squeeze(1).unbind(),
        *(F.softplus(derivatives + UNIT) + SMALLEST).unbind(),
    ]
