"""Composition of bijections: one after the other, and at several resolutions."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Chain(nn.Module):
    """z = f_n(... f_1(x)); the log-determinants add up."""

    def __init__(self, bijections: Iterable[nn.Module]) -> None:
        super().__init__()
        self.bijections: Any = nn.ModuleList(bijections)  # of `Bijection`s

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        for bijection in self.bijections:
            x, ladj = bijection(x, context)
            total = total + ladj
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total: Any = 0.0
        for bijection in reversed(self.bijections):
            z, ladj = bijection.inverse(z, context)
            total = total + ladj
        return z, total

    def path(self, x: Tensor, context: Tensor | None = None, inverse: bool = False) -> list[Tensor]:
        """x (z, of the inverse) and what each bijection makes of it; one with a `path` of its own gives all of it."""
        points = [x]
        for bijection in reversed(self.bijections) if inverse else self.bijections:
            if hasattr(bijection, "path"):
                points += bijection.path(points[-1], context, inverse)[1:]
            else:
                step = bijection.inverse if inverse else bijection
                points.append(step(points[-1], context)[0])
        return points


class MultiScale(nn.Module):
    """Levels of bijections of images; half of the channels leaves after each level but the last.

    Args:
        levels: bijections of (B, C, H, W).
        shapes: (C, H, W) of what each level gives; C even, but of the last.

    Shapes:
        x (B, C, H, W), z (B, D): what left first comes first.

    References:
        Dinh et al. 2016, arXiv:1605.08803, section 3.6.
    """

    def __init__(self, levels: Iterable[nn.Module], shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.levels: Any = nn.ModuleList(levels)
        self.parts = [(channels // 2, height, width) for channels, height, width in shapes[:-1]] + [shapes[-1]]
        if any(channels % 2 for channels, _, _ in shapes[:-1]):
            raise ValueError(f"shapes must have an even number of channels in all levels but the last, got {shapes!r}")

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts, total = [], 0.0
        for level in self.levels[:-1]:
            x, ladj = level(x, context)
            left, x = x.chunk(2, 1)
            parts.append(left.flatten(1))
            total = total + ladj
        x, ladj = self.levels[-1](x, context)
        return torch.cat([*parts, x.flatten(1)], 1), total + ladj

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        sizes = [channels * height * width for channels, height, width in self.parts]
        parts = [part.unflatten(1, shape) for part, shape in zip(z.split(sizes, 1), self.parts, strict=True)]
        x, total = self.levels[-1].inverse(parts[-1], context)
        for level, left in zip(reversed(self.levels[:-1]), reversed(parts[:-1]), strict=True):
            x, ladj = level.inverse(torch.cat([left, x], 1), context)
            total = total + ladj
        return x, total
