"""Between images on a grid of grey levels and points of the unit cube.

    k = (L - 1) (x + 1) / 2,    y = (k + u) / L,    u ~ U[0, 1)^D

The noise fills the whole bin, so that a density p of y bounds the probability of the image,
log P(k) = log E_u p((k + u) / L) - D log L >= E_u log p((k + u) / L) - D log L.

Shapes: images and y (B, C, H, W); images in [-1, 1], y in [0, 1].

References:
    Theis et al. 2015, A note on the evaluation of generative models, arXiv:1511.01844, section 3.1.
"""

import torch
from torch import Tensor

from zoo.errors import UserError


def dequantise(images: Tensor, levels: int, noise: Tensor) -> Tensor:
    """y of images in [-1, 1] and of noise u in [0, 1) of their shape."""
    return (((images + 1) * ((levels - 1) / 2)).round() + noise) / levels


def quantise(y: Tensor, levels: int) -> Tensor:
    """The images in [-1, 1] whose bins hold y; the nearest bin where y lies outside of [0, 1]."""
    return (y * levels).floor().clamp(0, levels - 1) * (2 / (levels - 1)) - 1


def check_on_grid(images: Tensor, levels: int) -> None:
    """Raises UserError unless every entry is one of `levels` equally spaced values in [-1, 1]."""
    k = (images + 1) * ((levels - 1) / 2)
    off = (k - k.round().clamp(0, levels - 1)).abs()
    if not bool((off < 1e-2).all()):  # not-a-number is off the grid too
        raise UserError(
            f"images must hold {levels} grey levels from -1 to 1, got the value {_worst(images, off):.6g}: "
            "rescale them, or use the levels that the model was trained with"
        )


def _worst(images: Tensor, off: Tensor) -> float:
    return images.flatten()[torch.nan_to_num(off.flatten(), nan=torch.inf).argmax()].item()
