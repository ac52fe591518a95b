"""Random augmentation of images."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(images: Tensor, strength: float = 1.0, probability: float = 1.0, background: float = -1.0) -> Tensor:
    """Moves each image at random: `affine` by `random_amounts`."""
    return affine(images, random_amounts(images, probability), strength, background)


def random_amounts(images: Tensor, probability: float = 1.0) -> Tensor:
    """How to move each image, (B, AMOUNTS): uniform in [-1, 1] and independent, or all 0 for an image that stays.

    Args:
        images: (B, ...). probability: that an image is moved at all.
    """
    count, device = len(images), images.device
    drawn = [torch.rand(count, width, device=device) for width in (1, 1, 2, 2)]
    amounts = 2 * torch.cat(drawn, dim=1) - 1
    if probability == 1:
        return amounts
    return torch.where(torch.rand(count, 1, device=device) < probability, amounts, 0)


def affine(images: Tensor, amounts: Tensor, strength: float = 1.0, background: float = -1.0) -> Tensor:
    """Rotates, shears, scales and shifts each image by its own amounts, with bilinear interpolation.

    At strength 1 amounts of 1 are a rotation by 0.2 rad, a shear of 0.15, a scale of 1.1 in x and in y, and shifts by
    7.5 % of the side in x and in y. An image whose amounts are all 0 is returned as it is.

    Args:
        images: (B, C, H, W). amounts: (B, AMOUNTS). strength: multiplies every amount.
        background: the value outside the image.
    """
    angle, shear = amounts[:, 0] * 0.2 * strength, amounts[:, 1] * 0.15 * strength
    scale = 1 + amounts[:, 2:4] * 0.1 * strength
    shift = amounts[:, 4:] * 0.15 * strength  # a side is 2 long in the coordinates of affine_grid
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale[:, 0], shear - sin, shift[:, 0]], dim=1),
        torch.stack([sin, cos * scale[:, 1], shift[:, 1]], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images - background, grid, align_corners=False) + background
    stays = (amounts == 0).all(1)[:, None, None, None]
    return torch.where(stays, images, moved)


def random_affine_on_grid(images: Tensor, levels: int, strength: float, probability: float) -> Tensor:
    """`random_affine` of images in [-1, 1], rounded to their grid of grey levels; as they are at strength 0.

    Of two levels each is taken as often as it is near, so that black and white stand for as much grey as before.
    """
    if not strength:
        return images
    half = (levels - 1) / 2
    index = (random_affine(images, strength, probability) + 1) * half
    index = (torch.rand_like(index) < index).to(index) if levels == 2 else index.round()
    return index / half - 1
