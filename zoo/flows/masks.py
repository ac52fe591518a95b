"""Which entries a coupling keeps: boolean masks (1, *shape), True where x passes unchanged and conditions the rest.

References:
    Dinh et al. 2016, Density estimation using Real NVP, arXiv:1605.08803, figure 3.
"""

import torch
from torch import Tensor


def checkerboard(shape: tuple[int, ...], flip: bool = False) -> Tensor:
    """Entries whose last two indices (the only one, of a vector) add up to an even number; to an odd one if `flip`."""
    position = torch.arange(shape[-1])
    if len(shape) > 1:
        position = position + torch.arange(shape[-2])[:, None]
    return ((position % 2 == 0) ^ flip).expand(1, *shape).clone()


def half(shape: tuple[int, ...], flip: bool = False) -> Tensor:
    """The first half of the features of a vector or of the channels of an image; the second half if `flip`.

    With an odd number the half that comes first is the smaller one.
    """
    first = torch.arange(shape[0]) < shape[0] // 2
    return (first ^ flip).view(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape).clone()
