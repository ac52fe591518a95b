"""Coupling layers: some entries pass unchanged, and a network of them says how the others move.

    z_kept = x_kept,    z_moved = T(x_moved; net(x_kept)),    log |det| = sum log |T'|

References:
    Dinh et al. 2014, NICE, arXiv:1410.8516, section 3; Dinh et al. 2016, Real NVP, arXiv:1605.08803, equations 4 to 8;
    Durkan et al. 2019, Neural spline flows, arXiv:1906.04032, section 3.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from zoo.flows.bijection import sum_entries
from zoo.flows.splines import parameters_per_entry, spline


class Transform(Protocol):
    """A monotone map of single numbers with `size` parameters each.

    Both methods take x (B, d, ...) and raw parameters (B, size * d, ...), as a network gives them, and return the image
    and the logarithm of the derivative, both (B, d, ...). Zero parameters give the identity.
    """

    size: int

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...


class Additive:
    """z = x + t (NICE, section 3.2)."""

    size = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return x + raw, torch.zeros_like(x)

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return z - raw, torch.zeros_like(z)


class Affine:
    """z = x exp(s) + t with s = c tanh(r / c), so that exp(-c) < dz/dx < exp(c), from raw (t, r).

    Args:
        bound: c.
    """

    size = 2

    def __init__(self, bound: float = 3.0) -> None:
        self.bound = bound

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters(raw)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters(raw)
        return (z - shift) * (-log_scale).exp(), -log_scale

    def _parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, r = raw.chunk(2, 1)
        # c tanh(r / c): on a CPU torch's sigmoid is seven times as fast as its tanh
        return shift, torch.sigmoid(r * (2 / self.bound)) * (2 * self.bound) - self.bound


class Spline:
    """A rational-quadratic spline on [-b, b], the identity outside; see `zoo.flows.splines`.

    Args:
        bins: K. bound: b.
    """

    def __init__(self, bins: int = 8, bound: float = 3.0) -> None:
        self.size = parameters_per_entry(bins)
        self.bound = bound

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return spline(x, self._parameters(raw), self.bound)

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return spline(z, self._parameters(raw), self.bound, inverse=True)

    def _parameters(self, raw: Tensor) -> Tensor:
        return raw.unflatten(1, (self.size, -1)).movedim(1, 0).contiguous()  # (size, B, d, ...)


class Coupling(nn.Module):
    """A coupling of two halves of the features (or channels): dimension 1 is sliced, never masked.

    Args:
        transform: T. net: (x_kept, context) -> raw parameters of T for all moved entries.
        features: the size of dimension 1, at least 2.
        flip: whether the second part is kept instead of the first. The first part is the smaller one of an odd number.
    """

    def __init__(self, transform: Transform, net: nn.Module, features: int, flip: bool = False) -> None:
        super().__init__()
        self.transform, self.net, self.flip = transform, net, flip
        self.sizes = [features // 2, features - features // 2]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        moved, log_derivative = self.transform.forward(moved, self._raw(kept, context))
        return self._join(kept, moved), sum_entries(log_derivative)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(z)
        moved, log_derivative = self.transform.inverse(moved, self._raw(kept, context))
        return self._join(kept, moved), sum_entries(log_derivative)

    def _raw(self, kept: Tensor, context: Tensor | None) -> Tensor:
        return self.net(kept, context).to(kept.dtype)  # a bfloat16 network moves float32 points

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, 1)
        return (second, first) if self.flip else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.flip else [kept, moved], 1)


class MaskedCoupling(nn.Module):
    """A coupling by any mask: the network sees x with zeros for the moved entries, and speaks for all entries.

    Args:
        transform: T. net: (x * mask, context) -> raw parameters of T for all entries.
        mask: (1, *shape), True where x is kept; see `zoo.flows.masks`.
    """

    mask: Tensor

    def __init__(self, transform: Transform, net: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.transform, self.net = transform, net
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_derivative = self.transform.forward(x, self._raw(x, context))
        return torch.where(self.mask, x, z), sum_entries(torch.where(self.mask, 0, log_derivative))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_derivative = self.transform.inverse(z, self._raw(z, context))
        return torch.where(self.mask, z, x), sum_entries(torch.where(self.mask, 0, log_derivative))

    def _raw(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.net(x * self.mask, context).to(x.dtype)
