"""Coupling layers: some entries pass unchanged, and a network of them sets how the others move.

    z_kept = x_kept,    z_moved = T(x_moved; net(x_kept)),    log |det dz/dx| = sum log T'

The Jacobian is triangular whatever the network computes, so that the determinant costs nothing more, and the inverse
runs the same network: x_kept is known.

References:
    Dinh et al. 2014, NICE, arXiv:1410.8516, section 3; Dinh et al. 2016, Real NVP, arXiv:1605.08803, equations 4 to 8;
    Durkan et al. 2019, Neural spline flows, arXiv:1906.04032, section 3.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from zoo.flows.bijection import sum_entries
from zoo.flows.splines import parameters_per_entry, spline


class Transform(Protocol):
    """T, an increasing map of single numbers with `size` parameters each.

    Both methods take x (B, d, ...) and unconstrained parameters (B, size * d, ...), and return T(x) and log T'(x), both
    (B, d, ...); `inverse` those of the inverse of T. Parameters of zero give the identity.
    """

    @property
    def size(self) -> int: ...

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Additive:
    """z = x + t, which preserves volume (NICE, section 3.2)."""

    size = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return x + raw, torch.zeros_like(x)

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return z - raw, torch.zeros_like(z)


@dataclass(frozen=True)
class Affine:
    """z = x exp(s) + t,   s = c tanh(r / c), from raw (t, r): exp(-c) < dz/dx < exp(c) keeps a deep flow stable.

    Args:
        bound: c.
    """

    bound: float = 3.0
    size = 2

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters(raw)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters(raw)
        return (z - shift) * (-log_scale).exp(), -log_scale

    def _parameters(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        shift, r = raw.chunk(2, 1)
        # c tanh(r / c), written with a sigmoid, which is seven times as fast on a CPU
        return shift, torch.sigmoid(r * (2 / self.bound)) * (2 * self.bound) - self.bound


@dataclass(frozen=True)
class Spline:
    """A monotone rational-quadratic spline on [-b, b], the identity outside; see `zoo.flows.splines`.

    Args:
        bins: K, pieces of the spline.
        bound: b.
    """

    bins: int = 8
    bound: float = 3.0

    @property
    def size(self) -> int:
        return parameters_per_entry(self.bins)

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return spline(x, self._parameters(raw), self.bound)

    def inverse(self, z: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return spline(z, self._parameters(raw), self.bound, inverse=True)

    def _parameters(self, raw: Tensor) -> Tensor:
        return raw.unflatten(1, (self.size, -1)).movedim(1, 0).contiguous()  # (size, B, d, ...)


class Coupling(nn.Module):
    """Keeps the first half of the features (or channels) and moves the second; the other way round if `flip`.

    Args:
        transform: T.
        net: (x_kept, context) -> parameters of T for all moved entries.
        features: size of dimension 1, at least 2. Of an odd number the first half is the smaller one.
        flip: whether the second half is kept.
    """

    def __init__(self, transform: Transform, net: nn.Module, features: int, flip: bool = False) -> None:
        super().__init__()
        self.transform, self.net, self.flip = transform, net, flip
        self.sizes = [features // 2, features - features // 2]

    def extra_repr(self) -> str:
        return f"{self.transform}, sizes={self.sizes}, flip={self.flip}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        moved, log_derivative = self.transform.forward(moved, self._raw(kept, context))
        return self._join(kept, moved), sum_entries(log_derivative)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(z)
        moved, log_derivative = self.transform.inverse(moved, self._raw(kept, context))
        return self._join(kept, moved), sum_entries(log_derivative)

    def _raw(self, kept: Tensor, context: Tensor | None) -> Tensor:
        return self.net(kept, context).to(kept.dtype)  # under autocast the network answers in bfloat16

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, 1)
        return (second, first) if self.flip else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.flip else [kept, moved], 1)


class MaskedCoupling(nn.Module):
    """Keeps the entries of a mask: the network sees zeros in place of the others, and gives parameters for all entries.

    Args:
        transform: T.
        net: (x * mask, context) -> parameters of T for all entries.
        mask: (1, *shape), True where x is kept; see `zoo.flows.masks`.
    """

    mask: Tensor

    def __init__(self, transform: Transform, net: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.transform, self.net = transform, net
        self.register_buffer("mask", mask, persistent=False)

    def extra_repr(self) -> str:
        return f"{self.transform}, kept={int(self.mask.sum())} of {self.mask.numel()}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_derivative = self.transform.forward(x, self._raw(x, context))
        return torch.where(self.mask, x, z), sum_entries(torch.where(self.mask, 0, log_derivative))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_derivative = self.transform.inverse(z, self._raw(z, context))
        return torch.where(self.mask, z, x), sum_entries(torch.where(self.mask, 0, log_derivative))

    def _raw(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.net(x * self.mask, context).to(x.dtype)
