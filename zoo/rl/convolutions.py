"""Convolutions before the hidden layers, for observations that are small pictures."""

import itertools
import math

import torch
from torch import Tensor, nn


class Convolutions(nn.Module):
    """ReLU after each of several 3x3 convolutions of stride 1 without padding: (..., H W C) -> (..., H' W' C').

    Both ends are flat, with channels last, as Gymnasium's pictures have them: no copy is needed in between.

    Args:
        shape: (H, W, C) of a picture. channels: of each convolution, which takes 2 from H and from W.
        gain: of orthogonal weights, and biases of 0; by default both begin as those of `nn.Conv2d`.

    Attributes:
        features: H' W' C'.

    Raises:
        ValueError: if an observation is no picture, or too small.

    References:
        Young and Tian 2019, arXiv:1903.03176, section 3: MinAtar's network has one of 16 channels, and 128 units.
    """

    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], gain: float | None = None) -> None:
        super().__init__()
        if min(channels) < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        lost = 2 * len(channels)
        if len(shape) != 3 or min(shape[:2]) <= lost:
            raise ValueError(
                f"{len(channels)} convolutions need observations (H, W, C) with H and W above {lost}, got {shape}: "
                "leave channels empty for numbers that are no picture"
            )
        self.shape = tuple(shape)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3) for a, b in itertools.pairwise((shape[2], *channels)))
        self.features = math.prod(size - lost for size in shape[:2]) * channels[-1]
        if gain is not None:
            for parameter in self.parameters():
                nn.init.orthogonal_(parameter, gain) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[:-1]
        x = x.reshape(-1, *self.shape).movedim(-1, 1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.movedim(1, -1).reshape(*leading, self.features)
