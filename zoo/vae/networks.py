"""Encoders and decoders: perceptrons of flat images, and convolutions."""

import math
from itertools import pairwise

from torch import Tensor, nn

from zoo.errors import UserError

Shape = tuple[int, int, int]  # (C, H, W)


class _Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def perceptron(inputs: int, hidden: int, outputs: int, depth: int, dropout: float) -> nn.Sequential:
    """`depth` blocks x + W_2 dropout(silu(W_1 norm(x))) between two linear maps."""
    blocks = [
        _Residual(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden)
        )
        for _ in range(depth)
    ]
    return nn.Sequential(
        nn.Linear(inputs, hidden), *blocks, nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )


def coarse_grid(shape: Shape, downsamplings: int) -> tuple[int, int]:
    """H and W halved so many times.

    Raises:
        UserError: if these are no whole numbers.
    """
    _, height, width = shape
    if downsamplings < 0 or height % 2**downsamplings or width % 2**downsamplings:
        raise UserError(
            f"downsamplings must leave whole pixels of {height} x {width}, got {downsamplings}: halve less often"
        )
    return height >> downsamplings, width >> downsamplings


def convolutional_encoder(inputs: int, width: int, outputs: int, downsamplings: int, depth: int) -> nn.Sequential:
    """Halves the sides so many times, with half of the width on each finer grid, then `depth` blocks."""
    widths = [max(1, width >> i) for i in reversed(range(downsamplings + 1))]
    parts: list[nn.Module] = [nn.Conv2d(inputs, widths[0], 3, padding=1)]
    for fine, coarse in pairwise(widths):
        parts += [nn.SiLU(), nn.Conv2d(fine, coarse, 4, stride=2, padding=1)]
    parts += [_convolutions(width) for _ in range(depth)]
    return nn.Sequential(*parts, nn.SiLU(), nn.Conv2d(width, outputs, 1))


def convolutional_decoder(inputs: int, width: int, outputs: int, upsamplings: int, depth: int) -> nn.Sequential:
    """`depth` blocks, then doubles the sides so many times."""
    widths = [max(1, width >> i) for i in range(upsamplings + 1)]
    parts: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1), *(_convolutions(width) for _ in range(depth))]
    for coarse, fine in pairwise(widths):
        parts += [nn.SiLU(), nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)]
    return nn.Sequential(*parts, nn.SiLU(), nn.Conv2d(widths[-1], outputs, 1))


def _convolutions(width: int) -> _Residual:
    """x + W_2 silu(W_1 silu(norm(x))), convolutions of 3x3 and 1x1."""
    return _Residual(
        nn.GroupNorm(1, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 1)
    )


def vector_of_image(shape: Shape, width: int, outputs: int, downsamplings: int, depth: int) -> nn.Sequential:
    """Convolutions (B, C, H, W) -> (B, outputs), the last layer linear in all of the coarsest grid."""
    places = math.prod(coarse_grid(shape, downsamplings))
    coarse = convolutional_encoder(shape[0], width, width, downsamplings, depth)
    return coarse.extend([nn.Flatten(), nn.Linear(width * places, outputs)])


def image_of_vector(
    inputs: int, width: int, shape: Shape, parameters: int, upsamplings: int, depth: int
) -> nn.Sequential:
    """Convolutions (B, inputs) -> (B, C * parameters, H, W)."""
    grid = coarse_grid(shape, upsamplings)
    start = [nn.Linear(inputs, width * math.prod(grid)), nn.Unflatten(1, (width, *grid))]
    return nn.Sequential(*start, *convolutional_decoder(width, width, shape[0] * parameters, upsamplings, depth))
