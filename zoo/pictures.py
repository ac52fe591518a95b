"""Images as one array of pixels, ready for any image library."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import UserError


def image_grid(images: Tensor, columns: int | None = None, scale: int | None = None) -> NDArray[np.uint8]:
    """Tiles images row by row, one dark pixel apart.

    Args:
        images: (N, C, H, W) in [-1, 1], C of 1 or 3.
        columns: images a row; by default the square root of N, rounded up.
        scale: screen pixels an image pixel; by default so many that a small image is at least 32 wide.

    Returns:
        (height, width, 3) array of 0 ... 255.

    Raises:
        UserError: if the images are not finite.
    """
    if not images.isfinite().all():
        raise UserError("the images are not finite (NaN or infinite), so they cannot be drawn")
    count, _, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    scale = scale or max(1, -(-32 // width))
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + 1, width * scale + 1
    grid = np.full((rows * height + 1, columns * width + 1, 3), 40, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * height + 1, (i % columns) * width + 1
        grid[top : top + height - 1, left : left + width - 1] = image
    return grid
