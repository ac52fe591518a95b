"""Random augmentation of images."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(images: Tensor, strength: float = 1.0, probability: float = 1.0, background: float = -1.0) -> Tensor:
    """Rotates, scales, shears and shifts each image by its own random amount, with bilinear interpolation.

    At strength 1: rotation up to 0.2 rad, scale 1 +- 0.1 an axis, shear up to 0.15, shift up to 7.5 % of the side, all
    uniform and independent.

    Args:
        images: (B, C, H, W). strength: multiplies every amount. probability: that an image is moved at all.
        background: the value outside the image.
    """
    count, device = len(images), images.device

    def uniform(limit: float, *shape: int) -> Tensor:
        return (2 * torch.rand(count, *shape, device=device) - 1) * limit * strength

    angle, shear = uniform(0.2), uniform(0.15)
    scale, shift = 1 + uniform(0.1, 2), uniform(0.15, 2)  # a side is 2 long in the coordinates of affine_grid
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale[:, 0], shear - sin, shift[:, 0]], dim=1),
        torch.stack([sin, cos * scale[:, 1], shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - background, grid, align_corners=False) + background
    if probability == 1:
        return moved
    chosen = torch.rand(count, 1, 1, 1, device=device) < probability
    return torch.where(chosen, moved, images)
